"""AUTH (RFC 4954): the dialogue around a mechanism of auth.py.

    READY --AUTH--> mechanism --Prompt: 334--> AUTH --line--> mechanism --Question--> WAITING --answer--> mechanism
                        |
                        +-- AuthSucceeded 235, AuthFailed 535 or 454, CommandRefused 501 or 504 --> READY

The lines of the dialogue are secret: none is logged, not even one that comes at a wrong time.
"""

import re
from collections.abc import Callable

from smtpd.smtp.auth import SaslExchange, begin, offered
from smtpd.smtp.question import PasswordQuestion, ScramProofQuestion, ScramSeedQuestion, Verdict
from smtpd.smtp.reply import CommandRefused, Reply
from smtpd.smtp.sasl import AuthFailed, AuthSucceeded, Prompt, Step
from smtpd.smtp.session import Session
from smtpd.smtp.state import State

_BLANKS = re.compile(r"[ \t]+")

MAX_RESPONSE = 12288  # bytes of a line, RFC 4954 4
MAX_FAILURES = 3  # in a session

SUCCEEDED = Reply(235, "2.7.0", "Authentication succeeded")
REFUSED = Reply(535, "5.7.8", "Authentication failed")
LATER = Reply(454, "4.7.0", "Temporary authentication failure")
TOO_MANY_FAILURES = Reply(421, "4.7.0", "Too many failed logins, closing connection")

RESULTS = {Verdict.YES: "ok", Verdict.NO: "permfail", Verdict.LATER: "tempfail"}


def auth(session: Session, argument: str) -> None:
    mechanisms = offered(session.listener, session.facts)
    if session.user:
        raise CommandRefused(503, "5.5.1", "Already authenticated")
    if not mechanisms:
        configured = session.listener.auth is not None  # and so the listener has TLS
        raise CommandRefused(503, "5.5.1", "AUTH comes after STARTTLS" if configured else "AUTH is not offered here")
    if not argument:
        raise CommandRefused(501, "5.5.4", "Syntax: AUTH mechanism [initial-response]")
    mechanism, *initial = _BLANKS.split(argument, maxsplit=1)
    if mechanism.upper() not in mechanisms:
        raise CommandRefused(504, "5.5.4", "Unknown authentication mechanism")
    exchange = session.sasl_exchange = begin(mechanism.upper(), session.facts)
    _go_on(session, lambda: exchange.start(initial[0] if initial else None))


def receive(session: Session, line: bytes) -> None:
    """A line in the middle of the dialogue.  Blanks around it are dropped, as around a command."""
    text = line.strip(b" \t").decode("ascii", "replace")  # the replacement character is not base64
    _go_on(session, lambda: _get_exchange(session).receive(text))


def _go_on(session: Session, take: Callable[[], Step]) -> None:
    try:
        step = take()
    except CommandRefused as refused:
        _end(session)
        session.refuse(refused.reply, close=refused.close)
        return
    match step:
        case Prompt(text=text):
            session.enter(State.AUTH)
            session.say(f"334 {text}\r\n".encode())
        case PasswordQuestion(user=user) | ScramSeedQuestion(user=user) | ScramProofQuestion(user=user):
            session.login = user
            session.ask(step, lambda answer: _go_on(session, lambda: _get_exchange(session).answer(answer)))
        case AuthSucceeded(user=user):
            _end(session)
            session.login = session.user = user
            _log(session, Verdict.YES)
            session.reply(SUCCEEDED)
        case AuthFailed(verdict=verdict):
            _end(session)
            _fail(session, verdict)


def _get_exchange(session: Session) -> SaslExchange:
    assert session.sasl_exchange is not None
    return session.sasl_exchange


def _fail(session: Session, verdict: Verdict) -> None:
    _log(session, verdict)
    if verdict is not Verdict.NO:
        session.refuse(LATER)
        return
    session.failed_logins += 1
    if session.failed_logins > MAX_FAILURES:
        session.count_failure()
        session.hang_up(TOO_MANY_FAILURES, "too-many-errors")
    else:
        session.refuse(REFUSED)


def _end(session: Session) -> None:
    session.sasl_exchange = None
    session.enter(State.READY)


def _log(session: Session, verdict: Verdict) -> None:
    session.log("authentication", user=session.login, result=RESULTS[verdict])
