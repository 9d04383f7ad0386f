"""The loops of the six, in two real processes."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from smtpd.ipc.channel import Channel
from smtpd.ipc.channel_set import connect
from smtpd.ipc.declaration import Table
from smtpd.ipc.log import log
from smtpd.ipc.loop import prepare
from smtpd.ipc.selector_loop import SelectorLoop

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


LOOPS = {"uvloop": prepare, "selectors": SelectorLoop}
COUNT = 3000
SIZE = 2000


def answer(state, channel, imsg, descriptor):
    if isinstance(imsg, Stop):
        state.stop()
    else:
        channel.send(Answered(imsg.request, imsg.data))


def serve(loop, descriptor):
    """The other process: answers everything, and floods on its own account."""
    loop = LOOPS[loop]()
    channel = Channel(socket.socket(fileno=descriptor), TABLE, "right", "left")
    connect(loop, [channel], {"left": answer}, loop)
    for number in range(COUNT):
        channel.send(Answered(COUNT + number, b"r" * SIZE))
    loop.run_forever()


def serve_parent(loop, descriptor):
    """As any of the six: its parent speaks, and one word of it is the end of a process that has a defect."""

    def fail(*_):
        raise ZeroDivisionError

    loop = LOOPS[loop]()
    channel = Channel(socket.socket(fileno=descriptor), TABLE, "right", "parent")
    connect(loop, [channel], {"parent": fail}, None)
    loop.run_forever()


def started(loop, descriptor, serve="serve", **more):
    program = f"from tests.ipc.test_loop import {serve}; {serve}({loop!r}, {descriptor})"
    process = subprocess.Popen([sys.executable, "-c", program], pass_fds=[descriptor], **more)
    os.close(descriptor)
    return process


@pytest.fixture(params=LOOPS)
def loop(request):
    """The loop of the other process, and in the first test of ours."""
    return request.param


@pytest.fixture
def ends():
    pair = socket.socketpair()
    for end in pair:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    yield pair
    for end in pair:
        end.close()


def test_two_processes_saturated_in_both_directions_do_not_deadlock(ends, loop):
    """Megabytes in both directions through 4 KiB of buffer: neither ever stops reading."""
    got = set()
    ours, theirs = ends
    peer = started(loop, theirs.detach())
    ours_loop = LOOPS[loop]()
    channel = Channel(ours, TABLE, "left", "right")

    def collect(state, channel, imsg, descriptor):
        got.add(imsg.request)
        if len(got) == 2 * COUNT:
            channel.send(Stop())
            ours_loop.call_soon(ours_loop.stop)

    channels = connect(ours_loop, [channel], {"right": collect}, None)
    deadline = ours_loop.call_later(60, ours_loop.stop)
    for number in range(COUNT):
        channel.send(Ask(number, b"l" * SIZE))
    ours_loop.run_forever()
    deadline.cancel()
    assert got == set(range(2 * COUNT))
    ours_loop.call_soon(ours_loop.stop)  # what was sent last leaves
    ours_loop.run_forever()
    assert peer.wait(20) == 0
    channels.remove(channel)
    ours_loop.close()
    log.later = None


def test_a_forged_frame_ends_the_process_at_once(ends, loop):
    ours, theirs = ends
    peer = started(loop, theirs.detach())
    ours.sendall(b"\xff" * 64)
    assert peer.wait(20) == 1


def test_the_loop_does_not_live_on_a_broken_pipe(ends, loop):
    ours, theirs = ends
    peer = started(loop, theirs.detach())
    assert ours.recv(100)
    ours.close()
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            peer.wait(0.5)  # a peer that goes is the parent's business: this one has no parent, and just goes on
    finally:
        os.kill(peer.pid, signal.SIGKILL)
        peer.wait()


def test_the_end_of_the_parent_is_the_end_in_order(ends, loop):
    ours, theirs = ends
    peer = started(loop, theirs.detach(), "serve_parent", stderr=subprocess.PIPE)
    ours.close()
    assert peer.communicate(timeout=20) == (None, b"") and peer.returncode == 0


def test_a_forged_frame_of_the_parent_is_fatal(ends, loop):
    ours, theirs = ends
    peer = started(loop, theirs.detach(), "serve_parent", stderr=subprocess.PIPE)
    ours.sendall(b"\xff" * 64)
    _, logged = peer.communicate(timeout=20)
    assert peer.returncode == 1 and logged.startswith(b"warn: fatal: parent ")


def test_an_exception_that_nothing_has_caught_is_fatal(ends, loop):
    ours, theirs = ends
    peer = started(loop, theirs.detach(), "serve_parent")
    parent = Channel(ours, TABLE, "parent", "right")
    parent.send(Stop())
    parent.flush()
    assert peer.wait(20) == 1


def test_the_channel_of_a_peer_that_is_gone_is_closed_and_asked_no_more(loop):
    ours_loop = LOOPS[loop]()
    one, other = socket.socketpair()
    other.close()
    channel = Channel(one, TABLE, "left", "right")
    connect(ours_loop, [channel], {"right": pytest.fail}, None)
    ours_loop.call_later(0.01, ours_loop.stop)
    ours_loop.run_forever()
    assert channel.closed
    ours_loop.close()
    log.later = None


@pytest.mark.parametrize(
    "error, transport, status", [(OSError, "a client's", 7), (OSError, None, 1), (KeyError, "a client's", 1)]
)
def test_an_error_of_a_clients_connection_that_its_protocol_hears_of_is_not_fatal(error, transport, status):
    loop = prepare()
    pid = os.fork()
    if pid == 0:
        try:
            loop.call_exception_handler({"message": "", "exception": error(), "transport": transport})
        finally:
            os._exit(7)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status
    loop.close()
