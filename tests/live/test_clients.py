"""Other people's mail programs hand in a mail, over STARTTLS and smtps, with a password: what arrives is what was sent.

smtplib, aiosmtplib, curl    say SMTPUTF8 where an address needs it
swaks, msmtp before 1.8.28   pass on the bytes of such an address, and do not know what that takes; a newer msmtp says
                             SMTPUTF8 wherever it is offered
Chunks                       our own, for CHUNKING: none of them has it
"""

import asyncio
import email
import gc
import re
import smtplib
import ssl
import warnings

import aiosmtplib
import pytest

from tests.live import peer, submission
from tests.live.certificate import Authority
from tests.live.conftest import Daemon, empty_maildir, mails, started, until
from tests.live.recipient import logged
from tests.live.submission import assert_same, assert_unsaid, letter
from tests.unique import free_port

CONF = """
ca clients cert "{{directory}}/clients.ca"
table passwords file:{{directory}}/passwords
table people file:{{directory}}/people
listen on 127.0.0.1 port {{port}} tls-require pki mx.here.test auth <passwords> hostname mx.here.test
listen on 127.0.0.1 port {smtps} smtps pki mx.here.test auth <passwords> hostname mx.here.test
listen on 127.0.0.1 port {verifying} tls-require verify pki mx.here.test ca clients
action "people" maildir virtual <people>
match from any for domain "here.test" action "people"
"""
PASSWORD = "correct-horse"


class Mailer:
    """One mail program, and how it is told what to send.  `smtps`: its port, if TLS comes first."""

    def __init__(self, daemon, smtps):
        self.port, self.smtps, self.ca = smtps or daemon.port, smtps is not None, daemon.ca
        self.directory = daemon.directory

    def write(self, mail, line_end=b"\n"):
        path = self.directory / "mail"
        path.write_bytes(mail.as_bytes().replace(b"\r\n", line_end))
        return path


class Swaks(Mailer):
    def send(self, sender, recipient, mail, *more):
        content = ["--data", f"@{self.write(mail)}", "--suppress-data"]
        return peer.run(*self.to(sender, recipient), *content, *more)

    def to(self, sender, recipient):
        words = ["swaks", "--server", "localhost", "--port", str(self.port), "--ehlo", "client.test"]
        words += ["--tls-on-connect" if self.smtps else "--tls", "--tls-verify", "--tls-ca-path", str(self.ca)]
        words += ["--auth", "PLAIN", "--auth-user", "amy", "--auth-password", PASSWORD]
        return [*words, "--from", sender, "--to", recipient]


class Msmtp(Mailer):
    def send(self, sender, recipient, mail):
        path = self.directory / "msmtprc"
        path.touch(mode=0o600)
        path.write_text(
            f"account default\nhost localhost\nport {self.port}\ndomain client.test\n"
            f"tls on\ntls_starttls {'off' if self.smtps else 'on'}\ntls_trust_file {self.ca}\n"
            f"auth plain\nuser amy\npassword {PASSWORD}\n"
        )
        command = ["msmtp", "-C", path, "--debug", "-f", sender, recipient]
        return peer.run(*command, input=self.write(mail).read_bytes())


class Curl(Mailer):
    def send(self, sender, recipient, mail):
        url = f"{'smtps' if self.smtps else 'smtp'}://localhost:{self.port}/client.test"
        words = ["curl", "-sv", "--ssl-reqd", "--cacert", self.ca, "--user", f"amy:{PASSWORD}", url]
        words += ["--mail-from", sender, "--mail-rcpt", recipient, "--upload-file", self.write(mail, b"\r\n")]
        return peer.run(*words, env={"LC_ALL": "C.UTF-8", "PATH": "/usr/bin"})


class Smtplib(Mailer):
    def send(self, sender, recipient, mail):
        context = ssl.create_default_context(cafile=self.ca)
        make = smtplib.SMTP_SSL if self.smtps else smtplib.SMTP
        more = {"context": context} if self.smtps else {}
        with make("localhost", self.port, local_hostname="client.test", timeout=20, **more) as client:
            if not self.smtps:
                client.starttls(context=context)
            client.login("amy", PASSWORD)
            return self.converse(client, sender, recipient, mail)

    def converse(self, client, sender, recipient, mail):
        refused = client.send_message(mail, sender, recipient)
        return len(refused), str(refused)


class Chunks(Smtplib):
    """RFC 3030: commands and chunks in one go, the answers afterwards."""

    def converse(self, client, sender, recipient, mail):
        content = mail.as_bytes()
        pieces = [content[:1], content[1:70_001], b"", content[70_001:]]
        utf8 = "" if (sender + recipient).isascii() else " SMTPUTF8"
        parts = [f"MAIL FROM:<{sender}> BODY=8BITMIME{utf8}\r\nRCPT TO:<{recipient}>\r\n".encode()]
        parts += [b"BDAT %d\r\n%s" % (len(piece), piece) for piece in pieces]
        client.sock.sendall(b"".join([*parts, b"BDAT 0 LAST\r\n"]))
        codes = [client.getreply()[0] for _ in range(2 + len(pieces) + 1)]
        return codes != [250] * len(codes), str(codes)


class Aiosmtplib(Mailer):
    def send(self, sender, recipient, mail):
        mode = {"use_tls": True} if self.smtps else {"start_tls": True}
        mode |= {"tls_context": ssl.create_default_context(cafile=self.ca), "timeout": 20}
        where = {"hostname": "localhost", "port": self.port, "username": "amy", "password": PASSWORD}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves its socket to the garbage collector
            refused, text = asyncio.run(aiosmtplib.send(mail, sender=sender, recipients=[recipient], **where, **mode))
            gc.collect()
        return len(refused), text


KNOW_UTF8 = [Smtplib, Aiosmtplib, Curl, Chunks]
MAY_NOT_KNOW = [Swaks, Msmtp]


def each(*mailers):
    return pytest.mark.parametrize("mailer", mailers, ids=lambda mailer: mailer.__name__.lower())


both = pytest.mark.parametrize("smtps", [False, True], ids=["starttls", "smtps"])


@pytest.fixture(scope="module")
def ports():
    return {"smtps": free_port(), "verifying": free_port()}


@pytest.fixture(scope="module")
def clients():
    return Authority("clients")


@pytest.fixture(scope="module")
def daemon(ground, users, alice, ports, clients):
    daemon = Daemon(ground, submission.PKI + CONF.format(**ports))
    submission.certify(daemon)
    clients.write(daemon.directory, "clients")
    submission.write_table(daemon, "passwords", {"amy": submission.hashed(PASSWORD)})
    submission.write_table(daemon, "people", {"bob": alice, "bøb": alice})
    with started(daemon, "-v"):
        yield daemon
        assert_unsaid(daemon.log, PASSWORD)


@pytest.fixture
def maildir(users, alice):
    empty_maildir(users.home(alice))
    return users.home(alice)


def says_utf8(dialogue):
    """Whether the program, which shows what it says, has asked for SMTPUTF8."""
    return re.search(r"MAIL FROM:<.* SMTPUTF8", dialogue) is not None


@both
@each(*KNOW_UTF8, *MAY_NOT_KNOW)
def test_a_mail_with_an_attachment_arrives_as_it_was_sent(daemon, maildir, ports, mailer, smtps):
    mail = letter("Åmy <amy@there.test>", "bob@here.test")
    code, text = mailer(daemon, ports["smtps"] if smtps else None).send("amy@there.test", "bob@here.test", mail)
    assert code == 0, text
    (arrived,) = until(lambda: mails(maildir), what="the mail")
    assert_same(arrived, mail)
    protocol = b"UTF8SMTPSA" if says_utf8(text) else b"ESMTPSA"  # RFC 6531 4.3
    assert re.search(rb"^\tby mx.here.test \(smtpd\) with %s id " % protocol, arrived, re.MULTILINE)


@both
@each(*KNOW_UTF8)
def test_so_does_one_to_an_address_that_is_not_ascii(daemon, maildir, ports, mailer, smtps):
    mail = letter("åmy@there.test", "bøb@here.test", size=1000)
    code, text = mailer(daemon, ports["smtps"] if smtps else None).send("åmy@there.test", "bøb@here.test", mail)
    assert code == 0, text
    (arrived,) = until(lambda: mails(maildir), what="the mail")
    assert_same(arrived, mail)
    assert arrived.startswith("Return-Path: <åmy@there.test>\nDelivered-To: bøb@here.test\n".encode())
    assert b" with UTF8SMTPSA id " in arrived  # RFC 6531 4.3


@each(*MAY_NOT_KNOW)
def test_without_smtputf8_such_an_address_is_refused(daemon, maildir, mailer):
    code, text = mailer(daemon, None).send("amy@there.test", "bøb@here.test", letter("amy", "bøb", size=10))
    if says_utf8(text):
        assert code == 0, text
        until(lambda: mails(maildir), what="the mail")
    else:
        assert code != 0
        assert "553 5.6.7" in text  # RFC 6531 3.5
        assert mails(maildir) == []


# -- swaks, for what else it knows -------------------------------------------------------------


def test_commands_that_come_at_once_are_answered_one_by_one(daemon, maildir):
    mailer = Swaks(daemon, None)
    code, text = mailer.send(
        "amy@there.test", "bob@here.test,nobody@here.test", letter("a", "b", size=10), "--pipeline"
    )
    assert code == 0, text
    sent = text.partition("~> MAIL FROM")[2]
    assert re.search(
        r"~> RCPT TO:<bob@.*\n *~> RCPT TO:<nobody@.*\n *~> DATA\n *<~  250 2.0.0 .*\n *<~  250 2.1.5 ", sent
    )
    assert re.search(r"<~\* 5[0-9]{2} 5.*nobody.*\n *<~  354 ", sent)
    until(lambda: len(mails(maildir)) == 1, what="the mail")


def test_an_attachment_of_its_own_making(daemon, maildir):
    path = daemon.directory / "attached.bin"
    path.write_bytes(bytes(range(256)) * 4096)
    words = [*Swaks(daemon, None).to("amy@there.test", "bob@here.test"), "--header", "Subject: Grüße"]
    code, text = peer.run(*words, "--attach-type", "application/x-any", "--attach", f"@{path}", "--suppress-data")
    assert code == 0, text
    (arrived,) = until(lambda: mails(maildir), what="the mail")
    got = email.message_from_bytes(arrived, policy=submission.UTF8)
    assert got["Subject"] == "Grüße"
    (attached,) = (part for part in got.walk() if part.get_content_type() == "application/x-any")
    assert attached.get_content() == path.read_bytes()


@pytest.mark.parametrize("shown", ["ours", "a stranger's", "none"])
def test_a_certificate_of_the_client_is_asked_for_and_looked_at(daemon, maildir, ports, clients, shown):
    words = ["--server", "localhost", "--port", str(ports["verifying"]), "--tls", "--quit-after", "RCPT"]
    words += ["--from", "amy@there.test", "--to", "bob@here.test"]
    if shown != "none":
        issuer = clients if shown == "ours" else Authority("strangers")
        certificate, key = issuer.issue("laptop.there.test", client=True).write(
            daemon.directory, shown.partition("'")[0]
        )
        words += ["--tls-cert", str(certificate), "--tls-key", str(key)]
    code, text = peer.run("swaks", *words)
    assert (code == 0) == (shown == "ours"), text
    if shown == "ours":
        assert logged(daemon, 'cert-check result="verified"')
