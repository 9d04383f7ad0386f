"""Our client against servers of others, over 127.0.0.1: smtp-sink of Postfix, aiosmtpd, Dovecot's LMTP."""

import os
import socket
import ssl
import time

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from smtpd.envelope import Outcome
from smtpd.smtp.action import Say
from smtpd.smtp.client import SmtpClient
from smtpd.smtp.client_action import (
    ClientMail,
    ClientRecipient,
    ClientSettings,
    End,
    EndKind,
    ReadContent,
    RecipientResult,
    StartTls,
    Starttls,
)
from smtpd.smtp.client_auth import ClientLogin, Credentials
from smtpd.smtp.client_state import ClientState
from smtpd.tls.facts import TlsFacts
from tests.live import dovecot as peer
from tests.live.certificate import Authority
from tests.live.encrypted import careless
from tests.live.smtp_sink import needs_sink, smtp_sinks
from tests.unique import free_port

TEXT = b"Subject: hello\n\n" + b".dots\n..\n.\n" + b"line of text\n" * 20_000
EIGHT_BIT = b"Subject: hello\nMIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\nGr\xc3\xbc\xc3\x9fe\n"
QUIET = 60.0  # seconds that a server may be silent


class SocketDriver:
    """A driver with a blocking socket.  `verified`: what it says of the server's certificate."""

    def __init__(self, port, content=TEXT, **settings):
        self.socket = socket.create_connection(("127.0.0.1", port), QUIET)
        self.content = content
        self.results = []
        self.ended = None
        self.client = SmtpClient(ClientSettings("relay.test", **settings), time.monotonic())
        self.run()

    def run(self):
        """Until a mail may be begun, or the session is over."""
        while self.client.state not in (ClientState.READY, ClientState.OVER):
            try:
                data = self.socket.recv(65536)
            except OSError as error:
                self.obey(self.client.lost(str(error), time.monotonic()))
                continue
            if data:
                self.obey(self.client.receive(data, time.monotonic()))
            else:
                self.obey(self.client.lost("closed", time.monotonic()))

    def obey(self, actions):
        for action in actions:
            match action:
                case Say(data):
                    try:
                        self.socket.sendall(data)
                    except OSError as error:
                        self.obey(self.client.lost(str(error), time.monotonic()))
                case StartTls():
                    self.socket = careless().wrap_socket(self.socket, server_hostname="mx.here.test")
                    version, cipher = self.socket.version() or "", self.socket.cipher() or ("", "", 0)
                    facts = TlsFacts(version, cipher[0], cipher[2], verified=True)
                    self.obey(self.client.tls_started(facts, time.monotonic()))
                case ReadContent():
                    self.give()
                case RecipientResult():
                    self.results.append(action)
                case End():
                    self.ended = action
                    self.socket.close()

    def give(self):
        at = 0
        while self.client.wants and at < len(self.content):
            piece = self.content[at : at + self.client.wants]
            at += len(piece)
            self.obey(self.client.content(piece, time.monotonic()))
        if at == len(self.content):
            self.obey(self.client.content_end(time.monotonic()))
            self.obey(self.client.written(time.monotonic()))

    def deliver(self, *recipients, sender="amy@here.test", eight_bit=None):
        self.results = []
        mail = ClientMail(sender, tuple(map(ClientRecipient, recipients)), len(self.content), eight_bit=eight_bit)
        self.obey(self.client.begin(mail, time.monotonic(), int(time.time())))
        self.run()
        return [(result.outcome, result.code, result.uncertain) for result in sorted(self.results, key=by_recipient)]

    def quit(self):
        self.obey(self.client.quit(time.monotonic()))
        self.run()
        return self.ended


def by_recipient(result):
    return result.recipient


# -- smtp-sink ----------------------------------------------------------------------------------------------


@pytest.fixture
def sink():
    with smtp_sinks() as start:
        yield start


@needs_sink
@pytest.mark.parametrize("options", [(), ("-p",), ("-8",), ("-e",), ("-8", "-p")], ids=" ".join)
def test_mails_to_smtp_sink(sink, options):
    """With and without PIPELINING, 8BITMIME, and EHLO."""
    driver = SocketDriver(sink(*options))
    for _ in range(3):
        assert driver.deliver("bob@there.test", "carol@there.test") == [(Outcome.DELIVERED, 250, False)] * 2
    assert driver.quit().kind is EndKind.QUIT


@needs_sink
def test_lmtp_to_smtp_sink(sink):
    driver = SocketDriver(sink("-L"), lmtp=True)
    assert [outcome for outcome, _, _ in driver.deliver("bob", "carol")] == [Outcome.DELIVERED] * 2
    assert driver.quit().kind is EndKind.QUIT


@needs_sink
@pytest.mark.parametrize("command", ["mail", "rcpt", "data", "."])
@pytest.mark.parametrize("option, outcome", [("-f", Outcome.FAILED), ("-r", Outcome.DEFERRED)], ids=["hard", "soft"])
def test_smtp_sink_refuses(sink, command, option, outcome):
    """The session can be used again."""
    driver = SocketDriver(sink(option, command))
    for _ in range(2):
        assert [found for found, _, _ in driver.deliver("bob@there.test", "carol@there.test")] == [outcome] * 2
    assert driver.quit().kind is EndKind.QUIT


@needs_sink
@pytest.mark.parametrize("command", ["connect", "ehlo", "mail", "rcpt", "data", "."])
def test_smtp_sink_disconnects(sink, command):
    driver = SocketDriver(sink("-q", command))
    if command in ("connect", "ehlo"):
        assert driver.ended.kind is EndKind.LOST
        return
    uncertain = command == "."
    assert driver.deliver("bob@there.test") == [(Outcome.DEFERRED, 0, uncertain)]
    assert driver.ended.kind is EndKind.LOST


# -- aiosmtpd -----------------------------------------------------------------------------------------------


class Keeper:
    def __init__(self):
        self.mails = []

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 ok"

    async def handle_DATA(self, server, session, envelope):
        self.mails.append((envelope.mail_from, envelope.rcpt_tos, envelope.original_content, envelope.mail_options))
        return "250 2.0.0 kept"


@pytest.fixture
def aiosmtpd_server(ground):
    Authority("here").issue("mx.here.test").write(ground, "client-mx")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ground / "client-mx.crt", ground / "client-mx.key")

    def authenticate(server, session, envelope, mechanism, data):
        right = (data.login, data.password) == (b"amy", b"secret")
        return AuthResult(success=right, handled=False)  # the server itself replies

    keeper = Keeper()
    controller = Controller(
        keeper, "127.0.0.1", free_port(), tls_context=context, require_starttls=True, auth_required=True,
        authenticator=authenticate, decode_data=False, enable_SMTPUTF8=True,
    )  # fmt: skip
    controller.start()
    yield controller.port, keeper
    controller.stop()


def test_a_login_and_mails_to_aiosmtpd_under_tls(aiosmtpd_server):
    port, keeper = aiosmtpd_server
    login = ClientLogin(Credentials("amy", "secret"))
    driver = SocketDriver(port, EIGHT_BIT, starttls=Starttls.REQUIRED, login=login)
    assert driver.client.user == "amy"
    assert driver.deliver("bob@there.test", "nobody@there.test") == [
        (Outcome.DELIVERED, 250, False),
        (Outcome.FAILED, 550, False),
    ]
    assert driver.deliver("b\u00f6b@there.test") == [(Outcome.DELIVERED, 250, False)]
    assert driver.quit().kind is EndKind.QUIT
    wired = EIGHT_BIT.replace(b"\n", b"\r\n")
    assert [mail[1:3] for mail in keeper.mails] == [(["bob@there.test"], wired), (["b\u00f6b@there.test"], wired)]
    assert ["SMTPUTF8" in mail[3] for mail in keeper.mails] == [False, True]


def test_a_wrong_password_ends_the_session_before_any_mail(aiosmtpd_server):
    port, _ = aiosmtpd_server
    login = ClientLogin(Credentials("amy", "wrong"))
    driver = SocketDriver(port, starttls=Starttls.REQUIRED, login=login)
    assert (driver.ended.kind, driver.ended.code) == (EndKind.AUTH, 535)


# -- Dovecot ------------------------------------------------------------------------------------------------


@pytest.mark.skipif(peer.MISSING is not None or os.geteuid() != 0, reason=peer.MISSING or "needs root: users")
def test_mails_to_dovecot_by_lmtp(ground, users):
    server = peer.Dovecot(ground / "dovecot-client", free_port(), users.make("smtpd-vmail"))
    server.add_user("carol")
    server.add_user("dave", quota=100)
    server.start()
    try:
        driver = SocketDriver(server.port, EIGHT_BIT * 20, lmtp=True)
        results = driver.deliver("carol", "erin", "dave")
        assert [outcome for outcome, _, _ in results] == [Outcome.DELIVERED, Outcome.FAILED, Outcome.FAILED]
        assert [result.enhanced for result in sorted(driver.results, key=by_recipient)] == ["2.0.0", "5.1.1", "5.2.2"]
        assert [outcome for outcome, _, _ in driver.deliver("erin")] == [Outcome.FAILED]
        assert [outcome for outcome, _, _ in driver.deliver("carol")] == [Outcome.DELIVERED]
        assert driver.quit().kind is EndKind.QUIT
        assert all(mail.endswith("Gr\u00fc\u00dfe\n".encode()) for mail in server.mails("carol"))
    finally:
        server.kill()
