"""The connections of an agent to its LMTP server: which are kept, which are given up, and which worker waits."""

import errno
import threading

import pytest

from mail_local import lmtp
from smtpd.agent import lmtp as lmtp_agent
from smtpd.agent.lmtp import ConnectionPool
from tests.mail_local.lmtp_server import serving
from tests.stress import Meanwhile

STUCK = 5.0  # seconds after which a test has failed


@pytest.fixture
def serve():
    with serving() as serve_one:
        yield serve_one


def to(server, **more):
    return ConnectionPool(lambda progress: lmtp.connect(lmtp.resolve(server.target), "here.test", progress), **more)


def nothing():
    pass


class Connection:
    """A connection to no server."""

    def __init__(self, *, idle=True, ready=True):
        self.mails, self.is_ready, self._idle = 0, ready, idle
        self.closed = threading.Event()

    def is_idle(self):
        return self._idle

    def close(self):
        assert not self.closed.is_set()
        self.closed.set()


def of(*connections, **more):
    """A pool whose server gives these connections, and then no more."""
    left = [*connections]

    def connect(_progress):
        if not left:
            raise lmtp.Unreachable("too many connections")
        return left.pop(0)

    return ConnectionPool(connect, **more)


class Waited(Exception):
    pass


@pytest.fixture
def impatient(monkeypatch):
    """A `progress` that ends a wait which has no end."""
    monkeypatch.setattr(lmtp_agent, "PROGRESS_INTERVAL", 0.001)
    calls = []

    def progress():
        calls.append(1)
        if len(calls) > 50:
            raise Waited

    return progress


# -- those that are kept ----------------------------------------------------------------------------------


def test_a_kept_connection_is_given_up_after_a_while(serve):
    server = serve()
    pool = to(server, kept=0.05)
    connection, kept = pool.take(nothing)
    assert not kept
    pool.give(connection)
    assert server.ended.acquire(timeout=30)
    connection, kept = pool.take(nothing)
    assert not kept
    connection.close()


def test_a_kept_connection_that_its_server_has_closed_is_closed_and_not_taken():
    closed, fresh = Connection(idle=False), Connection()
    pool = of(closed, fresh)
    pool.give(pool.take(nothing)[0])
    assert pool.take(nothing) == (fresh, False)
    assert closed.closed.is_set()


def test_two_workers_that_want_the_last_idle_connection_are_not_given_the_same():
    connection, found = Connection(), []
    pool = of(connection, kept=60.0)
    other = Meanwhile(lambda: found.append(pool._maybe_take_idle()))

    class Idle(list):
        def __len__(self):
            other()
            return super().__len__()

    pool.give(pool.take(nothing)[0])
    pool._idle = Idle(pool._idle)
    assert pool._maybe_take_idle() is connection
    other.end()
    assert found == [None]


def test_a_connection_that_cannot_be_used_again_is_not_kept():
    for connection in (Connection(ready=False), Connection()):
        pool = of(connection)
        pool.take(nothing)
        connection.mails = 0 if not connection.is_ready else lmtp_agent.MAILS_PER_CONNECTION
        pool.give(connection)
        assert pool._idle == [] and connection.closed.is_set()


def test_one_thread_closes_all_idle_connections_and_keeps_no_process_alive():
    pool = of(Connection(), Connection())
    one, two = pool.take(nothing)[0], pool.take(nothing)[0]
    pool.give(one)
    sweeper = pool._sweeper
    pool.give(two)
    assert pool._sweeper is sweeper and sweeper.daemon


def test_a_connection_that_fails_as_it_is_closed_does_not_keep_others_open():
    class Broken(Connection):
        def close(self):
            super().close()
            raise OSError(errno.EIO, "Input/output error")

    broken, other = Broken(), Connection()
    pool = of(broken, other, kept=0.0)
    pool.take(nothing)
    pool.take(nothing)
    pool.give(broken)
    assert broken.closed.wait(STUCK)
    pool.give(other)
    assert other.closed.wait(STUCK)


def test_without_a_thread_that_closes_idle_connections_none_is_kept(serve, monkeypatch):
    """The user has as many processes as allowed."""
    pool = to(serve())
    connections = [pool.take(nothing)[0] for _ in range(2)]

    def refuse(_thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    for connection in connections:
        pool.give(connection)
    assert [connection._socket.fileno() for connection in connections] == [-1, -1]


# -- workers that wait for one ----------------------------------------------------------------------------


def test_a_worker_that_waits_for_a_connection_sends_in_progress(serve, monkeypatch):
    monkeypatch.setattr(lmtp_agent, "PROGRESS_INTERVAL", 0.01)
    server = serve(limit=1)
    pool = to(server)
    first, _ = pool.take(nothing)
    said = []

    def progress():
        said.append(True)
        if len(said) == 5:
            pool.give(first)

    assert pool.take(progress) == (first, True)
    first.close()


def test_a_worker_waits_for_one_of_several_connections_and_not_for_all(impatient):
    one, two = Connection(), Connection()
    pool = of(one, two)
    pool.take(nothing)
    pool.take(nothing)
    waits = iter([lambda: pool.give(one)])

    def progress():
        next(waits, impatient)()

    assert pool.take(progress) == (one, True)


def test_a_connection_that_was_given_back_and_has_ended_is_waited_for_no_more(impatient):
    ended = Connection(ready=False)
    pool = of(ended)
    pool.give(pool.take(nothing)[0])
    with pytest.raises(lmtp.Unreachable):
        pool.take(impatient)


def test_a_worker_learns_at_once_that_no_connection_will_come():
    """The last other worker got none either."""
    failing, waits = threading.Event(), threading.Event()

    def connect(_progress):
        if threading.current_thread() is first:
            failing.wait(STUCK)
        raise lmtp.Unreachable("no")

    pool = ConnectionPool(connect)
    plain = pool._changed.wait_for

    def wait_for(*arguments):
        waits.set()
        return plain(*arguments)

    pool._changed.wait_for = wait_for

    def take():
        with pytest.raises(lmtp.Unreachable):
            pool.take(nothing)

    first, second = (threading.Thread(target=take, daemon=True) for _ in range(2))
    first.start()
    while not pool._in_use:
        pass
    second.start()
    assert waits.wait(STUCK)
    failing.set()
    second.join(STUCK)  # PROGRESS_INTERVAL is longer
    assert not second.is_alive()


def test_a_worker_without_a_connection_blocks_no_other_worker():
    """Whatever the reason is."""
    failures = [MemoryError(), OSError(errno.EMFILE, "Too many open files"), lmtp.Unreachable("one is enough")]

    def connect(_progress):
        raise failures.pop(0)

    pool = ConnectionPool(connect)
    for kind in (MemoryError, OSError, lmtp.Unreachable):
        taken = []

        def take(kind=kind, taken=taken):
            with pytest.raises(kind):
                pool.take(nothing)
            taken.append(kind)

        executor = threading.Thread(target=take, daemon=True)
        executor.start()
        executor.join(5)
        assert taken == [kind]
