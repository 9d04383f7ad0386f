"""The loop of the six, in two real processes."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from smtpd.ipc.channel import Channel, ChannelClosed
from smtpd.ipc.declaration import Table
from smtpd.ipc.loop import ChannelSet, connect, prepare

TABLE = Table()


@TABLE.declare("left -> right", limit=64_000)
class Ask:
    request: int
    data: bytes


@TABLE.declare("right -> left", answers=Ask, limit=64_000)
class Answered:
    request: int
    data: bytes


@TABLE.declare("left, parent -> right")
class Stop:
    pass


COUNT = 3000
SIZE = 2000


def answer(state, channel, imsg, descriptor):
    if isinstance(imsg, Stop):
        state.stop()
    else:
        channel.send(Answered(imsg.request, imsg.data))


def serve(descriptor):
    """The other process: answers everything, and floods on its own account."""
    loop = prepare()
    channel = Channel(socket.socket(fileno=descriptor), TABLE, "right", "left")
    connect(loop, [channel], {"left": answer}, loop)
    for number in range(COUNT):
        channel.send(Answered(COUNT + number, b"r" * SIZE))
    loop.run_forever()


def serve_parent(descriptor):
    """As any of the six: its parent speaks, and one word of it is the end of a process that has a defect."""

    def fail(*_):
        raise ZeroDivisionError

    loop = prepare()
    channel = Channel(socket.socket(fileno=descriptor), TABLE, "right", "parent")
    connect(loop, [channel], {"parent": fail}, None)
    loop.run_forever()


def started(descriptor, serve="serve", **more):
    program = f"from tests.ipc.test_loop import {serve}; {serve}({descriptor})"
    process = subprocess.Popen([sys.executable, "-c", program], pass_fds=[descriptor], **more)
    os.close(descriptor)
    return process


@pytest.fixture
def ends():
    pair = socket.socketpair()
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    yield pair
    for end in pair:
        end.close()


def test_two_processes_saturated_in_both_directions_do_not_deadlock(ends):
    """Megabytes in both directions through 4 KiB of buffer: neither ever stops reading."""
    loop = prepare()
    got = set()
    ours, theirs = ends
    peer = started(theirs.detach())
    channel = Channel(ours, TABLE, "left", "right")

    def collect(state, channel, imsg, descriptor):
        got.add(imsg.request)
        if len(got) == 2 * COUNT:
            channel.send(Stop())
            loop.call_soon(loop.stop)

    board = connect(loop, [channel], {"right": collect}, None)
    deadline = loop.call_later(60, loop.stop)
    for number in range(COUNT):
        channel.send(Ask(number, b"l" * SIZE))
    loop.run_forever()
    deadline.cancel()
    assert got == set(range(2 * COUNT))
    loop.run_until_complete(loop.run_in_executor(None, peer.wait, 20))
    assert peer.returncode == 0
    board.remove(channel)
    loop.close()


def test_a_forged_frame_ends_the_process_at_once(ends):
    ours, theirs = ends
    peer = started(theirs.detach())
    ours.sendall(b"\xff" * 64)
    assert peer.wait(20) == 1


def test_the_loop_does_not_live_on_a_broken_pipe(ends):
    ours, theirs = ends
    peer = started(theirs.detach())
    assert ours.recv(100)
    ours.close()
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            peer.wait(0.5)  # a peer that goes is the parent's business: this one has no parent, and just goes on
    finally:
        os.kill(peer.pid, signal.SIGKILL)
        peer.wait()


def test_the_end_of_the_parent_is_the_end_in_order(ends):
    ours, theirs = ends
    peer = started(theirs.detach(), "serve_parent", stderr=subprocess.PIPE)
    ours.close()
    assert peer.communicate(timeout=20) == (None, b"") and peer.returncode == 0


def test_a_forged_frame_of_the_parent_is_fatal(ends):
    ours, theirs = ends
    peer = started(theirs.detach(), "serve_parent")
    ours.sendall(b"\xff" * 64)
    assert peer.wait(20) == 1


def test_an_exception_that_nothing_has_caught_is_fatal(ends):
    ours, theirs = ends
    peer = started(theirs.detach(), "serve_parent")
    parent = Channel(ours, TABLE, "parent", "right")
    parent.send(Stop())
    parent.flush()
    assert peer.wait(20) == 1


def test_the_channel_of_a_peer_that_is_gone_is_closed_and_asked_no_more():
    loop = prepare()
    one, other = socket.socketpair()
    other.close()
    channel = Channel(one, TABLE, "left", "right")
    connect(loop, [channel], {"right": pytest.fail}, None)
    loop.call_later(0.01, loop.stop)
    loop.run_forever()
    assert channel.closed
    loop.close()


@pytest.mark.parametrize(
    "error, transport, status", [(OSError, "a client's", 7), (OSError, None, 1), (KeyError, "a client's", 1)]
)
def test_an_error_of_a_clients_connection_that_its_protocol_hears_of_is_not_fatal(error, transport, status):
    loop = prepare()
    connect(loop, [], {}, None)
    pid = os.fork()
    if pid == 0:
        try:
            loop.call_exception_handler({"message": "", "exception": error(), "transport": transport})
        finally:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status
    loop.close()


@pytest.fixture
def board():
    """A loop in this process, and the two ends of a channel, which are not on it yet."""
    loop = prepare()
    one, other = socket.socketpair()
    board = ChannelSet(loop)
    left, right = Channel(one, TABLE, "left", "right"), Channel(other, TABLE, "right", "left")
    yield board, left, right
    board.remove(left)
    board.remove(right)
    loop.close()


def test_what_was_sent_before_a_channel_came_to_the_loop_leaves(board):
    board, left, right = board
    left.send(Ask(1, b""))
    heard = []
    board.add(right, lambda channel, imsg, descriptor: (heard.append(imsg), board.loop.stop()), pytest.fail)
    board.add(left, pytest.fail, pytest.fail)
    board.loop.run_forever()
    assert heard == [Ask(1, b"")]


def test_nothing_more_is_dispatched_of_a_channel_that_its_handler_has_removed(board):
    board, left, right = board
    heard = []

    def hear(channel, imsg, descriptor):
        heard.append(imsg)
        board.remove(channel)
        board.loop.call_soon(board.loop.stop)

    board.add(right, hear, pytest.fail)
    for number in (1, 2):
        left.send(Ask(number, b""))
    left.flush()
    board.loop.run_forever()
    assert heard == [Ask(1, b"")]


def test_what_is_sent_to_a_peer_that_is_gone_hides_nothing_of_its_end(board):
    """Its last words are heard, and then its end, once."""
    board, left, right = board
    raised, heard = [], []
    board.loop.set_exception_handler(lambda _loop, context: raised.append(context))
    right.send(Answered(1, b""))
    right.flush()
    right.close()

    def closed(channel, error):
        heard.append(type(error))
        board.remove(channel)
        board.loop.call_soon(board.loop.stop)

    board.add(left, lambda channel, imsg, descriptor: heard.append(imsg), closed)
    left.send(Ask(1, b""))
    board.loop.run_forever()
    assert heard == [Answered(1, b""), ChannelClosed] and not raised
