"""Local tools at the socket, the well-behaved and the others."""

import array
import os
import socket

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtpd.control.client import PER_UID
from smtpd.envelope import first_envelope, last_envelope
from smtpd.imsg import (
    TABLE,
    ContentOpened,
    Denied,
    EnvelopesRemoved,
    ListQuarantine,
    OpenContent,
    OpenSession,
    QuarantineListed,
    RemoveEnvelopes,
    SessionOpened,
    SessionRefused,
    TableUpdated,
    UpdateTable,
)
from smtpd.ipc import frame, query
from smtpd.ipc.channel import Channel, ChannelClosed, VersionMismatch
from tests.control.conftest import PEERS

ALL = first_envelope(1), last_envelope(2**31 - 1)
DIGEST = TABLE.digest()
REMOVE = TABLE.by_class[RemoveEnvelopes].number


def header(number, length, flags=0, peer_id=DIGEST):
    return frame.HEADER.pack(number, flags, length, peer_id, 0)


def is_closed(sock):
    """Whether it comes to its end, perhaps after a word about the version."""
    try:
        return len(sock.recv(1 << 16)) in (0, frame.SIZE) and sock.recv(1 << 16) == b""
    except ConnectionResetError:
        return True


def works(house):
    return house.query("status").granted


# -- questions ---------------------------------------------------------------------------


def test_a_question_is_passed_on_and_its_answer_comes_back_with_its_number(house):
    house.answers[RemoveEnvelopes] = lambda _, imsg: EnvelopesRemoved(imsg.request, 3)
    assert house.client().ask(RemoveEnvelopes(77, *ALL)) == EnvelopesRemoved(77, 3)
    ((peer, imsg),) = house.heard
    assert (peer, imsg.first, imsg.last) == ("scheduler", *ALL)


def test_a_table_is_lookups(house):
    house.answers[UpdateTable] = lambda _, imsg: TableUpdated(imsg.request, "no such table")
    assert house.client().ask(UpdateTable(7, "aliases")) == TableUpdated(7, "no such table")
    ((peer, imsg),) = house.heard
    assert (peer, imsg.table) == ("lookup", "aliases")


def test_clients_with_the_same_number_get_their_own_answers(house):
    house.answers[RemoveEnvelopes] = lambda _, imsg: EnvelopesRemoved(imsg.request, imsg.first & 0xFF)
    tools = [house.client() for _ in range(10)]
    for number, tool in enumerate(tools):
        tool.send(RemoveEnvelopes(1, first_envelope(1) + number, ALL[1]))
    assert [tool.receive()[0][0] for tool in tools] == [EnvelopesRemoved(1, number) for number in range(10)]


def test_questions_in_one_piece_are_answered_in_their_order(house):
    house.answers[ListQuarantine] = lambda _, imsg: QuarantineListed(imsg.request, [])
    tool = house.client()
    tool.send(*(ListQuarantine(number) for number in range(2000)))
    assert [imsg.request for imsg, _ in tool.receive(2000)] == list(range(2000))


def test_a_descriptor_is_passed_on_with_its_answer(house):
    reading, writing = os.pipe()
    os.write(writing, b"Subject: x\n")
    os.close(writing)
    house.answers[OpenContent] = lambda _, imsg: (ContentOpened(imsg.request), reading)
    tool = house.client()
    tool.send(OpenContent(5, 9))
    ((imsg, descriptor),) = tool.receive()
    assert imsg == ContentOpened(5) and os.read(descriptor, 100) == b"Subject: x\n"
    os.close(descriptor)


def test_a_descriptor_for_a_client_that_has_gone_is_closed(house):
    reading, writing = os.pipe()
    asked = []
    house.answers[OpenContent] = lambda channel, imsg: asked.append((channel, imsg))
    tool = house.client()
    tool.send(OpenContent(5, 9))
    house.until(lambda: asked)
    (client,) = house.control.clients.here
    house.loop.call_soon_threadsafe(client.close)
    house.until(lambda: house.here() == 0)
    channel, imsg = asked[0]
    house.loop.call_soon_threadsafe(channel.send, ContentOpened(imsg.request), reading)
    assert tool.channel.sock.recv(1) == b""
    house.until(lambda: not readers_of(writing))
    os.close(writing)


def readers_of(writing):
    """Whether somebody has the reading end still."""
    try:
        return bool(os.write(writing, b"x"))
    except BrokenPipeError:
        return False


# -- who may ask ----------------------------------------------------------------------------


@pytest.mark.parametrize("question", [UpdateTable(4, "aliases"), RemoveEnvelopes(4, *ALL), OpenContent(4, 1)])
def test_a_client_that_is_not_root_gets_nothing_and_is_disconnected(strange_house, question):
    tool = strange_house.client()
    assert tool.ask(question) == Denied(4, "need root privileges")
    assert tool.channel.sock.recv(1) == b""
    assert strange_house.heard == []
    strange_house.until(lambda: strange_house.here() == 0)


def test_a_client_of_an_ordinary_user_that_asks_nothing_is_disconnected(strange_house, monkeypatch):
    monkeypatch.setattr("smtpd.control.client.UNPRIVILEGED_TIMEOUT", 0.05)
    sock = strange_house.connect()
    assert is_closed(sock)
    sock.close()


def test_another_version_is_told_ours(house):
    sock = house.connect()
    sock.send(header(REMOVE, 16, peer_id=DIGEST ^ 1))
    tool = Channel(sock, TABLE, "smtpctl", "control", peer_id=DIGEST ^ 1)
    sock.settimeout(5)
    with pytest.raises(VersionMismatch):
        tool.receive()
    assert is_closed(sock)
    tool.close()
    assert works(house)


# -- sessions -----------------------------------------------------------------------------------


def open_session(_, imsg):
    read, write = os.pipe()
    os.close(write)
    return SessionOpened(imsg.request), read


def test_any_user_may_open_a_session_under_the_uid_that_the_kernel_gives(strange_house):
    strange_house.answers[OpenSession] = open_session
    before = descriptors()
    answer = strange_house.query("session")
    assert answer.granted and os.read(answer.descriptor, 1) == b""
    os.close(answer.descriptor)
    ((peer, imsg),) = strange_house.heard
    assert (peer, imsg.uid) == ("dispatcher", os.getuid())
    for sock in strange_house.socks:
        sock.close()
    strange_house.until(lambda: strange_house.here() == 0 and descriptors() == before)


def test_all_sessions_are_the_first_dispatchers(house):
    house.answers[OpenSession] = lambda channel, imsg: SessionRefused(imsg.request, str(channel.number))
    answers = [house.query("session") for _ in range(4)]
    assert {(answer.granted, answer.text) for answer in answers} == {(False, str(PEERS.index("dispatcher")))}


@pytest.mark.parametrize("word, reason", [("status", "need root privileges"), ("secrets", "need root privileges")])
def test_an_ordinary_user_may_only_open_a_session(strange_house, word, reason):
    answer = strange_house.query(word)
    assert (answer.granted, answer.text) == (False, reason) and strange_house.heard == []


def test_a_query_that_is_not_known_is_refused(house):
    answer = house.query("secrets")
    assert not answer.granted and "another version" in answer.text


def test_a_client_of_an_ordinary_user_may_ask_once(strange_house):
    strange_house.answers[OpenSession] = lambda _, imsg: SessionRefused(imsg.request, "no")
    assert strange_house.query("session").text == "no"
    sock = strange_house.connect()
    sock.send(b"session\n" + header(REMOVE, 16))
    assert is_closed(sock)
    assert [type(imsg) for _, imsg in strange_house.heard] == [OpenSession]


def test_a_session_for_a_client_that_is_gone_is_closed(strange_house):
    asked = []
    strange_house.answers[OpenSession] = lambda channel, imsg: asked.append((channel, imsg))
    before = descriptors()
    sock = strange_house.connect()
    query.send(sock, query.SESSION)
    strange_house.until(lambda: asked)
    sock.close()
    strange_house.until(lambda: strange_house.here() == 1)
    (channel, imsg), (read, write) = asked[0], os.pipe()
    strange_house.loop.call_soon_threadsafe(channel.send, SessionOpened(imsg.request), read)
    strange_house.until(lambda: strange_house.here() == 0 and descriptors() == before + 1)
    os.close(write)


def test_a_client_of_an_ordinary_user_has_a_timeout(strange_house, monkeypatch):
    monkeypatch.setattr("smtpd.control.client.UNPRIVILEGED_TIMEOUT", 0.05)
    sock = strange_house.connect()
    query.send(sock, query.SESSION)
    assert is_closed(sock)


# -- attacks --------------------------------------------------------------------------------------

GARBAGE = {
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "a query without an end": b"session",
    "a long query": b"x" * 40 + b"\n",
    "zeros": bytes(100),
    "an imsg that is not for us": header(1, 16),
    "an imsg of no number": header(9999, 16),
    "a huge length": header(REMOVE, 0xFFFFFFFF),
    "a length over its limit": header(REMOVE, 1 << 20) + bytes(1 << 16),
    "a length below the header": header(REMOVE, 3),
    "a wrong shape": header(REMOVE, 17) + b"\xc0",
    "an id below all ids": header(REMOVE, 20) + b"\x93\x01\x00\x05",
    "an id that no database holds": header(REMOVE, 16 + 20)
    + b"\x93\x01"
    + b"\xcf"
    + b"\xff" * 8
    + b"\xcf"
    + b"\xff" * 8,
    "a negative id": header(REMOVE, 20) + b"\x93\x01\xff\xff",
    "a descriptor announced": header(REMOVE, 16, flags=frame.DESCRIPTOR),
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_ends_the_connection_of_its_sender_only(house, garbage):
    other = house.client()
    sock = house.connect()
    sock.send(garbage)
    assert is_closed(sock)
    sock.close()
    house.answers[UpdateTable] = lambda _, imsg: TableUpdated(imsg.request, "")
    assert other.ask(UpdateTable(1, "aliases")) == TableUpdated(1, "")
    assert works(house)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(min_size=16, max_size=200), known=st.booleans())
def test_any_bytes_end_at_most_their_sender(house, data, known):
    sock = house.connect()
    sock.send(header(REMOVE, 16 + len(data)) + data if known else data)
    sock.shutdown(socket.SHUT_WR)
    sock.recv(1 << 16)
    sock.close()
    assert works(house)


def test_passed_descriptors_are_never_ours(house):
    before = descriptors()
    socks = [house.connect() for _ in range(8)]
    for sock in socks:
        # An ordinary user may have as many under way as its processes may have open: often 1024.
        rights = array.array("i", [sock.fileno()] * 50)
        sock.sendmsg([b"\0" * 8], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    for sock in socks:
        assert is_closed(sock)
        sock.close()
    house.until(lambda: descriptors() == before)
    assert works(house)


def test_half_a_frame_with_descriptors_holds_none(house):
    sock = house.connect()
    house.until(lambda: house.here() == 1)
    before = descriptors()
    rights = array.array("i", [sock.fileno()] * 16)
    sock.sendmsg([header(REMOVE, 40)[:8]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    assert is_closed(sock)
    house.until(lambda: descriptors() == before - 1)
    sock.close()


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_hundreds_of_connections_are_thirty_two(house):
    socks = [house.connect() for _ in range(400)]
    closed = [sock for sock in socks[PER_UID:] if is_closed(sock)]
    assert len(closed) == 400 - PER_UID
    assert house.here() == PER_UID
    for sock in socks:
        sock.close()
    house.until(lambda: house.here() == 0)
    assert works(house)


def test_a_client_that_connects_and_leaves_at_once_costs_nothing(house):
    for _ in range(200):
        house.connect().close()
    house.until(lambda: house.here() == 0)
    assert works(house)


def test_a_client_that_does_not_read_is_not_read(house):
    """Its questions stay in its socket, and one answer in our memory."""
    rows = [(id, 0, "x" * 1000) for id in range(500)]
    house.answers[ListQuarantine] = lambda _, imsg: QuarantineListed(imsg.request, rows)
    tool = house.client()
    tool.channel.sock.setblocking(False)
    for number in range(20_000):
        tool.channel.send(ListQuarantine(number))
    assert not tool.channel.flush()
    house.until(house.here)
    (client,) = house.control.clients.here
    house.until(lambda: client._channel.bytes_waiting and not client._reading)
    asked = len(house.heard)
    assert works(house) and works(house)
    assert len(house.heard) == asked < 100
    assert client._channel.bytes_waiting < 1_000_000


def test_a_client_that_reads_in_the_end_gets_all_its_answers(house):
    rows = [(id, 0, "x" * 1000) for id in range(500)]
    house.answers[ListQuarantine] = lambda _, imsg: QuarantineListed(imsg.request, rows)
    tool = house.client()
    house.until(house.here)
    (client,) = house.control.clients.here
    tool.send(*(ListQuarantine(number) for number in range(20)))
    house.until(lambda: client._channel.bytes_waiting and not client._reading)
    assert [imsg.request for imsg, _ in tool.receive(20)] == list(range(20))


def test_a_client_that_leaves_before_its_answer_changes_nothing_for_others(house):
    asked = []
    house.answers[RemoveEnvelopes] = lambda channel, imsg: asked.append((channel, imsg))
    tool = house.client()
    tool.send(RemoveEnvelopes(1, *ALL))
    house.until(lambda: asked)
    tool.close()
    channel, imsg = asked[0]
    house.loop.call_soon_threadsafe(channel.send, EnvelopesRemoved(imsg.request, 1))
    house.until(lambda: house.here() == 0)
    assert works(house)


def test_a_question_that_makes_our_code_raise_costs_that_question(house, capfd):
    def fail(*_):
        raise ZeroDivisionError

    house.control.clients.asked = fail
    tool = house.client()
    tool.send(UpdateTable(1, "aliases"))
    with pytest.raises(ChannelClosed):
        tool.receive()
    said = []  # each look takes away what it has seen
    house.until(lambda: said.append(capfd.readouterr().err) or "ZeroDivisionError" in "".join(said))
    assert house.thread.is_alive()
