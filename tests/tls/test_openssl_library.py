"""An OpenSSL that cannot be reached is said, and nothing is guessed."""

import ssl

import msgspec
import pytest

from smtpd.tls.openssl_library import TlsUnusable, encode, get_connection, get_context, openssl, openssl_error
from tests.tls.world import client_context


def look():
    """As at the first call."""
    return openssl.__wrapped__()


def test_it_is_the_one_that_python_talks_to():
    assert look().OpenSSL_version_num() == ssl.OPENSSL_VERSION_NUMBER


def test_an_interpreter_with_openssl_built_in(monkeypatch):
    monkeypatch.delattr("_ssl.__file__")
    with pytest.raises(TlsUnusable, match="built in"):
        look()


def test_a_module_that_shows_no_symbols(monkeypatch):
    """An extension module that every installation has as a file, and that is not linked to OpenSSL."""
    monkeypatch.setattr("_ssl.__file__", msgspec._core.__file__)
    with pytest.raises(TlsUnusable, match="no usable OpenSSL in this Python"):
        look()


def test_a_second_openssl(monkeypatch):
    monkeypatch.setattr(ssl, "OPENSSL_VERSION_NUMBER", 0x1010117F)
    with pytest.raises(TlsUnusable, match="another OpenSSL"):
        look()


def test_a_connection_is_that_of_its_context():
    one, other = client_context(), client_context()
    connection = one.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO())
    assert openssl().SSL_get_SSL_CTX(get_connection(connection, one)) == get_context(one)
    with pytest.raises(TlsUnusable, match="elsewhere"):
        get_connection(connection, other)


def test_an_error_left_in_openssl_is_not_reported_for_the_next_connection():
    """OpenSSL keeps errors for the thread until somebody asks."""
    openssl().PEM_read_bio_X509(openssl().BIO_new_mem_buf(b"", 0), None, None, b"")
    assert openssl_error() == "no start line"
    assert openssl_error() == ""


def test_what_cannot_be_encoded_is_said():
    with pytest.raises(TlsUnusable, match="it cannot be encoded"):
        encode("i2d_PUBKEY", None)


def test_a_long_calculation_lets_other_threads_go_on():
    """With all threads waiting for one certificate of a client, nobody would be served."""
    keeps_the_lock = 4  # FUNCFLAG_PYTHONAPI of CPython's Modules/_ctypes/ctypes.h
    long = {"EVP_PKEY_sign", "X509_verify_cert"}
    assert {name for name in (*long, "SSL_CTX_ctrl") if not getattr(look(), name)._flags_ & keeps_the_lock} == long
