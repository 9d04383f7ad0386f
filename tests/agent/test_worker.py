"""What an agent makes of its socket: errands, nonsense, and the end."""

import os
import select
import socket
import struct
import tempfile
import threading
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from smtpd.agent.worker import EX_PROTOCOL, EX_SOFTWARE, Workers
from smtpd.envelope import Outcome
from smtpd.errand import PACKET_MAX, Deliver, FrameError, ReadForward, Result, decode, encode
from tests.agent.conftest import MAIL, TEST_TIMEOUT, UID, Agent, errand, files
from tests.stress import Meanwhile, join


def test_it_ends_when_queue_closes_its_socket(start):
    assert start().end() == 0


def test_what_was_on_its_way_is_done_before_it_ends(start, home):
    agent = start()
    for number in range(1, 41):
        agent.send(errand(number))
    assert agent.end() == 0
    new, tmp = files(home)
    assert len(new) == len(set(os.listdir(home / "Maildir/new"))) and tmp == []


@pytest.mark.parametrize(
    "packet",
    [
        b"x",
        b"\0" * 16,
        encode(errand())[:-1],
        encode(errand()) + b"x",
        encode(Result(1, Outcome.DELIVERED, "")),
        encode(ReadForward(1)),
        encode(errand()).ljust(PACKET_MAX + 1, b"x"),
        struct.pack(">BBHIQ", 1, 0, 0, 2**32 - 1, 1),
    ],
    ids=["short", "zeros", "cut", "long", "answer", "other-kind", "too-long", "length"],
)
def test_a_packet_that_is_no_errand_ends_it(start, packet):
    agent = start()
    agent.send(packet)
    assert agent.process.wait(30) == EX_PROTOCOL


def test_mail_for_a_forward_agent_ends_it(start):
    agent = start("forward", "")
    agent.send(errand())
    assert agent.process.wait(30) == EX_PROTOCOL


@pytest.mark.parametrize("size, count", [(None, 1), (None, 16), (5000, 0), (5000, 2)])
def test_a_stray_or_a_missing_descriptor_ends_it(start, size, count):
    agent = start()
    with tempfile.TemporaryFile() as file:
        agent.socket.sendmsg(
            [encode(errand(size=size))],
            [(1, 1, struct.pack(f"{count}i", *[file.fileno()] * count))] if count else [],
        )
        assert agent.process.wait(30) == EX_PROTOCOL


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: looks into a process that cannot be inspected")
def test_no_descriptor_stays_behind(start):
    agent = start()
    agent.deliver(errand())
    before = os.listdir(f"/proc/{agent.process.pid}/fd")
    with tempfile.TemporaryFile() as file:
        file.write(MAIL * 200)
        file.flush()
        for number in range(2, 20):
            agent.deliver(errand(number, size=len(MAIL) * 200), file.fileno())
            agent.deliver(errand(number + 50, size=len(MAIL) * 999), file.fileno())  # too short
    assert os.listdir(f"/proc/{agent.process.pid}/fd") == before


def test_it_waits_for_a_queue_that_does_not_read(start, home):
    agent = start()
    for number in range(1, 201):
        agent.send(errand(number))
    assert len([agent.receive() for _ in range(200)]) == 200
    assert len(files(home)[0]) == 200


def test_addresses_with_line_ends_add_no_line(start, home):
    told = replace(errand(), sender="a\nX-Evil: 1\n", recipient="b\r\nX-Evil: 2")
    start().deliver(told)
    (content,), _ = files(home)
    assert content == b"Return-Path: <a?X-Evil: 1?>\nDelivered-To: b??X-Evil: 2\n" + MAIL


def test_it_starts_no_thread_for_a_single_mail(start):
    agent = start()
    for number in range(1, 4):
        agent.deliver(errand(number))
    assert len(os.listdir(f"/proc/{agent.process.pid}/task")) == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: limits of another user")
def test_a_worker_is_not_idle_while_another_one_is_busy():
    """Queue keeps the agent, and gives it more: a command may run for longer than a hand has to wait."""
    go_on = threading.Event()

    class Kind:
        REQUESTS, WORKERS_MAX, BATCH_MAX, BATCH_BYTES, GATHER_TIME, SAME_MESSAGE, SPARE_WORKER = (
            (Deliver,),
            2,
            1,
            1,
            0,
            False,
            True,
        )
        draining, visible_paths = False, ()

        def make_executor(self, *_):
            return self

        def execute(self, batch):
            (told, _) = batch[0]
            if told.envelope & 0xFF == 1:
                go_on.wait(TEST_TIMEOUT)
            return [Result(told.envelope, Outcome.DELIVERED, "")]

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        ours.settimeout(TEST_TIMEOUT)
        workers = Workers(_Hasty(theirs), None, Kind())
        main = threading.Thread(target=workers.run, daemon=True)
        main.start()
        ours.send(encode(errand(1)))
        time.sleep(0.05)  # several times as long as a hand waits
        ours.send(encode(errand(2)))
        assert decode(ours.recv(100)).envelope & 0xFF == 2
        go_on.set()
        assert decode(ours.recv(100)).envelope & 0xFF == 1
        main.join(TEST_TIMEOUT)  # with nothing at work, they end by themselves
        assert not main.is_alive()


def test_an_exception_that_ends_a_worker_ends_the_agent(monkeypatch):
    """In a thread it would go unnoticed, with errands that nobody answers."""

    class Kind:
        WORKERS_MAX, SAME_MESSAGE = 1, False

        def make_executor(self, *_):
            raise ZeroDivisionError

    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        Workers(theirs, None, Kind()).run()
    assert statuses == [EX_SOFTWARE]


class _Hasty:
    """A socket on which nothing is waited for long."""

    def __init__(self, sock):
        self._sock = sock

    def setsockopt(self, *_):
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 10_000))

    def __getattr__(self, name):
        return getattr(self._sock, name)


def test_at_the_limit_of_processes_mail_is_delivered_by_one_worker(start, home):
    agent = start(limits=["RLIMIT_NPROC=0"])
    for number in range(1, 101):
        agent.send(errand(number))
    assert {agent.receive().outcome for _ in range(100)} == {Outcome.DELIVERED}


def test_the_home_is_not_written_outside_the_maildir(start, home):
    start().deliver(errand())
    assert [path.name for path in home.iterdir()] == ["Maildir"]


def test_the_agent_is_that_user_and_confined(start):
    agent = start()
    agent.deliver(errand())
    lines = Path(f"/proc/{agent.process.pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["Uid"].split() == [str(UID)] * 4
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2" and int(status["CapEff"], 16) == 0


def test_an_agent_whose_queue_is_gone_gets_no_sigpipe(home):
    agent = Agent(home)
    for number in range(1, 30):
        agent.send(errand(number))
    agent.receive()
    assert agent.end() == 0


# -- batches ----------------------------------------------------------------------------------------------


class Batches:
    """Takes batches; its executors do nothing."""

    REQUESTS, WORKERS_MAX, BATCH_MAX, BATCH_BYTES = (Deliver,), 4, 3, 1 << 20
    GATHER_TIME, SAME_MESSAGE, SPARE_WORKER = 0, False, False

    def __init__(self, **limits):
        vars(self).update(limits)


class Patient:
    """A socket on which a look that would block is taken a few times, and then fails the test."""

    def __init__(self, sock):
        self._sock, self._looks = sock, 0

    def recvmsg(self, *arguments):
        self._looks += 1
        assert self._looks < 10, "it looks again and again"
        return self._sock.recvmsg(*arguments)

    def __getattr__(self, name):
        return getattr(self._sock, name)


@pytest.fixture
def taking():
    """The workers of an agent with these limits, for which these errands wait; `started`: how many were started."""
    sockets = []

    def workers(*errands, **limits):
        ours, theirs = pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sockets.extend(pair)
        for told in errands:
            ours.send(encode(told))
        made = Workers(Patient(theirs), None, Batches(**limits))
        made.queue, made.started = ours, []
        made._start_another = lambda: made.started.append(1)
        return made

    yield workers
    for sock in sockets:
        sock.close()


def of_message(message, number=1, **more):
    return replace(errand(number, **more), envelope=message << 32 | number)


def taken(batch):
    return [told.envelope & 0xFF for told, _ in batch]


def test_a_batch_is_no_longer_than_it_may_be(taking):
    workers = taking(*map(errand, range(1, 6)))
    assert taken(workers._take_batch()) == [1, 2, 3]
    assert taken(workers._take_batch()) == [4, 5]


def test_the_errand_that_exceeds_the_bytes_of_a_batch_is_its_last(taking):
    workers = taking(*(errand(number, content=b"x" * 10) for number in range(1, 6)), BATCH_BYTES=20)
    assert taken(workers._take_batch()) == [1, 2]
    workers._kind.BATCH_BYTES = 21
    assert taken(workers._take_batch()) == [3, 4, 5]


@pytest.mark.parametrize("spare, count, started", [(False, 2, 0), (False, 3, 1), (True, 1, 1), (True, 3, 1)])
def test_another_worker_is_started_behind_a_full_batch_or_where_one_has_to_be_idle(taking, spare, count, started):
    workers = taking(*map(errand, range(1, count + 1)), SPARE_WORKER=spare)
    assert len(workers._take_batch()) == count and len(workers.started) == started


def test_the_end_of_queue_starts_no_worker(taking):
    workers = taking(SPARE_WORKER=True)
    workers.queue.close()
    assert workers._take_batch() == [] and workers.started == []


def test_errands_of_several_messages_share_a_batch(taking):
    workers = taking(of_message(7, 1), of_message(8, 2), of_message(9, 3))
    assert taken(workers._take_batch()) == [1, 2, 3]


def test_a_batch_for_one_message_leaves_the_next_message_for_another_worker(taking):
    workers = taking(of_message(7, 1), of_message(7, 2), of_message(8, 3), SAME_MESSAGE=True)
    assert taken(workers._take_batch()) == [1, 2] and len(workers.started) == 1
    assert taken(workers._take_batch()) == [3] and len(workers.started) == 1  # nothing is left


def test_the_next_errand_of_a_batch_is_waited_for_a_moment(taking):
    workers = taking(errand(1), GATHER_TIME=1)
    wait, later = workers._wait_for_more, [errand(2)]

    def waiting():
        if later:
            workers.queue.send(encode(later.pop()))
        wait()

    workers._wait_for_more = waiting
    assert taken(workers._take_batch()) == [1, 2]


@pytest.mark.parametrize("milliseconds, waits", [(0, []), (7, [7])])
def test_an_errand_of_the_same_batch_is_waited_for_as_long_as_the_kind_says(taking, monkeypatch, milliseconds, waits):
    watched, waited = [], []

    class Poll:
        def register(self, sock, events):
            watched.append((sock, events))

        def poll(self, time):
            waited.append(time)

    workers = taking(errand(1), GATHER_TIME=milliseconds)
    monkeypatch.setattr(select, "poll", Poll)
    workers._wait_for_more()
    assert waited == waits and watched == [(workers._socket, select.POLLIN)] * len(waits)


def test_a_batch_does_not_wait_for_more_because_another_worker_is_busy(taking):
    workers = taking(errand(1))
    workers._busy = 1
    assert taken(workers._take_batch()) == [1]


@pytest.mark.parametrize("flag", [socket.MSG_TRUNC, socket.MSG_CTRUNC])
def test_a_packet_of_which_something_was_lost_is_refused_whatever_is_left(taking, flag):
    with pytest.raises(FrameError, match="longer than a frame"):
        taking()._decode(encode(errand()), [], flag)


# -- several workers --------------------------------------------------------------------------------------


def test_where_a_batch_is_for_one_message_one_worker_at_a_time_looks_and_takes(taking):
    """Otherwise the packet that it has looked at may be gone."""
    workers, locked = taking(SAME_MESSAGE=True), []

    def receive():
        locked.append(workers._take_lock.locked())
        return [], False

    workers._receive_batch = receive
    workers._take_batch()
    assert locked == [True] and not workers._take_lock.locked()


def test_elsewhere_all_workers_receive_side_by_side(taking):
    workers, meeting = taking(), threading.Barrier(2)
    workers._receive_batch = lambda: (meeting.wait(TEST_TIMEOUT), ([], False))[1]
    threads = [threading.Thread(target=workers._take_batch, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    join(threads)
    assert not meeting.broken


class Serving:
    """Workers whose threads do nothing until they are to end."""

    def __init__(self, most):
        self.over = threading.Event()
        self.workers = Workers(None, None, Batches(WORKERS_MAX=most))
        self.workers._serve = lambda: self.over.wait(TEST_TIMEOUT)

    def end(self):
        self.over.set()
        join(self.workers._living_threads())


def test_a_worker_that_is_started_while_ended_ones_are_sorted_out_is_waited_for():
    serving = Serving(4)
    other = Meanwhile(serving.workers._start_another)

    class Ended:
        def is_alive(self):
            other()
            return False

    serving.workers._threads = [Ended()]
    assert serving.workers._living_threads() == []
    other.end()
    assert len(serving.workers._living_threads()) == 1
    serving.end()


def test_two_workers_that_start_another_at_the_same_moment_start_no_more_than_there_may_be(monkeypatch):
    serving, start = Serving(2), threading.Thread.start
    other = Meanwhile(serving.workers._start_another)

    def slow(thread):
        if thread._target is serving.workers._serve:
            other()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", slow)
    serving.workers._start_another()
    other.end()
    assert len(serving.workers._threads) == 1
    serving.end()


def test_a_worker_that_has_ended_leaves_its_place_to_another():
    serving = Serving(2)
    serving.workers._start_another()
    serving.end()
    serving.over.clear()
    serving.workers._start_another()
    assert len(serving.workers._living_threads()) == 1
    serving.end()


def test_the_first_worker_waits_for_the_others_without_work(taking):
    looks = []

    class Other:
        alive = True

        def is_alive(self):
            looks.append(None)
            assert len(looks) < 5, "it looks again and again"
            return self.alive

        def join(self):
            self.alive = False

    workers = taking()
    workers._serve = lambda: None
    workers._threads = [Other()]
    workers.run()
    assert len(looks) == 2
