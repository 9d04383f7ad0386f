"""Plays a dialogue with a Session, in the place of a driver and of the processes behind it.

    == a refused recipient leaves the transaction open       the rule; a file holds many
    with: max_rcpt=2 store=451/4.3.0                         limits, what the others answer,
    with: tls=tls-require auth=auth senders                  words of the listener
    C: HELO relay.test                                       a line of the client, with CRLF
    C> NOOP\\n                                                bytes of the client, escaped
    B> A: b\\r\\n                                             a chunk: BDAT, and bytes escaped
    B. A: b\\r\\n                                             the last chunk
    S: 250                                                   a line of the server begins so
    S: ...                                                   any lines
    do: tick 300                                             also: abort, shutdown, expel
    mail: Subject: x\\n                                       a message was stored; content behind the trace line
    log: failed-command command="RCPT                        a log line begins so
    closed: quit                                             by the server, and why

The recipient decides what lookup answers: nobody@ 550, later@ 451, gone@ 421, team@ three envelopes.  So does the
password: "secret" is right, "later" cannot be checked; and of a user's senders eve@ is none, later@ cannot be checked.

Each dialogue is played line by line, where the replies must stand behind their commands; and then as groups, byte by
byte, and cut at each position, where all that comes out must be the same; and once more behind STARTTLS, and over TLS.
"""

from dataclasses import dataclass, field
from pathlib import Path

from msgspec.structs import replace

from smtpd.slice import Auth, Limits, ListenerSlice, Tls, TlsSlice
from smtpd.smtp.action import Action, AppendContent, Ask, Close, CountFailure, DropMessage, Log, Say
from smtpd.smtp.question import (
    Answer,
    MessageIdAnswer,
    MessageIdQuestion,
    PasswordAnswer,
    PasswordQuestion,
    PauseAnswer,
    PauseQuestion,
    Question,
    RecipientAnswer,
    RecipientQuestion,
    RefusedAnswer,
    ScramProofAnswer,
    ScramProofQuestion,
    ScramSeedAnswer,
    ScramSeedQuestion,
    SenderAnswer,
    SenderQuestion,
    StoreAnswer,
    StoreQuestion,
    TlsAnswer,
    TlsQuestion,
    Verdict,
)
from smtpd.smtp.server import ServerSession
from smtpd.smtp.session import Client, Settings
from smtpd.tls.facts import TlsFacts

LISTENER = ListenerSlice(0, "192.0.2.25", 25, "mx.here.test", "in")
CLIENT = Client("192.0.2.1", 40025, "mail.there.test")
FACTS = TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384", 256, exporter=b"exporter", end_point=b"end point")
NOON = 1795243823  # Sat, 21 Nov 2026 06:50:23
FIRST_ID = 0x1A2B3C01

REFUSALS = {
    "nobody": RefusedAnswer(550, "5.1.1", "no such user"),
    "later": RefusedAnswer(451, "4.3.0", "Temporary failure"),
    "gone": RefusedAnswer(421, "4.3.0", "going away"),
}


VERDICTS = {"secret": Verdict.YES, "later": Verdict.LATER, "eve": Verdict.NO}


def others_answer(question: Question, message: int, refusals: dict[str, RefusedAnswer]) -> Answer:
    match question:
        case MessageIdQuestion():
            return refusals.get("begin") or MessageIdAnswer(message, NOON)
        case RecipientQuestion(recipient=recipient):
            local = recipient.partition("@")[0]
            return REFUSALS.get(local) or RecipientAnswer(3 if local == "team" else 1)
        case StoreQuestion():
            return refusals.get("store") or StoreAnswer()
        case TlsQuestion():
            return TlsAnswer(FACTS)
        case PasswordQuestion(password=password):
            return PasswordAnswer(VERDICTS.get(password, Verdict.NO))
        case ScramSeedQuestion():
            return ScramSeedAnswer(Verdict.YES, b"salt", 4096)
        case ScramProofQuestion():
            return ScramProofAnswer(Verdict.NO)
        case SenderQuestion(sender=sender):
            return SenderAnswer(VERDICTS.get(sender.partition("@")[0], Verdict.YES))
        case PauseQuestion():
            return PauseAnswer()


def listener_with(options: dict[str, str], listener: ListenerSlice = LISTENER) -> ListenerSlice:
    """The words that are the listener's are taken out of the options."""
    if "tls" in options:
        listener = replace(listener, tls=TlsSlice(Tls(options.pop("tls")), ("mx.here.test",)))
    if "auth" in options:
        listener = replace(listener, auth=Auth(options.pop("auth")))
    if "port" in options:
        listener = replace(listener, port=int(options.pop("port")))
    words = {"senders", "masquerade", "no_dsn", "received_auth", "mask_src", "scram"} & options.keys()
    return replace(listener, **{word: not options.pop(word) for word in words})


class Conversation:
    """A session, and what came out of it.  Checks on the way what must hold for every one."""

    def __init__(self, options: dict[str, str] | None = None, client: Client = CLIENT, listener=LISTENER, early=False):
        limits, size, self.refusals = Limits(), 1000, {}
        options = dict(options or {})
        listener = listener_with(options, listener)
        facts = FACTS if listener.tls and listener.tls.mode is Tls.AT_ONCE else None
        may_xclient = "xclient" in options
        options.pop("xclient", None)
        for key, value in options.items():
            if key in ("begin", "store"):
                code, enhanced = value.split("/")
                self.refusals[key] = RefusedAnswer(int(code), enhanced, "says the other")
            elif key == "size":
                size = int(value)
            else:
                limits = replace(limits, **{key: int(value)})
        settings = Settings("here.test", size, limits)
        self.session = ServerSession(
            7, listener, client=client, settings=settings, facts=facts, may_xclient=may_xclient
        )
        self.now = 1000.0
        self.said = b""
        self.logged: list[str] = []
        self.asked: list[Question] = []
        self.closed = ""
        self.content: dict[int, bytes] = {}  # of what is on its way
        self.stored: dict[int, bytes] = {}
        self.forgotten: dict[int, int] = {}
        self.begun: list[int] = []
        self.open: Question | None = None
        self.failures: list[str] = []
        self.obey(self.session.greeting(self.now, early, NOON))

    def feed(self, data: bytes) -> None:
        self.obey(self.session.receive(data, self.now))

    def hear(self, data: bytes) -> None:
        self.said += data

    def answer(self, answer: Answer | None = None) -> None:
        question, self.open = self.open, None
        assert question is not None
        message = FIRST_ID + len(self.begun)
        answer = answer or others_answer(question, message, self.refusals)
        if isinstance(answer, MessageIdAnswer):
            self.begun.append(message)
            self.content[message] = b""
        if isinstance(answer, StoreAnswer):
            self.stored[question.message] = self.content.pop(question.message)
        self.obey(self.session.answer(answer, self.now))

    def answer_all(self) -> None:
        while self.open:
            self.answer()

    def do(self, what: str) -> None:
        verb, _, argument = what.partition(" ")
        match verb:
            case "tick":
                self.now += float(argument)
                self.obey(self.session.tick(self.now))
            case "abort":
                self.obey(self.session.aborted())
            case "shutdown":
                self.obey(self.session.shutdown())
            case "expel":
                self.obey(self.session.expel())
            case _:
                raise ValueError(what)

    def obey(self, actions: list[Action]) -> None:
        assert sum(isinstance(action, Say) for action in actions) <= 1
        for action in actions:
            assert not self.closed, f"{action} after Close"
            match action:
                case Say(data):
                    self.hear(data)
                case Log():
                    self.logged.append(str(action))
                case AppendContent(data):
                    self.content[self.begun[-1]] += data
                case DropMessage(message, envelopes):
                    assert message in self.content
                    del self.content[message]
                    self.forgotten[message] = envelopes
                case Ask(question):
                    assert self.open is None
                    if isinstance(question, StoreQuestion):
                        assert question.size == len(self.content[question.message])
                    self.open = question
                    self.asked.append(question)
                case CountFailure(address):
                    self.failures.append(address)
                case Close(reason):
                    self.closed = reason

    def end(self) -> None:
        """The client leaves.  Each message that was begun has been stored or forgotten, never both."""
        if not self.closed:
            self.obey(self.session.aborted())
        self.answer_all()
        assert not self.content
        assert sorted([*self.stored, *self.forgotten]) == sorted(self.begun)


@dataclass
class Turn:
    """What the client does, and what it reads before it goes on."""

    data: bytes = b""
    event: str = ""
    replies: list[str] = field(default_factory=list)

    @property
    def is_barrier(self) -> bool:
        """Nothing may be sent behind it before its answer."""
        return bool(self.event) or self.data.strip().upper() == b"DATA" or self.data.startswith(b"STARTTLS")


@dataclass
class Dialogue:
    name: str
    options: dict[str, str] = field(default_factory=dict)
    turns: list[Turn] = field(default_factory=lambda: [Turn()])
    mails: list[bytes] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    closed: str = ""

    def groups(self) -> list[Turn]:
        """The turns with all that may be sent together in one."""
        groups = [Turn()]
        for turn in self.turns:
            if turn.event:
                groups += [turn, Turn()]
                continue
            groups[-1].data += turn.data
            if turn.is_barrier:
                groups.append(Turn())
        return [group for group in groups if group.data or group.event]


def dialogues(path: Path) -> list[Dialogue]:
    found: list[Dialogue] = []
    for line in path.read_text().splitlines():
        word, _, text = line.partition(" ")
        match word:
            case "==":
                found.append(Dialogue(text))
            case "with:":
                found[-1].options = dict(option.partition("=")[::2] for option in text.split())
            case "C:":
                found[-1].turns.append(Turn(text.encode() + b"\r\n"))
            case "C>":
                found[-1].turns.append(Turn(_unescape(text)))
            case "B>" | "B.":
                chunk = _unescape(text)
                last = b" LAST" * (word == "B.")
                found[-1].turns.append(Turn(b"BDAT %d%b\r\n%b" % (len(chunk), last, chunk)))
            case "do:":
                found[-1].turns.append(Turn(event=text))
            case "S:":
                found[-1].turns[-1].replies.append(text)
            case "mail:":
                found[-1].mails.append(_unescape(text))
            case "log:":
                found[-1].logged.append(text)
            case "closed:":
                found[-1].closed = text
            case "" | "#":
                pass
            case _:
                raise ValueError(line)
    return found


def play_by_line(dialogue: Dialogue, *, encrypted: bool = False) -> Conversation:
    """Each turn for itself; what is said must be what stands behind it.  `encrypted`: all of it behind STARTTLS."""
    talk = Conversation(dialogue.options | ({"tls": "tls"} if encrypted else {}))
    if encrypted:
        take_turn(talk, Turn(), [b"STARTTLS\r\n"])
    for turn in dialogue.turns:
        start = len(talk.said)
        take_turn(talk, turn, [turn.data])
        said = talk.said[start:].decode().split("\r\n")[:-1]
        if encrypted:
            said = [line for line in said if line != "250-REQUIRETLS"]
        if "..." in turn.replies:
            before, behind = turn.replies.index("..."), turn.replies[::-1].index("...")
            said[before : len(said) - behind] = ["..."]
        assert len(said) == len(turn.replies), (turn, said)
        for reply, expected in zip(said, turn.replies, strict=True):
            assert reply.startswith(expected), (turn, said)
    talk.end()
    return talk


def play_in_pieces(dialogue: Dialogue, cut, *, eager: bool = False, talk: Conversation | None = None) -> Conversation:
    """`cut`: a group of bytes -> its pieces.  `eager`: all of a group is fed before any question is answered."""
    talk = talk or Conversation(dialogue.options)
    for turn in dialogue.groups():
        take_turn(talk, turn, cut(turn.data), eager=eager)
    talk.end()
    return talk


def take_turn(talk: Conversation, turn: Turn, pieces, *, eager: bool = False) -> None:
    if turn.event:
        talk.do(turn.event)
    for piece in filter(None, pieces):
        if talk.closed:
            break
        talk.feed(piece)
        if not eager:
            talk.answer_all()
    talk.answer_all()


def _unescape(text: str) -> bytes:
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape").encode("latin-1")
