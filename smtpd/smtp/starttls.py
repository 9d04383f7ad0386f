"""STARTTLS (RFC 3207): when it may be said, when it must be.

After it the session knows nothing of what was said before (RFC 3207 4.2).
"""

from smtpd.slice import Tls
from smtpd.smtp.question import Answer, TlsAnswer, TlsQuestion
from smtpd.smtp.reply import CommandRefused, Reply
from smtpd.smtp.session import Session
from smtpd.smtp.state import State

READY_FOR_TLS = Reply(220, "2.0.0", "Ready to start TLS")


def may_encrypt(session: Session) -> bool:
    tls = session.listener.tls
    return tls is not None and tls.mode is not Tls.AT_ONCE and session.facts is None


def must_encrypt(session: Session) -> bool:
    """Commands of consequence are refused in the clear."""
    tls = session.listener.tls
    return tls is not None and tls.mode is Tls.REQUIRED and session.facts is None


def starttls(session: Session, argument: str) -> None:
    """RFC 3207 4.  Nothing has been sent behind it: the table of verbs ensures that."""
    if not may_encrypt(session):
        raise CommandRefused(503, "5.5.1", "STARTTLS is not offered here, or done already")
    if argument:
        raise CommandRefused(501, "5.5.4", "STARTTLS takes no argument")
    session.reply(READY_FOR_TLS)
    session.ask(TlsQuestion(), lambda answer: _encrypted(session, answer))


def _encrypted(session: Session, answer: Answer) -> None:
    assert isinstance(answer, TlsAnswer)
    session.facts = answer.facts
    session.helo = ""
    session.esmtp = False
    session.enter(State.FRESH)
