"""Line ends of content: which bytes a message may consist of, and what ends its lines.

    after DATA          DataText    b"one\\r\\ntwo\\r\\n"      ->  b"one\\ntwo\\n"
                                    b"one\\ntwo\\r\\n"        ->  TextError; so for a CR alone
    in a chunk          ChunkText   CRLF, LF                   ->  LF
                                    CR alone, in the body      ->  LF
                                    CR alone, in the header    ->  a blank, so that it begins no field

After DATA, a bare CR or LF makes it impossible to say what the next server will take for the end of the message (SMTP
smuggling).  The bytes of a chunk are counted, so there a bare CR or LF only ends its line.  On the way out lines end
with CRLF in any case (dot_stuffing.py).  A NUL, and a line without end, are refused.

No loop goes from line to line: everything is find, count, replace and translate over whole pieces.  A TextError costs
the session after DATA, and only the message in a chunk: the caller decides.
"""

TEXT_LINE_MAX = 65534  # bytes without line end; RFC 5321 4.5.3.1.6 requires 998

_RETURNS = b" " * 13 + b"x" + b" " * 242  # translates to x at each CR
_FEEDS = b" " * 10 + b"x" + b" " * 245


class TextError(ValueError):
    """The bytes are not text; the argument says why."""


class DataText:
    """Text after DATA.  Remembers of earlier pieces only the length of the incomplete line."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        self._lines = LineLength()

    def take(self, piece: bytes) -> bytes:
        """The piece, which ends in no half CRLF, with LF line ends.  Raises TextError."""
        _check_line_ends(piece)
        content = piece.translate(None, b"\r")
        self._lines.check(content)
        return content


class LineLength:
    """Checks the length of lines.  Remembers of earlier pieces only the length of the incomplete line."""

    __slots__ = ("_column",)

    def __init__(self) -> None:
        self._column = 0

    def check(self, content: bytes) -> None:
        """Raises TextError.  Steps from line end to line end, but never more often than every TEXT_LINE_MAX bytes."""
        start = -self._column
        while len(content) - start > TEXT_LINE_MAX:
            end = content.rfind(b"\n", max(start, 0), start + TEXT_LINE_MAX + 1)
            if end < 0:
                raise TextError("Line too long")
            start = end + 1
        end = content.rfind(b"\n", max(start, 0))
        self._column = len(content) - (end + 1 if end >= 0 else start)


class LineEnds:
    """Makes each CRLF an LF, in pieces cut anywhere; a CR alone stays."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""  # a CR that may be half of a CRLF

    def take(self, piece: bytes) -> bytes:
        piece = self._held + piece
        self._held = b"\r" if piece.endswith(b"\r") else b""
        if self._held:
            piece = piece[:-1]
        return piece.replace(b"\r\n", b"\n") if b"\r" in piece else piece

    def end(self) -> bytes:
        held, self._held = self._held, b""
        return held


class LineEndNormalizer:
    """Makes all line ends of a message LF, in pieces cut anywhere."""

    __slots__ = ("_at_start", "_ends", "_in_header", "_stray")

    def __init__(self) -> None:
        self._ends = LineEnds()
        self._at_start = True  # of a line
        self._in_header = True
        self._stray = False  # there is a bare CR in the header

    @property
    def endless_header(self) -> bool:
        """The header has not ended, and would have if a bare CR ended its lines."""
        return self._in_header and self._stray

    def take(self, piece: bytes) -> bytes:
        """The content that is decided now."""
        return self._take(self._ends.take(piece))

    def end(self) -> bytes:
        """The rest."""
        return self._take(self._ends.end())

    def _take(self, content: bytes) -> bytes:
        if self._in_header:
            content = self._take_header(content)
        elif b"\r" in content:
            content = content.replace(b"\r", b"\n")
        if content:
            self._at_start = content.endswith(b"\n")
        return content

    def _take_header(self, content: bytes) -> bytes:
        end = _end_of_header(content, at_start=self._at_start)
        self._in_header = not end
        if b"\r" not in content:
            return content
        header, body = content[: end or len(content)], content[end or len(content) :]
        self._stray = self._stray or b"\r" in header
        return header.replace(b"\r", b" ") + body.replace(b"\r", b"\n")


class ChunkText:
    """The text of a message that comes in chunks."""

    __slots__ = ("_ended_line", "_length", "_lines")

    def __init__(self) -> None:
        self._lines = LineEndNormalizer()
        self._length = LineLength()
        self._ended_line = True

    def take(self, piece: bytes) -> bytes:
        """The content that is decided now, with LF line ends.  Raises TextError."""
        return self._check(self._lines.take(piece))

    def end(self) -> bytes:
        """The rest; the last line gets its end."""
        content = self._check(self._lines.end())
        if self._lines.endless_header:
            raise TextError("The lines of the header end with a bare <CR>")
        return content if self._ended_line else content + b"\n"

    def _check(self, content: bytes) -> bytes:
        if b"\0" in content:
            raise TextError("NUL received")
        self._length.check(content)
        if content:
            self._ended_line = content.endswith(b"\n")
        return content


def _end_of_header(content: bytes, *, at_start: bool) -> int:
    """The place after the empty line; 0 when it is not in this piece.  `at_start`: the piece begins a line."""
    if at_start and content.startswith(b"\n"):
        return 1
    return content.find(b"\n\n") + 2 if b"\n\n" in content else 0


def undecided(piece: bytes, end: bytes) -> int:
    """How many bytes at the end of the piece may be the beginning of `end`."""
    for length in range(len(end) - 1, 0, -1):
        if piece.endswith(end[:length]):
            return length
    return 0


def _check_line_ends(piece: bytes) -> None:
    """Each CR is followed by an LF, and each LF follows a CR: the map of the CRs, shifted, is the map of the LFs."""
    if b"\0" in piece:
        raise TextError("NUL received")
    returns, feeds = piece.translate(_RETURNS), piece.translate(_FEEDS)
    if returns[:-1] != feeds[1:] or returns.endswith(b"x") or feeds.startswith(b"x"):  # RFC 5321 2.3.8
        raise TextError("Lines end with <CR><LF>: bare <CR> or <LF> received")
