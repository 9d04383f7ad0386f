"""What a handshake asks to be signed, and what somebody who wants to decrypt or forge would ask."""

import hashlib

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, utils
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtpd.crypto.request_check import is_plausible
from smtpd.tls.signing import Operation
from tests.tls.world import key

DIGEST_INFO = bytes.fromhex("3031300d060960864801650304020105000420") + bytes(32)


def pss_block(private, algorithm=None, salt=None):
    """The block that a true signature opens to: what was raised to the private exponent."""
    algorithm = algorithm or hashes.SHA256()
    scheme = padding.PSS(padding.MGF1(algorithm), salt if salt is not None else algorithm.digest_size)
    numbers = private.public_key().public_numbers()
    signature = int.from_bytes(private.sign(b"a handshake", scheme, algorithm))
    return pow(signature, numbers.e, numbers.n).to_bytes((private.key_size + 7) // 8)


@pytest.mark.parametrize("kind", ["rsa2048", "rsa3001"])
@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda a: a.name)
def test_blocks_with_pss_are_signed(kind, algorithm):
    private = key(kind)
    assert is_plausible(Operation.RSA_PSS, pss_block(private, algorithm), True, private.key_size)


@pytest.mark.parametrize("salt", [0, 20, 31, 33, 100])
def test_pss_with_a_salt_that_tls_does_not_use_is_refused(salt):
    """RFC 8446 4.2.3."""
    assert not is_plausible(Operation.RSA_PSS, pss_block(key("rsa2048"), salt=salt), True, 2048)


def test_a_ciphertext_is_not_decrypted():
    numbers = key("rsa2048").public_key().public_numbers()
    secret = key("rsa2048").public_key().encrypt(b"premaster", padding.PKCS1v15())
    assert not is_plausible(Operation.RSA_PSS, secret, True, 2048)
    for blind in range(2, 200):  # multiplied by what can be divided out again
        blinded = int.from_bytes(secret) * pow(blind, numbers.e, numbers.n) % numbers.n
        assert not is_plausible(Operation.RSA_PSS, blinded.to_bytes(256), True, 2048)


def test_a_block_made_to_end_like_pss_is_refused():
    assert not is_plausible(Operation.RSA_PSS, bytes(255) + b"\xbc", True, 2048)
    assert not is_plausible(Operation.RSA_PSS, b"\x00\x01" + b"\xff" * 202 + b"\x00" + DIGEST_INFO, True, 2048)
    assert not is_plausible(Operation.RSA_PSS, bytes(255) + b"\x01", True, 2048)


@settings(max_examples=200)
@given(st.integers(0, 2047), st.integers(0, 7))
def test_a_pss_block_with_one_bit_changed_is_refused(byte, bit):
    """But in the salt, which may be anything."""
    block = bytearray(pss_block(key("rsa2048")))
    byte %= 256
    block[byte] ^= 1 << bit
    in_salt = 256 - 1 - 32 - 32 <= byte < 256 - 1 - 32
    assert is_plausible(Operation.RSA_PSS, bytes(block), True, 2048) == in_salt


@pytest.mark.parametrize("name", ["sha1", "sha224", "sha256", "sha384", "sha512"])
def test_a_digest_info_is_signed_and_another_length_is_not(name):
    algorithm = getattr(hashes, name.upper())()
    private = key("rsa2048")
    digest = hashlib.new(name, b"a handshake").digest()
    signature = private.sign(digest, padding.PKCS1v15(), utils.Prehashed(algorithm))
    numbers = private.public_key().public_numbers()
    opened = pow(int.from_bytes(signature), numbers.e, numbers.n).to_bytes(256)
    data = opened[opened.index(b"\x00", 2) + 1 :]
    assert data.endswith(digest)
    assert is_plausible(Operation.RSA_PKCS1, data, True, 2048)
    assert not is_plausible(Operation.RSA_PKCS1, data + b"\x00\x00", True, 2048)
    assert not is_plausible(Operation.RSA_PKCS1, data[:-1], True, 2048)


def test_the_two_hashes_of_tls_before_1_2_are_signed_by_rsa():
    """RFC 2246 7.4.3: MD5 and SHA-1, with nothing that names them."""
    digests = hashlib.md5(b"a handshake").digest() + hashlib.sha1(b"a handshake").digest()
    assert is_plausible(Operation.RSA_PKCS1, digests, True, 2048)
    assert not is_plausible(Operation.RSA_PKCS1, digests, False, 256)


@pytest.mark.parametrize("length", [0, 1, 35, 37, 200, 245, 256])
def test_free_text_is_not_signed_by_rsa(length):
    assert not is_plausible(Operation.RSA_PKCS1, bytes(length), True, 2048)


@pytest.mark.parametrize("length", [0, 16, 19, 33, 47, 65, 256])
def test_data_of_a_length_that_no_hash_has_is_not_signed_by_ecdsa(length):
    assert not is_plausible(Operation.ECDSA, bytes(length), False, 256)


def test_a_key_is_used_as_what_it_is():
    assert is_plausible(Operation.ECDSA, bytes(32), False, 256)
    assert not is_plausible(Operation.ECDSA, bytes(32), True, 2048)
    assert is_plausible(Operation.RSA_PKCS1, DIGEST_INFO, True, 2048)
    assert not is_plausible(Operation.RSA_PKCS1, DIGEST_INFO, False, 256)
    assert not is_plausible(Operation.RSA_PSS, pss_block(key("rsa2048")), False, 256)
    assert not is_plausible(Operation.RSA_PSS, pss_block(key("rsa2048")), True, 3072)


@settings(max_examples=200)
@given(st.sampled_from(Operation), st.binary(max_size=600), st.booleans(), st.integers(256, 8192))
@example(Operation.RSA_PSS, b"", True, 2048)
@example(Operation.RSA_PSS, b"\xbc", True, 8)
def test_garbage_raises_nothing(operation, data, rsa, bits):
    assert is_plausible(operation, data, rsa, bits) in (True, False)
