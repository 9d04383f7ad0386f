"""Certificates read from a file: a server's certificate with its chain, or the authorities of client certificates.

Knows what a certificate says of itself.  Whether it can be trusted is decided elsewhere: for clients' certificates by
OpenSSL, for ours by the clients.
"""

import calendar
import ctypes
import hashlib
import weakref
from collections.abc import Callable
from ctypes import c_int

from smtpd.tls.key_kind import check_kind
from smtpd.tls.openssl_library import TlsUnusable, digest_of_public_key, encode, openssl, openssl_error, read_pem

# openssl/obj_mac.h, openssl/x509v3.h
_NID_COMMON_NAME, _NID_SUBJECT_ALT_NAME = 13, 85
_GEN_DNS = 2

CERTIFICATE_FILE_MAX = 4 * 1024 * 1024  # bytes; that of all public authorities has 200 KiB
CHAIN_MAX = 10  # certificates of a chain of ours: each handshake sends it
AUTHORITIES_MAX = 1000  # a system's bundle has some 150
_SECRET = b"PRIVATE KEY-----"


class _Owned:
    """X509 objects, freed with us."""

    def __init__(self, addresses: list[int]):
        self.addresses = addresses
        self._free = weakref.finalize(self, _free, openssl().X509_free, addresses)


def _free(free: Callable[[int], None], addresses: list[int]) -> None:
    for address in addresses:
        free(address)


def _read(pem: bytes, most: int) -> _Owned:
    if _SECRET in pem:
        raise TlsUnusable("private key in a certificate file: it needs a file of its own")
    owned = _Owned(read_pem(pem, "PEM_read_bio_X509"))
    if not owned.addresses:
        raise TlsUnusable("no certificate in the file")
    if len(owned.addresses) > most:
        raise TlsUnusable(f"{len(owned.addresses)} certificates are too many")
    return owned


class Certificate:
    """A certificate of this server, with its chain up to an authority."""

    public: str  # SHA-256 of its public key, in hex
    not_after: int  # seconds since 1970
    names: tuple[str, ...]  # DNS names, in lower case, `*.` before some of them
    end_point: bytes  # RFC 5929 4.1; empty for signatures without a hash of their own

    def __init__(self, owned: _Owned):
        self._owned = owned
        self.addresses = owned.addresses
        library = openssl()
        self.key = library.X509_get_pubkey(self.addresses[0])
        if not self.key:
            raise TlsUnusable(f"its public key cannot be read: {openssl_error()}")
        weakref.finalize(self, library.EVP_PKEY_free, self.key)
        check_kind(self.key)
        self.public = digest_of_public_key(self.key).hex()
        self.not_after = _not_after(self.addresses[0])
        self.names = _names(self.addresses[0])
        self.end_point = _end_point(self.addresses[0])

    @classmethod
    def read(cls, pem: bytes) -> "Certificate":
        """Its own first.  Raises TlsUnusable."""
        return cls(_read(pem, CHAIN_MAX))


class Authorities:
    """Whoever may have signed the certificates of our clients."""

    def __init__(self, owned: _Owned):
        self._owned = owned
        self.addresses = owned.addresses

    @classmethod
    def read(cls, pem: bytes) -> "Authorities":
        """Raises TlsUnusable."""
        return cls(_read(pem, AUTHORITIES_MAX))


def _not_after(certificate: int) -> int:
    library = openssl()
    broken_down = (c_int * 16)()  # struct tm: second, minute, hour, day, month from 0, years since 1900, and more
    if not library.ASN1_TIME_to_tm(library.X509_get0_notAfter(certificate), broken_down):
        raise TlsUnusable(f"its expiry date cannot be read: {openssl_error()}")
    second, minute, hour, day, month, year = broken_down[:6]
    try:
        return calendar.timegm((year + 1900, month + 1, day, hour, minute, second))
    except ValueError:  # in the year 0
        raise TlsUnusable("its expiry date is invalid") from None


def _names(certificate: int) -> tuple[str, ...]:
    """Those of subjectAltName; without them the common name, as of old."""
    library = openssl()
    names = library.X509_get_ext_d2i(certificate, _NID_SUBJECT_ALT_NAME, None, None)
    openssl_error()
    if not names:
        return _common_name(certificate)
    try:
        every = [library.OPENSSL_sk_value(names, place) for place in range(library.OPENSSL_sk_num(names))]
        return tuple(name for general in every if (name := _dns_name(general)))
    finally:
        library.GENERAL_NAMES_free(names)


def _dns_name(general: int) -> str:
    library, kind = openssl(), c_int()
    value = library.GENERAL_NAME_get0_value(general, ctypes.byref(kind))
    if kind.value != _GEN_DNS:
        return ""
    return _text(ctypes.string_at(library.ASN1_STRING_get0_data(value), library.ASN1_STRING_length(value)))


def _common_name(certificate: int) -> tuple[str, ...]:
    library, name = openssl(), ctypes.create_string_buffer(256)
    length = library.X509_NAME_get_text_by_NID(
        library.X509_get_subject_name(certificate), _NID_COMMON_NAME, name, len(name)
    )
    openssl_error()
    text = _text(name.raw[:length]) if length > 0 else ""
    return (text,) if text else ()


def _text(name: bytes) -> str:
    """Empty for what is no name that a client could ask for."""
    text = name.decode("ascii", "replace").lower()
    return text if text.isascii() and text.isprintable() else ""


def signature_hash(certificate: int) -> str:
    """OpenSSL's name of the algorithm that the certificate was hashed with to be signed; empty where the signature has
    none of its own."""
    library, algorithm = openssl(), c_int()
    known = library.X509_get_signature_info(certificate, ctypes.byref(algorithm), None, None, None)
    openssl_error()
    return library.OBJ_nid2sn(algorithm.value).decode() if known and algorithm.value else ""


def key_bits(certificate: int) -> int:
    library = openssl()
    key = library.X509_get_pubkey(certificate)
    try:
        return library.EVP_PKEY_get_bits(key) if key else 0
    finally:
        library.EVP_PKEY_free(key)
        openssl_error()


def _end_point(certificate: int) -> bytes:
    """The certificate's hash by the algorithm of its signature; SHA-256 instead of what is broken."""
    name = signature_hash(certificate).lower()
    name = "sha256" if name in ("md5", "sha1") else name
    return hashlib.new(name, encode("i2d_X509", certificate)).digest() if name in hashlib.algorithms_guaranteed else b""
