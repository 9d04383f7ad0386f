"""Dot-stuffing: content as it is sent after DATA, piece by piece; CRLF line ends, doubled dots, a dot alone at the end.

What smtpd stores has LF line ends only.  A program like mail.lmtp is given any bytes, and reads them as the text of a
chunk (line_ending.py).  So no bare CR or LF is sent, which some servers would take for the end of a line, and no line
begins with a single dot, whatever a server takes for the end of a line.
"""

from smtpd.smtp.line_ending import LineEndNormalizer

TYPE_CHECKING = False  # like that of typing, which sendmail would have to load for each mail
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def dot_stuffed(pieces: "Iterable[bytes]") -> "Iterator[bytes]":
    """With the final dot (RFC 5321 4.5.2)."""
    at_start, held = True, b""  # at_start: of a line; held: so that the final dot needs no packet of its own
    for text in filter(None, _lines(pieces)):
        if b"\n." in text:
            text = text.replace(b"\n.", b"\n..")
        dot = b"." if at_start and text.startswith(b".") else b""
        at_start = text.endswith(b"\n")
        if held:
            yield held
        held = dot + text.replace(b"\n", b"\r\n")
    yield held + (b".\r\n" if at_start else b"\r\n.\r\n")


def _lines(pieces: "Iterable[bytes]") -> "Iterator[bytes]":
    lines = LineEndNormalizer()
    yield from map(lines.take, pieces)
    yield lines.end()
