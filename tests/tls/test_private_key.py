"""Private keys out of files; signatures that others verify."""

import base64
import errno
import hashlib
import os
from collections import Counter

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, utils

from smtpd.tls.openssl_library import TlsUnusable, openssl, openssl_error, read_pem
from smtpd.tls.private_key import KEY_FILE_MAX, PrivateKey
from smtpd.tls.signing import Operation
from tests.crypto.test_request_check import DIGEST_INFO, pss_block
from tests.tls.world import chain, key, key_pem, private_key

TRADITIONAL = serialization.PrivateFormat.TraditionalOpenSSL


@pytest.mark.parametrize("kind", ["rsa2048", "rsa3001", "p256", "p384"])
@pytest.mark.parametrize("form", [serialization.PrivateFormat.PKCS8, TRADITIONAL], ids=["PKCS #8", "traditional"])
def test_keys_are_read_in_every_form(kind, form):
    read = private_key(key_pem(key(kind), form=form))
    spki = (
        key(kind).public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    assert read.public == hashlib.sha256(spki).digest()
    assert read.rsa == kind.startswith("rsa")


def test_certificates_in_the_file_of_a_key_are_no_matter():
    assert private_key(chain("p256", "a.test") + key_pem(key("p256"))).public


@pytest.mark.parametrize("kind", ["rsa2048", "rsa3001"])
def test_rsa_signatures_verify(kind):
    private, public = private_key(key_pem(key(kind))), key(kind).public_key()
    signature = private.sign(Operation.RSA_PKCS1, DIGEST_INFO)
    public.verify(signature, bytes(32), padding.PKCS1v15(), utils.Prehashed(hashes.SHA256()))
    signature = private.sign(Operation.RSA_PSS, pss_block(key(kind)))
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    public.verify(signature, b"a handshake", scheme, hashes.SHA256())


@pytest.mark.parametrize("kind, length", [("p256", 32), ("p256", 20), ("p384", 48), ("p384", 64)])
def test_ecdsa_signatures_verify_and_no_two_are_the_same(kind, length):
    algorithm = {20: hashes.SHA1, 32: hashes.SHA256, 48: hashes.SHA384, 64: hashes.SHA512}[length]()
    private = private_key(key_pem(key(kind)))
    signatures = {private.sign(Operation.ECDSA, bytes(length)) for _ in range(3)}
    assert len(signatures) == 3
    for signature in signatures:
        key(kind).public_key().verify(signature, bytes(length), ec.ECDSA(utils.Prehashed(algorithm)))


def mismatched():
    """A key whose public half is somebody else's."""
    other = key("p256", "other").public_key().public_numbers()
    der = key("p256").private_bytes(serialization.Encoding.DER, TRADITIONAL, serialization.NoEncryption())
    ours = key("p256").public_key().public_numbers()
    der = der.replace(ours.x.to_bytes(32) + ours.y.to_bytes(32), other.x.to_bytes(32) + other.y.to_bytes(32))
    body = base64.encodebytes(der)
    return b"-----BEGIN EC PRIVATE KEY-----\n" + body + b"-----END EC PRIVATE KEY-----\n"


def der(tag, *parts):
    content = b"".join(parts)
    size = len(content)
    return bytes([tag, size] if size < 128 else [tag, 0x82, size >> 8, size & 0xFF]) + content


def of_another_generator():
    """A key of P-256 with explicit parameters (SEC 1 C.4), whose generator is a point of its own choice, as in
    CVE-2020-0601."""
    public = key("p256").public_key().public_numbers()
    point = b"\x04" + public.x.to_bytes(32) + public.y.to_bytes(32)
    prime = 2**256 - 2**224 + 2**192 + 2**96 - 1
    b = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    field = der(0x30, der(6, bytes.fromhex("2a8648ce3d0101")), der(2, prime.to_bytes(33)))
    curve = der(0x30, der(4, (prime - 3).to_bytes(32)), der(4, b.to_bytes(32)))
    one = der(2, b"\x01")
    parameters = der(0x30, one, field, curve, der(4, point), der(2, order.to_bytes(33)), one)
    secret = der(0x30, one, der(4, (1).to_bytes(32)), der(0xA0, parameters), der(0xA1, der(3, b"\0", point)))
    return b"-----BEGIN EC PRIVATE KEY-----\n" + base64.encodebytes(secret) + b"-----END EC PRIVATE KEY-----\n"


@pytest.mark.parametrize(
    "content, trouble",
    [
        (b"", "no private key in the file"),
        (b"garbage", "no private key in the file"),
        (b"-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n", "no private key in the file"),
        (lambda: chain("p256", "a.test"), "no private key in the file"),
        (bytes(KEY_FILE_MAX + 1), "the file of the key is too large"),
        (lambda: key_pem(key("p256"), serialization.BestAvailableEncryption(b"x")), "the key is encrypted"),
        (lambda: key_pem(key("p256"), serialization.BestAvailableEncryption(b"x"), TRADITIONAL), "is encrypted"),
        (lambda: key_pem(key("ed25519")), "a key of Ed25519 cannot be kept in another process"),
        (lambda: key_pem(key("rsa1024")), "an RSA key has 2048 to 8192 bits, and this one 1024"),
        (lambda: key_pem(key("p521")), "an ECDSA key is of P-256 or P-384, and not of secp521r1"),
        (of_another_generator, "an ECDSA key is of P-256 or P-384, and not of a curve without a name"),
        (mismatched, "do not match"),
    ],
)
def test_what_cannot_sign_is_refused_in_words_that_have_nothing_of_it(content, trouble):
    with pytest.raises(TlsUnusable, match=trouble) as refused:
        private_key(content if isinstance(content, bytes) else content())
    assert str(refused.value).isprintable() and "PRIVATE" not in str(refused.value)


def test_a_pipe_is_no_key_and_is_not_waited_for():
    reading, writing = os.pipe()
    try:
        with pytest.raises(TlsUnusable, match="not a regular file"):
            PrivateKey.read(reading)
    finally:
        os.close(reading)
        os.close(writing)


def test_a_descriptor_that_stands_elsewhere_is_read_from_the_beginning(tmp_path):
    path = tmp_path / "key"
    path.write_bytes(key_pem(key("p256")))
    with open(path, "rb") as file:
        file.seek(50)
        assert PrivateKey.read(file.fileno()).public


def test_a_key_that_the_disk_does_not_give_is_said(monkeypatch):
    def failing(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "preadv", failing)
    with pytest.raises(TlsUnusable, match="^the file of the key cannot be read: Input/output error$"):
        private_key(key_pem(key("p256")))


def test_what_no_signature_can_be_made_of_is_said():
    """PSS comes as a block that is as long as the key."""
    with pytest.raises(TlsUnusable, match="^no signature: "):
        private_key(key_pem(key("rsa2048"))).sign(Operation.RSA_PSS, bytes(32))


def test_what_openssl_made_for_a_signature_and_of_a_file_is_freed(monkeypatch):
    """Each handshake needs a signature."""
    library, made = openssl(), Counter()

    def count(name, sign):
        function = getattr(library, name)

        def counted(*arguments):
            made[name.partition("_new")[0].removesuffix("_free")] += sign
            return function(*arguments)

        monkeypatch.setattr(library, name, counted)

    for name, sign in {"EVP_PKEY_CTX_new": 1, "EVP_PKEY_CTX_free": -1, "BIO_new_mem_buf": 1, "BIO_free": -1}.items():
        count(name, sign)
    private = private_key(key_pem(key("p256")))
    private.sign(Operation.ECDSA, bytes(32))
    with pytest.raises(TlsUnusable):
        private_key(b"garbage")
    assert openssl_error() == ""
    for address in read_pem(chain("p256", "a.test"), "PEM_read_bio_X509"):
        library.X509_free(address)
    assert made == {"EVP_PKEY_CTX": 0, "BIO": 0}
