"""The content of messages as it is kept: as it came, or coded, which means compressed, encrypted, or both.

    header  magic 4 | version u8 | flags u8 | 0 u16 | key id u64 | message id u64 | salt 16      40 bytes, big-endian
    body    the content, or with COMPRESSED a zlib stream of it, which with ENCRYPTED is cut into chunks of CHUNK bytes,
            the last one shorter or not:  AES-256-GCM(chunk) | tag 16

Each content has a key of its own, HKDF-SHA256 of the main key, the salt and the header.  So a nonce is used once: the
number of the chunk, and whether it is the last.  No chunk can be changed, swapped, cut off or moved to another message:
what is decoded is what was encoded, or ContentDamaged is raised.  Content that is not encrypted is compared with the
SHA-256 of its row, by the reader.

The coding of a row says what its content is: 0, as it came; 1, coded and not encrypted; otherwise the id of its key.
It is in the row, and not found out by looking, as mail may begin with anything.  Compressed is what becomes at least a
tenth smaller by it; of larger content its beginning decides.

No file, no clock.  An Encoder or Decoder belongs to one content, and may be used by one thread at a time.
"""

import os
import struct
import zlib
from collections.abc import Iterable, Iterator

from smtpd.queue.store.store import AS_IT_CAME, ContentDamaged

TYPE_CHECKING = False  # the keys need OpenSSL, which is loaded only where there are some
if TYPE_CHECKING:
    from smtpd.tls.content_key import ContentCipher, ContentKey, Keys

NOT_ENCRYPTED = 1  # the coding of what is coded, but not encrypted
CHUNK = 64 * 1024  # bytes of one chunk before it is encrypted
PIECE = 64 * 1024  # bytes after which it is decided whether compressing pays; and that are decompressed at a time
LEVEL = 1  # of zlib: twice as fast as the usual one, and a tenth larger
PAYS_BELOW = 0.9  # of its size that content has when compressed

_HEADER = struct.Struct(">4sBBHQQ16s")
HEADER_BYTES = _HEADER.size
_MAGIC, _FORMAT = b"SMTC", 1
_COMPRESSED, _ENCRYPTED = 1, 2


class KeyMissing(Exception):
    """The content is encrypted with a key that the configuration does not have."""


class Codec:
    """`compresses`: what is stored from now on.  With a current key in `keys` it is encrypted."""

    def __init__(self, *, compresses: bool = False, keys: "Keys | None" = None):
        self._compresses = compresses
        self._keys = keys
        self._current = None if keys is None else keys.current

    @property
    def is_active(self) -> bool:
        """What is stored is coded; otherwise it stays as it came."""
        return self._compresses or self._current is not None

    @property
    def has_keys(self) -> bool:
        return self._keys is not None

    @property
    def coding(self) -> int:
        """Of content that is stored from now on, in a file."""
        if self._current is not None:
            return self._current.id
        return NOT_ENCRYPTED if self._compresses else AS_IT_CAME

    @property
    def codings(self) -> tuple[int, ...]:
        """Those that can be decoded; first the one of `coding`."""
        others = (AS_IT_CAME, NOT_ENCRYPTED, *(self._keys.ids if self._keys is not None else ()))
        return self.coding, *(coding for coding in others if coding != self.coding)

    @property
    def encrypts(self) -> bool:
        return self._current is not None

    def is_current(self, coding: int) -> bool:
        """Content of that coding is encrypted as it would be now, or not at all, as it would be now."""
        return coding == self._current.id if self._current is not None else coding in (AS_IT_CAME, NOT_ENCRYPTED)

    def maybe_encoder(self, message: int) -> "Encoder | None":
        """None: content stays as it comes."""
        return self.encoder(message) if self.is_active else None

    def encoder(self, message: int) -> "Encoder":
        return Encoder(message, self._current, compresses=self._compresses)

    def encode(self, message: int, content: bytes) -> tuple[int, bytes]:
        """The coding of small content, and the content in it; as it came where coding it gains nothing."""
        encoder = self.encoder(message)
        stored = encoder.add(content) + encoder.finish()
        if self._current is None and len(stored) >= len(content):
            return AS_IT_CAME, content
        return self.coding, stored

    def decode(self, message: int, coding: int, stored: bytes, size: int) -> bytes:
        """Raises KeyMissing and ContentDamaged."""
        if coding == AS_IT_CAME:
            return stored
        return b"".join(self.pieces(message, coding, (stored,), size))

    def pieces(self, message: int, coding: int, stored: Iterable[bytes], size: int) -> Iterator[bytes]:
        """The content of `size` bytes, piece by piece, of what is stored.  Raises KeyMissing and ContentDamaged, the
        last one also behind some of the pieces: they count only when there is an end."""
        decoder = Decoder(message, coding, self._key_of(coding), size)
        for some in stored:
            yield from decoder.add(some)
        yield from decoder.finish()

    def _key_of(self, coding: int) -> "ContentKey | None":
        if coding == NOT_ENCRYPTED:
            return None
        key = None if self._keys is None else self._keys.find(coding)
        if key is None:
            raise KeyMissing(f"the content is encrypted with key {coding:016x}, which is not configured")
        return key


PLAIN = Codec()


class Encoder:
    """What `add` and `finish` return is to be stored, one behind the other."""

    def __init__(self, message: int, key: "ContentKey | None", *, compresses: bool):
        self._message, self._key = message, key
        self._tries_compression = compresses
        self._begun = False
        self._first = bytearray()  # what decides whether compressing pays
        self._compressor: zlib._Compress | None = None
        self._cipher: ContentCipher | None = None
        self._chunk = bytearray()  # what is not yet encrypted: at least the last chunk

    def add(self, content: bytes) -> bytes:
        if self._begun:
            return self._add(content)
        self._first += content
        return self._begin() if len(self._first) >= PIECE else b""

    def finish(self) -> bytes:
        head = b"" if self._begun else self._begin()
        rest = self._compressor.flush() if self._compressor is not None else b""
        if self._cipher is None:
            return head + rest
        return head + self._encrypt(rest) + self._cipher.seal(bytes(self._chunk), last=True)

    def _begin(self) -> bytes:
        first, self._first, self._begun = bytes(self._first), bytearray(), True
        compressed = self._compress_first(first) if self._tries_compression else None
        flags = (_COMPRESSED if compressed is not None else 0) | (_ENCRYPTED if self._key is not None else 0)
        id = 0 if self._key is None else self._key.id
        header = _HEADER.pack(_MAGIC, _FORMAT, flags, 0, id, self._message, os.urandom(16))
        if self._key is not None:
            self._cipher = self._key.cipher(header)
        return header + self._maybe_encrypt(first if compressed is None else compressed)

    def _compress_first(self, first: bytes) -> bytes | None:
        """None when it does not pay."""
        compressor = zlib.compressobj(LEVEL)
        compressed = compressor.compress(first) + compressor.flush(zlib.Z_SYNC_FLUSH)
        if len(compressed) > PAYS_BELOW * len(first):
            return None
        self._compressor = compressor
        return compressed

    def _add(self, content: bytes) -> bytes:
        return self._maybe_encrypt(self._compressor.compress(content) if self._compressor is not None else content)

    def _maybe_encrypt(self, data: bytes) -> bytes:
        return self._encrypt(data) if self._cipher is not None else data

    def _encrypt(self, data: bytes) -> bytes:
        """All chunks that are surely not the last."""
        assert self._cipher is not None
        self._chunk += data
        sealed = []
        while len(self._chunk) > CHUNK:
            sealed.append(self._cipher.seal(bytes(self._chunk[:CHUNK]), last=False))
            del self._chunk[:CHUNK]
        return b"".join(sealed)


class Decoder:
    """Feed it what is stored, in any pieces."""

    def __init__(self, message: int, coding: int, key: "ContentKey | None", size: int):
        self._message, self._coding, self._key, self._size = message, coding, key, size
        self._made = 0  # bytes of content so far
        self._stored = bytearray()  # header, or a chunk, that is not complete
        self._header_read = False
        self._cipher: ContentCipher | None = None
        self._decompressor: zlib._Decompress | None = None

    def add(self, stored: bytes) -> Iterator[bytes]:
        self._stored += stored
        if not self._header_read:
            if len(self._stored) < HEADER_BYTES:
                return
            self._read_header()
        if self._cipher is None:
            data, self._stored = bytes(self._stored), bytearray()
            yield from self._decompress(data)
            return
        whole = CHUNK + self._cipher.TAG_BYTES
        while len(self._stored) > whole:
            yield from self._decrypt(whole, last=False)

    def finish(self) -> Iterator[bytes]:
        if not self._header_read:
            raise ContentDamaged("the coded content is cut")
        if self._cipher is not None:
            yield from self._decrypt(len(self._stored), last=True)
        if self._decompressor is not None and not self._decompressor.eof:
            raise ContentDamaged("the compressed content is cut")
        if self._made != self._size:
            raise ContentDamaged(f"the content has {self._made} bytes, its row says {self._size}")

    def _read_header(self) -> None:
        header = bytes(self._stored[:HEADER_BYTES])
        del self._stored[:HEADER_BYTES]
        magic, version, flags, reserved, id, message, _ = _HEADER.unpack(header)
        is_known = magic == _MAGIC and version == _FORMAT and not reserved and not flags & ~(_COMPRESSED | _ENCRYPTED)
        expected = 0 if self._key is None else self._key.id
        is_right = bool(flags & _ENCRYPTED) == (self._key is not None) and id == expected and message == self._message
        if not (is_known and is_right):
            raise ContentDamaged("the header of the coded content was changed after it was stored")
        self._header_read = True
        if flags & _COMPRESSED:
            self._decompressor = zlib.decompressobj()
        if self._key is not None:
            self._cipher = self._key.cipher(header)

    def _decrypt(self, length: int, *, last: bool) -> Iterator[bytes]:
        assert self._cipher is not None
        chunk = bytes(self._stored[:length])
        del self._stored[:length]
        data = self._cipher.open(chunk, last=last)
        if data is None:
            raise ContentDamaged("the encrypted content was changed after it was stored")
        yield from self._decompress(data)

    def _decompress(self, data: bytes) -> Iterator[bytes]:
        """In pieces of PIECE bytes, up to the size that the row says: never more memory than that takes."""
        if self._decompressor is None:
            yield from self._count(data)
            return
        while True:
            try:
                piece = self._decompressor.decompress(data, PIECE)
            except zlib.error as error:
                raise ContentDamaged(f"the compressed content was changed after it was stored: {error}") from None
            if self._decompressor.unused_data:
                raise ContentDamaged("there is something behind the compressed content")
            data = self._decompressor.unconsumed_tail
            yield from self._count(piece)
            if len(piece) < PIECE and not data:  # otherwise some of it may wait inside
                return

    def _count(self, piece: bytes) -> Iterator[bytes]:
        self._made += len(piece)
        if self._made > self._size:
            raise ContentDamaged(f"the content has more than the {self._size} bytes that its row says")
        if piece:
            yield piece
