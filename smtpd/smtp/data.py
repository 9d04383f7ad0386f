"""The content of a message behind DATA: bytes as they come in, content with LF line ends out, in bulk.

    fed      b"one\\r\\n..two\\r\\n.\\r\\nQUIT\\r\\n"
    content  b"one\\n.two\\n"        rest  b"QUIT\\r\\n"

Exactly CRLF.CRLF ends a message.  A CR or LF that is not half of a CRLF, and a NUL, make it impossible to say what the
next server will take for a line end: the session ends there (SMTP smuggling).

No line is looked at alone: everything is find, count and translate over whole pieces.  The end of a piece that could be
the beginning of CRLF.CRLF waits for the next one.

The header is not looked at here; see header/block.py.
"""

from smtpd.smtp.reply import Refuse

END = b"\r\n.\r\n"  # RFC 5321 4.1.1.4
MAX_LINE = 65534  # bytes without line end; RFC 5321 4.5.3.1.6 asks for 998 at least

_RETURNS = b" " * 13 + b"x" + b" " * 242  # where CR is
_FEEDS = b" " * 10 + b"x" + b" " * 245


class DataReader:
    """Reads one message.

    ended     the final dot has come; `rest` is what stands behind it
    size      bytes of content, as sent: with CRLF, without stuffed dots and the final one (RFC 1870 2)
    too_big   `size` is over `max_size`; from then on content is read, checked and thrown away
    """

    __slots__ = ("_column", "_empty", "_held", "ended", "max_size", "rest", "size", "too_big")

    def __init__(self, max_size: int):
        self.max_size = max_size
        self.ended = False
        self.rest = b""
        self.size = -2  # the CRLF below is not of the content
        self.too_big = False
        self._held = b"\r\n"  # that of the DATA command: the final dot may be the first thing to come
        self._empty = True  # nothing given out yet
        self._column = 0  # length of the line that the last piece ended in

    def feed(self, data: bytes) -> bytes:
        """What of the content is certain now, perhaps nothing.  Raises Refuse."""
        piece = self._held + data
        dots = b"." in piece and piece.rfind(b"\r\n.") >= 0  # neither of the two costs much, find() would
        end = piece.find(END) if dots else -1
        if end >= 0:
            self.ended = True
            self.rest = piece[end + len(END) :]
            piece = piece[: end + 2]
        else:
            keep = len(piece) - _undecided(piece)
            self._held, piece = piece[keep:], piece[:keep]
        if dots:
            piece = piece.replace(b"\r\n.", b"\r\n")  # RFC 5321 4.5.2
        return self._accept(piece)

    def _accept(self, piece: bytes) -> bytes:
        """The piece, which ends in no half CRLF, as content."""
        _check_line_ends(piece)
        content = piece.translate(None, b"\r")
        if self._empty and content:
            content = content[1:]
            self._empty = False
        self._check_line_length(content)
        self.size += len(piece)
        if self.size > self.max_size:
            self.too_big = True
        return b"" if self.too_big else content

    def _check_line_length(self, content: bytes) -> None:
        """Steps from line end to line end, but never more often than every MAX_LINE bytes."""
        start = -self._column
        while len(content) - start > MAX_LINE:
            end = content.rfind(b"\n", max(start, 0), start + MAX_LINE + 1)
            if end < 0:
                raise Refuse(500, "5.5.2", "Line too long", close=True)
            start = end + 1
        end = content.rfind(b"\n", max(start, 0))
        self._column = len(content) - (end + 1 if end >= 0 else start)


def _check_line_ends(piece: bytes) -> None:
    """The CRs stand exactly where an LF comes next: the map of the ones, shifted, is the map of the others."""
    if b"\0" in piece:
        raise Refuse(500, "5.5.2", "NUL received", close=True)
    returns, feeds = piece.translate(_RETURNS), piece.translate(_FEEDS)
    if returns[:-1] != feeds[1:] or returns.endswith(b"x") or feeds.startswith(b"x"):  # RFC 5321 2.3.8
        raise Refuse(500, "5.5.2", "Lines end with <CR><LF>: bare <CR> or <LF> received", close=True)


def _undecided(piece: bytes) -> int:
    """How many bytes at the end of the piece may be the beginning of CRLF.CRLF."""
    for length in (4, 3, 2, 1):
        if piece.endswith(END[:length]):
            return length
    return 0
