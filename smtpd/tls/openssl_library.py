"""The libcrypto and libssl that Python's own `ssl` module is linked to, by ctypes.

    ssl.SSLContext                      ssl.SSLObject._sslobj
      object header                       object header
      SSL_CTX * ---- get_context ->       weak reference to a socket
      …                                   SSL * ---- get_connection ->
                                          the SSLContext
                                          …

Symbols are looked up in the module `_ssl` and the libraries it is linked to, so no second copy of OpenSSL can be found
by mistake.  If the interpreter has OpenSSL linked in statically, or lays out its objects differently (what is found
there is checked), TlsUnusable is raised.

Functions are looked up and declared once, before the sandbox is entered.
"""

import _ssl
import ctypes
import hashlib
import ssl
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint8, c_uint64, c_ulong, c_void_p
from functools import cache
from typing import Any


class TlsUnusable(Exception):
    """This library, key or certificate cannot be used; the text says why, and holds no secret."""


# name -> what it gives back, what it takes
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "ASN1_STRING_get0_data": (c_void_p, c_void_p),
    "ASN1_STRING_length": (c_int, c_void_p),
    "ASN1_TIME_to_tm": (c_int, c_void_p, c_void_p),
    "BIO_ctrl": (c_long, c_void_p, c_int, c_long, c_void_p),
    "BIO_free": (c_int, c_void_p),
    "BIO_new_mem_buf": (c_void_p, c_void_p, c_int),
    "EC_KEY_METHOD_new": (c_void_p, c_void_p),
    "EC_KEY_METHOD_set_sign": (None, c_void_p, c_void_p, c_void_p, c_void_p),
    "EC_KEY_OpenSSL": (c_void_p,),
    "EC_KEY_set_method": (c_int, c_void_p, c_void_p),
    "ERR_get_error": (c_ulong,),
    "ERR_reason_error_string": (c_char_p, c_ulong),
    "EVP_CIPHER_CTX_ctrl": (c_int, c_void_p, c_int, c_int, c_void_p),
    "EVP_CIPHER_CTX_free": (None, c_void_p),
    "EVP_CIPHER_CTX_new": (c_void_p,),
    "EVP_DecryptFinal_ex": (c_int, c_void_p, c_void_p, c_void_p),
    "EVP_DecryptInit_ex": (c_int, c_void_p, c_void_p, c_void_p, c_char_p, c_char_p),
    "EVP_DecryptUpdate": (c_int, c_void_p, c_void_p, c_void_p, c_char_p, c_int),
    "EVP_EncryptFinal_ex": (c_int, c_void_p, c_void_p, c_void_p),
    "EVP_EncryptInit_ex": (c_int, c_void_p, c_void_p, c_void_p, c_char_p, c_char_p),
    "EVP_EncryptUpdate": (c_int, c_void_p, c_void_p, c_void_p, c_char_p, c_int),
    "EVP_PKEY_CTX_free": (None, c_void_p),
    "EVP_PKEY_CTX_new": (c_void_p, c_void_p, c_void_p),
    "EVP_PKEY_CTX_set_rsa_padding": (c_int, c_void_p, c_int),
    "EVP_PKEY_free": (None, c_void_p),
    "EVP_PKEY_get1_EC_KEY": (c_void_p, c_void_p),
    "EVP_PKEY_get1_RSA": (c_void_p, c_void_p),
    "EVP_PKEY_get_base_id": (c_int, c_void_p),
    "EVP_PKEY_get_bits": (c_int, c_void_p),
    "EVP_PKEY_get_group_name": (c_int, c_void_p, c_char_p, c_size_t, c_void_p),
    "EVP_PKEY_get_size": (c_int, c_void_p),
    "EVP_PKEY_new": (c_void_p,),
    "EVP_PKEY_set1_EC_KEY": (c_int, c_void_p, c_void_p),
    "EVP_PKEY_set1_RSA": (c_int, c_void_p, c_void_p),
    "EVP_PKEY_sign": (c_int, c_void_p, c_void_p, c_void_p, c_char_p, c_size_t),
    "EVP_PKEY_sign_init": (c_int, c_void_p),
    "EVP_PKEY_verify": (c_int, c_void_p, c_char_p, c_size_t, c_char_p, c_size_t),
    "EVP_PKEY_verify_init": (c_int, c_void_p),
    "EVP_aes_256_gcm": (c_void_p,),
    "GENERAL_NAMES_free": (None, c_void_p),
    "GENERAL_NAME_get0_value": (c_void_p, c_void_p, c_void_p),
    "OBJ_nid2sn": (c_char_p, c_int),
    "OPENSSL_cleanse": (None, c_void_p, c_size_t),
    "OPENSSL_sk_num": (c_int, c_void_p),
    "OPENSSL_sk_value": (c_void_p, c_void_p, c_int),
    "OpenSSL_version_num": (c_ulong,),
    "PEM_read_bio_PrivateKey": (c_void_p, c_void_p, c_void_p, c_void_p, c_char_p),
    "PEM_read_bio_X509": (c_void_p, c_void_p, c_void_p, c_void_p, c_char_p),
    "RSA_PKCS1_OpenSSL": (c_void_p,),
    "RSA_meth_dup": (c_void_p, c_void_p),
    "RSA_meth_set_priv_dec": (c_int, c_void_p, c_void_p),
    "RSA_meth_set_priv_enc": (c_int, c_void_p, c_void_p),
    "RSA_set_method": (c_int, c_void_p, c_void_p),
    "SSL_CTX_callback_ctrl": (c_long, c_void_p, c_int, c_void_p),
    "SSL_CTX_ctrl": (c_long, c_void_p, c_int, c_long, c_void_p),
    "SSL_CTX_dane_enable": (c_int, c_void_p),
    "SSL_CTX_get_cert_store": (c_void_p, c_void_p),
    "SSL_CTX_get_options": (c_uint64, c_void_p),
    "SSL_CTX_get_security_level": (c_int, c_void_p),
    "SSL_CTX_set_cert_verify_callback": (None, c_void_p, c_void_p, c_void_p),
    "SSL_CTX_set_verify": (None, c_void_p, c_int, c_void_p),
    "SSL_CTX_set_verify_depth": (None, c_void_p, c_int),
    "SSL_CTX_use_PrivateKey": (c_int, c_void_p, c_void_p),
    "SSL_CTX_use_certificate": (c_int, c_void_p, c_void_p),
    "SSL_add1_host": (c_int, c_void_p, c_char_p),
    "SSL_ctrl": (c_long, c_void_p, c_int, c_long, c_void_p),
    "SSL_dane_enable": (c_int, c_void_p, c_char_p),
    "SSL_dane_set_flags": (c_ulong, c_void_p, c_ulong),
    "SSL_dane_tlsa_add": (c_int, c_void_p, c_uint8, c_uint8, c_uint8, c_char_p, c_size_t),
    "SSL_export_keying_material": (
        *(c_int, c_void_p, c_char_p, c_size_t),
        *(c_char_p, c_size_t, c_char_p, c_size_t, c_int),
    ),
    "SSL_get_SSL_CTX": (c_void_p, c_void_p),
    "SSL_get_rbio": (c_void_p, c_void_p),
    "SSL_get_servername": (c_char_p, c_void_p, c_int),
    "SSL_get_verify_result": (c_long, c_void_p),
    "SSL_set_SSL_CTX": (c_void_p, c_void_p, c_void_p),
    "SSL_set_info_callback": (None, c_void_p, c_void_p),
    "X509_NAME_get_text_by_NID": (c_int, c_void_p, c_int, c_char_p, c_int),
    "X509_STORE_add_cert": (c_int, c_void_p, c_void_p),
    "X509_free": (None, c_void_p),
    "X509_get0_notAfter": (c_void_p, c_void_p),
    "X509_get_ext_d2i": (c_void_p, c_void_p, c_int, c_void_p, c_void_p),
    "X509_get_pubkey": (c_void_p, c_void_p),
    "X509_get_signature_info": (c_int, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p),
    "X509_get_subject_name": (c_void_p, c_void_p),
    "X509_verify_cert": (c_int, c_void_p),
    "i2d_PUBKEY": (c_int, c_void_p, c_void_p),
    "i2d_X509": (c_int, c_void_p, c_void_p),
}

# Milliseconds with the longest keys, or many microseconds for 64 KiB: other threads go on meanwhile.
_LONG = {"EVP_PKEY_sign", "X509_verify_cert", "EVP_EncryptUpdate", "EVP_DecryptUpdate"}


@cache
def openssl() -> Any:
    """The library, its functions as attributes.  Raises TlsUnusable where it cannot be reached."""
    path = getattr(_ssl, "__file__", None)
    if path is None:
        raise TlsUnusable(
            f"TLS: this Python has {ssl.OPENSSL_VERSION} built in, where keys of another process cannot be used"
        )
    # PyDLL keeps Python's lock: to let go of it for each of many short calls is dear where threads wait for it.
    library, unlocked = ctypes.PyDLL(path), ctypes.CDLL(path)
    try:
        for name, (result, *arguments) in _FUNCTIONS.items():
            function = getattr(unlocked if name in _LONG else library, name)
            function.restype, function.argtypes = result, arguments
            setattr(library, name, function)
    except AttributeError as error:
        raise TlsUnusable(f"TLS: no usable OpenSSL in this Python ({ssl.OPENSSL_VERSION}): {error}") from None
    if library.OpenSSL_version_num() != ssl.OPENSSL_VERSION_NUMBER:
        raise TlsUnusable(f"TLS: this Python talks to {ssl.OPENSSL_VERSION}, and another OpenSSL is what is found")
    return library


def get_context(context: ssl.SSLContext) -> int:
    """The address of the SSL_CTX inside.  Raises TlsUnusable."""
    address = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
    options = ctypes.c_uint64(context.options).value  # a negative number for those above bit 62
    if address is None or openssl().SSL_CTX_get_options(address) != options:
        raise TlsUnusable("TLS: this Python keeps its SSL_CTX elsewhere")
    return address


def get_connection(connection: ssl.SSLObject, context: ssl.SSLContext) -> int:
    """The address of the SSL inside.  Raises TlsUnusable."""
    fields = (ctypes.c_void_p * 3).from_address(id(connection._sslobj) + object.__basicsize__)  # type: ignore[attr-defined]
    address = fields[1]
    if address is None or fields[2] != id(context) or openssl().SSL_get_SSL_CTX(address) != get_context(context):
        raise TlsUnusable("TLS: this Python keeps its SSL elsewhere")
    return address


def read_pem(pem: bytes, read: str) -> list[int]:
    """All objects that the function `read` finds in `pem`, in a row.  Raises TlsUnusable for a malformed one."""
    library = openssl()
    bio = library.BIO_new_mem_buf(pem, len(pem))
    found = []
    try:
        while address := getattr(library, read)(bio, None, None, b""):
            found.append(address)
        if (trouble := openssl_error()) not in ("", "no start line"):
            raise TlsUnusable(trouble)
    finally:
        library.BIO_free(bio)
    return found


def encode(function: str, thing: int) -> bytes:
    """DER by one of OpenSSL's i2d functions.  Raises TlsUnusable."""
    write = getattr(openssl(), function)
    length = write(thing, None)
    if length <= 0:
        raise TlsUnusable(openssl_error() or "it cannot be encoded")
    encoded = ctypes.create_string_buffer(length)
    write(thing, ctypes.byref(ctypes.c_void_p(ctypes.addressof(encoded))))
    return encoded.raw


def digest_of_public_key(key: int) -> bytes:
    """SHA-256 of an EVP_PKEY's SubjectPublicKeyInfo: the name of the key between processes."""
    return hashlib.sha256(encode("i2d_PUBKEY", key)).digest()


def openssl_error() -> str:
    """Why the last call of this thread failed; forgotten afterwards, as `ssl` would take it for its own."""
    library = openssl()
    text = b""
    while code := library.ERR_get_error():
        text = library.ERR_reason_error_string(code) or text
    return text.decode(errors="replace")
