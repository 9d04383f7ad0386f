"""BODY=BINARYMIME: content with binary parts becomes text as it comes in; bytes in, LF line ends out, in bulk.

    a part says                     and holds                                           it is kept as
    binary                          only lines with CRLF, of 998 bytes at most,         8bit, with LF line ends
                                    and is not longer than HELD_MAX
    binary                          anything else                                       base64
    7bit, 8bit, nothing             a NUL in its first HELD_MAX bytes                   base64
    7bit, 8bit, nothing             no NUL                                              text, as it is (line_ending.py)
    base64, quoted-printable, ...   no NUL                                              text, as it is
    multipart, message/rfc822       parts                                               these; "binary" becomes 8bit
    anything else with a NUL                                                            ConversionError

RFC 3030 3 lets a gateway change the encoding of a part; its decoded content is the same, octet for octet.  So no store
and no server that the message goes to has to know binary content, and all that is kept has LF line ends.  The cost: a
signature over content that is encoded here is not valid any more (RFC 6376 5.3 has signers expect that).

    HOLD --part ends, or HELD_MAX--> TEXT | BASE64

mime_walk.py finds the parts.  Bounded are the bytes that are held of a part.
"""

import binascii
import re
from enum import Enum

from smtpd.header.mime import IDENTITY, Description, with_encoding
from smtpd.smtp.line_ending import LineEnds, LineLength
from smtpd.smtp.mime_walk import ConversionError, MimeWalker

HELD_MAX = 64 * 1024  # bytes of a part that are looked at before it is decided what becomes of it
LINE_MAX = 998  # RFC 2045 2.8: what 8bit may have in a line

_GROUP = 57  # bytes that make a line of base64
_WIDTH = 76

_LONG = re.compile(rb"^[^\n]{%d}" % (LINE_MAX + 2), re.MULTILINE)  # with its CR


class ConverterState(Enum):
    HOLD = "at the beginning of a part"
    TEXT = "in text"
    BASE64 = "in bytes that are encoded"


class BinaryMimeConverter(MimeWalker):
    """Holds the beginning of a part, or part of a line of base64."""

    def __init__(self) -> None:
        super().__init__()
        self._state = ConverterState.TEXT
        self._header = self._encoding = b""  # of the part that is held
        self._encodable = False
        self._held: list[bytes] = []
        self._size = 0  # of that
        self._ends = LineEnds()
        self._lines = LineLength()
        self._base64 = Base64Lines()

    def _enter_container(self, header: bytes, said: Description) -> bytes:
        return with_encoding(header, b"8bit") if said.encoding == b"binary" else header

    def _begin_part(self, header: bytes, said: Description) -> bytes:
        self._header, self._encoding = header, said.encoding
        self._encodable = said.encoding in IDENTITY and not said.kind.startswith(b"multipart/")
        self._state, self._held, self._size = ConverterState.HOLD, [], 0
        return b""

    def _take_content(self, content: bytes) -> bytes:
        if self._state is ConverterState.TEXT:
            return self._give(self._as_text(self._ends.take(content)))
        if self._state is ConverterState.BASE64:
            return self._give(self._base64.take(content))
        self._held.append(content)
        self._size += len(content)
        return self._decide(ended=False) if self._size > HELD_MAX else b""

    def _end_content(self) -> bytes:
        given = self._decide(ended=True) if self._state is ConverterState.HOLD else b""
        if self._state is ConverterState.TEXT:
            return given + self._give(self._as_text(self._ends.end()))
        return given + self._give(self._base64.end())

    def _keeps_line_end(self) -> bool:
        return self._state is not ConverterState.BASE64

    def _decide(self, *, ended: bool) -> bytes:
        """Decide what becomes of the part that is held."""
        content, self._held = b"".join(self._held), []
        is_binary = self._encoding == b"binary"
        is_text = ended and _is_lines(content) if is_binary else b"\0" not in content[:HELD_MAX]
        if is_text or not self._encodable:
            self._begin_text()
            header = with_encoding(self._header, b"8bit") if is_binary else self._header
        else:
            self._state = ConverterState.BASE64
            header = with_encoding(self._header, b"base64", version=self._of_message)
        return self._give(header + b"\n") + self._take_content(content)

    def _begin_text(self) -> None:
        self._state, self._ends, self._lines = ConverterState.TEXT, LineEnds(), LineLength()

    def _as_text(self, content: bytes) -> bytes:
        if b"\0" in content:
            raise ConversionError("Binary content in a part that does not say so")
        content = content.replace(b"\r", b"\n")
        self._lines.check(content)
        return content


class Base64Lines:
    """Bytes in base64, in pieces.  Holds too little for a line."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def take(self, content: bytes) -> bytes:
        content = self._rest + content
        cut = len(content) - len(content) % _GROUP
        self._rest = content[cut:]
        return base64_lines(content[:cut])

    def end(self) -> bytes:
        rest, self._rest = self._rest, b""
        return binascii.b2a_base64(rest) if rest else b""


def base64_lines(content: bytes) -> bytes:
    """As many bytes as make whole lines.  A column of all of them is written at a time."""
    text = binascii.b2a_base64(content, newline=False)
    lines = bytearray(b"\n") * (len(text) + len(text) // _WIDTH)
    for column in range(_WIDTH):
        lines[column :: _WIDTH + 1] = text[column::_WIDTH]
    return bytes(lines)


def _is_lines(content: bytes) -> bool:
    """Whether it is text in the sense of 8bit (RFC 2045 2.8), but for LF line ends."""
    count = content.count(b"\r\n")
    return b"\0" not in content and content.count(b"\r") == count == content.count(b"\n") and not _LONG.search(content)
