"""Command lines: nothing but CRLF ends one.

    b"NOOP\\r\\nQUIT\\r\\n"     ->  b"NOOP", b"QUIT"
    b"NOOP\\nQUIT\\r\\n"       ->  CommandRefused, the session ends; so for a CR or NUL inside, and for an endless line

Where two mail servers disagree about what ends a line, one mail can be made to look like two (SMTP smuggling).  So what
is not exactly a line is refused.  Content is read by data.py, with the same discipline.
"""

from smtpd.smtp.reply import CommandRefused

COMMAND_LINE_MAX = 2047  # bytes before the CRLF; RFC 5321 4.5.3.1.4 requires 512 with it


class LineReader:
    """Holds what was fed and not yet taken: at most what is fed at once, and an incomplete line."""

    __slots__ = ("_at", "_bytes")

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0

    def feed(self, data: bytes) -> None:
        rest = self.take_rest()
        self._bytes = rest + data if rest else data

    def maybe_line(self, longest: int = COMMAND_LINE_MAX, enhanced: str = "5.5.2") -> bytes | None:
        """The next line without its CRLF; None until it is there.  CommandRefused, with `enhanced`, if it is longer."""
        start = self._at
        end = self._bytes.find(b"\n", start, start + longest + 2)
        if end < 0:
            if len(self._bytes) - start >= longest + 2:
                raise CommandRefused(500, enhanced, "Line too long", close=True)
            return None
        if end == start or self._bytes[end - 1] != 0x0D:  # RFC 5321 2.3.8
            raise CommandRefused(500, "5.5.2", "A line ends with <CR><LF>: bare <LF> received", close=True)
        line = self._bytes[start : end - 1]
        if b"\r" in line or b"\0" in line:
            raise CommandRefused(500, "5.5.2", "Bare <CR> or NUL received", close=True)
        self._at = end + 1
        if self._at == len(self._bytes):  # a session may be silent for long: free what was read
            self._bytes, self._at = b"", 0
        return line

    def has_line(self) -> bool:
        """Whether at least one more line end is waiting."""
        return self._bytes.find(b"\n", self._at) >= 0

    def is_empty(self) -> bool:
        return self._at == len(self._bytes)

    def take(self, count: int) -> bytes:
        """At most `count` bytes, as they came."""
        start, self._at = self._at, min(self._at + count, len(self._bytes))
        taken = self._bytes[start : self._at]
        if self._at == len(self._bytes):
            self._bytes, self._at = b"", 0
        return taken

    def take_rest(self) -> bytes:
        """All remaining bytes, as they came."""
        rest = self._bytes[self._at :] if self._at else self._bytes
        self._bytes, self._at = b"", 0
        return rest
