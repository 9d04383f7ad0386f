"""Many clients, slow clients, large mails: what each costs the others, and the daemon.  Bounded, and on loopback."""

import contextlib
import itertools
import re
import resource
import selectors
import socket
import threading
import time
from pathlib import Path

import pytest

from tests.live.conftest import empty_maildir, mails, several, until

OPEN = 5000  # sessions at a time
CONF = """
smtp limit max-sessions 20000
listen on 127.0.0.1 port {port}
action "local" maildir
match from any for any action "local"
"""


@pytest.fixture
def busy(make_daemon, users, alice):
    empty_maildir(users.home(alice))
    daemon = make_daemon(CONF).start()
    yield daemon
    if daemon.running():
        assert daemon.stop() == 0, daemon.log[-3000:]


def pss(daemon):
    """Bytes of memory that the eight processes hold, shared pages divided by their number of users."""
    total = 0
    for title, pid in daemon.pids().items():
        if not title.startswith("agent"):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            total += int(re.search(r"^Pss:\s+(\d+) kB", rollup, re.MULTILINE)[1]) * 1024
    return total


class OpenSessions:
    """Sessions that all say the same lines, each waiting for the answer to one before it says the next."""

    def __init__(self, port, count):
        with contextlib.ExitStack() as opened:
            self.selector = opened.enter_context(selectors.DefaultSelector())
            self.socks = []
            for _ in range(count):
                sock = opened.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
                sock.setblocking(False)
                self.selector.register(sock, selectors.EVENT_READ, bytearray())
                self.socks.append(sock)
            self.expect(b"220")
            self.close = opened.pop_all().close

    def say(self, line, code):
        for number, sock in enumerate(self.socks):
            sock.sendall(line.replace(b"%d", str(number).encode()) + b"\r\n")
        self.expect(code)

    def expect(self, code, seconds=120):
        waiting = set(self.socks)
        deadline = time.monotonic() + seconds
        while waiting:
            assert time.monotonic() < deadline, f"{len(waiting)} sessions wait for {code}"
            for key, _ in self.selector.select(1):
                data = key.fileobj.recv(4096)
                assert data, "a session was closed"
                key.data.extend(data)
                if re.search(rb"(?m)^\d{3} [^\n]*\n\Z", key.data):
                    assert key.data.startswith(code), key.data
                    key.data.clear()
                    waiting.discard(key.fileobj)


@pytest.fixture
def many_descriptors():
    """As many as our own ends of the sessions need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < OPEN + 1000:
        pytest.skip(f"a process may have {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def begin_mails(sessions, alice):
    sessions.say(b"EHLO client.test", b"250")
    sessions.say(b"MAIL FROM:<amy@there.test>", b"250")
    sessions.say(b"RCPT TO:<" + alice.encode() + b"@here.test>", b"250")
    sessions.say(b"DATA", b"354")


def subjects(home):
    return sorted(int(mail.partition(b"\nSubject: ")[2].split(b"\n", 1)[0]) for mail in mails(home))


def test_five_thousand_sessions_held_open_and_a_mail_through_each(busy, users, alice, many_descriptors):
    with contextlib.closing(OpenSessions(busy.port, OPEN)) as sessions:
        begin_mails(sessions, alice)
        sessions.say(b"Subject: %d\r\n\r\nx\r\n.", b"250")
        until(lambda: len(mails(users.home(alice))) == OPEN, 120, what=f"{OPEN} deliveries")
        sessions.say(b"NOOP", b"250")
    assert subjects(users.home(alice)) == list(range(OPEN))


def test_a_thousand_unfinished_large_mails_keep_no_client_out(busy, users, alice, many_descriptors):
    """Each of them has a spool file open, in two processes."""
    with contextlib.closing(OpenSessions(busy.port, 1000)) as sessions:
        begin_mails(sessions, alice)
        for number, sock in enumerate(sessions.socks):
            sock.sendall(b"Subject: %d\r\n\r\n" % number + b"line\r\n" * 4000)
        content = busy.state / "spool/content"
        until(lambda: len(list(content.iterdir())) == 1000, what="a thousand spool files")
        busy.send(f"{alice}@here.test", b"Subject: 1000\r\n\r\nx\r\n")
        until(lambda: len(mails(users.home(alice))) == 1, what="the one that is finished")
        sessions.say(b".", b"250")
    until(lambda: len(mails(users.home(alice))) == 1001, what="all deliveries")
    assert subjects(users.home(alice)) == list(range(1001))
    until(lambda: not list(content.iterdir()), what="the end of all spool files")


class Trickle(threading.Thread):
    """Clients that say their lines byte by byte, for as long as it goes on."""

    def __init__(self, port, count):
        super().__init__(daemon=True)
        self.port = port
        self.socks = [self._connect() for _ in range(count)]
        self.ended = threading.Event()
        self.start()

    def run(self):
        for byte in itertools.cycle(b"NOOP\r\n"):
            for number, sock in enumerate(self.socks):
                try:
                    sock.send(bytes([byte]))
                except ConnectionError:  # the server has heard enough of it
                    sock.close()
                    self.socks[number] = self._connect()
            if self.ended.wait(0.1):
                return

    def _connect(self):
        return socket.create_connection(("127.0.0.1", self.port))

    def close(self):
        self.ended.set()
        self.join()
        for sock in self.socks:
            sock.close()


def deaf_client(port):
    """Says as much as it can, and reads no answer."""
    sock = socket.create_connection(("127.0.0.1", port))
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError, ConnectionError):
        for _ in range(1000):
            sock.send(b"EHLO client.test\r\n" * 1000)
    return sock


def cost_of_mails(daemon, name):
    """What twenty mails cost: the best time of one, and the seconds of CPU of the dispatcher for all of them."""
    pid = daemon.pids()["dispatcher"]
    before, times = cpu(pid), []
    for _ in range(20):
        started = time.monotonic()
        daemon.send(f"{name}@here.test", b"Subject: 1\r\n\r\nx\r\n")
        times.append(time.monotonic() - started)
    return min(times), cpu(pid) - before


def cpu(pid):
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def test_slow_and_deaf_clients_cost_the_others_nothing(busy, alice):
    cost_of_mails(busy, alice)
    quiet_seconds, quiet_work = cost_of_mails(busy, alice)
    with several(lambda: deaf_client(busy.port), 100), contextlib.closing(Trickle(busy.port, 100)):
        seconds, work = map(min, zip(*[cost_of_mails(busy, alice) for _ in range(3)], strict=True))
    assert seconds < 3 * quiet_seconds + 0.02, (quiet_seconds, seconds)
    assert work < 3 * quiet_work + 0.05, (quiet_work, work)


class Watch(threading.Thread):
    """Looks again and again at how much memory the daemon has, and keeps the most."""

    def __init__(self, daemon):
        super().__init__(daemon=True)
        self.daemon_, self.most = daemon, 0
        self.ended = threading.Event()

    def __enter__(self):
        self.start()
        return self

    def run(self):
        while not self.ended.wait(0.02):
            self.most = max(self.most, pss(self.daemon_))

    def __exit__(self, *_):
        self.ended.set()
        self.join()


def test_a_second_large_mail_costs_no_memory(busy, users, alice):
    """Not for a moment."""
    content = b"Subject: 1\r\n\r\n" + (b"x" * 76 + b"\r\n") * (34 * 1024 * 1024 // 78)
    busy.send(f"{alice}@here.test", content)
    until(lambda: len(mails(users.home(alice))) == 1, what="the first delivery")
    before = pss(busy)
    with Watch(busy) as watch:
        busy.send(f"{alice}@here.test", content)
        until(lambda: len(mails(users.home(alice))) == 2, what="the second delivery")
    assert before // 2 < watch.most < before + 8 * 1024 * 1024
