"""Kinds of keys that can sign in one process for a handshake in another."""

import ctypes

from smtpd.tls.openssl_library import TlsUnusable, openssl

# openssl/evp.h
_EVP_PKEY_RSA, _EVP_PKEY_EC = 6, 408
_OTHER_KINDS = {912: "RSA-PSS", 1087: "Ed25519", 1088: "Ed448", 116: "DSA"}

_SMALLEST_RSA = 2048  # bits; less is refused by clients, and by OpenSSL at its security level 2
_LARGEST_RSA = 8192  # a signature takes some 50 ms
_CURVES = ("prime256v1", "secp384r1")


def check_kind(key: int) -> None:
    """Raises TlsUnusable for a kind of key that cannot sign here."""
    library = openssl()
    kind = library.EVP_PKEY_get_base_id(key)
    if kind == _EVP_PKEY_RSA:
        bits = library.EVP_PKEY_get_bits(key)
        if not _SMALLEST_RSA <= bits <= _LARGEST_RSA:
            raise TlsUnusable(f"an RSA key has {_SMALLEST_RSA} to {_LARGEST_RSA} bits, and this one {bits}")
    elif kind == _EVP_PKEY_EC:
        if (curve := _curve(key)) not in _CURVES:
            raise TlsUnusable(f"an ECDSA key is of P-256 or P-384, and not of {curve}")
    else:
        name = _OTHER_KINDS.get(kind, f"kind {kind}")
        raise TlsUnusable(f"a key of {name} cannot be kept in another process: use RSA or ECDSA (P-256, P-384)")


def is_rsa(key: int) -> bool:
    return openssl().EVP_PKEY_get_base_id(key) == _EVP_PKEY_RSA


def _curve(key: int) -> str:
    name = ctypes.create_string_buffer(64)
    openssl().EVP_PKEY_get_group_name(key, name, len(name), None)
    return name.value.decode() or "a curve without a name"
