"""Responses of another server: bytes in, a code and its lines out.

    b"250-mx.there.test\\r\\n250 PIPELINING\\r\\n"     ->   Response(250, ("mx.there.test", "PIPELINING"))
    b"550-5.1.1 no bob\\r\\n550 5.1.1 here\\r\\n"      ->   str() of it is "550 5.1.1 no bob here"

The text comes from the other side, or from its clients.  So it becomes printable ASCII as it is read, and its length is
bounded; and what is not exactly a response is an error: a line too many would be taken for the response to the next
command.

Loaded by sendmail for each mail: no import that takes time, such as re.
"""

from smtpd.smtp.line import LineReader
from smtpd.smtp.reply import CommandRefused, printable

MAX_LINES = 512  # of one reply; each is as long as a command may be
RESPONSE_MAX = 64 * 1024  # bytes of one reply
MAX_TEXT = 400  # characters that str() shows


class ResponseError(Exception):
    """Not a response; the argument says why.  Nothing that follows can be understood."""


class Response:
    """`lines`: at least one."""

    __slots__ = ("code", "lines")

    def __init__(self, code: int, lines: tuple[str, ...]):
        self.code, self.lines = code, lines

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Response) and (self.code, self.lines) == (other.code, other.lines)

    def __repr__(self) -> str:
        return f"Response({self.code}, {self.lines})"

    @property
    def kind(self) -> int:
        """The first digit: 2 success, 3 continue, 4 temporary failure, 5 permanent failure (RFC 5321 4.2.1)."""
        return self.code // 100

    @property
    def enhanced(self) -> str:
        """The enhanced code; empty when there is none, or one of another class than the code (RFC 2034 4)."""
        word = self.lines[0].partition(" ")[0]
        numbers = word.split(".")
        if len(numbers) != 3 or self.kind == 3 or numbers[0] != str(self.kind):
            return ""
        _, subject, detail = numbers  # RFC 3463 2
        fits = subject.isdecimal() and detail.isdecimal() and len(subject) <= 3 and len(detail) <= 3
        return word if fits else ""

    def __str__(self) -> str:
        """All of it in one line."""
        first, *others = self.lines
        if not others and first:
            return f"{self.code} {first}"[:MAX_TEXT]
        if others and (enhanced := self.enhanced):  # stands in front of each line: RFC 2034 4
            others = [line.removeprefix(f"{enhanced} ") for line in others]
        return " ".join(filter(None, [str(self.code), first, *others]))[:MAX_TEXT]


class ResponseReader:
    """Holds an incomplete response."""

    def __init__(self) -> None:
        self._reader = LineReader()
        self._code = b""  # of the lines so far
        self._lines: list[str] = []
        self._size = 0  # bytes of them

    def feed(self, data: bytes) -> None:
        self._reader.feed(data)

    def is_empty(self) -> bool:
        """Nothing has been fed behind the last response."""
        return self._reader.is_empty() and not self._lines

    def maybe_response(self) -> Response | None:
        """The next response; None until it is complete.  Raises ResponseError."""
        try:
            while (line := self._reader.maybe_line()) is not None:
                if self._ends_with(line):
                    response = Response(int(self._code), tuple(self._lines))
                    self._code, self._lines, self._size = b"", [], 0
                    return response
        except CommandRefused as refused:
            raise ResponseError(refused.args[2]) from None
        return None

    def _ends_with(self, line: bytes) -> bool:
        code, mark = line[:3], line[3:4]
        if not (mark in (b" ", b"-", b"") and b"200" <= code < b"600" and code.isdigit() and len(code) == 3):
            raise ResponseError("A line without a code")  # RFC 5321 4.2; a code alone is a last line
        if self._lines and code != self._code:  # RFC 5321 4.2.1: the code of each line is the same
            raise ResponseError("Lines with different codes")
        self._size += len(line) + 2
        if len(self._lines) == MAX_LINES or self._size > RESPONSE_MAX:
            raise ResponseError("Too many lines")
        self._code = code
        self._lines.append(printable(line[4:].decode("ascii", "replace")).strip())
        return mark != b"-"
