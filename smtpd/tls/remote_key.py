"""An OpenSSL key whose signatures are made by another process: public half from a certificate, signing by callback.

    SSL_CTX --> EVP_PKEY --> RSA, EC_KEY --> a METHOD of ours --> a callback --> Signer

To OpenSSL it is a private key like any other.  What a callback gets:

    TLS 1.2, 1.1, 1.0   RSA     a DigestInfo (or MD5 and SHA-1 concatenated), to be padded as PKCS #1 says
    TLS 1.3, 1.2        RSA     a block that is padded already (PSS), to be raised to the private exponent
    all of them         ECDSA   a digest

Ed25519 has no METHOD.  RSA decryption is refused: none of our ciphers needs it.

A ctypes callback is machine code in writable memory, and inside the sandbox no page can be made executable.  So all
callbacks are made when this module is imported; keys may be made later.
"""

import ctypes
import threading
from collections.abc import Callable
from ctypes import c_int, c_uint, c_void_p
from typing import Any, NamedTuple

from smtpd.tls.key_kind import check_kind, is_rsa
from smtpd.tls.openssl_library import TlsUnusable, digest_of_public_key, openssl, openssl_error
from smtpd.tls.signing import Operation, Signer, SigningFailed

# openssl/rsa.h
_OPERATIONS = {1: Operation.RSA_PKCS1, 3: Operation.RSA_PSS}  # RSA_PKCS1_PADDING, RSA_NO_PADDING


class _Key(NamedTuple):
    public: bytes
    signer: Signer
    size: int  # bytes that a signature has at most, and of RSA always


# By the address of their RSA or EC_KEY.  A process sees few keys, and a connection may use one after all others have
# forgotten it: they are kept for good.
_keys: dict[int, _Key] = {}
_made: dict[tuple[bytes, Signer], int] = {}  # -> EVP_PKEY


class _Memory(threading.local):
    """What happened in callbacks of this thread; OpenSSL's own errors have no room for it."""

    signatures = 0
    updates = 0  # of keys that the client may still make
    trouble: BaseException | None = None


callback_state = _Memory()


def make_key(public_key: int, signer: Signer) -> int:
    """The EVP_PKEY that has the public half of the EVP_PKEY `public_key`.  It is not the caller's to free.  Raises
    TlsUnusable."""
    check_kind(public_key)
    public = digest_of_public_key(public_key)
    if (public, signer) not in _made:
        _made[public, signer] = _make(public_key, public, signer)
    return _made[public, signer]


def _make(public_key: int, public: bytes, signer: Signer) -> int:
    library, methods = openssl(), _methods
    assert methods is not None  # or there would have been no library
    new = library.EVP_PKEY_new()
    if is_rsa(public_key):
        inner = library.EVP_PKEY_get1_RSA(public_key)
        done = library.RSA_set_method(inner, methods.rsa) and library.EVP_PKEY_set1_RSA(new, inner)
    else:
        inner = library.EVP_PKEY_get1_EC_KEY(public_key)
        done = library.EC_KEY_set_method(inner, methods.ec) and library.EVP_PKEY_set1_EC_KEY(new, inner)
    if not done:
        raise TlsUnusable(f"no key can be made from the certificate: {openssl_error()}")
    _keys[inner] = _Key(public, signer, library.EVP_PKEY_get_size(public_key))
    return new


# -- what OpenSSL calls ----------------------------------------------------------

_RSA_CRYPT = ctypes.CFUNCTYPE(c_int, c_int, c_void_p, c_void_p, c_void_p, c_int)
_EC_SIGN = ctypes.CFUNCTYPE(c_int, c_int, c_void_p, c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p)


class _Methods:
    """RSA_METHOD and EC_KEY_METHOD with our callbacks in them."""

    def __init__(self, library: Any):
        self.callbacks = (_RSA_CRYPT(_encrypt_rsa), _RSA_CRYPT(_decrypt_rsa), _EC_SIGN(_sign_ec))
        encrypt, decrypt, sign = (ctypes.cast(callback, c_void_p) for callback in self.callbacks)
        self.rsa = library.RSA_meth_dup(library.RSA_PKCS1_OpenSSL())
        library.RSA_meth_set_priv_enc(self.rsa, encrypt)
        library.RSA_meth_set_priv_dec(self.rsa, decrypt)
        self.ec = library.EC_KEY_METHOD_new(library.EC_KEY_OpenSSL())
        library.EC_KEY_METHOD_set_sign(self.ec, sign, None, None)


def _sign(address: int, operation: Operation, data: int, length: int, fits: Callable[[int, int], bool]) -> bytes:
    """The signature; empty if there is none.  The exception is kept in callback_state: C would lose it."""
    callback_state.signatures += 1
    try:
        key = _keys[address]
        signature = key.signer.sign(key.public, operation, ctypes.string_at(data, length))
        if not fits(len(signature), key.size):
            raise SigningFailed(f"a signature of {len(signature)} bytes")
        return signature
    except Exception as error:
        callback_state.trouble = error
        return b""


def _encrypt_rsa(length: int, data: int, target: int, rsa: int, padding: int) -> int:
    """RSA_meth_set_priv_enc: the room at `target` is as long as the key."""
    operation = _OPERATIONS.get(padding)
    if operation is None:
        return -1
    signature = _sign(rsa, operation, data, length, int.__eq__)
    ctypes.memmove(target, signature, len(signature))
    return len(signature) or -1


def _decrypt_rsa(length: int, data: int, target: int, rsa: int, padding: int) -> int:
    return -1


def _sign_ec(kind: int, data: int, length: int, target: int, written: int, _inverse: int, _r: int, key: int) -> int:
    """EC_KEY_METHOD_set_sign: the room at `target` is ECDSA_size of the key."""
    signature = _sign(key, Operation.ECDSA, data, length, int.__le__)
    ctypes.memmove(target, signature, len(signature))
    c_uint.from_address(written).value = len(signature)
    return int(bool(signature))


_methods: _Methods | None
try:
    _methods = _Methods(openssl())
except TlsUnusable:  # make_key raises it again
    _methods = None
