"""What a message that is text may consist of on its way in: lines that end with CRLF, and no NUL.

    b"one\\r\\ntwo\\r\\n"       ->  b"one\\ntwo\\n"
    b"one\\ntwo\\r\\n"         ->  NotText; so for a bare CR, a NUL, and a line without end

A CR or LF that is not half of a CRLF, and a NUL, make it impossible to say what the next server will take for a line
end (SMTP smuggling).  No line is looked at alone: everything is find, count and translate over whole pieces.

Who reads the message decides what that costs: behind DATA the session, in a chunk only the message.
"""

MAX_LINE = 65534  # bytes without line end; RFC 5321 4.5.3.1.6 asks for 998 at least

_RETURNS = b" " * 13 + b"x" + b" " * 242  # where CR is
_FEEDS = b" " * 10 + b"x" + b" " * 245


class NotText(ValueError):
    """The argument says what is wrong."""


class Text:
    """Knows of all pieces before only how long the line is that the last one ended in."""

    __slots__ = ("_column",)

    def __init__(self) -> None:
        self._column = 0

    def take(self, piece: bytes) -> bytes:
        """The piece, which ends in no half CRLF, with LF line ends.  Raises NotText."""
        _check_line_ends(piece)
        content = piece.translate(None, b"\r")
        self._check_line_length(content)
        return content

    def _check_line_length(self, content: bytes) -> None:
        """Steps from line end to line end, but never more often than every MAX_LINE bytes."""
        start = -self._column
        while len(content) - start > MAX_LINE:
            end = content.rfind(b"\n", max(start, 0), start + MAX_LINE + 1)
            if end < 0:
                raise NotText("Line too long")
            start = end + 1
        end = content.rfind(b"\n", max(start, 0))
        self._column = len(content) - (end + 1 if end >= 0 else start)


def undecided(piece: bytes, end: bytes) -> int:
    """How many bytes at the end of the piece may be the beginning of `end`."""
    for length in range(len(end) - 1, 0, -1):
        if piece.endswith(end[:length]):
            return length
    return 0


def _check_line_ends(piece: bytes) -> None:
    """The CRs stand exactly where an LF comes next: the map of the ones, shifted, is the map of the others."""
    if b"\0" in piece:
        raise NotText("NUL received")
    returns, feeds = piece.translate(_RETURNS), piece.translate(_FEEDS)
    if returns[:-1] != feeds[1:] or returns.endswith(b"x") or feeds.startswith(b"x"):  # RFC 5321 2.3.8
        raise NotText("Lines end with <CR><LF>: bare <CR> or <LF> received")
