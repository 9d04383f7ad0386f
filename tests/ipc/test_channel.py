"""A channel: what it carries, how it is cut, and what it does not forgive."""

import array
import os
import selectors
import socket
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.ipc import frame
from smtpd.ipc.channel import BATCH, WAITING_DESCRIPTORS, Channel, ChannelClosed, VersionMismatch, Violation
from smtpd.ipc.declaration import Table

TABLE = Table()


@TABLE.declare("a -> b", limit=200_000)
class Ask:
    request: int
    text: str
    data: bytes = b""


@TABLE.declare("b -> a", answers=Ask, limit=200_000)
class Answered:
    request: int
    data: bytes = b""


@TABLE.declare("a -> b", descriptor=True)
class Take:
    name: str


@TABLE.declare("b -> c")
class Elsewhere:
    pass


def pair(size=None):
    one, other = socket.socketpair()
    if size:
        for end in (one, other):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    return Channel(one, TABLE, "a", "b"), Channel(other, TABLE, "b", "a")


@pytest.fixture
def channels():
    a, b = pair()
    yield a, b
    a.close()
    b.close()


@pytest.fixture
def raw():
    """A bare socket in the place of `a`, and b's channel."""
    one, other = socket.socketpair()
    b = Channel(other, TABLE, "b", "a")
    yield one, b
    one.close()
    b.close()


def bytes_of(imsg):
    """The frame that `imsg` becomes."""
    a, b = pair()
    a.send(imsg)
    a.flush()
    data = b.sock.recv(1 << 20)
    a.close()
    b.close()
    return data


def send_with(sock, data, descriptors):
    sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])


def test_what_is_sent_in_one_turn_arrives_in_one_receive(channels):
    a, b = channels
    for number in range(20):
        a.send(Ask(number, "hé"))
    assert a.flush()
    assert [imsg for imsg, _ in b.receive()] == [Ask(number, "hé") for number in range(20)]


def test_thousands_of_small_imsgs_leave_in_one_turn(channels):
    """The kernel takes 1024 pieces in one sendmsg, and more are an error."""
    a, b = channels
    for number in range(3000):
        a.send(Ask(number, ""))
    received = []
    while len(received) < 3000:
        a.flush()
        received += [imsg.request for imsg, _ in b.receive()]
    assert received == [*range(3000)]


def test_no_more_than_a_batch_is_given_to_one_sendmsg():
    """What the socket does not take of it was collected in vain, and is again at the next attempt."""

    class Counting(socket.socket):
        sizes = []

        def sendmsg(self, buffers, *more):
            self.sizes.append(sum(map(len, buffers)))
            return super().sendmsg(buffers, *more)

    one, other = socket.socketpair()
    a = Channel(Counting(fileno=one.detach()), TABLE, "a", "b")
    for number in range(100):
        a.send(Ask(number, "", bytes(BATCH // 8)))
    a.flush()
    assert BATCH // 2 < max(Counting.sizes) <= BATCH
    a.close()
    other.close()


def test_frames_fed_byte_by_byte_arrive_whole(raw):
    sock, b = raw
    data = bytes_of(Ask(1, "one")) + bytes_of(Ask(2, "two", b"x" * 300))
    received = []
    for position in range(len(data)):
        sock.send(data[position : position + 1])
        received += [imsg for imsg, _ in b.receive()]
    assert received == [Ask(1, "one"), Ask(2, "two", b"x" * 300)]


@pytest.mark.parametrize("cut", range(1, 60))
def test_frames_cut_anywhere_arrive_whole(raw, cut):
    sock, b = raw
    data = bytes_of(Ask(1, "one")) + bytes_of(Ask(2, "two"))
    sock.send(data[:cut])
    received = b.receive()
    sock.send(data[cut:])
    if cut < len(data):
        received += b.receive()
    assert [imsg for imsg, _ in received] == [Ask(1, "one"), Ask(2, "two")]


def test_a_frame_larger_than_the_buffer_arrives(channels, monkeypatch):
    monkeypatch.setattr("smtpd.ipc.channel.BUFFER", 64)
    a, b = pair()
    a.send(Ask(1, "x", b"y" * 5000))
    a.send(Ask(2, "z"))
    a.flush()
    received = []
    while len(received) < 2:
        received += [imsg for imsg, _ in b.receive()]
    assert received == [Ask(1, "x", b"y" * 5000), Ask(2, "z")]
    a.close()
    b.close()


def test_a_descriptor_arrives_with_its_own_frame(channels):
    a, b = channels
    reading, writing = os.pipe()
    a.send(Ask(1, "before"))
    a.send(Take("pipe"), writing)
    a.send(Ask(2, "after"))
    a.flush()
    received = []
    while len(received) < 3:
        received += b.receive()
    assert [imsg for imsg, _ in received] == [Ask(1, "before"), Take("pipe"), Ask(2, "after")]
    assert [fd is None for _, fd in received] == [True, False, True]
    os.write(received[1][1], b"through")
    assert os.read(reading, 10) == b"through"
    assert not os.get_inheritable(received[1][1])
    os.close(received[1][1])
    os.close(reading)
    with pytest.raises(OSError):
        os.fstat(writing)  # sent, so no longer ours


def test_many_descriptors_under_way_keep_their_order(channels):
    a, b = channels
    ends = [os.pipe() for _ in range(12)]
    for number, (_, writing) in enumerate(ends):
        a.send(Ask(number, "filler"))
        a.send(Take(str(number)), writing)
    a.flush()
    received = []
    while len(received) < 24:
        received += b.receive()
    for imsg, descriptor in received:
        if isinstance(imsg, Take):
            os.write(descriptor, imsg.name.encode())
            os.close(descriptor)
    assert [os.read(reading, 10).decode() for reading, _ in ends] == [str(number) for number in range(12)]
    for reading, _ in ends:
        os.close(reading)


def test_a_partial_write_does_not_send_a_descriptor_again():
    a, b = pair(4096)
    reading, writing = os.pipe()
    a.send(Ask(0, "", b"z" * 100_000))
    a.send(Take("pipe"), writing)
    a.send(Ask(1, "", b"z" * 100_000))
    received = []
    while len(received) < 3:
        a.flush()
        received += b.receive()
    assert [type(imsg) for imsg, _ in received] == [Ask, Take, Ask]
    os.close(received[1][1])
    assert os.read(reading, 1) == b""  # every copy of the writing end is gone
    os.close(reading)
    a.close()
    b.close()


def test_sending_against_an_arrow_is_refused(channels):
    a, b = channels
    with pytest.raises(Violation):
        a.send(Answered(1))
    with pytest.raises(Violation):
        b.send(Elsewhere())


def test_sending_a_descriptor_where_none_belongs_is_refused(channels):
    a, _ = channels
    with pytest.raises(Violation):
        a.send(Ask(1, ""), os.dup(0))
    with pytest.raises(Violation):
        a.send(Take("none"))


@pytest.mark.parametrize("imsg", [Answered(1), Take("x" * 100_000), Take("\udc80"), Take(object())])
def test_a_descriptor_of_what_cannot_be_sent_is_closed(channels, imsg):
    a, _ = channels
    descriptor = os.dup(0)
    with pytest.raises((Violation, UnicodeError, TypeError)):
        a.send(imsg, descriptor)
    with pytest.raises(OSError):
        os.fstat(descriptor)
    assert not a.bytes_waiting


def test_sending_over_the_limit_is_refused(channels):
    a, _ = channels
    with pytest.raises(Violation):
        a.send(Take("x" * 20_000), os.dup(0))


def header(number, length, flags=0, peer_id=0):
    return frame.HEADER.pack(number, flags, length, peer_id, 0)


LIMIT = 200_000  # bytes of an Ask
LARGEST = LIMIT - 8  # bytes of its data: the rest says what is what


def test_the_largest_imsg_arrives_and_a_byte_more_is_not_sent(channels):
    a, b = channels
    a.send(Ask(1, "", b"x" * LARGEST))
    received = []
    while not received:
        a.flush()
        received += b.receive()
    assert received == [(Ask(1, "", b"x" * LARGEST), None)]
    with pytest.raises(Violation):
        a.send(Ask(1, "", b"x" * (LARGEST + 1)))


def test_the_largest_length_is_waited_for_and_one_more_ends_the_receiver(raw):
    sock, b = raw
    sock.send(header(1, frame.SIZE + LIMIT))
    assert b.receive() == []
    one, other = socket.socketpair()
    with one, pytest.raises(Violation):
        one.send(header(1, frame.SIZE + LIMIT + 1))
        other = Channel(other, TABLE, "b", "a")
        other.receive()
    other.close()


FORGED = {
    "an imsg of another arrow": bytes_of(Ask(1, "")).replace(b"\x00\x01", b"\x00\x02", 1),
    "an imsg that does not exist": header(99, 16),
    "a length below the header": header(1, 15),
    "a length over the limit": header(1, 300_000),
    "a shape too short": header(1, 17) + b"\x90",
    "a field of another type": header(1, 20) + b"\x92\xa1x\x01",
    "a field too many": header(1, 22) + b"\x94\x01\xa0\xc4\x00\x01",
    "bytes behind the value": header(1, 20) + b"\x92\x01\xa0\x00",
    "a flag that means nothing": header(1, 16, flags=4),
    "a descriptor announced where none belongs": header(1, 19, flags=frame.DESCRIPTOR) + b"\x92\x01\xa0",
    "a descriptor missing where one belongs": header(3, 19) + b"\x91\xa1x",
    "a descriptor announced and not sent": header(3, 19, flags=frame.DESCRIPTOR) + b"\x91\xa1x",
    "invalid UTF-8": header(1, 20) + b"\x92\x01\xa1\xff",
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED.keys())
def test_a_forged_frame_ends_the_receiver(raw, forged):
    sock, b = raw
    sock.send(forged)
    with pytest.raises(Violation):
        b.receive()


def test_another_version_is_told_apart(raw):
    sock, b = raw
    sock.send(header(1, 16, peer_id=7))
    with pytest.raises(VersionMismatch):
        b.receive()


def test_a_stray_descriptor_ends_the_receiver(raw):
    sock, b = raw
    send_with(sock, bytes_of(Ask(1, "")), [0])
    with pytest.raises(Violation):
        b.receive()


def test_as_many_descriptors_as_may_wait_are_kept_for_their_imsgs(raw):
    sock, b = raw
    frames = [header(3, 19, flags=frame.DESCRIPTOR) + b"\x91\xa1x"] * WAITING_DESCRIPTORS
    send_with(sock, frames[0][:10], [0] * WAITING_DESCRIPTORS)
    assert b.receive() == []
    sock.send(b"".join(frames)[10:])
    received = b.receive()
    assert len({descriptor for _, descriptor in received}) == WAITING_DESCRIPTORS
    for _, descriptor in received:
        os.close(descriptor)


def test_more_descriptors_than_may_wait_end_the_receiver(raw):
    sock, b = raw
    send_with(sock, bytes_of(Ask(1, ""))[:10], [0] * (WAITING_DESCRIPTORS + 1))
    with pytest.raises(Violation):
        b.receive()


def test_one_descriptor_more_than_may_wait_ends_the_receiver_when_it_comes_by_itself(raw):
    sock, b = raw
    frame_of_take = header(3, 19, flags=frame.DESCRIPTOR) + b"\x91\xa1x"
    send_with(sock, frame_of_take[:10], [0] * WAITING_DESCRIPTORS)
    assert b.receive() == []
    send_with(sock, frame_of_take[10:11], [0])
    with pytest.raises(Violation):
        b.receive()


def test_two_descriptors_with_one_frame_end_the_receiver(raw):
    sock, b = raw
    send_with(sock, header(3, 19, flags=frame.DESCRIPTOR) + b"\x91\xa1x", [0, 0])
    with pytest.raises(Violation):
        b.receive()


def test_a_peer_that_may_send_no_descriptor_is_given_no_room_for_one():
    """It would be ours until the channel is closed, and a peer could make us have one after the other."""
    one, other = socket.socketpair()
    a = Channel(other, TABLE, "a", "b")
    reading, writing = os.pipe()
    send_with(one, bytes_of(Ask(1, "")), [writing])
    os.close(writing)
    with pytest.raises(Violation):
        a.receive()
    os.set_blocking(reading, False)
    assert os.read(reading, 1) == b""  # no writing end is left
    os.close(reading)
    one.close()
    a.close()


def test_a_channel_that_is_closed_leaves_no_descriptor_open_that_was_to_be_sent(channels):
    a, _ = channels
    reading, writing = os.pipe()
    a.send(Take("pipe"), writing)
    a.close()
    os.set_blocking(reading, False)
    assert os.read(reading, 1) == b""  # no writing end is left
    os.close(reading)


def test_a_channel_that_is_closed_leaves_no_received_descriptor_open(raw):
    sock, b = raw
    reading, writing = os.pipe()
    send_with(sock, header(3, 19, flags=frame.DESCRIPTOR), [writing])
    os.close(writing)
    assert b.receive() == []
    b.close()
    os.set_blocking(reading, False)
    assert os.read(reading, 1) == b""  # no writing end is left
    os.close(reading)


def test_where_nothing_waits_nothing_is_received(raw):
    assert raw[1].receive() == []


def test_a_peer_that_has_not_read_what_it_was_told_is_closed_too(raw):
    """The kernel tells that as an error, and not as the end of the file."""
    sock, b = raw
    b.send(Answered(1))
    assert b.flush()
    sock.close()
    with pytest.raises(ChannelClosed):
        b.receive()


def test_a_peer_of_another_version_knows_it_by_a_bare_header():
    one, other = socket.socketpair()
    a, b = Channel(one, TABLE, "a", "b", peer_id=7), Channel(other, TABLE, "b", "a", peer_id=8)
    a.send_version()
    assert a.bytes_waiting == frame.SIZE
    assert a.flush() and not a.bytes_waiting
    with pytest.raises(VersionMismatch):
        b.receive()
    a.close()
    b.close()


def test_a_full_socket_is_waited_for_without_a_loop(channels):
    a, b = channels
    for number in range(20):
        a.send(Ask(number, "", bytes(LARGEST)))
    assert not a.flush_within(0.01)
    received = []

    def read():
        while len(received) < 20:
            received.extend(b.receive())

    reader = threading.Thread(target=read)
    reader.start()
    assert a.flush_within(20)
    reader.join()
    assert [imsg.request for imsg, _ in received] == [*range(20)]


def test_end_of_file_is_closed(raw):
    sock, b = raw
    sock.close()
    with pytest.raises(ChannelClosed):
        b.receive()


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_an_imsg_or_a_violation(data):
    one, other = socket.socketpair()
    b = Channel(other, TABLE, "b", "a")
    try:
        one.send(data or b"\0")
        for imsg, _ in b.receive():
            assert isinstance(imsg, Ask)
    except Violation:
        pass
    finally:
        one.close()
        b.close()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.builds(Ask, st.integers(0, 2**63), st.text(max_size=40), st.binary(max_size=3000)), max_size=30))
def test_whatever_is_sent_arrives_equal_and_in_order(imsgs):
    a, b = pair()
    received = []
    for imsg in imsgs:
        a.send(imsg)
    while len(received) < len(imsgs):
        a.flush()
        received += [imsg for imsg, _ in b.receive()]
    assert received == imsgs
    a.close()
    b.close()


def test_two_processes_saturated_in_both_directions_do_not_deadlock():
    """4 KiB of socket buffer, each end with megabytes to say, each answering what it gets: neither stops reading."""
    a, b = pair(4096)
    total = 300
    for number in range(total):
        a.send(Ask(number, "", b"q" * 4000))
        b.send(Answered(number, b"r" * 4000))
    selector = selectors.DefaultSelector()
    got = {a: 0, b: 0}
    for channel in (a, b):
        selector.register(channel, selectors.EVENT_READ | selectors.EVENT_WRITE)
    idle = 0
    while got[a] < 2 * total or got[b] < total:
        events = selector.select(1)
        before = dict(got)
        for key, mask in events:
            channel = key.fileobj
            if mask & selectors.EVENT_READ:
                for imsg, _ in channel.receive():
                    got[channel] += 1
                    if channel is b:
                        b.send(Answered(imsg.request, b"s" * 4000))
            if mask & selectors.EVENT_WRITE:
                channel.flush()
        idle = 0 if got != before else idle + 1
        assert idle < 1000
    assert got == {a: 2 * total, b: total}
    a.close()
    b.close()
