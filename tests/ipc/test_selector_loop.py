"""The loop of those that run as root: channels, descriptors, times, signals."""

import os
import signal
import socket

import pytest

from smtpd.ipc.channel import Channel, ChannelClosed, Violation
from smtpd.ipc.declaration import Table
from smtpd.ipc.selector_loop import SelectorLoop, forget_signals

TABLE = Table()


@TABLE.declare("a -> b -> a", limit=2**20)
class Word:
    text: str


@pytest.fixture
def loop():
    return SelectorLoop()


@pytest.fixture
def channels():
    one, other = socket.socketpair()
    a, b = Channel(one, TABLE, "a", "b"), Channel(other, TABLE, "b", "a")
    yield a, b
    for channel in (a, b):
        if not channel.closed:
            channel.close()


def fail(channel, error):
    raise AssertionError(error)


def test_what_a_channel_brings_goes_to_its_handler_in_order(loop, channels):
    a, b = channels
    heard = []
    loop.add(b, lambda channel, imsg, descriptor: heard.append(imsg.text), fail)
    loop.add(a, lambda channel, imsg, descriptor: None, fail)
    for word in ("one", "two", "three"):
        a.send(Word(word))
    loop.turn()
    assert heard == ["one", "two", "three"]


def test_what_came_before_a_channel_was_added_comes_first(loop, channels):
    a, b = channels
    heard = []
    a.send(Word("later"))
    a.flush()
    loop.add(
        b, lambda channel, imsg, descriptor: heard.append(imsg.text), fail, [(Word("one"), None), (Word("two"), None)]
    )
    loop.turn()
    assert heard == ["one", "two", "later"]


def test_what_came_before_is_not_told_of_a_channel_that_was_removed_meanwhile(loop, channels):
    _, b = channels
    loop.add(b, fail, fail, [(Word("one"), None)])
    loop.remove(b)
    loop.after(0, lambda: None)
    loop.turn()


def test_a_violation_in_what_came_before_is_told_as_any_other(loop, channels):
    _, b = channels
    told = []

    def refuse(channel, imsg, descriptor):
        raise Violation("never")

    loop.add(b, refuse, lambda channel, error: told.append(str(error)), [(Word("one"), None)])
    loop.after(0, lambda: None)
    loop.turn()
    assert told == ["never"]


def test_an_answer_leaves_in_the_same_turn(loop, channels):
    a, b = channels
    loop.add(b, lambda channel, imsg, descriptor: channel.send(imsg), fail)
    a.send(Word("ping"))
    a.flush()
    loop.turn()
    assert a.receive()[0][0].text == "ping"


def test_what_does_not_fit_goes_on_when_there_is_room_and_nobody_waits(loop, channels):
    a, b = channels
    for end in (a, b):
        end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    heard = []
    loop.add(a, lambda channel, imsg, descriptor: None, fail)
    loop.add(b, lambda channel, imsg, descriptor: heard.append(len(imsg.text)), fail)
    for _ in range(5):
        a.send(Word("x" * 100_000))
    while len(heard) < 5:
        loop.turn()
    assert heard == [100_000] * 5 and a.bytes_waiting == 0


def test_two_that_saturate_each_other_both_get_through(loop, channels):
    heard = {"a": 0, "b": 0}

    def count(channel, imsg, descriptor):
        heard[channel.me] += 1

    for end in channels:
        end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        loop.add(end, count, fail)
        for _ in range(50):
            end.send(Word("x" * 20_000))
    while heard != {"a": 50, "b": 50}:
        loop.turn()


def test_the_end_of_a_channel_is_told_once_after_what_was_still_to_be_read(loop, channels):
    a, b = channels
    heard = []

    def ended(channel, error):
        heard.append(type(error))
        loop.remove(channel)

    loop.add(b, lambda channel, imsg, descriptor: heard.append(imsg.text), ended)
    a.send(Word("last"))
    a.flush()
    a.close()
    b.send(Word("nobody reads this"))
    loop.turn()
    loop.turn()
    assert heard == ["last", ChannelClosed]
    loop.after(0, lambda: None)
    loop.turn()
    assert heard == ["last", ChannelClosed]


def test_what_a_peer_does_not_read_any_more_is_not_tried_again_and_again(loop, channels):
    """It has closed that direction only, so its end is not told, and poll says all the time that there is room."""
    a, b = channels
    loop.add(b, fail, fail)
    a.sock.shutdown(socket.SHUT_RD)
    b.send(Word("nobody reads this"))
    loop.after(0, lambda: None)
    loop.turn()
    assert b.bytes_waiting == 0


def test_nonsense_is_told_as_a_violation(loop, channels):
    a, b = channels
    heard = []
    loop.add(b, fail, lambda channel, error: heard.append(type(error)))
    a.sock.send(b"\xff" * 8 + b"\0" * 56)
    loop.turn()
    assert heard == [Violation]


def test_a_violation_raised_by_a_handler_is_the_channel_s(loop, channels):
    a, b = channels
    heard = []

    def handler(channel, imsg, descriptor):
        raise Violation("not now")

    loop.add(b, handler, lambda channel, error: heard.append(str(error)))
    a.send(Word("x"))
    a.flush()
    loop.turn()
    assert heard == ["not now"]


def test_times_come_in_their_order_and_a_cancelled_one_never(loop):
    heard = []
    loop.after(0.002, lambda: heard.append("second"))
    loop.after(0.001, lambda: heard.append("first"))
    loop.after(0.0015, lambda: heard.append("never")).cancel()
    while len(heard) < 2:
        loop.turn()
    assert heard == ["first", "second"]


def test_a_time_that_is_cancelled_in_the_turn_in_which_it_has_come_never_comes(loop):
    heard = []
    loop.after(0, lambda: (heard.append("first"), second.cancel()))
    second = loop.after(0, lambda: heard.append("second"))
    loop.after(0, lambda: heard.append("third"))
    while "third" not in heard:
        loop.turn()
    assert heard == ["first", "third"]


def test_it_runs_until_it_is_to_end(loop):
    heard = []
    loop.after(0, lambda: None).cancel()
    loop.after(0.001, lambda: heard.append("first"))
    loop.after(0.002, lambda: (heard.append("second"), setattr(loop, "ended", True)))
    loop.after(60, lambda: heard.append("never"))
    loop.run()
    assert heard == ["first", "second"]


def test_a_channel_that_is_removed_is_closed_and_another_may_get_its_number(loop, channels):
    a, b = channels
    number = b.fileno()
    loop.add(b, fail, fail)
    loop.remove(b)
    assert b.closed
    os.dup2(a.fileno(), number)
    loop.watch(number, lambda: None)
    loop.forget(number)
    os.close(number)
    loop.remove(b)  # again: nothing happens


def test_a_full_socket_is_waited_for_without_a_turn_after_the_other(loop, channels):
    a, b = channels
    loop.add(a, fail, fail)
    for _ in range(5):
        a.send(Word("x" * 900_000))
    over, turns = [], 0
    loop.after(0.02, lambda: over.append(True))
    while not over:
        loop.turn()
        turns += 1
    assert a.bytes_waiting and turns <= 4
    heard = 0
    while heard < 5:
        heard += len(b.receive())
        loop.flush()


def test_a_descriptor_that_is_forgotten_may_be_closed(loop):
    reading, writing = os.pipe()
    heard = []

    def read():
        heard.append(os.read(reading, 100))
        loop.forget(reading)
        os.close(reading)

    loop.watch(reading, read)
    os.write(writing, b"x")
    loop.turn()
    loop.after(0, lambda: None)
    loop.turn()
    os.close(writing)
    assert heard == [b"x"]


def test_one_that_is_closed_by_another_in_the_same_turn_is_not_called_any_more(loop):
    pipes = [os.pipe() for _ in range(2)]
    called = []

    def close_the_other(number):
        called.append(number)
        loop.forget(pipes[1 - number][0])
        os.close(pipes[1 - number][0])

    for number, (reading, writing) in enumerate(pipes):
        loop.watch(reading, lambda number=number: close_the_other(number))
        os.write(writing, b"x")
    loop.turn()
    assert len(called) == 1
    for descriptor in (pipes[called[0]][0], pipes[0][1], pipes[1][1]):
        os.close(descriptor)


def test_a_signal_is_handled_in_the_loop(loop):
    before = signal.getsignal(signal.SIGUSR1)
    heard = []
    loop.on_signal(signal.SIGUSR1, lambda: heard.append("USR1"))
    try:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert heard == []
        loop.turn()
        assert heard == ["USR1"]
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGUSR1, before)


def test_a_signal_that_has_another_handler_is_not_the_loops(loop):
    """As SIGINT, which Python handles itself, and which it writes to the descriptor of the loop as well."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGUSR2)}
    heard = []
    loop.on_signal(signal.SIGUSR1, lambda: heard.append("USR1"))
    signal.signal(signal.SIGUSR2, lambda *_: heard.append("USR2"))
    try:
        os.kill(os.getpid(), signal.SIGUSR2)
        loop.turn()
        assert heard == ["USR2"]
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("ignored", [False, True])
def test_a_child_that_forgets_signals_is_killed_by_them(loop, ignored):
    before = signal.getsignal(signal.SIGTERM)
    loop.on_signal(signal.SIGTERM, lambda: None)
    if ignored:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        pid = os.fork()
        if pid == 0:
            try:
                forget_signals()
                if signal.set_wakeup_fd(-1) == -1:  # what the child handles itself does not reach our loop
                    os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTERM
        loop.after(0, lambda: None)
        loop.turn()
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)
