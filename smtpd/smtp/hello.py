"""HELO and EHLO (RFC 5321 4.1.1.1): the client says its name, the server what it offers.

The session then knows nothing of what was said before (RFC 5321 4.1.4).
"""

from smtpd.header.received import literal
from smtpd.smtp import auth, command, xclient_attributes
from smtpd.smtp.extension import Offer
from smtpd.smtp.reply import Reply
from smtpd.smtp.session import Session
from smtpd.smtp.starttls import may_encrypt, must_encrypt
from smtpd.smtp.state import State


def helo(session: Session, argument: str) -> None:
    """RFC 5321 4.1.1.1"""
    _greet(session, argument, esmtp=False)


def ehlo(session: Session, argument: str) -> None:
    _greet(session, argument, esmtp=True)


def _greet(session: Session, argument: str, *, esmtp: bool) -> None:
    name = command.parse_helo(argument)
    introduce(session, name, esmtp=esmtp)
    keywords = session.offer.keywords(session.date) if esmtp else []
    hello = f"{session.name} Hello {name} {literal(session.address)}, pleased to meet you"
    session.reply(Reply(250, "", hello, *keywords))


def introduce(session: Session, name: str, *, esmtp: bool) -> None:
    session.helo = name
    session.esmtp = esmtp
    session.offer = _offer(session)
    session.drop()
    session.enter(State.READY)


def _offer(session: Session) -> Offer:
    listener, settings, facts = session.listener, session.settings, session.facts
    return Offer(
        settings.max_message_size,
        settings.limits,
        dsn=not listener.no_dsn,
        hold=settings.limits.max_hold if listener.auth else 0,
        require_tls=facts is not None,
        starttls=may_encrypt(session),
        mechanisms=() if session.user else auth.offered(listener, facts),
        xclient=xclient_attributes.ATTRIBUTES if session.may_xclient and not must_encrypt(session) else "",
    )
