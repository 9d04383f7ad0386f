"""A private key: read from a descriptor, tested, and used to sign.

PEM as PKCS #8, or in OpenSSL's old forms for RSA and EC keys.  Not encrypted: a daemon can ask for no password.  The
bytes of the file are overwritten after they are read, the numbers when the key is forgotten.

Knows which padding an operation needs; request_check.py decides whether an operation is allowed.
"""

import ctypes
import os
import re
import stat
import weakref

from smtpd.tls.key_kind import check_kind, is_rsa
from smtpd.tls.openssl_library import TlsUnusable, digest_of_public_key, openssl, openssl_error
from smtpd.tls.signing import Operation

KEY_FILE_MAX = 64 * 1024

# openssl/rsa.h
_PADDINGS = {Operation.RSA_PKCS1: 1, Operation.RSA_PSS: 3}  # 3: none, as it has been padded


class PrivateKey:
    def __init__(self, address: int):
        self._address = address
        weakref.finalize(self, openssl().EVP_PKEY_free, address)  # which overwrites it
        check_kind(address)
        self.rsa = is_rsa(address)
        self.bits: int = openssl().EVP_PKEY_get_bits(address)
        self.size: int = openssl().EVP_PKEY_get_size(address)  # bytes of a signature, at most
        self.public = digest_of_public_key(address)
        self._try()

    @classmethod
    def read(cls, descriptor: int) -> "PrivateKey":
        """Raises TlsUnusable, with a text that has nothing of the file in it."""
        return cls(_read(descriptor))

    def sign(self, operation: Operation, data: bytes) -> bytes:
        """Any thread may.  Raises TlsUnusable."""
        library = openssl()
        room = ctypes.create_string_buffer(self.size)
        length = ctypes.c_size_t(self.size)
        context = library.EVP_PKEY_CTX_new(self._address, None)
        try:
            ready = library.EVP_PKEY_sign_init(context) > 0
            if ready and operation in _PADDINGS:
                ready = library.EVP_PKEY_CTX_set_rsa_padding(context, _PADDINGS[operation]) > 0
            if not ready or library.EVP_PKEY_sign(context, room, ctypes.byref(length), data, len(data)) <= 0:
                raise TlsUnusable(f"no signature: {openssl_error()}")
        finally:
            library.EVP_PKEY_CTX_free(context)
        return room.raw[: length.value]

    def _try(self) -> None:
        """Sign and verify once, so that a key whose halves do not match is found now and not by clients."""
        library, data = openssl(), bytes(32)
        signature = self.sign(Operation.RSA_PKCS1 if self.rsa else Operation.ECDSA, data)
        context = library.EVP_PKEY_CTX_new(self._address, None)
        try:
            good = library.EVP_PKEY_verify_init(context) > 0 and (
                library.EVP_PKEY_verify(context, signature, len(signature), data, len(data)) == 1
            )
        finally:
            library.EVP_PKEY_CTX_free(context)
        openssl_error()
        if not good:
            raise TlsUnusable("private and public half of the key do not match")


def _read(descriptor: int) -> int:
    """The address of an EVP_PKEY."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise TlsUnusable("the key is not a regular file")
    if status.st_size > KEY_FILE_MAX:
        raise TlsUnusable("the file of the key is too large")
    pem = ctypes.create_string_buffer(status.st_size + 1)
    try:
        length = os.preadv(descriptor, [memoryview(pem)[: status.st_size]], 0)
        if re.search(b"ENCRYPTED", pem):  # makes no copy
            raise TlsUnusable("the key is encrypted, and smtpd cannot ask for its password")
        return _parse(pem, length)
    except OSError as error:
        raise TlsUnusable(f"the file of the key cannot be read: {error.strerror}") from None
    finally:
        openssl().OPENSSL_cleanse(pem, len(pem))


def _parse(pem: "ctypes.Array[ctypes.c_char]", length: int) -> int:
    library = openssl()
    bio = library.BIO_new_mem_buf(pem, length)
    try:
        password = b""  # without one OpenSSL would ask at the terminal
        address: int | None = library.PEM_read_bio_PrivateKey(bio, None, None, password)
    finally:
        library.BIO_free(bio)
    openssl_error()  # is of no use: "unsupported" it calls an empty file
    if not address:
        raise TlsUnusable("no private key in the file")
    return address
