"""Plays a dialogue of client/*.talk with a client: what the server says is fed, what the client says is compared.

    == name of the dialogue
    with: lmtp starttls=required login=amy/secret     the client's settings
    text: Subject: x\\n\\n.dot\\n                        content of its mails (escapes as in Python)

    S: 250 ok           a line of the server         S> raw bytes, escaped
    C: EHLO relay.test  a line that the client says  C> raw bytes, escaped: content in a chunk
    E: Ready            an action
    do: mail amy@there.test bob@here.test utf8 priority=3      begin a mail
    do: tls | unverified | quit | wait | lost reason | unreadable reason | hold | go

Lines of the server that follow each other are fed together, in whichever pieces; then all that the client did must be
what stands behind them, in that order.  Content is given as soon as the client wants it, in pieces of PIECE bytes,
unless `hold` stands before.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from smtpd.envelope import Body, MailParameters, Notify
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
    StartTls,
    Starttls,
)
from smtpd.smtp.client_auth import ClientLogin, Credentials
from smtpd.smtp.client_state import ClientState
from smtpd.tls.facts import TlsFacts

DATE = 1_000_000  # seconds since 1970
FACTS = TlsFacts("TLSv1.3", "X", 256, verified=True)
PIECE = 7  # bytes
CONTENT = b"Subject: hello\n\n.dot\n"

OPTIONS = {
    *("body", "by", "eight", "envid", "hold", "mode", "priority"),
    *("requiretls", "ret", "size", "submitter", "trace", "utf8"),
}

_MARK = re.compile(r"(==|with:|text:|S:|S>|C:|C>|E:|do:|#)(?: (.*))?")


@dataclass
class Turn:
    """What happens to the client, and what it does then."""

    fed: bytes = b""
    event: str = ""
    seen: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class ClientDialogue:
    name: str
    options: dict[str, str] = field(default_factory=dict)
    content: bytes = CONTENT
    turns: list[Turn] = field(default_factory=lambda: [Turn()])


class WatchedClient(SmtpClient):
    """`taken`: the transitions of all sessions."""

    taken: set[tuple[ClientState, ClientState]] = set()

    def enter(self, state: ClientState) -> None:
        self.taken.add((self.state, state))
        super().enter(state)


class ClientDriver:
    """A driver without a network.  Checks on the way what must hold for every session."""

    def __init__(self, options: dict[str, str] | None = None, content: bytes = CONTENT, piece: int = PIECE):
        self.now = 1000.0
        options = options or {}
        facts = FACTS if "smtps" in options else None
        self.client = WatchedClient(settings(options), self.now, facts)
        self.content, self.piece = content, piece
        self.held = False  # content is not given
        self.at: int | None = None  # how much of it has been given; None: it is not asked for
        self.seen: list[tuple[str, str]] = []
        self.said = b""  # a line without its end
        self.results: list[RecipientResult] = []
        self.begun: list[ClientMail] = []
        self.ended: End | None = None
        self.sent: list[bytes] = []  # every Say

    def feed(self, data: bytes) -> None:
        if data:
            self.obey(self.client.receive(data, self.now))

    def begin(self, mail: ClientMail) -> None:
        assert self.client.state is ClientState.READY
        self.begun.append(mail)
        self.obey(self.client.begin(mail, self.now, DATE))

    def obey(self, actions) -> None:
        for action in actions:
            assert self.ended is None, f"{action} after End"
            match action:
                case Say(data):
                    assert data
                    self.sent.append(data)
                    self.hear(data)
                case StartTls():
                    self.note("StartTls")
                case ReadContent():
                    assert (
                        self.at is None or self.at == len(self.content) or self.client.state is not ClientState.INSPECT
                    )
                    self.at = 0
                case RecipientResult():
                    self.results.append(action)
                    self.note(shown(action))
                case Ready():
                    assert len(self.results) == sum(len(mail.recipients) for mail in self.begun)
                    self.note("Ready")
                case End(kind, _, text, code, enhanced):
                    self.ended = action
                    self.note(" ".join(filter(None, ("End", kind.name, str(code or ""), enhanced, text))))
        assert self.client.deadline is None or self.client.deadline > self.now
        if self.ended:
            assert self.client.state is ClientState.OVER and not self.client.wants and self.client.deadline is None
            assert len(self.results) == sum(len(mail.recipients) for mail in self.begun)
        if not self.held:
            self.give()

    def give(self) -> None:
        """Content, as long as it is wanted."""
        while self.at is not None and self.client.wants:
            piece = self.content[self.at : self.at + min(self.piece, self.client.wants)]
            if piece:
                self.at += len(piece)
                self.obey(self.client.content(piece, self.now))
            else:
                self.at = None
                self.obey(self.client.content_end(self.now))
                self.obey(self.client.written(self.now))

    def hear(self, data: bytes) -> None:
        self.said += data
        while b"\r\n" in self.said:
            line, _, self.said = self.said.partition(b"\r\n")
            self.seen.append(("C", line.decode("utf-8", "backslashreplace")))

    def note(self, text: str) -> None:
        self.seen.append(("E", text))

    def do(self, event: str) -> None:
        what, _, rest = event.partition(" ")
        match what:
            case "mail":
                self.begin(mail_of(rest, self.content))
            case "tls":
                self.obey(self.client.tls_started(FACTS, self.now))
            case "unverified":
                self.obey(self.client.tls_started(FACTS._replace(verified=False), self.now))
            case "quit":
                self.obey(self.client.quit(self.now))
            case "wait":
                assert self.client.deadline is not None
                assert self.client.tick(self.client.deadline - 0.001) == []
                self.now = self.client.deadline
                self.obey(self.client.tick(self.now))
            case "lost":
                self.obey(self.client.lost(rest, self.now))
            case "unreadable":
                self.obey(self.client.content_failed(rest, self.now))
            case "hold":
                self.held = True
            case "go":
                self.held = False
                self.give()
            case _:
                raise ValueError(event)


def settings(options: dict[str, str]) -> ClientSettings:
    login = None
    if "login" in options:
        user, _, secret = options["login"].partition("/")
        login = ClientLogin(Credentials(user, secret, token="token" in options))
    return ClientSettings(
        options.get("name", "relay.test"),
        lmtp="lmtp" in options,
        starttls=Starttls[options.get("starttls", "if_offered").upper()],
        login=login,
        chunking="nochunks" not in options,
    )


def mail_of(text: str, content: bytes) -> ClientMail:
    """`sender recipient ... word=value ...`; a recipient with its own words as `bob@here.test,notify=SUCCESS+DELAY`."""
    words = text.split()
    parted = [word.partition("=") for word in words[1:]]
    options = {key: value for key, _, value in parted if key in OPTIONS}
    recipients = [recipient_of("".join(word)) for word in parted if word[0] not in OPTIONS]
    return ClientMail(
        "" if words[0] == "<>" else words[0],
        tuple(recipients),
        int(options.get("size", len(content))),
        parameters_of(options),
        eight_bit={"yes": True, "no": False, "": None}[options.get("eight", "")],
    )


def recipient_of(word: str) -> ClientRecipient:
    address, *more = word.split(",")
    options = dict(one.partition("=")[::2] for one in more)
    notify = Notify(0)
    for name in filter(None, options.get("notify", "").split("+")):
        notify |= Notify[name]
    return ClientRecipient(address, notify, options.get("orcpt", ""))


def parameters_of(options: dict[str, str]) -> MailParameters:
    return MailParameters(
        body=Body[options["body"]] if "body" in options else Body.SEVEN_BIT,
        utf8="utf8" in options,
        require_tls="requiretls" in options,
        ret=options.get("ret", ""),
        envid=options.get("envid", ""),
        submitter=options.get("submitter", ""),
        release=DATE + int(options["hold"]) if "hold" in options else 0,
        deliver_by=DATE + int(options["by"]) if "by" in options else 0,
        by_mode=options.get("mode", ""),
        by_trace="trace" in options,
        priority=int(options.get("priority", "0")),
    )


def shown(result: RecipientResult) -> str:
    words = [name for name in ("local", "uncertain", "dsn") if getattr(result, name)]
    if result.local and result.code:
        words.append(str(result.code))
    return " ".join([str(result.recipient), result.outcome.name, *words, result.text])


def dialogues(path: Path) -> list[ClientDialogue]:
    found: list[ClientDialogue] = []
    for line in filter(None, path.read_text().splitlines()):
        read = _MARK.fullmatch(line)
        if not read:
            raise ValueError(line)
        mark, text = read[1], read[2] or ""
        match mark:
            case "==":
                found.append(ClientDialogue(text))
            case "with:":
                found[-1].options = dict(option.partition("=")[::2] for option in text.split())
            case "text:":
                found[-1].content = unescape(text)
            case "S:" | "S>":
                if found[-1].turns[-1].event or found[-1].turns[-1].seen:
                    found[-1].turns.append(Turn())
                found[-1].turns[-1].fed += unescape(text) if mark == "S>" else text.encode() + b"\r\n"
            case "do:":
                found[-1].turns.append(Turn(event=text))
            case "C:" | "C>" | "E:":
                found[-1].turns[-1].seen.append((mark[0], text))
    return found


def play(dialogue: ClientDialogue, cut, *, piece: int = PIECE) -> ClientDriver:
    """`cut`: what the server says -> its pieces.  Each turn must have done what stands behind it."""
    driver = ClientDriver(dialogue.options, dialogue.content, piece)
    for turn in dialogue.turns:
        start = len(driver.seen)
        if turn.event:
            driver.do(turn.event)
        for part in cut(turn.fed):
            driver.feed(part)
        assert driver.seen[start:] == turn.seen, turn
    if not driver.ended:
        driver.do("lost the dialogue is over")
    return driver


def greeted(*extensions: str, content: bytes = CONTENT, piece: int = 64 * 1024, **options: str) -> ClientDriver:
    """A driver whose client is in READY."""
    driver = ClientDriver(options, content, piece)
    driver.feed(b"220 mx\r\n")
    driver.feed("".join(f"250-{word}\r\n" for word in ("mx", *extensions)).encode() + b"250 HELP\r\n")
    assert driver.client.state is ClientState.READY
    return driver


def play_refused_chunk(reply: bytes) -> ClientDriver:
    """Of a mail of several chunks, the first one is refused."""
    driver = greeted("PIPELINING", "CHUNKING", content=b"line\n" * 200_000)
    driver.do("mail amy@here.test bob@there.test eight=no")
    driver.feed(b"250 ok\r\n" * 2)
    assert driver.client.state is ClientState.CHUNKS
    driver.feed(reply)
    return driver


def unescape(text: str) -> bytes:
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1")
