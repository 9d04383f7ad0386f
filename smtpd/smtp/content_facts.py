"""Where a message has bytes beyond ASCII: looked at before it is given to a server without 8BITMIME or SMTPUTF8.

    ContentInspector: LF content in pieces  ->  ContentFacts

Content in a part that cannot be encoded, and content under a signature, is not convertible: the recipient would find
the signature broken (RFC 6376 5.3, RFC 1847 2.1).
"""

import re

from smtpd.header.mime import IDENTITY, Description
from smtpd.smtp.client_content import ContentFacts
from smtpd.smtp.line_ending import LineLength, TextError
from smtpd.smtp.mime_walk import MimeWalker

_SIGNED = re.compile(rb"^(?:dkim-signature|arc-message-signature)[ \t]*+:", re.MULTILINE | re.IGNORECASE)


class ContentInspector(MimeWalker):
    """Holds a header, the beginning of a delimiter, and at most a number for each part."""

    def __init__(self) -> None:
        super().__init__()
        self._headers = 0
        self._number = 0  # of the part, from 1; 0 around the parts
        self._current = 0  # the part whose content this is
        self._encodable = False
        self._eight_bit = self._utf8_header = self._signed = self._broken = self._stuck = False
        self._found: set[int] = set()
        self._length = LineLength()

    def look(self, piece: bytes) -> None:
        """The next piece."""
        self._eight_bit = self._eight_bit or not piece.isascii()
        if not self._broken:
            try:
                self.take(piece)
            except TextError:  # more parts than are looked at
                self._broken = True

    def facts(self) -> ContentFacts:
        """All pieces have been looked at."""
        if not self._broken:
            try:
                self.end()
            except TextError:
                self._broken = True
        known = not self._broken and not self._stuck
        convertible = not self._eight_bit or known and not (self._signed and self._found)
        return ContentFacts(self._eight_bit, self._utf8_header, convertible, frozenset(self._found))

    def _look_at_header(self, header: bytes) -> None:
        self._headers += 1
        if self._headers == 1:
            self._utf8_header = not header.isascii()
            self._signed = bool(_SIGNED.search(header))

    def _pass_header(self, header: bytes) -> bytes:
        self._look_at_header(header)
        return b""

    def _enter_container(self, header: bytes, said: Description) -> bytes:
        self._look_at_header(header)
        self._signed = self._signed or said.kind == b"multipart/signed"
        return b""

    def _begin_part(self, header: bytes, said: Description) -> bytes:
        self._look_at_header(header)
        self._number += 1
        self._current, self._length = self._number, LineLength()
        self._encodable = is_encodable(said)
        return b""

    def _begin_text(self) -> None:
        self._current = 0

    def _take_content(self, content: bytes) -> bytes:
        if self._current:
            self._length.check(content)
            if not content.isascii():
                self._found.add(self._current)
                self._stuck = self._stuck or not self._encodable
        return b""

    def _end_content(self) -> bytes:
        return b""


def is_encodable(said: Description) -> bool:
    """Whether the part may have another encoding (RFC 2045 6.4)."""
    return said.encoding in IDENTITY and not said.kind.startswith((b"multipart/", b"message/"))
