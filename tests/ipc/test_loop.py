"""The loop of the six, in two real processes."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from smtpd.ipc.channel import Channel
from smtpd.ipc.declaration import Table
from smtpd.ipc.loop import connect, prepare

TABLE = Table()


@TABLE.declare("left -> right", limit=64_000)
class Ask:
    request: int
    data: bytes


@TABLE.declare("right -> left", answers=Ask, limit=64_000)
class Answered:
    request: int
    data: bytes


@TABLE.declare("left -> right")
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


def started(descriptor):
    program = f"from tests.ipc.test_loop import serve; serve({descriptor})"
    process = subprocess.Popen([sys.executable, "-c", program], pass_fds=[descriptor])
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
