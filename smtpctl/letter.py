"""A mail as a program writes it, before it is sent: its header in memory, its body in a temporary file.

    From amy Sat Nov 21 ...        left out, as is Return-Path
    Subject: x                     a field, if the header has at least one that is known; otherwise all is body
    To: bob@here.test              read for recipients
    no colon here                  the body begins, with or without the empty line before it

Lines end with LF or CRLF, and there is no CR in what is sent.  Lines that are too long for SMTP are sent as
quoted-printable, unless the mail says how it is encoded, or has parts of its own.

Not done here: Bcc, Date, Message-ID and addresses without a domain are the server's (smtpd/header/editor.py).
"""

import binascii
import codecs
import re
import tempfile
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple, Self

MAX_HEADER = 1024 * 1024  # bytes, as the server takes it
MAX_LINE = 990  # bytes; RFC 5321 4.5.3.1.6 allows 1000 with CRLF and a stuffed dot
IN_MEMORY = 1024 * 1024  # bytes of a body that need no file
PIECE = 64 * 1024

_FIELD = re.compile(rb"([!-9;-~]+)[\t ]*:")  # RFC 5322 2.2
_KNOWN = re.compile(
    rb"from|sender|reply-to|to|cc|bcc|subject|date|message-id|in-reply-to|references|mime-version|user-agent|received|"
    rb"return-path|precedence|auto-submitted|(?:content|resent|list|x)-.+"
)
_WITH_PARTS = re.compile(rb"[\t\n ]*(?:multipart|message)/", re.IGNORECASE)


class Unfit(Exception):
    """It cannot be sent; why not."""


class Field(NamedTuple):
    name: bytes  # in small letters
    text: bytearray  # all of it, with its line ends

    @property
    def value(self) -> bytes:
        return bytes(self.text.partition(b":")[2].rstrip(b"\n"))


class Letter:
    """Read to its end as it is made, which may raise Unfit and OSError; to be closed."""

    def __init__(self, stream: BinaryIO):
        self.fields: list[Field] = []
        self._size = 0  # of the body
        self.is_ascii = True  # the body
        self._longest = 0  # line of the body
        self._length = 0  # of its last line so far
        self._is_utf8 = True
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._body = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115  (closed below)
        try:
            self._read(stream)
        except BaseException:
            self._body.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._body.close()

    @property
    def size(self) -> int:
        """Bytes, as it came but for CRs."""
        return sum(len(field.text) for field in self.fields) + 1 + self._size

    def values(self, *names: bytes) -> list[bytes]:
        return [field.value for field in self.fields if field.name in names]

    def pieces(self, *more: bytes) -> Iterator[bytes]:
        """What is sent: `more` fields first, each a line without its end."""
        yield b"".join([*(field + b"\n" for field in (*more, *self._mime())), *self._header(), b"\n"])
        yield from self._encoded() if self.must_encode else self._stored()

    def original(self) -> Iterator[bytes]:
        """What came, without CRs."""
        yield b"".join([*self._header(), b"\n"])
        yield from self._stored()

    @property
    def must_encode(self) -> bool:
        if self._longest <= MAX_LINE or self.values(b"content-transfer-encoding"):
            return False
        return not any(map(_WITH_PARTS.match, self.values(b"content-type")))  # RFC 2045 6.4

    def _read(self, stream: BinaryIO) -> None:
        self._add(self._read_header(stream))
        while piece := stream.read(PIECE):
            self._add(piece)
        self._body.flush()  # a child reads it too

    def _read_header(self, stream: BinaryIO) -> bytes:
        """Takes the fields; returns what has been read of the body."""
        lines: list[bytes] = []
        size = 0
        while line := stream.readline(MAX_HEADER + 1 - size):
            size += len(line)
            whole = line.translate(None, b"\r").removesuffix(b"\n") + b"\n"
            if not self._take_line(whole, first=not lines):
                break
            if size > MAX_HEADER:
                raise Unfit("the header is too large")
            lines.append(line)
        if lines and not any(_KNOWN.fullmatch(field.name) for field in self.fields):
            self.fields.clear()
            return b"".join(lines) + line
        self.fields = [field for field in self.fields if field.name != b"return-path"]
        return b"" if line in (b"\n", b"\r\n") else line

    def _take_line(self, line: bytes, *, first: bool) -> bool:
        """Whether it is of the header."""
        if line.startswith((b" ", b"\t")) and self.fields:
            self.fields[-1].text.extend(line)
            return True
        found = _FIELD.match(line)
        if found:
            self.fields.append(Field(found[1].lower(), bytearray(line)))
        return found is not None or first and line.startswith(b"From ")

    def _add(self, piece: bytes) -> None:
        piece = piece.translate(None, b"\r")
        self._body.write(piece)
        self._size += len(piece)
        self.is_ascii = self.is_ascii and piece.isascii()
        self._measure(piece)
        try:
            self._decoder.decode(piece)
        except UnicodeDecodeError:
            self._is_utf8 = False

    def _measure(self, piece: bytes) -> None:
        first, *others = map(len, piece.split(b"\n"))
        self._length += first
        self._longest = max(self._longest, self._length, *others)
        if others:
            self._length = others[-1]

    def _header(self) -> Iterator[bytearray]:
        return (field.text for field in self.fields)

    def _mime(self) -> list[bytes]:
        """RFC 2045"""
        if not self.must_encode:
            return []
        made = [] if self.values(b"mime-version") else [b"MIME-Version: 1.0"]
        if not self.values(b"content-type"):
            charset = b"us-ascii" if self.is_ascii else b"utf-8" if self._is_utf8 else b"unknown-8bit"  # RFC 1428
            made.append(b"Content-Type: text/plain; charset=" + charset)
        return [*made, b"Content-Transfer-Encoding: quoted-printable"]

    def _stored(self) -> Iterator[bytes]:
        self._body.seek(0)
        while piece := self._body.read(PIECE):
            yield piece

    def _encoded(self) -> Iterator[bytes]:
        """RFC 2045 6.7.  A long line comes in several pieces, with a soft line break between them."""
        self._body.seek(0)
        while piece := self._body.readline(PIECE):
            text = piece.removesuffix(b"\n")
            yield binascii.b2a_qp(text) + (b"\n" if piece.endswith(b"\n") else b"=\n" if len(piece) == PIECE else b"")
