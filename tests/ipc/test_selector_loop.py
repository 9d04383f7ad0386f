"""The loop over selectors: descriptors, times, signals, other threads."""

import os
import random
import signal
import socket
import threading

import pytest

from smtpd.ipc.selector_loop import TIMERS_UNCOUNTED, SelectorLoop, forget_signals
from tests.stress import WAIT_MAX, hasty_threads, join, rounds


@pytest.fixture
def loop():
    made = SelectorLoop()
    yield made
    made.close()


def test_a_loop_that_is_closed_keeps_no_descriptor():
    before = len(os.listdir("/proc/self/fd"))
    SelectorLoop().close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_times_come_in_their_order_and_a_cancelled_one_never(loop):
    heard = []
    loop.call_later(0.002, lambda: heard.append("second"))
    loop.call_later(0.001, lambda: heard.append("first"))
    loop.call_later(0.0015, lambda: heard.append("never")).cancel()
    while len(heard) < 2:
        loop.turn()
    assert heard == ["first", "second"]


def test_a_timer_that_is_set_again_and_again_does_not_grow(loop):
    steady = [loop.call_later(3600, int) for _ in range(100)]
    for _ in range(10_000):
        loop.call_later(60, int).cancel()
    assert len(loop._timers) <= 2 * len(steady) + 1
    assert {id(timer) for timer in steady} <= {id(timer) for _, _, timer in loop._timers}


def test_times_stay_in_their_order_when_cancelled_ones_are_forgotten(loop):
    delays = [*range(1000, 1000 + 5 * TIMERS_UNCOUNTED)]
    random.Random(1).shuffle(delays)
    for delay in delays:
        timer = loop.call_later(delay, lambda: None)
        if delay % 3:
            timer.cancel()
    assert len(loop._timers) < len(delays)
    assert all(loop._timers[(at - 1) // 2] <= entry for at, entry in enumerate(loop._timers) if at)


def test_a_time_that_was_cancelled_does_not_end_the_wait(loop):
    loop.call_later(0, lambda: None).cancel()
    loop.call_later(60, lambda: None)
    assert 50 < loop._patience() <= 60


def test_a_time_that_is_cancelled_in_the_turn_in_which_it_has_come_never_comes(loop):
    heard = []
    loop.call_later(0, lambda: (heard.append("first"), second.cancel()))
    second = loop.call_later(0, lambda: heard.append("second"))
    loop.call_later(0, lambda: heard.append("third"))
    while "third" not in heard:
        loop.turn()
    assert heard == ["first", "third"]


def test_it_runs_until_it_is_to_end(loop):
    heard = []
    loop.call_later(0, lambda: None).cancel()
    loop.call_later(0.001, lambda: heard.append("first"))
    loop.call_later(0.002, lambda: (heard.append("second"), loop.stop()))
    loop.call_later(60, lambda: heard.append("never"))
    loop.run_forever()
    assert heard == ["first", "second"]


def test_a_descriptor_that_is_forgotten_may_be_closed(loop):
    reading, writing = os.pipe()
    heard = []

    def read():
        heard.append(os.read(reading, 100))
        loop.remove_reader(reading)
        os.close(reading)

    loop.add_reader(reading, read)
    os.write(writing, b"x")
    loop.turn()
    loop.call_later(0, lambda: None)
    loop.turn()
    os.close(writing)
    assert heard == [b"x"]


def test_one_that_is_closed_by_another_in_the_same_turn_is_not_called_any_more(loop):
    pipes = [os.pipe() for _ in range(2)]
    called = []

    def close_the_other(number):
        called.append(number)
        loop.remove_reader(pipes[1 - number][0])
        os.close(pipes[1 - number][0])

    for number, (reading, writing) in enumerate(pipes):
        loop.add_reader(reading, lambda number=number: close_the_other(number))
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
        loop.call_later(0, lambda: None)
        loop.turn()
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGTERM, before)


def test_signals_of_which_none_was_handled_are_not_touched(monkeypatch):
    changed = []
    monkeypatch.setattr(signal, "signal", lambda number, handler: changed.append(number))
    forget_signals()
    assert signal.SIGINT in changed and signal.SIGPIPE in changed  # as Python begins
    assert not [number for number in changed if signal.getsignal(number) is signal.SIG_DFL]


def test_calls_that_are_to_come_soon_come_in_order_and_what_they_add_behind_them(loop):
    heard = []

    def first():
        heard.append("first")
        loop.call_soon(third)

    def third():
        heard.append("third")
        loop.call_soon(heard.append, "fourth")

    loop.call_soon(first)
    loop.call_soon(heard.append, "second")
    loop.turn()
    assert heard == ["first", "second", "third"]
    loop.turn()
    assert heard == ["first", "second", "third", "fourth"]


def test_a_call_that_adds_itself_again_and_again_keeps_nothing_from_being_read(loop):
    reading, writing = os.pipe()
    heard = []

    def busy():
        loop.call_soon(busy)

    def read():
        heard.append(os.read(reading, 1))
        loop.remove_reader(reading)
        loop.stop()

    busy()
    loop.add_reader(reading, read)
    os.write(writing, b"x")
    loop.run_forever()
    assert heard == [b"x"]
    os.close(reading)
    os.close(writing)


def test_what_was_to_come_soon_before_the_end_still_comes(loop):
    heard = []
    loop.call_soon(heard.append, "before")
    loop.stop()
    loop.call_soon(heard.append, "behind")
    loop.run_forever()
    assert heard == ["before", "behind"]


def test_one_descriptor_is_read_and_written_and_each_ends_by_itself(loop):
    one, other = socket.socketpair()
    heard = []
    with one, other:
        loop.add_reader(one.fileno(), heard.append, "read")
        loop.add_writer(one.fileno(), heard.append, "write")
        other.send(b"x")
        loop.turn()
        assert sorted(heard) == ["read", "write"]
        assert loop.remove_writer(one.fileno()) and not loop.remove_writer(one.fileno())
        assert not loop.remove_writer(other.fileno()) and not loop.remove_reader(other.fileno())
        loop.turn()
        assert sorted(heard) == ["read", "read", "write"]
        one.recv(1)
        assert loop._selector.select(0) == []  # there is room all the time, and nothing waits for it
        assert loop.remove_reader(one.fileno()) and not loop.remove_reader(one.fileno())
        loop.call_soon(heard.clear)
        loop.turn()
        assert heard == []
        loop.add_reader(one.fileno(), heard.append, "read")
        loop.add_writer(one.fileno(), heard.append, "write")
        loop.turn()
        assert heard == ["write"]
        assert loop.remove_reader(one.fileno()) and not loop.remove_reader(one.fileno())
        loop.turn()
        assert heard == ["write", "write"]


def test_a_descriptor_without_room_is_read_and_not_written(loop):
    one, other = socket.socketpair()
    heard = []
    with one, other:
        one.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                one.send(bytes(4096))
        loop.add_reader(one.fileno(), heard.append, "read")
        loop.add_writer(one.fileno(), heard.append, "write")
        other.send(b"x")
        loop.turn()
        assert heard == ["read"]


def test_a_descriptor_that_is_not_to_be_written_any_more_is_not_in_the_same_turn_either(loop):
    one, other = socket.socketpair()
    heard = []
    with one, other:
        loop.add_reader(one.fileno(), loop.remove_writer, one.fileno())
        loop.add_writer(one.fileno(), heard.append, "write")
        other.send(b"x")
        loop.turn()
        assert heard == []


def test_a_number_that_is_another_descriptor_meanwhile_is_not_called_for_the_old_one(loop):
    """The first callback of a turn exchanges what the second one's number stands for."""
    pipes = [os.pipe() for _ in range(2)]
    silent = os.pipe()
    called = []

    def exchange(number):
        called.append(number)
        other = pipes[1 - number][0]
        loop.remove_reader(other)
        os.dup2(silent[0], other)
        loop.add_reader(other, called.append, "the new one")

    for number, (reading, writing) in enumerate(pipes):
        loop.add_reader(reading, exchange, number)
        os.write(writing, b"x")
    loop.turn()
    assert len(called) == 1
    for descriptor in (*pipes[0], *pipes[1], *silent):
        os.close(descriptor)


@pytest.mark.parametrize("number", range(3))
def test_a_call_of_another_thread_ends_the_wait(loop, number):
    heard = []
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(heard.append, number))
    thread.start()
    while not heard:
        loop.turn()
    thread.join()
    assert heard == [number]


def test_more_wake_ups_than_its_pipe_holds_block_no_thread(loop):
    heard = []
    for number in range(100_000):
        loop.call_soon_threadsafe(heard.append, number)
    loop.turn()
    assert heard == [*range(100_000)]


def test_a_pipe_full_of_signals_blocks_no_thread_either(loop):
    with pytest.raises(BlockingIOError):
        while True:
            os.write(loop._wake, bytes([signal.SIGUSR1]) * 4096)
    heard = []
    loop.call_soon_threadsafe(heard.append, "called")
    loop.turn()
    assert heard == ["called"]


def test_a_signal_is_heard_behind_any_number_of_wake_ups(loop):
    before = signal.getsignal(signal.SIGUSR1)
    heard = []
    loop.on_signal(signal.SIGUSR1, lambda: heard.append("USR1"))
    try:
        for number in range(100_000):
            loop.call_soon_threadsafe(heard.append, number)
        os.kill(os.getpid(), signal.SIGUSR1)
        loop.turn()
        assert heard == ["USR1", *range(100_000)]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_loop_that_is_closed_leaves_no_descriptor_for_signals():
    before, made = signal.getsignal(signal.SIGUSR1), SelectorLoop()
    made.on_signal(signal.SIGUSR1, lambda: None)
    signal.signal(signal.SIGUSR1, before)
    made.close()
    assert signal.set_wakeup_fd(-1) == -1


def test_the_end_of_a_loop_without_signals_leaves_those_of_another_one(loop):
    before = signal.getsignal(signal.SIGUSR1)
    loop.on_signal(signal.SIGUSR1, lambda: None)
    signal.signal(signal.SIGUSR1, before)
    SelectorLoop().close()
    assert signal.set_wakeup_fd(-1) == loop._wake


def test_hand_over_calls_of_threads_are_neither_lost_nor_doubled(loop):
    """Each thread's in their order; the last one ends the loop."""
    with hasty_threads():
        for _ in rounds(3):
            heard = {number: [] for number in range(4)}
            left = {*heard}

            def ended(number, left=left):
                left.discard(number)
                if not left:
                    loop.stop()

            def work(number, heard=heard, ended=ended):
                for count in range(500):
                    loop.call_soon_threadsafe(heard[number].append, count)
                loop.call_soon_threadsafe(ended, number)

            threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in heard]
            for thread in threads:
                thread.start()
            guard = loop.call_later(WAIT_MAX, pytest.fail, "a call of a thread was lost")
            loop.run_forever()
            guard.cancel()
            join(threads)
            assert all(counts == [*range(500)] for counts in heard.values())
