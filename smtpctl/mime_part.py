"""The parts of a mail (RFC 2046): whose line each line of a body is.

    walk(header, body)  ->  (part, text, is_header), … : all of the body, a line at a time, or a piece of a long one

    --x                          None                a delimiter; as are preambles and what stands behind the last part
    Content-Type: text/plain     part 0, is_header   all of a part's header at once, without the empty line
                                 None
    hello                        part 0
    --x
    Content-Type: message/rfc822 None, is_header     no part: what it holds is a message, perhaps with parts of its own
                                 None
    Subject: y                   part 1, is_header

A mail that has no parts is part 0 itself.

What is known of MIME is in smtpd/header/mime.py; the way through the parts is not that of smtpd/smtp/mime_walk.py.
That one is fed pieces of a network's size with CRLF, and may not look at lines one by one; this one reads lines of a
file, and has to tell of each whose it is.
"""

from smtpctl.raw_mail import MAX_HEADER, PIECE
from smtpd.header.mime import IDENTITY, MESSAGES, describe

TYPE_CHECKING = False  # see raw_mail.py
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

DEPTH = 20  # multiparts in each other; what is deeper is one part


class MimePart:
    __slots__ = ("encoding", "is_encodable", "number")

    def __init__(self, number: int, kind: bytes, encoding: bytes):
        self.number = number
        self.encoding = encoding
        self.is_encodable = not kind.startswith((b"multipart/", b"message/"))  # RFC 2045 6.4


class _Multipart:
    __slots__ = ("default", "delimiter")

    def __init__(self, kind: bytes, boundary: bytes):
        self.delimiter = b"--" + boundary
        self.default = b"message/rfc822" if kind == b"multipart/digest" else b""  # RFC 2046 5.1.5


class _Position:
    """Where the next line stands: in a header, in a part, or between parts."""

    def __init__(self, header: bytes):
        self.around: list[_Multipart] = []
        self.header: bytearray | None = None  # what has come of a header
        self.part: MimePart | None = None
        self._default = b""  # the kind of a part whose header does not say
        self._parts = 0
        self.enter(header)

    def enter(self, header: bytes) -> None:
        """Behind a header."""
        found = describe(header)
        kind = found.kind or self._default
        self.header = self.part = None
        self._default = b""
        if kind.startswith(b"multipart/") and found.boundary and len(self.around) < DEPTH:
            self.around.append(_Multipart(kind, found.boundary))
        elif kind in MESSAGES and found.encoding in IDENTITY:
            self.header = bytearray()
        else:
            self.part = MimePart(self._parts, kind, found.encoding)
            self._parts += 1

    def pass_delimiter(self, line: bytes) -> bool:
        """Whether the line is one."""
        if not line.startswith(b"--"):
            return False
        text = line.rstrip()
        for level in reversed(range(len(self.around))):
            delimiter = self.around[level].delimiter
            if text in (delimiter, delimiter + b"--"):
                closing = text != delimiter
                del self.around[level + (not closing) :]
                self.header, self.part = None if closing else bytearray(), None
                self._default = self.around[-1].default if self.around else b""
                return True
        return False


def first_part(header: bytes) -> MimePart | None:
    """The whole mail, if it has no parts."""
    return _Position(header).part


def walk(header: bytes, body: "BinaryIO") -> "Iterator[tuple[MimePart | None, bytes, bool]]":
    position = _Position(header)
    at_start = True  # of a line
    body.seek(0)
    while line := body.readline(PIECE):
        begun = position.header
        if at_start and position.pass_delimiter(line):
            if begun:
                yield None, bytes(begun), False
            yield None, line, False
        elif begun is not None and line != b"\n" and len(begun) <= MAX_HEADER:
            begun += line
        else:
            if begun is not None:
                position.enter(whole := bytes(begun))
                yield position.part, whole, True
            yield position.part if begun is None or line != b"\n" else None, line, False
        at_start = line.endswith(b"\n")
    if position.header:
        yield None, bytes(position.header), False
