"""Many clients, slow clients, large mails: what each costs the others, and the daemon.  Bounded, and on loopback."""

import re
import resource
import selectors
import socket
import time
from pathlib import Path

import pytest

from tests.live.conftest import empty_maildir, mails, until

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


class Crowd:
    """Sessions that all say the same lines, each waiting for the answer to one before it says the next."""

    def __init__(self, port, count):
        self.selector = selectors.DefaultSelector()
        self.socks = []
        for _ in range(count):
            sock = socket.create_connection(("127.0.0.1", port), timeout=30)
            sock.setblocking(False)
            self.selector.register(sock, selectors.EVENT_READ, bytearray())
            self.socks.append(sock)
        self.expect(b"220")

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

    def close(self):
        for sock in self.socks:
            sock.close()
        self.selector.close()


def test_five_thousand_sessions_held_open_and_a_mail_through_each(busy, users, alice):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crowd = Crowd(busy.port, OPEN)
    try:
        crowd.say(b"EHLO client.test", b"250")
        crowd.say(b"MAIL FROM:<amy@there.test>", b"250")
        crowd.say(b"RCPT TO:<" + alice.encode() + b"@here.test>", b"250")
        crowd.say(b"DATA", b"354")
        crowd.say(b"Subject: %d\r\n\r\nx\r\n.", b"250")
    finally:
        crowd.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    until(lambda: len(mails(users.home(alice))) == OPEN, 120, what=f"{OPEN} deliveries")


def answer_time(daemon, alice):
    started = time.monotonic()
    daemon.send(f"{alice}@here.test", b"Subject: quick\r\n\r\nx\r\n")
    return time.monotonic() - started


def test_slow_and_deaf_clients_cost_the_others_nothing(busy, alice):
    slow = [socket.create_connection(("127.0.0.1", busy.port)) for _ in range(100)]
    deaf = [socket.create_connection(("127.0.0.1", busy.port)) for _ in range(100)]
    try:
        for sock in slow:
            sock.send(b"E")  # one byte of a command, and then silence
        for sock in deaf:
            sock.setblocking(False)
            try:
                for _ in range(1000):
                    sock.send(b"HELP\r\n" * 1000)  # the answers are never read
            except BlockingIOError:
                pass
        times = [answer_time(busy, alice) for _ in range(20)]
    finally:
        for sock in slow + deaf:
            sock.close()
    assert sorted(times)[10] < 0.5, times


def test_a_second_large_mail_costs_no_memory(busy, users, alice):
    content = b"Subject: large\r\n\r\n" + (b"x" * 76 + b"\r\n") * (34 * 1024 * 1024 // 78)
    busy.send(f"{alice}@here.test", content)
    until(lambda: len(mails(users.home(alice))) == 1, 60, what="the first delivery")
    before = pss(busy)
    busy.send(f"{alice}@here.test", content)
    until(lambda: len(mails(users.home(alice))) == 2, 60, what="the second delivery")
    assert pss(busy) - before < 8 * 1024 * 1024
