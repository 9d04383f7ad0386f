"""Worker threads of an agent: on one socket, with one connection pool, in one Maildir."""

import os
import random
import socket
import threading
from contextlib import suppress

import pytest

from mail_local import maildir
from mail_local.lmtp import Unreachable
from smtpd.agent import worker
from smtpd.agent.lmtp import ConnectionPool
from smtpd.agent.worker import Workers
from smtpd.envelope import Outcome
from smtpd.errand import PACKET_MAX, Deliver, Result, decode, encode
from tests.agent.conftest import errand
from tests.stress import WAIT_MAX, hasty_threads, join, rounds

REQUESTS = 60


class Kind:
    """Answers each errand."""

    REQUESTS = (Deliver,)
    WORKERS_MAX, BATCH_MAX, BATCH_BYTES, GATHER_TIME = 6, 3, 1 << 20, 0
    draining, visible_paths = False, ()

    def __init__(self, by_message):
        self.SAME_MESSAGE = self.SPARE_WORKER = by_message

    def make_executor(self, _queue, _mailbox_socket):
        return self

    def execute(self, batch):
        return [Result(taken.envelope, Outcome.DELIVERED, "") for taken, _ in batch]


@pytest.mark.parametrize("by_message", [False, True])
def test_hand_over_each_errand_is_answered_once_and_no_worker_is_left(monkeypatch, by_message):
    ends = []
    monkeypatch.setattr(worker.os, "_exit", ends.append)
    packets = [encode(errand(number)) for number in range(1, REQUESTS + 1)]
    with hasty_threads():
        for _ in rounds(6):
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.settimeout(WAIT_MAX)
            workers = Workers(theirs, None, Kind(by_message))
            main = threading.Thread(target=workers.run, daemon=True)
            main.start()

            def send(ours=ours):
                for packet in packets:
                    ours.send(packet)
                ours.shutdown(socket.SHUT_WR)

            sender = threading.Thread(target=send, daemon=True)
            sender.start()
            answered = sorted(decode(ours.recv(PACKET_MAX)).envelope for _ in range(REQUESTS))
            assert answered == sorted(decode(packet).envelope for packet in packets)
            join([sender, main])
            assert not any(thread.is_alive() for thread in workers._threads)
            assert ends == []
            ours.close()
            theirs.close()


class Server:
    """One that takes so many connections and no more; now and then it has enough of one."""

    def __init__(self, limit):
        self.limit, self.open, self.most = limit, 0, 0
        self._lock = threading.Lock()

    def connect(self, _progress):
        with self._lock:
            if self.open == self.limit:
                raise Unreachable("too many")
            self.open += 1
            self.most = max(self.most, self.open)
        return Connection(self)

    def left(self):
        with self._lock:
            self.open -= 1


class Connection:
    def __init__(self, server):
        self._server = server
        self.mails, self.is_ready, self.in_use, self.closed = 0, True, False, False

    def is_idle(self):
        return not self.closed

    def close(self):
        assert not self.closed and not self.in_use
        self.closed = True
        self._server.left()


class EndingPool(ConnectionPool):
    """Its sweeper can be ended.  In an agent that ends with the process; here there is one for each round."""

    def _sweep(self):
        with suppress(SystemExit):
            super()._sweep()

    def end(self):
        if self._sweeper is not None:  # it begins with the first connection that is kept
            with self._changed:
                self._idle[:] = [(_LastConnection(), 0.0)]
                self._changed.notify_all()
            join([self._sweeper])


class _LastConnection:
    def close(self):
        raise SystemExit


@pytest.mark.parametrize("limit", [1, 2, 8])
def test_hand_over_no_worker_waits_for_a_connection_that_is_never_given_back(limit):
    """Six workers, and a sweeper that is always about to close idle connections."""
    with hasty_threads():
        for _ in rounds(2):
            server, troubles, done = Server(limit), [], []
            pool = EndingPool(server.connect, kept=0.0005)

            def work(server=server, pool=pool, troubles=troubles, done=done):
                try:
                    for number in range(15):
                        try:
                            connection, _ = pool.take(lambda: None)
                        except Unreachable:  # nobody had one, in the moment before the server knew of that
                            continue
                        assert not connection.in_use and not connection.closed
                        connection.in_use = True
                        connection.mails += 1
                        connection.is_ready = random.random() < 0.9
                        connection.in_use = False
                        pool.give(connection)
                        done.append(number)
                except BaseException as error:
                    troubles.append(error)

            threads = [threading.Thread(target=work, daemon=True) for _ in range(6)]
            for thread in threads:
                thread.start()
            join(threads)
            assert troubles == [] and done and server.most <= limit
            pool.end()


def test_hand_over_a_maildir_is_listed_once_for_all_workers(tmp_path):
    """And all of them are told the same."""
    path = str(tmp_path / "Maildir")
    maildir.make(path)
    (tmp_path / "Maildir/new/1.E1.here").touch()
    with hasty_threads():
        for number in rounds(20):
            earlier, told = maildir.EarlierDeliveries("here"), []
            new = tmp_path / f"Maildir/new/{number + 2}.E1.here"

            def ask(earlier=earlier, told=told, new=new):
                root = os.open(path, os.O_RDONLY)
                folder = maildir.Folder(root, path)
                told.append((earlier.holds("", folder, "1.E1.here"), earlier.holds("", folder, new.name)))
                new.touch()  # what is stored later is not what lay there before
                folder.close()
                os.close(root)

            threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
            for thread in threads:
                thread.start()
            join(threads)
            assert told == [(True, False)] * 4
            new.unlink()
