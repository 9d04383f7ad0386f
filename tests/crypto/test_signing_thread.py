"""A desk answers what handshakes ask, and nothing else."""

import threading

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from smtpd.crypto.signing_thread import SigningThread
from smtpd.tls.signing import Operation, Signer, SigningFailed, SigningPacketError, SigningReply, SigningRequest
from tests.crypto.test_request_check import DIGEST_INFO
from tests.tls.world import SigningService, key, key_pem, packets, private_key


@pytest.fixture(scope="module")
def keys():
    made = [private_key(key_pem(key(kind))) for kind in ("rsa2048", "p256")]
    return {private.public: private for private in made}


@pytest.fixture(scope="module")
def publics(keys):
    return {"rsa" if private.rsa else "ecdsa": public for public, private in keys.items()}


@pytest.fixture
def signing_thread(keys):
    ours, theirs = packets()
    with ours, theirs:
        yield SigningThread(theirs, keys, lambda text: None, lambda text: None)


def test_what_is_signed_is_counted(signing_thread, publics):
    for _ in range(2):
        reply = SigningReply.parse(
            signing_thread.answer(SigningRequest(7, Operation.RSA_PKCS1, publics["rsa"], DIGEST_INFO).packet())
        )
        assert (reply.number, len(reply.signature)) == (7, 256)
    reply = SigningReply.parse(
        signing_thread.answer(SigningRequest(8, Operation.ECDSA, publics["ecdsa"], bytes(32)).packet())
    )
    key("p256").public_key().verify(reply.signature, bytes(32), ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    assert +signing_thread.statistics == {"crypto.signature.rsa": 2, "crypto.signature.ecdsa": 1}


def test_what_is_counted_is_there_from_the_start(signing_thread, publics):
    """Whoever adds it up does so in another thread, and a counter that comes meanwhile would end the daemon."""
    reading = iter(signing_thread.statistics)
    next(reading)
    for operation, public, data in (
        (Operation.RSA_PKCS1, publics["rsa"], DIGEST_INFO),
        (Operation.ECDSA, b"?" * 32, b""),
    ):
        signing_thread.answer(SigningRequest(1, operation, public, data).packet())
    signing_thread.answer(SigningRequest(2, Operation.ECDSA, publics["ecdsa"], bytes(32)).packet())
    assert len(list(reading)) == 2


def test_a_key_that_is_not_there_is_refused_and_no_violation(signing_thread):
    reply = SigningReply.parse(signing_thread.answer(SigningRequest(9, Operation.ECDSA, bytes(32), bytes(32)).packet()))
    assert reply == SigningReply(9, b"")
    assert +signing_thread.statistics == {"crypto.signature.refused": 1}


@settings(max_examples=200)
@given(st.binary(max_size=400))
def test_garbage_is_malformed(keys, garbage):
    assume(len(garbage) != 5 + 36)  # MD5 and SHA-1 in a row look like anything
    ours, theirs = packets()
    with ours, theirs, pytest.raises(SigningPacketError):
        # A key that exists, so that not even its name is what refuses.
        packet = garbage[:5].ljust(5, b"\0") + next(iter(keys)) + garbage[5:]
        SigningThread(theirs, keys, lambda text: None, lambda text: None).answer(packet)


@pytest.mark.parametrize(
    "operation, name, data",
    [
        (Operation.RSA_PSS, "rsa", bytes(255) + b"\x02"),  # a ciphertext, to be decrypted
        (Operation.RSA_PKCS1, "rsa", b"free text"),
        (Operation.ECDSA, "rsa", bytes(32)),
        (Operation.RSA_PKCS1, "ecdsa", DIGEST_INFO),
        (Operation.ECDSA, "ecdsa", bytes(31)),
    ],
)
def test_a_request_that_no_handshake_makes_is_a_violation_and_the_last_one(keys, publics, operation, name, data):
    told, happened = [], threading.Event()

    def violated(text):
        told.append(text)
        happened.set()

    ours, theirs = packets()
    with ours:
        signing_thread = SigningThread(theirs, keys, violated, violated)
        signing_thread.start()
        with pytest.raises(SigningFailed):
            Signer([ours]).sign(publics[name], operation, data)
        assert happened.wait(5)
    assert told == [f"a request that no handshake makes: {operation.name} of {len(data)} bytes"]
    assert +signing_thread.statistics == {"crypto.signature.refused": 1}


def test_several_threads_sign_at_the_same_time(publics):
    signatory = SigningService(key("rsa2048"), key("p256"), sockets=3)
    got = []

    def sign():
        for _ in range(5):
            got.append(signatory.signer.sign(publics["rsa"], Operation.RSA_PKCS1, DIGEST_INFO))

    threads = [threading.Thread(target=sign) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    signatory.close()
    assert len(got) == 30 and len(set(got)) == 1  # PKCS #1 has no randomness
    assert signatory.troubles == []


class Broken:
    """A key that makes our code raise."""

    rsa, bits = False, 256

    def sign(self, operation, data):
        raise MemoryError


def test_a_dispatcher_that_goes_before_its_answer_ends_the_thread_without_a_word():
    ours, theirs = packets()
    told = []

    class Leaving(Broken):
        def sign(self, operation, data):
            ours.close()
            return b"a signature"

    ours.send(SigningRequest(5, Operation.ECDSA, bytes(32), bytes(32)).packet())
    SigningThread(theirs, {bytes(32): Leaving()}, told.append, told.append)._work()
    assert theirs.fileno() == -1 and not told


def test_an_exception_costs_one_signature_and_not_the_thread():
    told = []
    ours, theirs = packets()
    with ours, theirs:
        signing_thread = SigningThread(theirs, {bytes(32): Broken()}, told.append, told.append)
        request = SigningRequest(5, Operation.ECDSA, bytes(32), bytes(32))
        assert SigningReply.parse(signing_thread.answer(request.packet())) == SigningReply(5, b"")
    assert told == ["no signature: MemoryError()"]
