"""Dot-stuffing: content as it is sent after DATA, piece by piece; CRLF line ends, doubled dots, a dot alone at the end.

What smtpd stores has LF line ends only.  A program like mail.lmtp is given any bytes, and reads them as the text of a
chunk (line_ending.py).  So no bare CR or LF is sent, which some servers would take for the end of a line, and no line
begins with a single dot, whatever a server takes for the end of a line.
"""

from smtpd.smtp.line_ending import LineEndNormalizer

TYPE_CHECKING = False  # like that of typing, which sendmail would have to load for each mail
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class DotStuffer:
    """Content on its way out.  Holds the last piece, so that the final dot needs no packet of its own."""

    __slots__ = ("_at_start", "_held", "_lines")

    def __init__(self) -> None:
        self._lines = LineEndNormalizer()
        self._at_start = True  # of a line
        self._held = b""

    def take(self, piece: bytes) -> bytes:
        """What can be sent now."""
        return self._take(self._lines.take(piece))

    def end(self) -> bytes:
        """The rest, and the final dot (RFC 5321 4.5.2)."""
        sent = self._take(self._lines.end())
        return sent + self._held + (b".\r\n" if self._at_start else b"\r\n.\r\n")

    def _take(self, text: bytes) -> bytes:
        if not text:
            return b""
        if b"\n." in text:
            text = text.replace(b"\n.", b"\n..")
        dot = b"." if self._at_start and text.startswith(b".") else b""
        self._at_start = text.endswith(b"\n")
        sent, self._held = self._held, dot + text.replace(b"\n", b"\r\n")
        return sent


def dot_stuffed(pieces: "Iterable[bytes]") -> "Iterator[bytes]":
    """With the final dot."""
    stuffer = DotStuffer()
    yield from filter(None, map(stuffer.take, pieces))
    yield stuffer.end()
