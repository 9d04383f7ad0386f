"""A mail as a program writes it to sendmail: header in memory, body in memory or a temporary file.

    From amy Sat Nov 21 ...        left out, as are `>From amy ...` and Return-Path
    Subject: x                     a field, if the header has at least one that is known; otherwise all is body
    To: bob@here.test              read for recipients
    Resent-Bcc: eve@here.test      read for recipients, and left out
    no colon here                  the body begins, with or without the empty line before it

Lines end with LF, CRLF or CR, and in what is sent with LF.  What SMTP cannot carry as it is, lines that are too long
and NUL, is encoded (encoding.py).

Not done here: Bcc, Date, Message-ID and addresses without a domain are the server's (smtpd/header/editor.py).
"""

import io

TYPE_CHECKING = False  # as typing has it: this runs once for each mail, and what it loads is most of what it costs
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO, Self

MAX_HEADER = 1024 * 1024  # bytes, as the server takes it
MAX_LINE = 990  # bytes; RFC 5321 4.5.3.1.6 allows 1000 with CRLF and a stuffed dot
IN_MEMORY = 1024 * 1024  # bytes of a body that need no file
PIECE = 64 * 1024

_OF_NAME = bytes(code for code in range(33, 127) if code != ord(":"))  # RFC 5322 2.2
_KNOWN = frozenset(
    b"from sender reply-to to cc bcc subject date message-id in-reply-to references mime-version user-agent received "
    b"return-path precedence auto-submitted".split()
)
_KNOWN_BEGINNINGS = (b"content-", b"resent-", b"list-", b"x-")
_NOT_SENT = (b"return-path", b"resent-bcc")  # RFC 5321 4.4, RFC 5322 3.6.6


class RawMailError(Exception):
    """It cannot be sent; why not.  `pieces`: all of it, as far as it has been read and beyond."""

    def __init__(self, reason: str, pieces: "Iterator[bytes]"):
        super().__init__(reason)
        self.pieces = pieces


class Field:
    __slots__ = ("name", "text")

    def __init__(self, name: bytes, text: bytes):
        self.name = name  # in small letters
        self.text = bytearray(text)  # all of it, with its line ends

    @property
    def value(self) -> bytes:
        return bytes(self.text.partition(b":")[2].rstrip(b"\n"))


class RawMail:
    """Read to its end as it is made, which may raise RawMailError and OSError; to be closed."""

    def __init__(self, stream: "BinaryIO"):
        self.fields: list[Field] = []
        self._size = 0  # of the body
        self.is_ascii = True  # the body
        self._has_nul = False  # the body
        self._longest = 0  # line of the body
        self._length = 0  # of its last line so far
        self._body: BinaryIO = io.BytesIO()
        try:
            self._read(with_lf(stream))
        except BaseException:
            self._body.close()
            raise

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self._body.close()

    @property
    def size(self) -> int:
        """Bytes, as it came but for line ends."""
        return sum(len(field.text) for field in self.fields) + 1 + self._size

    def values(self, *names: bytes) -> list[bytes]:
        return [field.value for field in self.fields if field.name in names]

    def pieces(self, *more: bytes) -> "Iterator[bytes]":
        """What is sent: `more` fields first, each a line without its end.

        Whatever has to be loaded for that is loaded now: the pieces may be read by a process that has given up root."""
        header = b"".join(bytes(field.text) for field in self.fields if field.name not in _NOT_SENT)
        body = self._stored()
        if self._longest > MAX_LINE or self._has_nul or b"\0" in header:
            from smtpctl.encoding import encoded  # seldom

            header, body = encoded(header, self._body, self._longest, self._has_nul)
        return _joined(b"".join([*(field + b"\n" for field in more), header, b"\n"]), body)

    def original(self) -> "Iterator[bytes]":
        """What came, with LF line ends."""
        yield b"".join([*(field.text for field in self.fields), b"\n"])
        yield from self._stored()

    def _read(self, pieces: "Iterator[bytes]") -> None:
        self._add(self._read_header(pieces))
        for piece in pieces:
            self._add(piece)
        self._body.flush()  # a child reads it too

    def _read_header(self, pieces: "Iterator[bytes]") -> bytes:
        """Takes the fields; returns what has been read of the body."""
        text, at = b"", 0
        while True:
            end = text.find(b"\n", at) + 1
            if not end and len(text) - at <= MAX_HEADER and (piece := next(pieces, b"")):
                text += piece
                continue
            line = text[at : end or len(text)]
            if line in (b"", b"\n") or not self._take_line(line, first=at == 0):
                break
            at += len(line)
            if at > MAX_HEADER:
                raise RawMailError("the header is too large", _joined(text, pieces))
        if at and not any(map(_is_known, self.fields)):
            self.fields.clear()
            return text
        return text[at + (line == b"\n") :]

    def _take_line(self, line: bytes, *, first: bool) -> bool:
        """Whether it is of the header."""
        if not line.endswith(b"\n"):
            line += b"\n"
        if line.startswith((b" ", b"\t")) and self.fields:
            self.fields[-1].text.extend(line)
            return True
        name, colon, _ = line.partition(b":")
        name = name.rstrip(b" \t")
        if colon and name and not name.translate(None, _OF_NAME):
            self.fields.append(Field(name.lower(), line))
            return True
        return first and line.startswith((b"From ", b">From "))

    def _add(self, piece: bytes) -> None:
        if self._size <= IN_MEMORY < self._size + len(piece):
            self._move_to_file()
        self._body.write(piece)
        self._size += len(piece)
        self.is_ascii = self.is_ascii and piece.isascii()
        self._has_nul = self._has_nul or b"\0" in piece
        self._measure(piece)

    def _move_to_file(self) -> None:
        import tempfile

        file = tempfile.TemporaryFile()  # noqa: SIM115  (closed as the body)
        self._body.seek(0)
        file.write(self._body.read())
        self._body.close()
        self._body = file

    def _measure(self, piece: bytes) -> None:
        first, *others = map(len, piece.split(b"\n"))
        self._length += first
        self._longest = max(self._longest, self._length, *others)
        if others:
            self._length = others[-1]

    def _stored(self) -> "Iterator[bytes]":
        self._body.seek(0)
        while piece := self._body.read(PIECE):
            yield piece


def _joined(header: bytes, body: "Iterator[bytes]") -> "Iterator[bytes]":
    yield header
    yield from body


def _is_known(field: Field) -> bool:
    name = field.name
    return name in _KNOWN or any(name.startswith(start) and name != start for start in _KNOWN_BEGINNINGS)


def with_lf(stream: "BinaryIO") -> "Iterator[bytes]":
    """What can be read, piece by piece, with LF line ends instead of CRLF and CR."""
    held = b""  # a CR, whose LF may come
    while piece := stream.read(PIECE):
        piece = held + piece
        held = b"\r" if piece.endswith(b"\r") else b""
        if held:
            piece = piece[:-1]
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        if piece:
            yield piece
    if held:
        yield b"\n"
