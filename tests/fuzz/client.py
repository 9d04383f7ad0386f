"""A client's session, SMTP or LMTP, with a server that says anything.

byte 0      SMTP or LMTP; STARTTLS; a login; the size of pieces
byte 1      of the mails: their recipients, what they ask for, their content
the rest    what the server says; 0xff in between is an event: the handshake is done, time passes, the connection ends

Each recipient has exactly one result, and none is said to be delivered before the mail was sent to its end.
"""

import re

from smtpd.envelope import MailParameters, Notify, Outcome
from smtpd.smtp.action import Say
from smtpd.smtp.client import SmtpClient
from smtpd.smtp.client_action import (
    ClientMail,
    ClientRecipient,
    ClientSettings,
    End,
    ReadContent,
    Ready,
    RecipientResult,
    Starttls,
)
from smtpd.smtp.client_auth import ClientLogin, Credentials
from smtpd.smtp.client_state import ClientState
from smtpd.tls.facts import TlsFacts
from tests.fuzz import invariants

FACTS = TlsFacts("TLSv1.3", "X", 256, verified=True, exporter=b"exporter")
LOGIN = ClientLogin(Credentials("amy", "s3cret"))
CONTENTS = (b"Subject: x\n\n.\n", "Subject: x\n\ngrüße\n".encode(), "Subject: grüße\n\n".encode(), b"x" * 100)
TERMS = (
    MailParameters(),
    MailParameters(utf8=True),
    MailParameters(require_tls=True, envid="a+b", ret="HDRS"),
    MailParameters(deliver_by=1000, by_mode="N", priority=3, submitter="eve@x.test"),
)
RECIPIENTS = (
    ClientRecipient("bob@there.test", Notify.SUCCESS, "rfc822;b+b@x.test"),
    ClientRecipient("carol@there.test"),
    ClientRecipient("däve@there.test", original="utf-8;däve@x.test"),
)
_LINE = re.compile(rb"[!-~\x80-\xff][ -~\x80-\xff]*\r\n")
MAILS_MAX = 4


class FuzzedDriver:
    """Does what the client wants, and checks it."""

    def __init__(self, choice: int, kind: int):
        lmtp = bool(choice & 1)
        login = LOGIN if choice & 8 and not lmtp else None
        settings = ClientSettings("relay.test", lmtp, tuple(Starttls)[(choice >> 1 & 3) % 3], login)
        self.now = 0.0
        self.client = SmtpClient(settings, self.now, FACTS if choice & 16 else None)
        self.kind = kind
        self.content = CONTENTS[kind >> 4 & 3]
        self.at: int | None = None
        self.mails = 0
        self.open: set[int] = set()
        self.sent_to_its_end = False
        self.ended = False

    def begin(self) -> None:
        recipients = RECIPIENTS[: 1 + self.kind % 3]
        self.open, self.sent_to_its_end, self.mails = set(range(len(recipients))), False, self.mails + 1
        mail = ClientMail("amy@here.test", recipients, len(self.content), TERMS[self.kind >> 2 & 3])
        self.obey(self.client.begin(mail, self.now, 900))

    def obey(self, actions) -> None:
        for action in actions:
            assert not self.ended
            match action:
                case Say(data):
                    assert data
                    if self.client.state not in (ClientState.CONTENT, ClientState.CHUNKS, ClientState.DOT):
                        check_commands(data)
                case ReadContent():
                    self.at = 0
                case RecipientResult():
                    self.check(action)
                case Ready():
                    assert not self.open
                case End():
                    self.ended = True
                    assert not self.open
                    invariants.check_log(action.text)
        assert (self.client.state is ClientState.OVER) == self.ended

    def check(self, result: RecipientResult) -> None:
        self.open.remove(result.recipient)
        invariants.check_log(result.text)
        assert result.text.isascii() and "s3cret" not in result.text
        if result.outcome is Outcome.DELIVERED or result.uncertain:
            assert self.sent_to_its_end
        assert result.outcome is not Outcome.DELIVERED or 200 <= result.code < 300
        assert result.outcome is not Outcome.FAILED or 500 <= result.code < 600

    def go_on(self) -> None:
        """Content, as long as it is wanted; then the next mail."""
        while not self.ended and self.at is not None and self.client.wants:
            piece = self.content[self.at : self.at + 50]
            self.at += len(piece)
            if piece:
                self.obey(self.client.content(piece, self.now))
                continue
            self.at = None
            self.sent_to_its_end = self.client.state in (ClientState.CONTENT, ClientState.CHUNKS)
            self.obey(self.client.content_end(self.now))
            self.obey(self.client.written(self.now))
        if self.client.state is ClientState.READY and self.mails < MAILS_MAX:
            self.begin()
            self.go_on()


def fuzz(data: bytes) -> None:
    choice, kind = (*data[:2], 0, 0)[:2]
    driver = FuzzedDriver(choice, kind)
    step = 1 + (choice >> 5) * 9
    for number, said in enumerate(data[2:].split(b"\xff")):
        if number:
            happen(driver, number)
        for at in range(0, len(said), step):
            if not driver.ended:
                driver.obey(driver.client.receive(said[at : at + step], driver.now))
                driver.go_on()
    if not driver.ended:
        driver.obey(driver.client.lost("closed", driver.now))
    assert driver.ended and driver.client.deadline is None and not driver.client.wants


def happen(driver: FuzzedDriver, number: int) -> None:
    """The handshake, where one is waited for; otherwise time passes."""
    if driver.ended:
        return
    if driver.client.state is ClientState.TLS:
        driver.obey(driver.client.tls_started(FACTS, driver.now))
    elif driver.client.deadline is not None and number % 4 == 0:
        driver.now = driver.client.deadline
        driver.obey(driver.client.tick(driver.now))
        assert driver.ended
    else:
        driver.now += 1
        driver.obey(driver.client.tick(driver.now))
        assert not driver.ended


def check_commands(said: bytes) -> None:
    """Whole lines, and nothing in them that would begin another one."""
    at = 0
    while at < len(said):
        found = _LINE.match(said, at) or re.compile(rb"\r\n").match(said, at)  # an empty answer to a challenge
        assert found, said
        at = found.end()
