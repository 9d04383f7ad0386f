"""Tokens, and the trees that they become."""

from collections.abc import Callable, Iterator
from typing import Any


class Token(str):
    """A word of the language.  `type` is the word itself for one that is reserved; lines and columns begin with 1, 0 is
    unknown."""

    __slots__ = ("column", "end_column", "end_line", "line", "type")
    type: str
    line: int
    column: int
    end_line: int
    end_column: int

    def __new__(
        cls, type: str, value: str, line: int = 0, column: int = 0, end_line: int = 0, end_column: int = 0
    ) -> "Token":
        made = super().__new__(cls, value)
        made.type, made.line, made.column, made.end_line, made.end_column = type, line, column, end_line, end_column
        return made

    def of_type(self, type: str) -> "Token":
        """The same word as a token of another type."""
        return Token(type, self, self.line, self.column, self.end_line, self.end_column)


class Tree:
    """A rule of the grammar, or an alternative of one, and what it has found.  `line` and `column` are those of its
    first word.  `children` are tokens and trees, in the order of the grammar."""

    __slots__ = ("children", "column", "data", "line")

    def __init__(self, data: str, children: list[Any], line: int, column: int) -> None:
        self.data, self.children, self.line, self.column = data, children, line, column

    def find_tokens(self, wanted: Callable[[Token], bool]) -> Iterator[Token]:
        """All that are `wanted`, from the left to the right."""
        for child in self.children:
            if isinstance(child, Tree):
                yield from child.find_tokens(wanted)
            elif wanted(child):
                yield child
