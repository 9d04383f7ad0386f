"""The content of a message after DATA: bytes as they come in, content with LF line ends out, in bulk.

    fed      b"one\\r\\n..two\\r\\n.\\r\\nQUIT\\r\\n"
    content  b"one\\n.two\\n"        rest  b"QUIT\\r\\n"

Exactly CRLF.CRLF ends a message.  Other bytes than text (line_ending.py) end the session: a client that disagrees about
line ends disagrees about where the message ends, too.  The end of a piece that could be the beginning of CRLF.CRLF
waits for the next piece.

The header is not looked at here; see header/editor.py.
"""

from smtpd.smtp.line_ending import DataText, TextError, undecided
from smtpd.smtp.reply import CommandRefused, Reply

END = b"\r\n.\r\n"  # RFC 5321 4.1.1.4
TOO_BIG = Reply(552, "5.3.4", "Message size exceeds limit")  # RFC 1870 6.2, 6.3


class DataReader:
    """Reads one message.

    ended     the final dot has come; `rest` is what came after it
    size      bytes of content, as sent: with CRLF, without stuffed dots and the final one (RFC 1870 2)
    fault     `size` is over `max_size`; from then on content is read, checked and dropped
    """

    __slots__ = ("_empty", "_held", "_text", "ended", "fault", "max_size", "rest", "size")

    def __init__(self, max_size: int):
        self.max_size = max_size
        self.ended = False
        self.rest = b""
        self.size = -2  # the CRLF below is not content
        self.fault: Reply | None = None
        self._held = b"\r\n"  # of the DATA command: the final dot may come first
        self._empty = True  # nothing given out yet
        self._text = DataText()

    def feed(self, data: bytes) -> bytes:
        """The content that is decided now, perhaps nothing.  Raises CommandRefused."""
        piece = self._held + data
        dots = b"." in piece and piece.rfind(b"\r\n.") >= 0  # these two are cheap, find() is not
        end = piece.find(END) if dots else -1
        if end >= 0:
            self.ended = True
            self.rest = piece[end + len(END) :]
            piece = piece[: end + 2]
        else:
            keep = len(piece) - undecided(piece, END)
            self._held, piece = piece[keep:], piece[:keep]
        if dots:
            piece = piece.replace(b"\r\n.", b"\r\n")  # RFC 5321 4.5.2
        return self._accept(piece)

    def _accept(self, piece: bytes) -> bytes:
        """The piece, which ends in no half CRLF, as content."""
        try:
            content = self._text.take(piece)
        except TextError as error:
            raise CommandRefused(500, "5.5.2", str(error), close=True) from None
        if self._empty and content:
            content = content[1:]
            self._empty = False
        self.size += len(piece)
        if self.size > self.max_size:
            self.fault = TOO_BIG
        return b"" if self.fault else content
