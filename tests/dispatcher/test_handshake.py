"""The queues of handshakes, and the threads: in which order they are served, and what a client can cost."""

import asyncio
import itertools
import ssl
import threading

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from smtpd.dispatcher.inbound.handshake import FINISHED_MAX, Handshake, HandshakePool
from smtpd.dispatcher.inbound.stream import ClientStream
from smtpd.slice import Tls, TlsSlice
from smtpd.tls.connection import HANDSHAKE_MAX, TlsConnection, TlsFailed
from smtpd.tls.context import Authorities, Certificate, context_ctrl, make_context
from smtpd.tls.openssl_library import get_context
from smtpd.tls.signing import SIGNING_SOCKETS, Signer
from tests.dispatcher.tls_peers import Crypto, TlsClient, careless_context, certificate

SET_GROUPS_LIST = 92  # openssl/ssl.h
PEM = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
SLICE = TlsSlice(Tls.AT_ONCE, ("mx.test",))


class Sent(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self):
        super().__init__()
        self.data = b""

    def write(self, data):
        self.data += data

    def take(self):
        data, self.data = self.data, b""
        return data


class Peer:
    """A client and its handshake with us, on no network."""

    def __init__(self, pool, network="192.0.2", context=None):
        self.sent = Sent()
        self.outcomes = []
        self.client = TlsClient(None, None, context)
        self.handshake = Handshake(
            pool.handshakes, ClientStream(self.sent), pool.context, network, 1000.0, self.outcomes.append
        )

    def hello(self):
        self.handshake.receive(self.client.hello())
        return self

    def reply(self):
        """The client's answer to what we have sent so far; empty when it needs more."""
        self.client._in.write(self.sent.take())
        return self.client.hello()

    @property
    def failure(self):
        (outcome,) = self.outcomes
        assert isinstance(outcome, TlsFailed)
        return str(outcome)

    @property
    def tls(self):
        (outcome,) = self.outcomes
        assert isinstance(outcome, TlsConnection)
        return outcome


class HandshakeHarness:
    def __init__(self, most=1024):
        self.loop = asyncio.new_event_loop()
        self.crypto = Crypto()
        self.handshakes = HandshakePool(self.loop, most)
        mine = Certificate.read(certificate(self.crypto.key))
        self.context = make_context(SLICE, {"mx.test": mine}, None, {}, Signer(self.crypto.sockets))

    def until(self, condition):
        async def wait():
            while not condition():
                await asyncio.sleep(0)

        self.loop.run_until_complete(asyncio.wait_for(wait(), 10))

    def shake(self, peer):
        """All of it."""
        while not peer.outcomes:
            self.until(lambda: peer.sent.data or peer.outcomes)
            if not peer.outcomes:
                peer.handshake.receive(peer.reply())

    def close(self):
        self.crypto.go.set()
        self.handshakes.close()
        self.until(lambda: not self.handshakes._busy)
        self.loop.close()
        self.crypto.close()


@pytest.fixture
def pool():
    made = HandshakeHarness()
    yield made
    made.close()


@pytest.fixture(scope="module")
def module_pool():
    made = HandshakeHarness()
    yield made
    made.close()


@pytest.fixture
def short_pool():
    made = HandshakeHarness(most=4)
    yield made
    made.close()


def test_a_handshake_ends_with_a_tls_connection(pool):
    peer = Peer(pool).hello()
    pool.shake(peer)
    assert peer.tls.facts.version == "TLSv1.3"
    assert pool.crypto.signatures == 1


def test_an_error_of_our_own_in_one_handshake_keeps_no_other_one_waiting(pool):
    raised = []
    pool.loop.set_exception_handler(lambda loop, context: raised.append(context["exception"]))
    for _ in range(SIGNING_SOCKETS):
        faulty = Peer(pool)
        faulty.handshake._done = lambda outcome: 1 / 0
        faulty.handshake.receive(b"GET / HTTP/1.0\r\n\r\n")
    waiting = Peer(pool).hello()
    assert len(pool.handshakes) == 1
    pool.shake(waiting)
    assert waiting.tls
    pool.until(lambda: len(raised) == SIGNING_SOCKETS)  # each in a thread of its own, some may end later


def test_threads_that_cannot_be_started_are_not_waited_for(pool, monkeypatch):
    """More of them than there may be: those that come when it is over are served all the same."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as change:
        change.setattr(threading.Thread, "start", refuse)
        failed = [Peer(pool).hello() for _ in range(SIGNING_SOCKETS + 1)]
    assert [peer.failure for peer in failed] == ["can't start new thread"] * len(failed)
    peers = [Peer(pool).hello() for _ in range(SIGNING_SOCKETS + 1)]
    for peer in peers:
        pool.shake(peer)
        assert peer.tls


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("step", [1, 100, 100_000])
def test_the_certificate_of_a_client_is_not_looked_at_in_the_loop(pool, tmp_path, version, step):
    """Its chain may have keys of 16384 bits, and all connections would wait for their check."""
    with open(tmp_path / "client.pem", "wb") as file:
        file.write(certificate(pool.crypto.key, f"{'client' * 9}.test"))
        file.write(pool.crypto.key.private_bytes(*PEM))
    mine = Certificate.read(certificate(pool.crypto.key))
    own = Authorities.read(certificate(pool.crypto.key, "authority.test"))
    slice = replace(SLICE, ca="authority")
    pool.context = make_context(slice, {"mx.test": mine}, own, {}, Signer(pool.crypto.sockets))
    context = careless_context()
    context.maximum_version = version
    context.load_cert_chain(tmp_path / "client.pem")
    peer = Peer(pool, context=context).hello()
    pool.until(lambda: peer.sent.data)
    reply = peer.reply()
    for at in range(0, len(reply), step):
        peer.handshake.receive(reply[at : at + step])
        assert not peer.outcomes
    pool.until(lambda: peer.outcomes)
    assert peer.tls.facts.fingerprint
    assert len(reply) > FINISHED_MAX + 32  # in every version of OpenSSL


def test_whole_and_byte_by_byte_is_the_same(pool):
    peer = Peer(pool)
    for byte in peer.client.hello():
        assert not pool.handshakes._busy
        peer.handshake.receive(bytes([byte]))
    pool.until(lambda: peer.sent.data)
    for byte in peer.reply():
        peer.handshake.receive(bytes([byte]))
    assert peer.tls.facts.cipher
    assert pool.crypto.signatures == 1


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(1, 400), max_size=6))
def test_a_hello_in_any_pieces_is_the_same(module_pool, cuts):
    peer = Peer(module_pool)
    hello = peer.client.hello()
    edges = [0, *sorted(cut for cut in set(cuts) if cut < len(hello)), len(hello)]
    for begin, end in itertools.pairwise(edges):
        peer.handshake.receive(hello[begin:end])
    module_pool.shake(peer)
    assert peer.tls


@settings(max_examples=100, deadline=None)
@given(pieces=st.lists(st.binary(min_size=1, max_size=400), min_size=1, max_size=5), record=st.booleans())
def test_garbage_fails_or_is_waited_for_and_signs_nothing(module_pool, pieces, record):
    signatures = module_pool.crypto.signatures
    peer = Peer(module_pool)
    for piece in ([b"\x16\x03\x01\x00\x40"] if record else []) + pieces:
        peer.handshake.receive(piece)
    module_pool.until(lambda: not module_pool.handshakes._busy)
    peer.handshake.tick(1000.0)
    assert peer.failure
    assert module_pool.crypto.signatures == signatures


def test_a_client_that_stalls_in_its_first_record_costs_no_thread_and_no_tls_connection(pool):
    peer = Peer(pool)
    peer.handshake.receive(peer.client.hello()[:-1])
    assert not pool.handshakes._busy and peer.handshake._tls is None
    peer.handshake.tick(999.0)
    assert not peer.outcomes
    peer.handshake.tick(1000.0)
    assert peer.failure == "handshake stalled"


def test_a_second_hello_waits_for_its_signature_in_a_thread_too(pool):
    """RFC 8446 4.1.4: a HelloRetryRequest is answered without a signature."""
    context = careless_context()
    context_ctrl(
        get_context(context), SET_GROUPS_LIST, 0, b"P-521:P-256", needed=True
    )  # a share of the first, which we lack
    peer = Peer(pool, context=context).hello()
    pool.until(lambda: peer.sent.data)
    assert pool.crypto.signatures == 0
    peer.handshake.receive(peer.reply())
    assert pool.handshakes._busy == 1
    pool.shake(peer)
    assert peer.tls.facts.version == "TLSv1.3"


def test_tls_1_2(pool):
    context = careless_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    peer = Peer(pool, context=context).hello()
    pool.shake(peer)
    assert peer.tls.facts.version == "TLSv1.2"


def test_no_more_handshakes_wait_for_signatures_than_there_are_threads(pool):
    pool.crypto.go.clear()
    peers = [Peer(pool).hello() for _ in range(50)]
    assert pool.handshakes._busy == SIGNING_SOCKETS and len(pool.handshakes) == 50 - SIGNING_SOCKETS
    pool.crypto.go.set()
    for peer in peers:
        pool.shake(peer)
        assert peer.tls
    assert len(pool.handshakes) == 0 and not pool.handshakes._queues


def test_networks_are_served_in_turn(pool):
    """A hundred handshakes of one network wait; one of another network waits for one of them, not for a hundred."""
    pool.crypto.go.clear()
    connections = [Peer(pool).hello() for _ in range(100)]
    single = Peer(pool, network="198.51.100").hello()
    pool.crypto.go.set()
    pool.until(lambda: single.sent.data)
    assert sum(bool(peer.sent.data) for peer in connections) < 20


def test_when_too_many_handshakes_wait_the_newest_of_the_longest_queue_fails(short_pool):
    short_pool.crypto.go.clear()
    first = [Peer(short_pool).hello() for _ in range(SIGNING_SOCKETS + 4)]
    other = Peer(short_pool, network="198.51.100").hello()
    assert first[-1].failure == "too many handshakes"
    assert not other.outcomes and len(short_pool.handshakes) == 4
    late = Peer(short_pool).hello()
    assert late.failure == "too many handshakes"


def test_one_that_is_gone_before_its_turn_is_passed_over(short_pool):
    short_pool.crypto.go.clear()
    first = [Peer(short_pool).hello() for _ in range(SIGNING_SOCKETS + 2)]
    first[-2].handshake.fail("the client left")
    short_pool.crypto.go.set()
    short_pool.shake(first[-1])
    assert first[-1].tls
    assert not first[-2].sent.data


def test_one_that_is_gone_while_its_signature_is_made_is_forgotten(pool):
    pool.crypto.go.clear()
    peer = Peer(pool).hello()
    peer.handshake.fail("the client left")
    pool.crypto.go.set()
    pool.until(lambda: not pool.handshakes._busy)
    assert peer.failure == "the client left" and not peer.sent.data


def test_an_endless_hello_is_cut_off(pool):
    peer = Peer(pool)
    peer.handshake.receive(b"\x16\x03\x01\xff\xff")
    for _ in range(HANDSHAKE_MAX // 4096):
        peer.handshake.receive(bytes(4096))
    assert peer.failure == "client sends too much"
    assert not peer.handshake._received


def test_a_record_longer_than_there_can_be_is_not_waited_for(pool):
    """64 KiB would be kept of each of thousands of clients that stall."""
    peer = Peer(pool)
    peer.handshake.receive(b"\x16\x03\x01\x40\x00")
    assert not pool.handshakes._busy and not peer.outcomes
    peer = Peer(pool)
    peer.handshake.receive(b"\x16\x03\x01\xff\xff")
    pool.until(lambda: peer.outcomes)
    assert peer.failure == "a record is malformed or was changed on its way"


def test_garbage_is_told_apart_from_a_handshake(pool):
    peer = Peer(pool)
    peer.handshake.receive(b"EHLO plain.test\r\n")
    pool.until(lambda: peer.outcomes)
    assert peer.failure == "client does not speak TLS"
    assert pool.crypto.signatures == 0


def test_what_comes_behind_the_handshake_is_kept_for_the_tls_connection(pool):
    peer = Peer(pool).hello()
    pool.until(lambda: peer.sent.data)
    peer.handshake.receive(peer.reply() + peer.client.sealed(b"EHLO quick.test\r\n"))
    assert peer.tls.read() == b"EHLO quick.test\r\n"


def test_a_signature_that_is_refused_fails_the_handshake(pool):
    pool.crypto.close()
    peer = Peer(pool).hello()
    pool.until(lambda: peer.outcomes)
    assert isinstance(peer.outcomes[0], TlsFailed)
