"""Content as a client sends it, piece by piece: behind DATA, or in chunks; what is to be known of it before.

    LF line ends  ->  DotStuffer (dot_stuffing.py)     lines with CRLF, doubled dots, the final dot
                      ChunkWriter                      BDAT 65536 + bytes, BDAT 512 LAST + bytes     (RFC 3030)

Bytes are counted in a chunk, so a chunk is collected before its command can be said.
"""

from typing import NamedTuple, Protocol

from smtpd.smtp.line_ending import LineEndNormalizer

PIECE_SIZE = 64 * 1024  # bytes of content that are read and sent at once
CHUNK_MIN = 64 * 1024  # bytes of a chunk that is not the last one
CHUNKS_UNANSWERED_MAX = 4  # to a server with PIPELINING


class ContentFacts(NamedTuple):
    """`parts`: the numbers of the parts that have to be encoded for a server without 8BITMIME."""

    eight_bit: bool  # bytes beyond ASCII, anywhere
    utf8_header: bool  # in the header of the message itself
    convertible: bool
    parts: frozenset[int]


class Inspector(Protocol):
    """Looks at the content before it is sent: content_facts.py."""

    def look(self, piece: bytes) -> None: ...

    def facts(self) -> ContentFacts: ...


class Converter(Protocol):
    """Converts the content while it is sent: seven_bit.py."""

    def take(self, data: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class ChunkWriter:
    """`chunks`: how many BDAT commands have been given out."""

    __slots__ = ("_ended_line", "_held", "_lines", "_size", "chunks")

    def __init__(self) -> None:
        self.chunks = 0
        self._lines = LineEndNormalizer()
        self._ended_line = True
        self._held: list[bytes] = []
        self._size = 0

    def take(self, piece: bytes) -> bytes:
        """A chunk with its command, if there is one already."""
        self._collect(self._lines.take(piece))
        return self._chunk(b"") if self._size >= CHUNK_MIN else b""

    def end(self) -> bytes:
        """The last chunk; the last line gets its end."""
        self._collect(self._lines.end())
        if not self._ended_line:
            self._collect(b"\n")
        return self._chunk(b" LAST")

    def _collect(self, text: bytes) -> None:
        if text:
            self._ended_line = text.endswith(b"\n")
            self._held.append(text.replace(b"\n", b"\r\n"))
            self._size += len(self._held[-1])

    def _chunk(self, last: bytes) -> bytes:
        chunk = b"".join((b"BDAT %d%b\r\n" % (self._size, last), *self._held))
        self._held, self._size = [], 0
        self.chunks += 1
        return chunk
