"""The keys that content is encrypted with: their file, their ids, and the key of one content.

    none | 64 hexadecimal digits        the current key: what is stored from now on is encrypted with it, or not at all
    64 hexadecimal digits               older ones, to read what is stored; any number of them
    # a comment

    main key --HKDF-SHA256 (RFC 5869)--> its id, which stands beside the content
                                     \\-> with the content's header, which has a salt of 16 random bytes: its own key

Does not open the file.
"""

import hashlib
import hmac
import re
from collections.abc import Iterable

from smtpd.tls.aes_gcm import NONCE_BYTES, TAG_BYTES, AesGcm

KEY_BYTES = 32
KEYS_TEXT_MAX = 64 * 1024  # bytes
NO_KEY = "none"

_KEY = re.compile(r"[0-9A-Fa-f]{64}")
_ID_MIN = 2  # smaller ones have a meaning of their own (content_codec.py)
_ID_INFO, _CONTENT_INFO = b"smtpd: id of a queue key", b"smtpd: key of a content"


class KeyFileError(Exception):
    """Why a file of keys is not taken; the text holds nothing of a key."""


class ContentCipher:
    """Encrypts or decrypts the chunks of one content, in their order."""

    TAG_BYTES = TAG_BYTES  # that a chunk is longer by

    def __init__(self, key: bytes, header: bytes):
        self._cipher, self._header = AesGcm(key), header
        self._number = 0

    def seal(self, chunk: bytes, *, last: bool) -> bytes:
        return self._cipher.seal(self._nonce(last=last), self._header, chunk)

    def open(self, chunk: bytes, *, last: bool) -> bytes | None:
        """None: this is not the next chunk of this content, or not the last one where it should be."""
        return self._cipher.maybe_open(self._nonce(last=last), self._header, chunk)

    def _nonce(self, *, last: bool) -> bytes:
        number, self._number = self._number, self._number + 1
        return number.to_bytes(NONCE_BYTES - 1, "big") + bytes([last])


class ContentKey:
    def __init__(self, key: bytes):
        assert len(key) == KEY_BYTES
        self._key = key
        id = int.from_bytes(_hkdf(key, b"", _ID_INFO, 8), "big") >> 1  # 63 bits: an INTEGER of SQLite
        self.id = max(id, _ID_MIN)

    def cipher(self, header: bytes) -> ContentCipher:
        """Of the one content that has this header."""
        return ContentCipher(_hkdf(self._key, header, _CONTENT_INFO, KEY_BYTES), header)


class Keys:
    """The current one, if any, and older ones."""

    def __init__(self, current: ContentKey | None = None, older: Iterable[ContentKey] = ()):
        self.current = current
        self._by_id = {key.id: key for key in (*([current] if current is not None else []), *older)}

    def __bool__(self) -> bool:
        return bool(self._by_id)

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(self._by_id)

    def find(self, id: int) -> ContentKey | None:
        return self._by_id.get(id)


def parse_keys(text: bytes) -> Keys:
    """Of the file.  Raises KeyFileError."""
    if len(text) > KEYS_TEXT_MAX:
        raise KeyFileError("it is too large")
    found: list[ContentKey | None] = []
    for number, line in enumerate(text.split(b"\n"), 1):
        word = line.strip().decode("ascii", "replace")
        if not word or word.startswith("#"):
            continue
        if word == NO_KEY and not found:
            found.append(None)
            continue
        if not _KEY.fullmatch(word):
            raise KeyFileError(f"line {number}: a key is 64 hexadecimal digits, as of `openssl rand -hex 32`")
        key = ContentKey(bytes.fromhex(word))
        if any(other is not None and other.id == key.id for other in found):
            raise KeyFileError(f"line {number}: duplicate key")
        found.append(key)
    if not found:
        raise KeyFileError("it has no key")
    if found == [None]:
        raise KeyFileError(f'"{NO_KEY}" and no key to read with')
    return Keys(found[0], [key for key in found[1:] if key is not None])


def _hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869, for at most one block."""
    extracted = hmac.digest(salt or bytes(hashlib.sha256().digest_size), key, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")[:length]
