"""Handshakes that stall, that come by the thousand, that bring too much: what they cost the others, and the daemon."""

import contextlib
import os
import re
import resource
import selectors
import signal
import socket
import ssl
import struct
import threading
import time
from pathlib import Path

import pytest

from smtpd.dispatcher.inbound.connections import SWEEP_INTERVAL
from smtpd.dispatcher.inbound.handshake import HANDSHAKE_TIMEOUT
from smtpd.tls.signing import SIGNING_TIMEOUT
from tests.live.certificate import Authority, Identity, certify
from tests.live.conftest import Daemon, several, started, until
from tests.live.encrypted import Client, careless, showing
from tests.unique import free_port

CONF = """
smtp limit max-sessions 20000 max-errors 100000
pki mx.here.test cert "{{directory}}/mx.crt"
pki mx.here.test key "{{directory}}/mx.key"
ca clients cert "{{directory}}/clients.ca"
listen on 127.0.0.1 port {{port}} tls pki mx.here.test ca clients
listen on 127.0.0.1 port {smtps} smtps pki mx.here.test
action "local" maildir
match from any for domain "here.test" action "local"
"""
# Seconds, for nine of ten answers.  A dispatcher that waited for a client or for a signature would make all others wait
# for SIGNING_TIMEOUT at least; on a machine that has other things to do as well an answer takes a few tenths of one.
ANSWER = SIGNING_TIMEOUT / 2
STALLED = 200  # of each kind
MANY = 3000
LEFT = (
    4096  # bytes that a handshake may leave behind for ever.  An SSL object with its buffers has 20 000 and more; the
)
# allocator keeps a few MB more or less of what is free, by how many handshakes were there at a time.
GROWTH = 50 * 1024 * MANY  # bytes of the dispatcher, whatever is tried: what as many handshakes need


@pytest.fixture(scope="module")
def smtps():
    return free_port()


@pytest.fixture(scope="module")
def clients():
    return Authority("clients")


@pytest.fixture(scope="module")
def daemon(ground, users, clients, smtps):
    daemon = Daemon(ground, CONF.format(smtps=smtps))
    Authority("here").issue("mx.here.test", kind="rsa").write(daemon.directory, "mx")
    clients.write(daemon.directory, "clients")
    with started(daemon):
        yield daemon


@pytest.fixture(autouse=True, scope="module")
def many_descriptors():
    """As many as our own ends of the connections need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < MANY + 1000:
        pytest.skip(f"a process may have {hard} descriptors here")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(autouse=True)
def unharmed(daemon):
    """Afterwards all is as before: nobody is there, no descriptor is open, and memory has a bound."""
    dispatcher = daemon.pids()["dispatcher"]
    with Client(daemon.port).starttls() as client:  # once, for what is only opened when it is needed
        client.command("QUIT")
    until(lambda: sessions(daemon) == 0, what="the end of earlier ones")
    before, memory = descriptors(dispatcher), anonymous(dispatcher)
    daemon.mark = len(daemon.log)
    yield
    until(lambda: sessions(daemon) == 0, what="the end of all sessions")
    until(lambda: descriptors(dispatcher) == before, what="the end of all descriptors")
    assert anonymous(dispatcher) < memory + GROWTH
    assert "Traceback" not in daemon.log


def sessions(daemon):
    stats = daemon.smtpctl("show", "stats").stdout
    return sum(map(int, re.findall(r"^smtp\.(?:session|tls|smtps)=(-?\d+)$", stats, re.MULTILINE)))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def anonymous(pid):
    """Bytes that are its own and no file's."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return int(re.search(r"^Anonymous:\s+(\d+) kB", rollup, re.MULTILINE)[1]) * 1024


def failures(daemon):
    """Reason -> how often, of this test."""
    found = {}
    for reason in re.findall(r'tls-failed reason="([^"]*)"', daemon.log[daemon.mark :]):
        found[reason] = found.get(reason, 0) + 1
    return found


class Honest:
    """A session in the clear and one under TLS, which go on, and clients that come anew; how long each waits.

    They may ask for as long as it takes: by the daemon's max-errors so many commands without a mail are no reason to
    hang up."""

    def __init__(self, daemon):
        self.port = daemon.port
        self.seconds = []
        self.answer = ANSWER

    def __enter__(self):
        with contextlib.ExitStack() as opened:
            self.there = [opened.enter_context(Client(self.port)) for _ in range(2)]
            self.there[1].starttls()
            self._opened = opened.pop_all()
        return self

    def __exit__(self, error, *_):
        with self._opened:
            if error is None:
                self._leave()

    def go_on(self):
        for client in self.there:
            self._time(client.command, "NOOP")
        with self._time(Client, self.port) as newcomer:
            assert self._time(newcomer.command, "NOOP").startswith("250")
            newcomer.command("QUIT")

    def come_with_tls(self):
        with Client(self.port) as newcomer:
            self._time(newcomer.starttls)

    def _time(self, function, *arguments):
        begun = time.monotonic()
        try:
            return function(*arguments)
        finally:
            self.seconds.append(time.monotonic() - begun)

    def _leave(self):
        for client in self.there:
            assert client.command("NOOP").startswith("250")
            client.command("QUIT")
        waited = sorted(self.seconds)
        assert waited[len(waited) * 9 // 10] < self.answer, waited


def a_hello():
    """A client's first flight; the server answers it with a signature."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        careless().wrap_bio(incoming, outgoing, server_hostname="mx.here.test").do_handshake()
    return outgoing.read()


def connect(port, source="127.0.0.1"):
    return socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0))


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


# -- those that stall -------------------------------------------------------------------------


def test_stalled_handshakes_delay_no_other_session_and_end(daemon, smtps):
    """CVE-2013-2125.  Some say nothing at all, some half of their hello, some one byte a second; some said STARTTLS
    before."""
    hello = a_hello()
    with contextlib.ExitStack() as opened:
        _silent, halves, slow = (opened.enter_context(several(lambda: connect(smtps), STALLED)) for _ in range(3))
        begun = opened.enter_context(several(lambda: Client(daemon.port), STALLED))
        honest = opened.enter_context(Honest(daemon))
        for client in begun:
            assert client.command("STARTTLS").startswith("220")
        for sock in halves:
            sock.sendall(hello[: len(hello) // 2])
        begin = time.monotonic()
        for second in range(len(hello)):
            with contextlib.suppress(ConnectionError):
                for sock in slow:
                    sock.sendall(hello[second : second + 1])
            honest.go_on()
            honest.come_with_tls()
            if sum(failures(daemon).values()) >= 4 * STALLED:
                break
            time.sleep(0.8)
        took = time.monotonic() - begin
    assert failures(daemon) == {"handshake stalled": 4 * STALLED}
    assert took < 2 * (HANDSHAKE_TIMEOUT + SWEEP_INTERVAL), "a byte a second makes a handshake last longer"


# -- those that are many ------------------------------------------------------------------------


def answered(socks, seconds=60):
    """Those that got something, once each has got that or its end."""
    selector, found = selectors.DefaultSelector(), 0
    for sock in socks:
        selector.register(sock, selectors.EVENT_READ)
    deadline = time.monotonic() + seconds
    while selector.get_map() and time.monotonic() < deadline:
        for key, _ in selector.select(1):
            with contextlib.suppress(ConnectionError):
                found += bool(key.fileobj.recv(65536))
            selector.unregister(key.fileobj)
    assert not selector.get_map(), "somebody got nothing at all"
    return found


def flood(port, hello, meanwhile):
    """So many handshakes at once, from one network; how many of them got an answer, and in how many seconds.  The
    others were sent away."""
    with several(lambda: connect(port, source="127.3.3.3"), MANY) as socks:
        begun, got = time.monotonic(), []
        for sock in socks:
            sock.sendall(hello)
        waiting = threading.Thread(target=lambda: got.append(answered(socks)))
        waiting.start()
        try:
            while waiting.is_alive():
                meanwhile()
        finally:
            waiting.join()
        return got[0], time.monotonic() - begun


def test_thousands_of_handshakes_at_once_delay_no_other_session(daemon, smtps):
    """A client that comes from another network does not stand behind all of them."""
    hello = a_hello()
    with Honest(daemon) as honest:

        def meanwhile():
            honest.go_on()
            honest.come_with_tls()

        got, took = flood(smtps, hello, meanwhile)
        honest.answer = took / 4  # behind all of them it would be most of that time, on whatever machine
    until(lambda: sum(failures(daemon).values()) == MANY, what="the end of all handshakes")
    assert set(failures(daemon)) <= {"too many handshakes", "the client left"}
    assert 0 < got <= MANY - failures(daemon).get("too many handshakes", 0)


def test_the_memory_of_thousands_of_handshakes_is_used_again(daemon, smtps):
    """How many stand at the same time is another number each time, and so is how well they fit into what is free."""
    pid, hello, seen = daemon.pids()["dispatcher"], a_hello(), []
    for number in range(1, 9):
        flood(smtps, hello, lambda: time.sleep(0.1))
        until(lambda n=number: sum(failures(daemon).values()) == n * MANY, what="the end of all handshakes")
        seen.append(anonymous(pid))
    assert max(seen[4:]) - max(seen[:4]) < 4 * MANY * LEFT, seen


def nothing(sock, hello):
    pass


def at_once(sock, hello):
    reset(sock)


def after_half(sock, hello):
    sock.sendall(hello[:100])


def after_all(sock, hello):
    sock.sendall(hello)
    reset(sock)


def after_a_wait(sock, hello):
    sock.sendall(hello)
    sock.recv(1)


@pytest.mark.parametrize("leave", [nothing, at_once, after_half, after_all, after_a_wait])
def test_a_thousand_clients_that_come_and_leave(daemon, smtps, leave):
    hello = a_hello()
    with Honest(daemon) as honest:
        for number in range(1000):
            with connect(smtps) as sock:
                leave(sock, hello)
            if number % 100 == 0:
                honest.go_on()


def test_memory_does_not_grow_with_handshakes(daemon, smtps):
    """A few hundred to fill what is kept, and then no more."""
    pid = daemon.pids()["dispatcher"]

    def shake(times):
        for number in range(times):
            version = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)[number % 2]
            context = careless()
            context.minimum_version = context.maximum_version = version
            with Client(smtps, smtps=True, context=context) as client:
                client.command("QUIT")

    shake(200)
    before = anonymous(pid)
    shake(800)
    assert anonymous(pid) - before < 800 * 2048, "more than 2 KiB a handshake stay behind"


# -- those that bring too much ---------------------------------------------------------------------


def a_long_chain(clients):
    """More authorities, one below the other, than anybody needs."""
    authority = clients
    for number in range(20):
        authority = authority.below(f"authority {number}")
    return authority.issue("client.test", client=True)


def a_large_one(clients):
    """80 000 bytes of names."""
    small = clients.issue("client.test", client=True)
    names = [f"{number}.{'x' * 50}.test" for number in range(1300)]
    return Identity(small.key, certify(small.key, "client.test", *names, by=clients, client=True))


def many_others(clients):
    """Certificates that have nothing to do with each other, 100 000 bytes of them."""
    others = [Authority(f"authority {number}") for number in range(250)]
    one = clients.issue("client.test", client=True)
    return Identity(one.key, one.certificate, [other.certificate for other in others])


@pytest.mark.parametrize("make", [a_long_chain, a_large_one, many_others])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_certificates_without_end_are_refused_or_of_no_avail(daemon, clients, make, version):
    """CVE-2015-7687."""
    context = showing(make(clients), daemon.directory)
    context.minimum_version = context.maximum_version = version
    with Honest(daemon) as honest:
        for _ in range(20):
            with Client(daemon.port, context=context) as client, contextlib.suppress(ssl.SSLError, ConnectionError):
                client.starttls()
                client.command("QUIT")
            honest.go_on()
    assert 'result="verified"' not in daemon.log[daemon.mark :]
    if make is not a_long_chain:
        assert failures(daemon) == {"client sends too much": 20}


def test_a_hello_without_end_is_refused(daemon, smtps):
    """Records of a handshake message that claims to have 16 MiB."""
    with connect(smtps) as sock:
        piece = b"\x16\x03\x01\x40\x00" + b"\x01\xff\xff\xff" + b"x" * (0x4000 - 4)
        with contextlib.suppress(ConnectionError):
            for _ in range(64):
                sock.sendall(piece)
            assert sock.recv(65536)[:1] in (b"", b"\x15")
    until(lambda: sum(failures(daemon).values()) == 1, what="its line in the log")


# -- when there is nobody to sign -----------------------------------------------------------------


def test_while_crypto_does_not_answer_others_are_served(daemon, smtps):
    crypto, hello = daemon.pids()["crypto"], a_hello()
    with Honest(daemon) as honest, several(lambda: connect(smtps), 4) as socks:
        os.kill(crypto, signal.SIGSTOP)
        try:
            for sock in socks:
                sock.sendall(hello)
            until(lambda: honest.go_on() or sum(failures(daemon).values()) >= 4, what="the end of patience")
        finally:
            os.kill(crypto, signal.SIGCONT)
    assert failures(daemon) == {"no signature in time": 4}
    with Client(daemon.port) as client:  # what is signed late is nobody's answer
        assert client.starttls().command("EHLO client.test").startswith("250")
        client.command("QUIT")


def test_a_certificate_of_a_client_may_have_many_names(daemon, clients):
    """What is refused above is not refused for having a chain, or names."""
    identity = clients.below("one").below("two").issue("client.test", *(f"{n}.test" for n in range(100)), client=True)
    with Client(daemon.port, context=showing(identity, daemon.directory)).starttls() as client:
        client.command("QUIT")
    until(lambda: 'result="verified"' in daemon.log[daemon.mark :], what="its line in the log")
