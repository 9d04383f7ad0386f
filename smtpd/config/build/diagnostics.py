"""What the builders of sentences share: where a word stands, what it means, and what is said when it means nothing."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import eq
from typing import Any

from lark import Token, Tree

from smtpd.config.errors import ConfigValueError, Report, SourcePosition, alternatives, quoted, suggestion
from smtpd.ipc import text_limit

type Node = Token | Tree


def parts(tree: Tree) -> list[Any]:
    """The children; the grammar says which are words and which are trees."""
    return tree.children


def value_of(tree: Tree) -> Token:
    """The one word behind the word of an option."""
    (token,) = parts(tree)
    return token


def word(rule: str) -> str:
    """mail_from -> mail-from"""
    return rule.replace("_", "-")


class Diagnostics:
    """Of the sentence that is being looked at, in `file`."""

    def __init__(self, report: Report) -> None:
        self.file = ""
        self._report = report

    def place(self, node: Node) -> SourcePosition:
        position = node.meta if isinstance(node, Tree) else node
        return SourcePosition(self.file, position.line or 0, position.column or 0)

    def error(self, node: Node, text: str) -> None:
        self._report.add(self.place(node), text)

    def warn(self, node: Node, text: str) -> None:
        self._report.warn(self.place(node), text)

    def value[T](self, read: Callable[[str], T], node: Token, otherwise: T, *, text: str | None = None) -> T:
        try:
            return read(str(node) if text is None else text)
        except ConfigValueError as wrong:
            self.error(node, str(wrong))
            return otherwise

    def fits(self, node: Tree, made: Any) -> bool:
        """Whether each text of `made`, which was built of `node`, can travel in an imsg."""
        before = self._report.count
        for text, wrong in text_limit.text_errors(made, type(made)):
            token = next(node.scan_values(partial(eq, text)), node)
            self.error(token, f"{quoted(text)} cannot be used here: {wrong}")
        return self._report.count == before

    def known(self, token: Token, known: Iterable[str]) -> bool:
        if token in known:
            return True
        expected = f"expected {alternatives(known)}{suggestion(token, known)}"
        self.error(token, f"{quoted(token)} is not known here, {expected}")
        return False

    def available(self, options: Iterable[Tree], available: Mapping[str, str], where: str) -> dict[str, Tree]:
        """By what they say; `available` maps options to that, and those that say the same exclude each other."""
        given: dict[str, Tree] = {}
        for option in options:
            if option.data not in available:
                self.not_yet(option, f"{where} … {word(option.data)}")
            elif given.setdefault(available[option.data], option) is not option:
                self.twice(option, given[available[option.data]])
        return given

    def twice(self, node: Tree, first: Tree) -> None:
        name = quoted(word(node.data))
        if first.data == node.data:
            self.error(node, f"duplicate {name}")
        else:
            self.error(node, f"{name} excludes {quoted(word(first.data))}, which is here already")

    def not_yet(self, node: Node, what: str) -> None:
        self.error(node, f"{quoted(what)} is not available yet")
