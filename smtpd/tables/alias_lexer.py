"""Alias values and the lines of a .forward, split into pieces: the lexical part of the language in expansion.py.

    bob, amy@there.test  # both      "bob" · "amy@there.test"
    "|vacation 'a, b'", \\bob         '"|vacation \\'a, b\\'"' · "bob"
    o'brien@there.test, bob          "o'brien@there.test" · "bob"
    "a \\"b\\", c"@there.test          '"a \\\\"b\\\\", c"@there.test'

A comma ends a piece, except within quotes, which are kept.  Double quotes quote everywhere, single quotes only in
commands: in an address they are ordinary characters.  A backslash protects the next character and is removed, except in
a quoted local part, where it belongs to the address (RFC 5321 4.1.2).  A # at the beginning or after a blank, outside
quotes, begins a comment.

In a file, a backslash at the end of a line joins it with the next one, except in a comment.
"""

import re
from collections.abc import Iterator

from smtpd.tables import text_file

_TOKEN = re.compile(r"""\\.|[\\,"'#]|[ \t]++|[^\\,"'# \t]++""", re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


class PieceError(ValueError):
    """Not a valid value.  The text does not repeat the value: it may come from a user's private file."""


def split_value(value: str) -> list[str]:
    """The pieces of one value; none is empty.  Raises PieceError."""
    pieces = ValueSplitter()
    pieces.add(value)
    return pieces.end()


def lines(content: bytes) -> Iterator[tuple[int, list[str] | PieceError]]:
    """(number of its last line, pieces or error) for each logical line of a file."""
    pieces, joined, number = ValueSplitter(), False, 0
    # Bytes that are not UTF-8 are allowed in comments and commands, and are kept.
    for number, line in text_file.lines(text_file.decode(content)):
        line = line.strip()
        joined = pieces.add(line.removesuffix("\\")) and line.endswith("\\")
        if not joined:
            yield number, _end(pieces)
            pieces = ValueSplitter()
    if joined:
        yield number, PieceError("ends in a backslash")


def _end(pieces: "ValueSplitter") -> list[str] | PieceError:
    try:
        return pieces.end()
    except PieceError as error:
        return error


class ValueSplitter:
    """Splits one value, which may be added in several parts, in linear time."""

    def __init__(self) -> None:
        self._finished: list[str] = []
        self._parts: list[str] = []  # of the current piece
        self._quote = ""
        self._after_blank = True
        self._trouble = ""

    def add(self, text: str) -> bool:
        """Add text.  Returns False if it ended in a comment."""
        for found in _TOKEN.finditer(text):
            if found[0] == "#" and self._after_blank and not self._quote:
                self._check_characters(text[: found.start()])
                return False
            self._take(found[0])
            self._after_blank = found[0][0] in " \t"
        self._check_characters(text)
        return True

    def _check_characters(self, text: str) -> None:
        if _CONTROL.search(text):
            self._trouble = "a control character"

    def end(self) -> list[str]:
        """The pieces.  Raises PieceError."""
        if self._quote:
            self._trouble = self._trouble or "unclosed quote"
        if self._trouble:
            raise PieceError(self._trouble)
        self._finish()
        return self._finished

    def _take(self, token: str) -> None:
        if token == "," and not self._quote:
            self._finish()
        elif token[0] in " \t" and not self._parts:
            return
        elif token == "\\":
            self._trouble = "ends in a backslash"
        elif token[0] == "\\" and not (self._quote and self._is_quoted_local_part):
            self._parts.append(token[1:])
        else:
            self._parts.append(token)
            if token == self._quote:
                self._quote = ""
            elif not self._quote and (token == '"' or token == "'" and self._is_command):
                self._quote = token

    @property
    def _is_command(self) -> bool:
        return "".join(self._parts[:2]).startswith(("|", '"|'))

    @property
    def _is_quoted_local_part(self) -> bool:
        return self._parts[:1] == ['"'] and not self._is_command

    def _finish(self) -> None:
        piece = "".join(self._parts).strip(" \t")
        if piece:
            self._finished.append(piece)
        self._parts = []
