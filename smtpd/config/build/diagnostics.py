"""What the builders of sentences share: positions of words, their values, and the errors about them."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from operator import eq
from typing import Any

from lark import Token, Tree

from smtpd.config.errors import ConfigValueError, Report, SourcePosition, alternatives, quoted, suggestion
from smtpd.ipc import text_limit

type Node = Token | Tree


def parts(tree: Tree) -> list[Any]:
    """The children of a tree; the grammar says which are words and which are trees."""
    return tree.children


def value_of(tree: Tree) -> Token:
    """The one word after the name of an option."""
    (token,) = parts(tree)
    return token


def word(rule: str) -> str:
    """mail_from -> mail-from"""
    return rule.replace("_", "-")


class Diagnostics:
    """Reports errors and warnings about the sentence that is being built; `file` is its file."""

    def __init__(self, report: Report) -> None:
        self.file = ""
        self._report = report

    def position(self, node: Node) -> SourcePosition:
        position = node.meta if isinstance(node, Tree) else node
        return SourcePosition(self.file, position.line or 0, position.column or 0)

    def error(self, node: Node, text: str) -> None:
        self._report.add(self.position(node), text)

    def warn(self, node: Node, text: str) -> None:
        self._report.warn(self.position(node), text)

    def value[T](self, read: Callable[[str], T], node: Token, otherwise: T, *, text: str | None = None) -> T:
        try:
            return read(str(node) if text is None else text)
        except ConfigValueError as wrong:
            self.error(node, str(wrong))
            return otherwise

    def fits(self, node: Tree, made: Any) -> bool:
        """Whether each text in `made`, which was built from `node`, fits into an imsg; reports those that do not."""
        before = self._report.count
        for text, wrong in text_limit.text_errors(made, type(made)):
            token = next(node.scan_values(partial(eq, text)), node)
            self.error(token, f"invalid value {quoted(text)}: {wrong}")
        return self._report.count == before

    def check_known(self, token: Token, known: Iterable[str]) -> bool:
        if token in known:
            return True
        expected = f"expected {alternatives(known)}{suggestion(token, known)}"
        self.error(token, f"unknown word {quoted(token)}, {expected}")
        return False

    def available(self, options: Iterable[Tree], available: Mapping[str, str], where: str) -> dict[str, Tree]:
        """The options by the property they set, which `available` gives.  Reports options that are not available, and
        two that set the same property."""
        given: dict[str, Tree] = {}
        for option in options:
            if option.data not in available:
                self.not_yet(option, f"{where} … {word(option.data)}")
            elif given.setdefault(available[option.data], option) is not option:
                self.duplicate(option, given[available[option.data]])
        return given

    def duplicate(self, node: Tree, first: Tree) -> None:
        name = quoted(word(node.data))
        if first.data == node.data:
            self.error(node, f"duplicate {name}")
        else:
            self.error(node, f"{name} cannot be combined with {quoted(word(first.data))}")

    def not_yet(self, node: Node, what: str) -> None:
        self.error(node, f"{quoted(what)} is not available yet")
