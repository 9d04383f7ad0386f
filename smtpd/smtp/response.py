"""What another server answers: bytes in, a code and its lines out.

    b"250-mx.there.test\\r\\n250 PIPELINING\\r\\n"     ->   Response(250, ("mx.there.test", "PIPELINING"))
    b"550-5.1.1 no bob\\r\\n550 5.1.1 here\\r\\n"      ->   str() of it is "550 5.1.1 no bob here"

The text is whatever the other side wrote, or let somebody else write.  So it becomes printable ASCII as it is read, and
its length is bounded; and what is not exactly a reply is not guessed at: a line too many would be taken for the answer
to the next command.
"""

import re
from dataclasses import dataclass

from smtpd.smtp.line import LineReader
from smtpd.smtp.reply import Refuse, printable

MAX_LINES = 100  # of one reply; each is as long as a command may be
MAX_TEXT = 400  # characters that str() shows

_LINE = re.compile(rb"([2-5][0-9][0-9])(?:([ -])(.*))?")  # RFC 5321 4.2; a code alone is a last line
_ENHANCED = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?: |\Z)", re.ASCII)  # RFC 3463 2


class Malformed(Exception):
    """Not a reply; the argument says why.  Nothing that follows can be understood."""


@dataclass(frozen=True, slots=True)
class Response:
    code: int
    lines: tuple[str, ...]  # at least one

    @property
    def kind(self) -> int:
        """2 yes, 3 go on, 4 not now, 5 no (RFC 5321 4.2.1)."""
        return self.code // 100

    @property
    def enhanced(self) -> str:
        """Empty when there is none, or one of another kind than the code (RFC 2034 4)."""
        found = _ENHANCED.match(self.lines[0])
        return found[1] if found and found[1].startswith(str(self.kind)) else ""

    def __str__(self) -> str:
        """All of it in one line."""
        first, *others = self.lines
        same = f"{self.enhanced} " if self.enhanced else ""  # stands in front of each line: RFC 2034 4
        words = [str(self.code), first, *(line.removeprefix(same) for line in others)]
        return " ".join(filter(None, words))[:MAX_TEXT]


class ResponseReader:
    """Holds what was fed and is not a whole reply yet."""

    def __init__(self) -> None:
        self._reader = LineReader()
        self._code = b""  # of the lines so far
        self._lines: list[str] = []

    def feed(self, data: bytes) -> None:
        self._reader.feed(data)

    def maybe_response(self) -> Response | None:
        """The next reply; None until all of it is there.  Raises Malformed."""
        try:
            while (line := self._reader.maybe_line()) is not None:
                if self._ends_with(line):
                    response = Response(int(self._code), tuple(self._lines))
                    self._code, self._lines = b"", []
                    return response
        except Refuse as refused:
            raise Malformed(refused.args[2]) from None
        return None

    def _ends_with(self, line: bytes) -> bool:
        found = _LINE.fullmatch(line)
        if not found:
            raise Malformed("A line without a code")
        if self._lines and found[1] != self._code:  # RFC 5321 4.2.1: the code of each line is the same
            raise Malformed("Lines with different codes")
        if len(self._lines) == MAX_LINES:
            raise Malformed("Too many lines")
        self._code = found[1]
        self._lines.append(printable((found[3] or b"").decode("ascii", "replace")).strip())
        return found[2] != b"-"
