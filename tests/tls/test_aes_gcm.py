"""AES-256-GCM, against a second implementation."""

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from smtpd.tls import aes_gcm
from smtpd.tls.aes_gcm import AesGcm, self_test
from smtpd.tls.openssl_library import TlsUnusable

keys = st.binary(min_size=32, max_size=32)
nonces = st.binary(min_size=12, max_size=12)


@given(keys, nonces, st.binary(max_size=100), st.binary(max_size=1000))
def test_it_is_what_another_library_makes_and_reads(key, nonce, authenticated, text):
    sealed = AesGcm(key).seal(nonce, authenticated, text)
    assert sealed == AESGCM(key).encrypt(nonce, text, authenticated)
    assert AesGcm(key).maybe_open(nonce, authenticated, sealed) == text


@given(keys, nonces, st.binary(max_size=50), st.binary(max_size=200), st.integers(0, 10**6))
def test_whatever_is_changed_opens_nothing(key, nonce, authenticated, text, place):
    sealed = bytearray(AesGcm(key).seal(nonce, authenticated, text))
    sealed[place // 8 % len(sealed)] ^= 1 << place % 8
    assert AesGcm(key).maybe_open(nonce, authenticated, bytes(sealed)) is None


def test_another_key_nonce_or_authenticated_text_opens_nothing():
    key, nonce = os.urandom(32), os.urandom(12)
    sealed = AesGcm(key).seal(nonce, b"header", b"text")
    assert AesGcm(os.urandom(32)).maybe_open(nonce, b"header", sealed) is None
    assert AesGcm(key).maybe_open(os.urandom(12), b"header", sealed) is None
    assert AesGcm(key).maybe_open(nonce, b"other", sealed) is None
    for short in range(len(sealed)):
        assert AesGcm(key).maybe_open(nonce, b"header", sealed[:short]) is None


def test_a_library_that_encrypts_wrongly_is_found_out(monkeypatch):
    self_test()
    monkeypatch.setattr(AesGcm, "seal", lambda *_: bytes(76))
    with pytest.raises(TlsUnusable, match="wrong results"):
        self_test()


def test_a_library_that_checks_no_tag_is_found_out(monkeypatch):
    text = bytes.fromhex(aes_gcm._VECTOR[3])
    monkeypatch.setattr(AesGcm, "maybe_open", lambda *_: text)
    with pytest.raises(TlsUnusable, match="wrong results"):
        self_test()
