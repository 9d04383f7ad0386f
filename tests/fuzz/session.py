"""A whole session: what a client sends and when, with those it asks played by a model.

    byte 0      what the listener has, bit by bit
    byte 1      limits, and what the others answer
    byte 2      how the same bytes are cut the second time
    the rest    what the client sends, and in between
                0xff      it reads what it was answered before it goes on
                0xfe X    something happens (EVENTS)
                0xfd X    the same, with a question open if there is one

Played twice, in whole groups and in pieces, with the same outcome.
"""

import re
from dataclasses import dataclass
from unittest.mock import patch

from smtpd.slice import Auth, Tls
from smtpd.smtp.action import Action, AppendContent, Ask, DropMessage, Log, Say
from smtpd.smtp.data import END
from smtpd.smtp.dot_stuffing import dot_stuffed
from smtpd.smtp.question import (
    Answer,
    PasswordAnswer,
    PasswordQuestion,
    Question,
    RecipientQuestion,
    RefusedAnswer,
    ScramProofAnswer,
    ScramProofQuestion,
    StoreAnswer,
    StoreQuestion,
    TlsQuestion,
    Verdict,
)
from smtpd.smtp.session import Client
from smtpd.smtp.state import COMMANDING, State
from tests.fuzz import invariants
from tests.smtp.player import CLIENT, LISTENER, Conversation

EVENTS = ("tick 1", "tick 301", "abort", "shutdown", "expel", "tick 100", "fail", "tick 8000")
LOCAL = Client("local", 0, "localhost", local=True)
NASTY = "no such\r\n250 user \0\u2028\ud800" + "x" * 600  # of a name server, a table, a program
PROOF = b"proof"
NONCE = "nonce"
MAX_TALK = 64  # events and groups

_BREAK = re.compile(rb"(\xff|[\xfe\xfd].?)", re.DOTALL)
_DOT = re.compile(rb"(?=\r\n\.\r\n)")
_LAST = re.compile(rb"(?=BDAT[ \t]+[0-9]+[ \t]+LAST[ \t]*\r\n)", re.IGNORECASE)
# Where content is wrong in two ways, the pieces decide which one is found.
_ONE_OF_TWO = re.compile(
    r"(?:550 5\.6\.0|554 5\.6\.3) [A-Z][^\r\"]*|500 5\.5\.2 (?:NUL received|Lines? [^\r\"]*)"
    r"|550 5\.7\.1 Malformed message header|552 5\.3\.4 Message header too large"
)
_MASKED = re.compile(r"AUTH( [A-Z0-9_-]{1,20})? \(\.\.\.\)")
_TOO_EARLY = "503 5.5.1 Nothing may follow "


def fuzz(data: bytes) -> None:
    if len(data) < 4:
        return
    bits, limits, cut = data[:3]
    turns = _turns(data[3:])
    with patch("secrets.token_urlsafe", lambda size: NONCE):
        whole = _play(bits, limits, turns, 0, eager=False)
        pieces = _play(bits, limits, turns, 1 + (cut & 0x1F), eager=bool(cut & 0x80))
        if any(_TOO_EARLY in line for line in whole.logged):
            return  # what is behind a command depends on the pieces
        assert pieces.outcome() == whole.outcome()
        said = whole.get_said(), pieces.get_said()
        if any(turn.while_asking for turn in turns):  # a reply may have waited for the others of its group
            assert said[0].startswith(said[1]) or said[1].startswith(said[0])
        else:
            assert said[0] == said[1]


@dataclass
class Turn:
    data: bytes
    event: str
    while_asking: bool


def _turns(data: bytes) -> list[Turn]:
    parts = _BREAK.split(data)[: 2 * MAX_TALK]
    turns = []
    for text, mark in zip(parts[::2], [*parts[1::2], b""], strict=False):
        event = EVENTS[mark[1] % len(EVENTS)] if len(mark) > 1 else ""
        turns.append(Turn(text, event, bool(event) and mark[:1] == b"\xfd"))
    return turns


def _play(bits: int, limits: int, turns: list[Turn], step: int, *, eager: bool) -> "Watched":
    talk = Watched(_options(bits, limits), LOCAL if limits & 64 else CLIENT, LISTENER, early=bool(limits & 128))
    talk.bytewise = step == 1 and not eager and not any(turn.while_asking for turn in turns)
    for turn in turns:
        size = step or len(turn.data) or 1
        for at in range(0, len(turn.data), size):
            if talk.closed or talk.gone:
                break
            talk.feed(turn.data[at : at + size])
            if not (eager or turn.while_asking):
                talk.answer_all()
        if not turn.while_asking:
            talk.answer_all()
        if turn.event and not (talk.closed or talk.gone):
            talk.gone = turn.event == "abort"
            talk.do(turn.event)
        talk.answer_all()
    talk.end()
    talk.check_end(b"".join(turn.data for turn in turns))
    return talk


def _options(bits: int, limits: int) -> dict[str, str]:
    options = {}
    if tls := (None, *Tls)[bits & 3]:
        options["tls"] = tls.value
    if auth := (None, Auth.OFFERED, Auth.REQUIRED, Auth.OFFERED)[bits >> 2 & 3]:
        options["auth"] = auth.value
    for bit, words in ((16, ("scram",)), (32, ("senders", "masquerade")), (64, ("xclient",))):
        if bits & bit:
            options |= dict.fromkeys(words, "")
    if bits & 128:
        options |= {"port": "587", "no_dsn": "", "received_auth": "", "mask_src": ""}
    if limits & 64:  # a program of this host speaks for itself
        options.pop("xclient", None)
    if limits & 1:
        options |= {"max_rcpt": "2", "max_mails": "2", "size": "120"}
    if limits & 2:
        options |= {"tarpit_after": "1", "max_errors": "4"}
    if limits & 4:
        options["begin"] = "450/4.7.1"
    if limits & 8:
        options["store"] = "421/4.3.0" if limits & 16 else "451/4.3.0"
    if limits & 32:
        options["tarpit"] = "0"
    return options


class Watched(Conversation):
    """What must hold is asked at every step."""

    def __init__(self, options: dict[str, str], client: Client, listener, early: bool):
        self.may_xclient = "xclient" in options
        self.granted: set[str] = set()
        self.binary: set[int] = set()
        self.shown: list[str] = []  # commands in the log
        self.line = b""  # that has no end yet, as the client means it
        self.gone = False  # the client
        self.bytewise = False
        super().__init__(options, client, listener, early)

    def do(self, what: str) -> None:
        if what == "fail":  # as after an exception of our own
            self.obey(self.session.failed())
        else:
            super().do(what)

    def outcome(self) -> tuple:
        """All but what was said."""
        logged = _ONE_OF_TWO.sub("wrong", "\n".join(self.logged))
        talk = logged, self.closed, self.stored, self.forgotten, self.asked, self.failures
        return (*talk, self.session.state, self.session.user)

    def get_said(self) -> str:
        return _ONE_OF_TWO.sub("wrong", self.said.decode())

    def feed(self, data: bytes) -> None:
        if isinstance(self.open, TlsQuestion):
            assert not self.session.receive(data, self.now)
            assert self.session.lines.is_empty()
            return
        secret, shown = self._maybe_secret(data), len(self.shown)
        super().feed(data)
        assert not secret or not any(secret in command for command in self.shown[shown:])

    def _maybe_secret(self, data: bytes) -> str:
        """The secret part of a line that is complete now.  Only known when it comes byte by byte."""
        if not self.bytewise or self.session.state in (State.CHUNK, State.DATA):
            self.line = b""
            return ""
        line, end, self.line = (self.line + data).rpartition(b"\r\n")
        if not end or b"\n" in line or self.session.state not in (State.AUTH, *COMMANDING):
            return ""
        if self.session.state is not State.AUTH:
            words = line.split(maxsplit=2)
            line = words[2] if len(words) > 2 and words[0].upper() == b"AUTH" else b""
        return line.decode("latin-1") if len(line) > 8 else ""

    def answer(self, answer: Answer | None = None) -> None:
        question = self.open
        match question:
            case ScramProofQuestion(user=user, proof=proof):
                answer = ScramProofAnswer(Verdict.YES, b"x") if proof == PROOF else ScramProofAnswer(Verdict.NO)
                self._grant(user, answer.verdict)
            case PasswordQuestion(user=user, password="secret"):
                answer = PasswordAnswer(Verdict.YES)
                self._grant(user, answer.verdict)
            case RecipientQuestion(recipient=recipient) if recipient.startswith("nobody@"):
                answer = RefusedAnswer(550, "5.1.1", NASTY)
            case StoreQuestion() if "store" not in self.refusals:
                self._check_content(self.content[question.message], question.message in self.binary)
                answer = StoreAnswer()
        super().answer(answer)
        if isinstance(question, TlsQuestion) and not self.session.closed:
            assert self.session.state is State.FRESH and not self.session.helo and self.session.lines.is_empty()

    def _grant(self, user: str, verdict: Verdict) -> None:
        if verdict is Verdict.YES:
            assert self.session.facts
            self.granted.add(user)

    def obey(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Say(data):
                    invariants.check_replies(data)
                    assert not self.gone
                case Log(fields=fields):
                    invariants.check_log(str(action))
                    self.shown.append(_MASKED.sub("", str(fields.get("command", ""))))
                case AppendContent(data):
                    assert data
                case Ask(question):
                    self._check_question(question)
        closed, self.closed = self.closed, ""  # what was being asked then is settled behind it
        assert not closed or all(isinstance(action, DropMessage | Log) for action in actions), actions
        super().obey(actions)
        self.closed = self.closed or closed

    def _check_question(self, question: Question) -> None:
        invariants.check_question(question)
        if isinstance(question, RecipientQuestion):
            origin, listener = question.origin, self.session.listener
            if question.terms.body == 2:
                self.binary.add(question.message)
            assert not origin.user or self.may_xclient or origin.user in self.granted and origin.tls
            assert origin.tls or not (listener.tls and listener.tls.mode is not Tls.OFFERED)
            assert origin.user or listener.auth is not Auth.REQUIRED or origin.address == "local"
            trusted = origin.user or origin.address == "local"
            assert trusted or question.terms.priority <= 0 and not question.terms.release
            assert trusted or question.terms.submitter in ("", "<>")

    def _check_content(self, content: bytes, binary: bool) -> None:
        """One message, here and wherever it is sent."""
        header, _, body = (b"\n" + invariants.get_untraced(content)).partition(b"\n\n")
        assert b"\r" not in header and b"\0" not in header
        if not binary:
            assert b"\r" not in body and b"\0" not in body and content.endswith(b"\n")
            sent = b"".join(dot_stuffed([content]))
            assert len(_DOT.findall(sent)) == 1 and sent.endswith(END)
            assert b"\n.\n" not in sent and b"\r.\r" not in sent

    def check_end(self, sent: bytes) -> None:
        assert len(self.stored) <= len(_DOT.findall(sent)) + len(_LAST.findall(sent))
        taken = self.said.count(b" Message accepted for delivery\r\n")
        assert taken <= len(self.stored) <= taken + 1
        assert self.session.question is None
