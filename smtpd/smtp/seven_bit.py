"""Content beyond ASCII for a server without 8BITMIME (RFC 6152 3): parts become quoted-printable or base64, in bulk.

    a part                                  is sent as
    text, with bytes beyond ASCII           quoted-printable
    other, with bytes beyond ASCII          base64
    ASCII, but labelled 8bit or binary      7bit, as it is
    ASCII                                   as it is
    a header                                as it is: raw 8-bit text in it has no other form
    the text around parts                   with a `?` for each byte beyond ASCII; no mail reader shows it

Which parts those are has been looked at before (content_facts.py): so a part that needs nothing stays byte by byte.
LF line ends in and out.
"""

import binascii

from smtpd.header.mime import Description, with_encoding
from smtpd.smtp.binary_mime import Base64Lines
from smtpd.smtp.line_ending import TEXT_LINE_MAX, TextError
from smtpd.smtp.mime_walk import MimeWalker

_ASCII_ONLY = bytes(range(128)) + b"?" * 128
_LABELS = (b"8bit", b"binary")


class QuotedPrintableLines:
    """Lines of text as quoted-printable (RFC 2045 6.7), in pieces.  Holds the incomplete line."""

    __slots__ = ("_held",)

    def __init__(self) -> None:
        self._held = b""

    def take(self, content: bytes) -> bytes:
        """Raises TextError for a line without end."""
        content = self._held + content
        cut = content.rfind(b"\n") + 1
        self._held = content[cut:]
        if len(self._held) > TEXT_LINE_MAX:
            raise TextError("Line too long")
        return binascii.b2a_qp(content[:cut])

    def end(self) -> bytes:
        held, self._held = self._held, b""
        return binascii.b2a_qp(held)


class CrlfBase64Lines(Base64Lines):
    """Lines in base64, as they would be sent: the canonical line end of a mail is CRLF (RFC 2045 6.8)."""

    def take(self, content: bytes) -> bytes:
        return super().take(content.replace(b"\n", b"\r\n"))


class SevenBitConverter(MimeWalker):
    """`parts`: of ContentFacts."""

    def __init__(self, parts: frozenset[int]):
        super().__init__()
        self._encoded = parts
        self._number = 0  # of the part, from 1
        self._around_parts = False
        self._lines: QuotedPrintableLines | CrlfBase64Lines | None = None

    def _enter_container(self, header: bytes, said: Description) -> bytes:
        return with_encoding(header, b"7bit") if said.encoding in _LABELS else header

    def _begin_part(self, header: bytes, said: Description) -> bytes:
        self._number += 1
        self._around_parts, self._lines = False, None
        if self._number in self._encoded:
            header = self._begin_encoded(header, said)
        elif said.encoding in _LABELS:
            header = with_encoding(header, b"7bit")
        return self._give(header + b"\n")

    def _begin_encoded(self, header: bytes, said: Description) -> bytes:
        if said.kind and not said.kind.startswith(b"text/"):
            self._lines = CrlfBase64Lines()
            return with_encoding(header, b"base64", version=self._of_message)
        self._lines = QuotedPrintableLines()
        if not said.kind:  # US-ASCII otherwise, which it is not (RFC 1428 3)
            header = _with_lines_ended(header) + b"Content-Type: text/plain; charset=unknown-8bit\n"
        return with_encoding(header, b"quoted-printable", version=self._of_message)

    def _begin_text(self) -> None:
        self._around_parts, self._lines = True, None

    def _take_content(self, content: bytes) -> bytes:
        if self._around_parts and not content.isascii():
            content = content.translate(_ASCII_ONLY)
        return self._give(self._lines.take(content) if self._lines else content)

    def _end_content(self) -> bytes:
        return self._give(self._lines.end()) if self._lines else b""

    def _keeps_line_end(self) -> bool:
        return not isinstance(self._lines, CrlfBase64Lines)


def _with_lines_ended(header: bytes) -> bytes:
    return header + b"\n" if header and not header.endswith(b"\n") else header
