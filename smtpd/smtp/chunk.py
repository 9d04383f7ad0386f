"""The content of a message in chunks (RFC 3030): bytes as they come in, content with LF line ends out, in bulk.

    BDAT 5          b"one\\r\\n"       ->  b"one\\n"
    BDAT 4 LAST     b".two"          ->  b".two\\n"        a dot is a dot; the last line gets its end

The client says how long a chunk is, so no content can be taken for commands, and a chunk can be read to its end
whatever is wrong with it.  Chunks cut anywhere, also between CR and LF.  What is no text (text.py) costs the message:
kept as it is, it would smuggle behind the next server's dot.

    BODY=BINARYMIME     the header, to its empty line, is text like any other;
                        what stands behind it is kept byte by byte
"""

from smtpd.smtp.reply import Reply
from smtpd.smtp.text import NotText, Text, undecided

_EMPTY_LINE = b"\r\n\r\n"


class ChunkReader:
    """Reads one message.  `fault`: why it cannot be taken; from then on nothing is given out."""

    __slots__ = ("_begun", "_ended_line", "_held", "_in_header", "_text", "fault")

    def __init__(self, *, binary: bool):
        self.fault: Reply | None = None
        self._in_header = binary  # only there is it of interest what ends the header
        self._text: Text | None = Text()  # None: behind the header of a binary message
        self._held = b"\r\n" if binary else b""  # an empty line may be the first thing to come
        self._begun = not binary  # the CRLF above has been taken off again
        self._ended_line = True  # what was given out last ends a line

    def feed(self, data: bytes) -> bytes:
        """What of the content is certain now, perhaps nothing."""
        if self.fault:
            return b""
        if self._text is None:
            return data
        piece = self._held + data
        if self._in_header:
            return self._take_header(piece)
        keep = len(piece) - undecided(piece, b"\r\n")
        self._held = piece[keep:]
        return self._take(piece[:keep])

    def end(self) -> bytes:
        """The last chunk has come: what was held back, and the end of the last line."""
        if self.fault or self._text is None:
            return b""
        content = self._take(self._held)
        self._held = b""
        return content if self.fault or self._ended_line else content + b"\n"

    def _take_header(self, piece: bytes) -> bytes:
        end = piece.find(_EMPTY_LINE)
        if end < 0:
            keep = len(piece) - undecided(piece, _EMPTY_LINE)
            self._held = piece[keep:]
            return self._take(piece[:keep])
        end += len(_EMPTY_LINE)
        header = self._take(piece[:end])
        self._held = b""
        self._text = None
        return b"" if self.fault else header + piece[end:]

    def _take(self, piece: bytes) -> bytes:
        assert self._text is not None
        try:
            content = self._text.take(piece)
        except NotText as error:
            self.fault = Reply(550, "5.6.0", str(error))
            return b""
        if content:
            self._ended_line = content.endswith(b"\n")
            if not self._begun:
                self._begun = True
                content = content[1:]
        return content
