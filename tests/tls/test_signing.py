"""Asking for a signature: one packet there, one back, and never longer than it may take."""

import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.tls import signing
from smtpd.tls.signing import Operation, Signer, SigningFailed, SigningPacketError, SigningReply, SigningRequest
from tests.stress import WAIT_MAX, hasty_threads, join, rounds
from tests.tls.world import packets

PUBLIC = bytes(range(32))


@given(st.builds(SigningRequest, st.integers(0, 2**32 - 1), st.sampled_from(Operation), st.just(PUBLIC), st.binary()))
def test_a_request_comes_out_as_it_went_in(request_):
    assert SigningRequest.parse(request_.packet()) == request_


@given(st.builds(SigningReply, st.integers(0, 2**32 - 1), st.binary(max_size=600)))
def test_a_reply_comes_out_as_it_went_in(reply):
    assert SigningReply.parse(reply.packet()) == reply


@settings(max_examples=200)
@given(st.binary(max_size=60), st.sampled_from([SigningRequest, SigningReply]))
def test_garbage_is_malformed_or_means_one_thing(garbage, kind):
    try:
        assert kind.parse(garbage).packet() == garbage
    except SigningPacketError:
        pass


@pytest.fixture
def pair():
    ours, theirs = packets()
    theirs.settimeout(5)
    with ours, theirs:
        yield ours, theirs


def answering(sock, *answers):
    """A thread that answers each request by the next of `answers`: functions of the request, giving packets."""

    def answer():
        for make in answers:
            request = SigningRequest.parse(sock.recv(signing.PACKET_MAX))
            for packet in make(request):
                sock.send(packet)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    return thread


def test_a_signature_comes_back(pair):
    answering(pair[1], lambda request: [SigningReply(request.number, request.data[::-1]).packet()])
    assert Signer([pair[0]]).sign(PUBLIC, Operation.ECDSA, b"abc") == b"cba"


@pytest.mark.parametrize(
    "answer, reason",
    [
        (lambda request: [SigningReply(request.number, b"").packet()], "no such key"),
        (lambda request: [b"xyz"], "no signature: "),
        (lambda request: [SigningReply(request.number, b"").packet()[:4] + b"\x01"], "no signature: "),
    ],
)
def test_what_is_no_signature_fails(pair, answer, reason):
    answering(pair[1], answer)
    with pytest.raises(SigningFailed, match=reason):
        Signer([pair[0]]).sign(PUBLIC, Operation.ECDSA, b"abc")


def test_the_signing_process_is_gone(pair, monkeypatch):
    monkeypatch.setattr(signing, "SIGNING_TIMEOUT", 0.05)
    pair[1].close()
    signer = Signer([pair[0]])
    for _ in range(2):
        with pytest.raises(SigningFailed):
            signer.sign(PUBLIC, Operation.ECDSA, b"abc")


def test_the_signer_ends_while_a_signature_is_waited_for(pair):
    def leave():
        pair[1].recv(signing.PACKET_MAX)
        pair[1].close()

    thread = threading.Thread(target=leave, daemon=True)
    thread.start()
    with pytest.raises(SigningFailed, match="^no signature: whoever signs is gone$"):
        Signer([pair[0]]).sign(PUBLIC, Operation.ECDSA, b"abc")
    thread.join()


@pytest.mark.parametrize("dead", [0, 1])
def test_one_socket_whose_other_end_is_gone_does_not_stop_the_others(dead):
    pairs = [packets(), packets()]
    pairs[dead][1].close()
    pairs[1 - dead][1].settimeout(5)
    answering(pairs[1 - dead][1], *[lambda request: [SigningReply(request.number, request.data).packet()]] * 3)
    signer = Signer([ours for ours, _ in pairs])
    failed = 0
    for _ in range(4):
        try:
            assert signer.sign(PUBLIC, Operation.ECDSA, b"abc") == b"abc"
        except SigningFailed:
            failed += 1
    assert failed == 1
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_one_socket_whose_other_end_hangs_is_not_the_next_one_to_be_used(monkeypatch):
    monkeypatch.setattr(signing, "SIGNING_TIMEOUT", 0.5)
    pairs = [packets(), packets()]
    for _, theirs in pairs:
        theirs.settimeout(5)
    answering(pairs[1][1], lambda request: [SigningReply(request.number, request.data).packet()])
    signer = Signer([ours for ours, _ in pairs])
    with pytest.raises(SigningFailed):
        signer.sign(PUBLIC, Operation.ECDSA, b"abc")
    assert signer.sign(PUBLIC, Operation.ECDSA, b"abc") == b"abc"
    for ours, theirs in pairs:
        ours.close()
        theirs.close()


def test_an_answer_that_comes_too_late_is_not_taken_for_the_next_one(pair, monkeypatch):
    monkeypatch.setattr(signing, "SIGNING_TIMEOUT", 0.5)
    signer = Signer([pair[0]])
    with pytest.raises(SigningFailed, match="no signature in time"):
        signer.sign(PUBLIC, Operation.ECDSA, b"first")
    late = SigningRequest.parse(pair[1].recv(signing.PACKET_MAX))
    answering(
        pair[1],
        lambda request: [
            SigningReply(late.number, b"of the first").packet(),
            SigningReply(request.number, b"of the second").packet(),
        ],
    )
    assert signer.sign(PUBLIC, Operation.ECDSA, b"second") == b"of the second"


def ask_in_vain(signer):
    """There is no signature in time, and the thread that asked goes on."""
    told = []

    def ask():
        try:
            signer.sign(PUBLIC, Operation.ECDSA, b"abc")
        except SigningFailed as error:
            told.append(str(error))

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(5)
    assert told == ["no signature in time"]


def test_answers_to_other_requests_do_not_make_it_wait_longer(pair, monkeypatch):
    """However many of them there are."""
    monkeypatch.setattr(signing, "SIGNING_TIMEOUT", 0.05)
    over = threading.Event()

    def flood():
        while not over.is_set():
            try:
                pair[1].send(SigningReply(77, b"not asked for").packet())
            except OSError:
                return

    thread = threading.Thread(target=flood, daemon=True)
    thread.start()
    try:
        ask_in_vain(Signer([pair[0]]))
    finally:
        over.set()
        pair[0].close()
        thread.join(5)


def test_unread_requests_make_it_wait_no_longer(pair, monkeypatch):
    monkeypatch.setattr(signing, "SIGNING_TIMEOUT", 0.01)
    pair[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least that there is
    signer = Signer([pair[0]])
    for _ in range(20):
        ask_in_vain(signer)


def test_more_threads_than_sockets_wait_for_their_turn(pair):
    answering(pair[1], *[lambda request: [SigningReply(request.number, request.data).packet()]] * 20)
    signer, got = Signer([pair[0]]), []
    threads = [
        threading.Thread(target=lambda n=n: got.append((n, signer.sign(PUBLIC, Operation.ECDSA, bytes([n + 1])))))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert sorted(got) == [(n, bytes([n + 1])) for n in range(20)]


def test_no_free_socket_within_the_timeout_fails(monkeypatch):
    monkeypatch.setattr(signing, "SIGNING_TIMEOUT", 0.01)
    with pytest.raises(SigningFailed, match="too many signatures are under way"):
        Signer([]).sign(PUBLIC, Operation.ECDSA, b"abc")


def test_hand_over_every_thread_gets_its_own_signature(monkeypatch):
    """Twice as many threads as there are sockets."""
    monkeypatch.setattr(signing, "SIGNING_TIMEOUT", WAIT_MAX)
    pairs = [packets() for _ in range(signing.SIGNING_SOCKETS)]
    signer, troubles = Signer([ours for ours, _ in pairs]), []

    def serve(sock):
        while packet := sock.recv(signing.PACKET_MAX):
            request = SigningRequest.parse(packet)
            sock.send(SigningReply(request.number, request.data[::-1]).packet())

    def ask(name):
        try:
            for number in range(20):
                data = b"%d %d" % (name, number)
                assert signer.sign(PUBLIC, Operation.ECDSA, data) == data[::-1]
        except BaseException as error:
            troubles.append(error)

    servers = [threading.Thread(target=serve, args=(theirs,), daemon=True) for _, theirs in pairs]
    for server in servers:
        server.start()
    with hasty_threads():
        for _ in rounds(3):
            threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(2 * signing.SIGNING_SOCKETS)]
            for thread in threads:
                thread.start()
            join(threads)
    for ours, _ in pairs:
        ours.close()
    join(servers)
    for _, theirs in pairs:
        theirs.close()
    assert troubles == []
