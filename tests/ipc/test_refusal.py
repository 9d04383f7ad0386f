"""The kernel takes nothing though the socket has room: descriptors of ours are under way that nobody has read yet
(ETOOMANYREFS), or there is no memory.  Nobody spins until that is over, and everything arrives when it is."""

import asyncio
import errno
import os
import resource
import socket
import subprocess
import sys
import time

import pytest

from smtpd.ipc.channel import FIRST_PAUSE, LONGEST_PAUSE, REFUSALS, Channel
from smtpd.ipc.channel_set import ChannelSet
from smtpd.ipc.declaration import Table
from smtpd.ipc.loop import prepare
from smtpd.ipc.selector_loop import SelectorLoop

TABLE = Table()


@TABLE.declare("left -> right", descriptor=True)
class Take:
    number: int


@TABLE.declare("left -> right", limit=64_000)
class Tell:
    data: bytes


class Kernel(socket.socket):
    """A socket whose kernel refuses to take anything for as long as it is told to."""

    refuses = 0  # errno
    times = 1 << 30
    asked = 0

    def sendmsg(self, *arguments):
        self.asked += 1
        if self.refuses and self.asked <= self.times:
            raise OSError(self.refuses, os.strerror(self.refuses))
        return super().sendmsg(*arguments)


@pytest.fixture
def ends():
    one, other = socket.socketpair()
    kernel = Kernel(fileno=one.detach())
    near, far = Channel(kernel, TABLE, "left", "right"), Channel(other, TABLE, "right", "left")
    yield kernel, near, far
    for channel in (near, far):
        if not channel.closed:
            channel.close()


@pytest.mark.parametrize("number", sorted(REFUSALS), ids=errno.errorcode.get)
def test_what_the_kernel_refuses_is_tried_again_later_and_later(ends, number):
    kernel, near, far = ends
    kernel.refuses = number
    near.send(Tell(b"one"))
    pauses = []
    for _ in range(12):
        assert not near.flush()
        pauses.append(near.pause)
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE] and pauses[-1] == LONGEST_PAUSE
    kernel.refuses = 0
    assert near.flush() and not near.pause
    assert far.receive() == [(Tell(b"one"), None)]


def test_a_full_socket_is_waited_for_without_a_pause(ends):
    kernel, near, _ = ends
    kernel.refuses, kernel.times = errno.ETOOMANYREFS, 1
    for _ in range(30):
        near.send(Tell(bytes(60_000)))
    assert not near.flush() and near.pause
    assert not near.flush() and not near.pause


def test_without_a_loop_it_is_waited_for_with_a_bound(ends):
    kernel, near, far = ends
    kernel.refuses = errno.ETOOMANYREFS
    near.send(Tell(b"one"))
    assert not near.flush_within(2.5 * FIRST_PAUSE)
    assert kernel.asked <= 4
    kernel.times = kernel.asked + 1
    assert near.flush_within(None)
    assert far.receive() == [(Tell(b"one"), None)]


def test_the_loop_of_the_six_does_not_spin(ends):
    kernel, near, far = ends
    kernel.refuses = errno.ETOOMANYREFS
    loop = prepare()
    board = ChannelSet(loop)
    board.add(near, pytest.fail, pytest.fail)
    near.send(Tell(b"one"))
    loop.call_later(2 * FIRST_PAUSE, near.send, Tell(b"two"))
    loop.call_later(5 * FIRST_PAUSE, loop.stop)
    loop.run_forever()
    assert 1 < kernel.asked <= 4
    kernel.refuses = 0
    loop.call_later(10 * FIRST_PAUSE, loop.stop)
    loop.run_forever()
    assert far.receive() == [(Tell(b"one"), None), (Tell(b"two"), None)]
    near.send(Tell(b"more"))
    loop.run_until_complete(_turns())
    assert far.receive() == [(Tell(b"more"), None)]
    kernel.refuses = errno.ETOOMANYREFS
    near.send(Tell(b"three"))
    loop.run_until_complete(_turns())
    board.remove(near)  # while it pauses
    assert not board._pausing
    asked = kernel.asked
    loop.call_later(3 * FIRST_PAUSE, loop.stop)
    loop.run_forever()
    assert not board._pausing and kernel.asked == asked
    loop.close()


@pytest.mark.parametrize("make", [prepare, SelectorLoop], ids=["six", "root"])
def test_the_kernel_is_not_asked_again_when_the_other_end_has_gone_meanwhile(ends, make):
    kernel, near, far = ends
    kernel.refuses = errno.ETOOMANYREFS
    loop = make()
    channels = ChannelSet(loop)
    channels.add(near, pytest.fail, lambda channel, error: loop.remove_reader(channel.fileno()))
    near.send(Tell(b"one"))
    loop.call_later(FIRST_PAUSE / 2, setattr, kernel, "refuses", errno.EPIPE)
    loop.call_later(6 * FIRST_PAUSE, loop.stop)
    loop.run_forever()
    assert kernel.asked == 2 and not channels._pausing
    channels.remove(near)
    loop.close()


@pytest.mark.parametrize("make", [prepare, SelectorLoop], ids=["six", "root"])
def test_the_kernel_is_not_asked_again_for_what_is_sent_while_it_refuses(ends, make, monkeypatch):
    for name in ("FIRST_PAUSE", "LONGEST_PAUSE"):
        monkeypatch.setattr(f"smtpd.ipc.channel.{name}", 60.0)
    kernel, near, _ = ends
    kernel.refuses = errno.ETOOMANYREFS
    loop = make()
    channels = ChannelSet(loop)
    channels.add(near, pytest.fail, pytest.fail)
    for data in (b"one", b"two"):
        near.send(Tell(data))
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
    assert kernel.asked == 1
    channels.remove(near)
    loop.close()


async def _turns():
    for _ in range(3):
        await asyncio.sleep(0)


def test_the_loop_of_root_does_not_spin(ends):
    kernel, near, far = ends
    kernel.refuses = errno.ETOOMANYREFS
    loop = SelectorLoop()
    channels = ChannelSet(loop)
    channels.add(near, pytest.fail, pytest.fail)
    near.send(Tell(b"one"))
    over = []
    loop.call_later(5 * FIRST_PAUSE, lambda: over.append(True))
    turns = 0
    while not over:
        loop.turn()
        turns += 1
    assert 1 < kernel.asked <= 4 and turns <= 8
    kernel.refuses = 0
    while near.bytes_waiting:
        loop.turn()
    assert far.receive() == [(Tell(b"one"), None)]
    channels.remove(near)
    loop.close()


# -- the real thing ------------------------------------------------------------------------------------

STRANGER = 54398  # nobody's uid: what is under way is counted by user, and root's has no bound
WAIT = 0.4  # seconds


def wait_for_the_kernel(which):
    """As a user who has as many descriptors under way as he may: what the wait costs, and whether all arrives."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(STRANGER, STRANGER, STRANGER)
        os.setresuid(STRANGER, STRANGER, STRANGER)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    pile, reader = socket.socketpair()
    try:
        while True:
            socket.send_fds(pile, [b"x"], [0])
    except OSError as error:
        assert error.errno == errno.ETOOMANYREFS, error
    one, other = socket.socketpair()
    for end in (one, other):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    near, far = Channel(one, TABLE, "left", "right"), Channel(other, TABLE, "right", "left")
    for number in range(10):
        near.send(Take(number), os.dup(0))
        near.send(Tell(bytes(10_000)))
    turn = _turner_of_six(near) if which == "six" else _turner_of_root(near)
    before = time.process_time()
    turn(WAIT)
    spent = time.process_time() - before
    assert near.bytes_waiting > 100_000
    reader.close()
    pile.close()  # and nothing is under way any more
    got, deadline = [], time.monotonic() + 20
    while len(got) < 20:
        assert time.monotonic() < deadline
        turn(0.01)
        for imsg, descriptor in far.receive():
            got.append(imsg)
            if descriptor is not None:
                os.close(descriptor)
    assert [imsg.number for imsg in got if isinstance(imsg, Take)] == [*range(10)]
    assert spent < WAIT / 10, f"{spent:.2f} s of CPU in {WAIT} s"


def _turner_of_six(near):
    loop = prepare()
    ChannelSet(loop).add(near, None, None)

    def turn(seconds):
        loop.call_later(seconds, loop.stop)
        loop.run_forever()

    return turn


def _turner_of_root(near):
    loop = SelectorLoop()
    ChannelSet(loop).add(near, None, None)

    def turn(seconds):
        over = []
        loop.call_later(seconds, lambda: over.append(True))
        while not over:
            loop.turn()

    return turn


@pytest.mark.parametrize("which", ["six", "root"])
def test_a_peer_that_stops_reading_descriptors_costs_no_time_of_the_processor(which):
    program = f"from tests.ipc.test_refusal import wait_for_the_kernel; wait_for_the_kernel({which!r})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
