"""A connection to an LMTP server: how it is made, what it waits for, and what is known of a mail when it fails."""

import errno
import os
import socket
import struct
import threading
import time

import pytest

from mail_local import lmtp
from smtpd.envelope import Outcome
from smtpd.smtp.client_action import ClientMail, ClientRecipient
from smtpd.smtp.client_state import ClientState
from tests.mail_local.lmtp_server import serving

MAIL = b"Subject: hello\n\nGood morning.\n"


@pytest.fixture
def serve():
    with serving() as serve_one:
        yield serve_one


def connected(server):
    return lmtp.connect(lmtp.resolve(server.target), "here.test")


def to(*users, size=2):
    return ClientMail("amy@there.test", tuple(map(ClientRecipient, users)), size)


# -- the destination ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, family, address, shown",
    [
        ("127.0.0.1", socket.AF_INET, ("127.0.0.1", 25), "127.0.0.1:25"),
        ("127.0.0.1:24", socket.AF_INET, ("127.0.0.1", 24), "127.0.0.1:24"),
        ("[::1]:24", socket.AF_INET6, ("::1", 24, 0, 0), "[::1]:24"),
        ("[::1]", socket.AF_INET6, ("::1", 25, 0, 0), "[::1]:25"),
        ("/run/lmtp", socket.AF_UNIX, "/run/lmtp", "/run/lmtp"),
    ],
)
def test_a_destination_as_it_is_written(text, family, address, shown):
    assert lmtp.resolve(text) == [(family, address, shown)]


@pytest.mark.parametrize(
    "text", ["", ":24", "::1", "a:b", "a:0", "a:65536", "a:24:25", "[::1", "a]:24", "lmtp/socket:"]
)
def test_what_is_no_destination(text):
    with pytest.raises((ValueError, OSError)):
        lmtp.resolve(text)


def test_what_can_be_no_name_of_a_host_is_said():
    with pytest.raises(ValueError, match="not the name of a host"):
        lmtp.resolve(f"{'a' * 64}.test:24")


@pytest.mark.parametrize("port", ["0", "65536", "99999"])
def test_a_port_that_cannot_be_is_no_destination(port):
    """The resolver would take some of them modulo 65536."""
    with pytest.raises(ValueError, match="neither host:port nor the path of a socket"):
        lmtp.resolve(f"127.0.0.1:{port}")


@pytest.mark.parametrize("port", [1, 65535])
def test_the_lowest_and_the_highest_port(port):
    assert [found.address for found in lmtp.resolve(f"127.0.0.1:{port}")] == [("127.0.0.1", port)]


# -- the connection -------------------------------------------------------------------------------------


def test_the_second_address_is_tried_when_the_first_does_not_answer(serve):
    server = serve()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        dead = lmtp.resolve("{}:{}".format(*sock.getsockname()))
        connection = lmtp.connect(dead + lmtp.resolve(server.target), "here")
        connection.close()
        with pytest.raises(lmtp.Unreachable, match=r"^(127\.0\.0\.1:\d+: Connection refused(; )?){2}$"):
            lmtp.connect(dead * 2, "here")


def test_a_connection_and_a_greeting_have_each_their_own_time(monkeypatch):
    """Together they would be more than queue waits for a word: it would drop the agent with all that it has."""
    monkeypatch.setitem(lmtp.LMTP_TIMEOUT, ClientState.GREETING, 0.05)
    steps = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        target = "{}:{}".format(*silent.getsockname())
        with pytest.raises(lmtp.Unreachable, match="no answer"):
            lmtp.connect(lmtp.resolve(target), "here", lambda: steps.append(time.monotonic()))
    assert len(steps) == 2


@pytest.fixture
def kernel_without_ipv6(monkeypatch):
    class Socket(socket.socket):
        def __init__(self, family=socket.AF_INET, *arguments, **named):
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *arguments, **named)

    monkeypatch.setattr(socket, "socket", Socket)


def test_an_address_of_a_family_that_the_kernel_does_not_have_is_passed_over(serve, kernel_without_ipv6):
    """A name may have addresses of both families."""
    server = serve()
    sixth = lmtp.ServerAddress(socket.AF_INET6, ("::1", 24, 0, 0), "[::1]:24")
    lmtp.connect([sixth, *lmtp.resolve(server.target)], "here").close()
    with pytest.raises(lmtp.Unreachable, match=r"^\[::1\]:24: Address family not supported by protocol$"):
        lmtp.connect([sixth], "here")


def test_a_server_that_resets_the_connection_is_quoted_as_the_kernel_says_it():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
    connection = lmtp.LmtpConnection(ours, "here.test")
    assert not connection.is_ready and connection.reason == "waiting for the greeting: Connection reset by peer"
    ours.close()


def test_a_connection_is_waited_for_no_longer_than_its_timeout_and_sends_at_once(serve, monkeypatch):
    """Without a timeout of its own it would have the kernel's, of some minutes."""
    timeouts = []

    class Socket(socket.socket):
        def connect(self, address):
            timeouts.append(self.gettimeout())
            super().connect(address)

    server = serve()
    monkeypatch.setattr(socket, "socket", Socket)
    connection = connected(server)
    assert timeouts == [lmtp.CONNECT_TIMEOUT]
    assert connection._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    connection.close()


class Wire:
    """A connected socket whose peer says this, piece by piece; what happened is in `story`."""

    def __init__(self, *pieces):
        self._pieces = [*pieces]
        self.story = []
        self.send_timeouts = set()
        self._timeout = None

    def settimeout(self, seconds):
        self._timeout = seconds

    def recv(self, _size):
        self.story.append("recv")
        return self._pieces.pop(0)

    def sendall(self, _data):
        self.story.append("send")
        self.send_timeouts.add(self._timeout)

    def close(self):
        self.story.append("close")

    def progress(self):
        self.story.append("progress")


def test_progress_is_told_of_each_complete_reply_and_of_all_that_was_sent():
    """Not of each piece: a server that drips has no more time for that."""
    wire = Wire(b"220 re", b"ady\r\n", b"250-here\r\n", b"250 8BITMIME\r\n")
    connection = lmtp.LmtpConnection(wire, "here.test", wire.progress)
    assert connection.is_ready
    greeting = ["recv", "recv", "send", "progress", "progress"]
    assert wire.story == [*greeting, "recv", "recv", "progress"]


def test_progress_is_told_of_each_piece_of_a_mail():
    wire = Wire(b"220 ready\r\n", b"250 here\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go on\r\n", b"250 saved\r\n")
    connection = lmtp.LmtpConnection(wire, "here.test")
    wire.story.clear()
    (result,) = connection.deliver(to("bob", size=12), lambda: [b"one\n", b"two\n", b"end\n"], wire.progress)
    assert result.outcome is Outcome.DELIVERED
    sent = [number for number, what in enumerate(wire.story) if what == "send"]
    assert len(sent) > 5 and all(wire.story[number + 1] == "progress" for number in sent)
    assert wire.send_timeouts == {lmtp.LMTP_TIMEOUT[ClientState.CONTENT]}


# -- mails ----------------------------------------------------------------------------------------------


class Clock:
    """Stands in the place of the module time."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now


def test_content_that_takes_too_long_to_come_is_given_up(serve, monkeypatch):
    clock = Clock()
    connection = connected(serve())
    monkeypatch.setattr(lmtp, "time", clock)

    def slow():
        yield MAIL
        clock.now += lmtp.TRANSACTION_MAX
        yield MAIL

    (verdict,) = connection.deliver(ClientMail("amy@there.test", (ClientRecipient("bob"),), 2 * len(MAIL)), slow)
    assert verdict.outcome is Outcome.DEFERRED and lmtp.TRANSACTION_TOO_LONG in verdict.text
    connection.close()


def test_a_defect_in_the_midst_of_a_mail_ends_the_connection_before_the_mail_does(serve):
    server = serve()
    connection = connected(server)

    def defective():
        yield MAIL
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        connection.deliver(ClientMail("amy@there.test", (ClientRecipient("bob"),), 2 * len(MAIL)), defective)
    assert connection._socket.fileno() == -1
    assert server.mails == []


def answered_early(said, content):
    """The results of a mail to two recipients, of a server that says this after 354, reads no content, and closes.
    `content`: its pieces."""
    (ours, theirs), asked = socket.socketpair(), threading.Event()

    def serve():
        with theirs:
            theirs.sendall(b"220 ready\r\n")
            for reply in (b"250 hello\r\n", b"250 ok\r\n", b"250 ok\r\n", b"250 ok\r\n", b"354 go on\r\n"):
                theirs.recv(1024)
                theirs.sendall(reply)
            assert asked.wait(30)
            theirs.sendall(said)

    thread = threading.Thread(target=serve)
    thread.start()
    connection = lmtp.LmtpConnection(ours, "here.test")

    def pieces():
        asked.set()
        thread.join()  # it has closed
        yield from content

    recipients = (ClientRecipient("bob"), ClientRecipient("carol"))
    results = connection.deliver(ClientMail("amy@there.test", recipients, 70 * 1024), pieces)
    assert not connection.is_ready
    return results


@pytest.mark.parametrize("said", [b"250 2.0.0 saved\r\n", b"552 5.3.4 too big\r\n", b""])
def test_a_server_that_closes_before_it_has_the_mail_has_not_answered_for_it(said):
    """Not even when the whole mail is one piece, and no copy may be there."""
    for content in (b"x\n", b"x" * 70 * 1024 + b"\n"):
        results = answered_early(said, [content])
        assert [result.outcome for result in results] == [Outcome.DEFERRED] * 2
        assert not any(result.uncertain or "twice" in result.text for result in results), results


def test_what_a_server_said_before_it_closed_is_the_reason():
    results = answered_early(b"421 4.3.2 shutting down\r\n", [b"x\n" * 40_000, b"x\n" * 40_000])
    assert all("shutting down" in result.text for result in results), results


def test_progress_is_told_of_a_mail_and_not_of_the_end_of_its_connection(serve):
    connection, told = connected(serve()), []
    connection.deliver(
        ClientMail("amy@there.test", (ClientRecipient("bob"),), 2), lambda: [b"x\n"], lambda: told.append(1)
    )
    count = len(told)
    connection.close()
    assert 0 < count == len(told)


def test_no_more_of_a_mail_is_read_when_its_server_has_closed():
    def pieces():
        yield b"x\n"  # is held back until there is more
        yield b"x\n"
        pytest.fail("it is read on")

    results = answered_early(b"", pieces())
    assert [result.outcome for result in results] == [Outcome.DEFERRED] * 2


def test_a_caller_that_fails_in_the_midst_of_a_mail_leaves_no_connection_that_seems_ready(serve):
    connection = lmtp.connect(lmtp.resolve(serve().target), "here.test")

    def progress():
        raise MemoryError

    with pytest.raises(MemoryError):
        connection.deliver(ClientMail("amy@there.test", (ClientRecipient("bob"),), 2), lambda: [b"x\n"], progress)
    assert not connection.is_ready and not connection.is_idle()


def test_content_that_cannot_be_read_takes_back_no_answer_of_the_server(serve):
    """A recipient that it has refused is refused for good; the others are tried again."""

    def torn():
        yield MAIL
        raise OSError(errno.EIO, "Input/output error")

    server = serve(accepts={"nobody": "550 5.1.1 no such user"})
    connection = connected(server)
    results = connection.deliver(to("nobody", "bob", size=2 * len(MAIL)), torn)
    assert {result.recipient: result.outcome for result in results} == {0: Outcome.FAILED, 1: Outcome.DEFERRED}
    assert any("Input/output error" in result.text for result in results)
    assert not connection.is_ready and server.mails == []
