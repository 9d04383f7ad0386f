"""AES-256-GCM (NIST SP 800-38D) by the OpenSSL that Python's `ssl` is linked to.

Which nonce is used, and that none is used twice with a key, is the caller's matter.  `self_test` is to be called before
anything is encrypted.
"""

import ctypes

from smtpd.tls.openssl_library import TlsUnusable, openssl, openssl_error

NONCE_BYTES, TAG_BYTES = 12, 16

_GET_TAG, _SET_TAG = 0x10, 0x11  # EVP_CTRL_AEAD_GET_TAG, EVP_CTRL_AEAD_SET_TAG

# The GCM specification of McGrew and Viega, test case 16: key, nonce, what is only authenticated, text, result, tag.
_VECTOR = (
    "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308",
    "cafebabefacedbaddecaf888",
    "feedfacedeadbeeffeedfacedeadbeefabaddad2",
    "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525"
    "b16aedf5aa0de657ba637b39",
    "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa8cb08e48590dbb3da7b08b1056828838"
    "c5f61e6393ba7a0abcc9f662",
    "76fc6ece0f4e1768cddf8853bb2d551b",
)


class AesGcm:
    """A key of 32 bytes."""

    def __init__(self, key: bytes):
        assert len(key) == 32
        self._key = key

    def seal(self, nonce: bytes, authenticated: bytes, text: bytes) -> bytes:
        """`text` encrypted, and the tag behind it.  Raises TlsUnusable."""
        library = openssl()
        context = library.EVP_CIPHER_CTX_new()
        try:
            done, length = ctypes.create_string_buffer(len(text) + TAG_BYTES), ctypes.c_int()
            tag = ctypes.addressof(done) + len(text)
            if not (
                library.EVP_EncryptInit_ex(context, library.EVP_aes_256_gcm(), None, self._key, nonce)
                and library.EVP_EncryptUpdate(context, None, ctypes.byref(length), authenticated, len(authenticated))
                and library.EVP_EncryptUpdate(context, done, ctypes.byref(length), text, len(text))
                and library.EVP_EncryptFinal_ex(context, tag, ctypes.byref(length))
                and library.EVP_CIPHER_CTX_ctrl(context, _GET_TAG, TAG_BYTES, tag)
            ):
                raise TlsUnusable(f"AES-256-GCM fails: {openssl_error()}")
            return done.raw
        finally:
            library.EVP_CIPHER_CTX_free(context)

    def maybe_open(self, nonce: bytes, authenticated: bytes, sealed: bytes) -> bytes | None:
        """None when it is not what was sealed with this key, nonce and `authenticated`.  Raises TlsUnusable."""
        if len(sealed) < TAG_BYTES:
            return None
        library = openssl()
        text, tag = sealed[:-TAG_BYTES], sealed[-TAG_BYTES:]
        context = library.EVP_CIPHER_CTX_new()
        try:
            done, length = ctypes.create_string_buffer(len(text) or 1), ctypes.c_int()
            if not (
                library.EVP_DecryptInit_ex(context, library.EVP_aes_256_gcm(), None, self._key, nonce)
                and library.EVP_DecryptUpdate(context, None, ctypes.byref(length), authenticated, len(authenticated))
                and library.EVP_DecryptUpdate(context, done, ctypes.byref(length), text, len(text))
                and library.EVP_CIPHER_CTX_ctrl(context, _SET_TAG, TAG_BYTES, tag)
            ):
                raise TlsUnusable(f"AES-256-GCM fails: {openssl_error()}")
            is_right = library.EVP_DecryptFinal_ex(context, None, ctypes.byref(length)) > 0
            openssl_error()  # what a wrong tag leaves behind
            return done.raw[: len(text)] if is_right else None
        finally:
            library.EVP_CIPHER_CTX_free(context)


def self_test() -> None:
    """Raises TlsUnusable when this OpenSSL does not encrypt as it should."""
    key, nonce, authenticated, text, encrypted, tag = map(bytes.fromhex, _VECTOR)
    cipher = AesGcm(key)
    sealed = cipher.seal(nonce, authenticated, text)
    changed = sealed[:-1] + bytes([sealed[-1] ^ 1])
    opened = cipher.maybe_open(nonce, authenticated, sealed)
    if sealed != encrypted + tag or opened != text or cipher.maybe_open(nonce, authenticated, changed) is not None:
        raise TlsUnusable("the AES-256-GCM of this OpenSSL gives wrong results")
