"""Queries: what a program asks control in a line, over real sockets."""

import os
import socket
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.ipc import query
from smtpd.ipc.query import ANSWER_MAX, QUERY_MAX, Answer, QueryError


@pytest.fixture(params=[socket.SOCK_STREAM])
def pair(request):
    ours, theirs = socket.socketpair(socket.AF_UNIX, request.param)
    for sock in (ours, theirs):
        sock.settimeout(10)
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.fixture
def descriptor():
    reading, writing = os.pipe()
    os.write(writing, b"content")
    os.close(writing)
    yield reading
    os.close(reading)


def send_rights(sock, data, *descriptors):
    socket.send_fds(sock, [data], descriptors)


def open_descriptors():
    return {number for number in range(1000) if os.path.exists(f"/proc/self/fd/{number}")}


# -- the program --------------------------------------------------------------------------------------------------


def test_a_query_is_a_word_and_a_line_end(pair):
    query.send(pair[0], "session")
    assert pair[1].recv(100) == b"session\n"


@pytest.mark.parametrize("given", [Answer(True, "mda smtp"), Answer(False, "need root privileges"), Answer(True, "")])
def test_an_answer_comes_out_as_it_went_in(pair, given):
    query.answer(pair[1], given)
    found = query.receive(pair[0])
    assert (found.granted, found.text, found.descriptor) == (given.granted, given.text, None)


def test_the_descriptor_of_an_answer_is_not_inherited(pair, descriptor):
    query.answer(pair[1], Answer(True, "here", descriptor))
    found = query.receive(pair[0])
    assert (found.granted, found.text, os.read(found.descriptor, 100)) == (True, "here", b"content")
    assert not os.get_inheritable(found.descriptor)
    os.close(found.descriptor)


def test_a_text_that_is_not_ascii_is_told_as_far_as_it_is(pair):
    query.answer(pair[1], Answer(False, "für"))
    assert query.receive(pair[0]).text == "f?r"
    pair[1].sendall(b"-f\xfcr\n")
    assert query.receive(pair[0]).text == "f\ufffdr"


@pytest.mark.parametrize("pair", [socket.SOCK_SEQPACKET], indirect=True)
def test_an_answer_may_come_in_pieces_and_its_descriptor_with_any_of_them(pair, descriptor):
    pair[1].send(b"+mda ")
    send_rights(pair[1], b"sm", descriptor)
    pair[1].send(b"tp\n")
    found = query.receive(pair[0])
    assert (found.text, os.read(found.descriptor, 100)) == ("mda smtp", b"content")
    os.close(found.descriptor)


@pytest.mark.parametrize(
    "said, error", [(b"", "closed the connection"), (b"+md", "answers nonsense"), (b"mda\n", "answers nonsense")]
)
def test_what_is_no_answer_is_an_error(pair, said, error):
    pair[1].sendall(said)
    pair[1].shutdown(socket.SHUT_WR)
    with pytest.raises(QueryError, match=f"^{error}$"):
        query.receive(pair[0])


@pytest.mark.parametrize("pieces", [1, 2])
def test_an_answer_has_a_longest_length(pair, pieces):
    def receive(length):
        line = b"+" + b"x" * (length - 2) + b"\n"
        writer = threading.Thread(target=pair[1].sendall, args=(line,))
        writer.start()
        try:
            return query.receive(pair[0])
        finally:
            writer.join()

    assert len(receive(ANSWER_MAX).text) == ANSWER_MAX - 2
    with pytest.raises(QueryError, match="nonsense"):
        receive(ANSWER_MAX + pieces)


@pytest.mark.parametrize("pair", [socket.SOCK_SEQPACKET], indirect=True)
@pytest.mark.parametrize("counts", [(2,), (3,), (1, 1)])
def test_an_answer_with_several_descriptors_is_none(pair, descriptor, counts):
    before = open_descriptors()
    for count in counts:
        send_rights(pair[1], b"+a", *[descriptor] * count)
    pair[1].send(b"\n")
    with pytest.raises(QueryError, match="nonsense"):
        query.receive(pair[0])
    for left in open_descriptors() - before:  # the program ends
        os.close(left)


# -- control --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["session", "x", "x" * (QUERY_MAX - 1)])
def test_a_query_is_received_as_its_word(pair, word):
    query.send(pair[0], word)
    assert query.maybe_receive(pair[1]) == word


def test_an_imsg_is_no_query_and_stays_unread(pair):
    pair[0].sendall(b"\0\x01session\n")
    assert query.maybe_receive(pair[1]) is None
    assert pair[1].recv(100) == b"\0\x01session\n"


def test_a_client_that_has_said_nothing_or_has_gone_has_no_query(pair):
    pair[1].setblocking(False)
    assert query.maybe_receive(pair[1]) is None
    pair[0].close()
    assert query.maybe_receive(pair[1]) is None


@pytest.mark.parametrize(
    "said", [b"session", b"ses sion\n", b"session\nstatus\n", b"session1\n", b"x" * QUERY_MAX + b"\n", b"x" * 60_000]
)
def test_what_is_not_exactly_one_query_is_an_error_and_nothing_of_it_stays_unread(pair, said):
    """What is unread when a socket is closed makes the client learn of a reset, instead of the end."""
    pair[0].sendall(said)
    with pytest.raises(QueryError, match="malformed query"):
        query.maybe_receive(pair[1])
    pair[1].setblocking(False)
    with pytest.raises(BlockingIOError):
        pair[1].recv(1)


@given(said=st.one_of(st.binary(max_size=50), st.binary(min_size=1, max_size=50).map(lambda line: line + b"\n")))
def test_any_bytes_are_a_query_an_error_or_left_unread(said):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(said)
        ours.shutdown(socket.SHUT_WR)
        try:
            word = query.maybe_receive(theirs)
        except QueryError:
            assert said[:1].isalpha()
            return
        assert word is None or f"{word}\n".encode() == said and word.isalpha() and len(said) <= QUERY_MAX
        assert theirs.recv(100) == (said if word is None else b"")


@given(said=st.binary(max_size=80).map(lambda line: line + b"\n") | st.binary(max_size=80))
def test_any_bytes_are_an_answer_or_an_error(said):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(said)
        ours.shutdown(socket.SHUT_WR)
        try:
            found = query.receive(theirs)
        except QueryError:
            assert said[:1] not in (b"+", b"-") or not said.endswith(b"\n")
        else:
            assert said[:1] == (b"+" if found.granted else b"-") and found.descriptor is None
            assert found.text == said[1:-1].decode("ascii", "replace")
