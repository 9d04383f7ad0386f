"""Extensions of SMTP from the client's command to what becomes of the mail."""

import email
import json
import re
import time

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.lmtp import LMTP

from tests.live import submission
from tests.live.conftest import Daemon, empty_maildir, mails, started, until
from tests.live.encrypted import careless
from tests.live.recipient import logged
from tests.unique import free_port

PASSWORD = "correct-horse-battery"
CONF = """
mda limit max-session 1
listen on 127.0.0.1 port {{port}} tls pki mx.here.test auth-optional {{{{ "amy" = "{hash}" }}}} hostname mx.here.test
listen on 127.0.0.1 port {plain}
action "local" maildir
action "box" mbox
action "line" mda "cat >> ~/lines" user {user}
action "never" mda "exit 75" user {user}
action "lmtp" lmtp "127.0.0.1:{lmtp}" rcpt-to user {user}
match from any for domain "here.test" action "local"
match from any for domain "box.test" action "box"
match from any for domain "line.test" action "line"
match from any for domain "never.test" action "never"
match from any for domain "lmtp.test" action "lmtp"
"""


@pytest.fixture(scope="module")
def ports():
    return {name: free_port() for name in ("plain", "lmtp")}


@pytest.fixture(scope="module")
def daemon(ground, users, alice, ports):
    conf = CONF.format(hash=submission.hashed(PASSWORD), user=alice, **ports)
    daemon = Daemon(ground, submission.PKI + conf)
    submission.certify(daemon)
    with started(daemon):
        yield daemon


@pytest.fixture
def maildir(users, alice):
    empty_maildir(users.home(alice))
    return users.home(alice)


@pytest.fixture
def client(daemon):
    """Somebody who has logged in."""
    with daemon.client() as client:
        client.starttls(context=careless())
        client.login("amy", PASSWORD)
        client.ehlo()
        yield client


def listed(daemon):
    return [json.loads(line) for line in daemon.smtpctl("-j", "show", "queue").stdout.splitlines()]


def send(client, recipient, *options, subject="x"):
    """The answer to MAIL; the mail is sent."""
    code, text = client.mail("amy@there.test", options)
    assert code == 250, text
    assert client.rcpt(recipient)[0] == 250
    assert client.data(f"Subject: {subject}\r\n\r\nx\r\n")[0] == 250
    return text.decode()


# -- time ------------------------------------------------------------------------------------


def test_a_mail_that_is_to_be_held_comes_afterwards(daemon, client, maildir, alice):
    """RFC 4865"""
    begun = time.time()
    send(client, f"{alice}@here.test", "HOLDFOR=2")
    (held,) = listed(daemon)
    assert held["release"] >= begun + 2
    assert mails(maildir) == []
    until(lambda: mails(maildir), what="the mail")
    assert time.time() >= held["release"]


def test_without_a_login_mail_cannot_be_held(daemon):
    with daemon.client() as client:
        client.ehlo()
        assert client.mail("amy@there.test", ["HOLDFOR=2"]) == (530, b"5.7.0 Authentication required")


def test_a_mail_that_comes_too_late_is_given_up(daemon, client, alice):
    """RFC 2852"""
    send(client, f"{alice}@never.test", "BY=2;R")
    (line,) = until(
        lambda: logged(daemon, "bounce: failed for ", "stat=5.4.7 Expired (deliver-by time)"), what="its end"
    )
    assert f"rcpt=<{alice}@never.test>" in line
    until(lambda: [entry for entry in listed(daemon) if "hold" in entry["flags"]], what="a notice that no rule takes")
    daemon.smtpctl("remove", "all")


# -- order -----------------------------------------------------------------------------------


def test_mail_of_a_higher_priority_is_delivered_first(daemon, client, users, alice):
    """RFC 6710; in the order that they came where it is the same."""
    lines = users.home(alice) / "lines"
    daemon.smtpctl("pause", "mda")
    for priority in (0, -4, 3, 9, 0, -9):
        send(client, f"{alice}@line.test", f"MT-PRIORITY={priority}", subject=f"priority {priority}")
    daemon.smtpctl("resume", "mda")
    until(lambda: not listed(daemon), what="all of them")
    assert re.findall("Subject: priority (.*)", lines.read_text()) == ["9", "3", "0", "0", "-4", "-9"]


def test_without_a_login_mail_has_no_priority(daemon, client, alice):
    """They are told so (RFC 6710 4.1); below the ordinary, everybody may be."""
    daemon.smtpctl("pause", "mda")
    with daemon.client() as stranger:
        stranger.ehlo()
        assert send(stranger, f"{alice}@here.test", "MT-PRIORITY=4").startswith("2.3.6 ")
        assert send(stranger, f"{alice}@here.test", "MT-PRIORITY=-4").startswith("2.0.0 ")
    assert send(client, f"{alice}@here.test", "MT-PRIORITY=4").startswith("2.0.0 ")
    assert [entry["priority"] for entry in listed(daemon)] == [0, -4, 4]
    daemon.smtpctl("remove", "all")
    daemon.smtpctl("resume", "mda")


# -- content ---------------------------------------------------------------------------------


class Box:
    """What an LMTP server has been given: one that knows 8BITMIME, and neither BINARYMIME nor SMTPUTF8."""

    def __init__(self):
        self.mails = []

    async def handle_DATA(self, server, session, envelope):
        self.mails.append((envelope.mail_options, envelope.original_content))
        return "250 2.0.0 kept"


class Lmtp(Controller):
    def factory(self):
        return LMTP(self.handler, enable_SMTPUTF8=False)


@pytest.fixture(scope="module")
def box(ports):
    server = Lmtp(Box(), hostname="127.0.0.1", port=ports["lmtp"])
    server.start()
    yield server.handler
    server.stop()


BINARY = b"Subject: bytes\r\n\r\n" + bytes(range(256)) * 300 + b"\n.\r\n\r.\r\n.\r\nQUIT\r\n\0"


def chunks(client, content, *sizes):
    """In chunks of these sizes, all at once; the answers."""
    sent, count = b"", 0
    for size in sizes:
        piece, content = content[:size], content[size:]
        sent += b"BDAT %d\r\n%s" % (len(piece), piece)
        count += 1
    client.sock.sendall(sent + b"BDAT %d LAST\r\n%s" % (len(content), content))
    return [client.getreply()[0] for _ in range(count + 1)]


def test_binary_content_in_any_chunks_under_tls_arrives_octet_for_octet(daemon, client, maildir, alice):
    """RFC 3030"""
    assert client.mail("amy@there.test", ["BODY=BINARYMIME"])[0] == 250
    assert client.rcpt(f"{alice}@here.test")[0] == 250
    assert chunks(client, BINARY, 1, 0, 15, 16384, 3, 40_000) == [250] * 7
    (mail,) = until(lambda: mails(maildir), what="the mail")
    assert email.message_from_bytes(mail).get_payload(decode=True) == BINARY.partition(b"\r\n\r\n")[2]
    assert client.noop()[0] == 250  # nothing in there was a command


def test_a_server_is_not_told_what_it_does_not_know(daemon, client, box, alice):
    for number, (option, subject) in enumerate([("BODY=BINARYMIME", "one"), ("SMTPUTF8", "grün")]):
        before = len(box.mails)
        assert client.mail("amy@there.test", [option])[0] == 250
        assert client.rcpt(f"{alice}@lmtp.test")[0] == 250
        assert chunks(client, f"Subject: {subject}\r\n\r\n{number}\r\n".encode(), 5) == [250, 250]
        until(lambda before=before: len(box.mails) == before + 1, what="the mail")
        options, content = box.mails[-1]
        assert options[-1] == "BODY=8BITMIME" and f"\r\nSubject: {subject}\r\n".encode() in content
        assert content.endswith(b"\r\n\r\n%d\r\n" % number)


def test_a_server_that_can_is_told_what_comes(daemon, client, box, alice):
    send(client, f"{alice}@lmtp.test", "BODY=8BITMIME", subject="eight")
    options, _ = until(lambda: [mail for mail in box.mails if b"Subject: eight" in mail[1]], what="the mail")[0]
    assert "BODY=8BITMIME" in options


# -- what is kept for others --------------------------------------------------------------------


def test_what_was_asked_about_notices_is_shown(daemon, client, alice):
    """RFC 3461"""
    daemon.smtpctl("pause", "mda")
    client.mail("amy@there.test", ["RET=FULL", "ENVID=QQ+2B314+20x"])
    client.rcpt(f"{alice}@here.test", ["NOTIFY=SUCCESS,DELAY", "ORCPT=rfc822;bob+2Bme@x.test"])
    assert client.data("Subject: x\r\n\r\nx\r\n")[0] == 250
    (entry,) = listed(daemon)
    shown = daemon.smtpctl("show", "envelope", entry["envelope"]).stdout.splitlines()
    expected = {"dsn-envid: QQ+314 x", "dsn-ret: FULL", "dsn-notify: success,delay", "dsn-orcpt: rfc822;bob+me@x.test"}
    assert expected <= {*shown}, shown
    daemon.smtpctl("remove", "all")
    daemon.smtpctl("resume", "mda")


def test_tls_on_the_whole_way_can_be_asked_for_under_tls_only(daemon, client, alice):
    """RFC 8689"""
    with daemon.client() as plain:
        plain.ehlo()
        assert not plain.has_extn("REQUIRETLS")
        assert plain.mail("amy@there.test", ["REQUIRETLS"]) == (555, b"5.5.4 Parameter REQUIRETLS not recognised")
    assert client.has_extn("REQUIRETLS")
    daemon.smtpctl("pause", "mda")
    send(client, f"{alice}@here.test", "REQUIRETLS")
    (entry,) = listed(daemon)
    assert entry["require_tls"] is True
    daemon.smtpctl("remove", "all")
    daemon.smtpctl("resume", "mda")
