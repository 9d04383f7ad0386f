"""AUTH: each mechanism's exchange, with a client that says anything.

    byte 0      mechanism; how its messages are written; what the other processes answer
    the rest    messages, with 0xff in between; the first one may come with AUTH itself

Messages are put into base64 here, or fuzzing would hardly ever reach a mechanism; with one bit set they are the lines
themselves.
"""

import base64
from unittest.mock import patch

from smtpd.smtp.auth import begin
from smtpd.smtp.question import (
    Answer,
    PasswordAnswer,
    PasswordQuestion,
    ScramProofAnswer,
    ScramProofQuestion,
    ScramSeedAnswer,
    ScramSeedQuestion,
    Verdict,
)
from smtpd.smtp.reply import CommandRefused
from smtpd.smtp.sasl import AuthFailed, AuthSucceeded, Prompt
from smtpd.tls.facts import TlsFacts
from tests.fuzz import invariants

MECHANISMS = ("PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS")
BOUND = {"exporter": b"exporter", "unique": b"unique", "end_point": b"end"}
FACTS = (TlsFacts("TLSv1.2", "X", 256, **BOUND), TlsFacts("TLSv1.3", "X", 256))
NONCE = "nonce"
VERDICTS = (Verdict.YES, Verdict.YES, Verdict.NO, Verdict.LATER)
REFUSALS = (
    "501 5.5.2 Not base64",
    "501 5.5.2 Malformed authentication message",
    "501 5.5.2 Authentication cancelled",
)
MAX_STEPS = 8


def fuzz(data: bytes) -> None:
    choice, messages = data[0] if data else 0, data[1:].split(b"\xff")
    as_lines = choice & 0x40
    lines = [
        message.decode("ascii", "replace") if as_lines else base64.b64encode(message).decode() for message in messages
    ]
    with patch("secrets.token_urlsafe", lambda size: NONCE):
        exchange = begin(MECHANISMS[choice & 3], FACTS[choice >> 2 & 1])
    verdict = VERDICTS[choice >> 3 & 3]
    granted: set[str] = set()
    given = iter(lines)
    try:
        step = exchange.start(next(given) if choice & 0x20 else None)
        for _ in range(MAX_STEPS):
            match step:
                case Prompt(text=text):
                    base64.b64decode(text, validate=True)
                    step = exchange.receive(next(given))
                case AuthSucceeded(user=user):
                    assert user in granted
                    return
                case AuthFailed(verdict=failed):
                    assert failed is not Verdict.YES
                    return
                case _:
                    invariants.check_question(step)
                    if not isinstance(step, ScramSeedQuestion) and verdict is Verdict.YES:
                        granted.add(step.user)
                    assert repr(step) == f"{type(step).__name__}(user={step.user!r})"  # no password, no proof
                    step = exchange.answer(_answer(step, verdict))
        raise AssertionError("endless")
    except CommandRefused as refused:
        invariants.check_refusal(refused)
        assert refused.reply.text in REFUSALS  # nothing of what the client sent
    except StopIteration:
        pass  # the client has nothing more to say


def _answer(question: object, verdict: Verdict) -> Answer:
    match question:
        case PasswordQuestion(password=password):
            assert password and not {"\0", "\r", "\n"} & set(password)
            return PasswordAnswer(verdict)
        case ScramSeedQuestion():
            return ScramSeedAnswer(Verdict.LATER if verdict is Verdict.LATER else Verdict.YES, b"salt", 4096)
        case ScramProofQuestion(message=message):
            assert message.count(b"nonce") >= 2
            return ScramProofAnswer(verdict, b"signature")
    raise TypeError(question)
