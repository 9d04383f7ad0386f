"""Who talks to whom: HELO and EHLO, and what makes the client another one, STARTTLS and XCLIENT.

After each of these the session knows nothing of what was said before (RFC 5321 4.1.4, RFC 3207 4.2).
"""

from typing import TYPE_CHECKING

from smtpd.header.received import literal
from smtpd.slice import Tls
from smtpd.smtp import auth, command, xclient
from smtpd.smtp.extension import Offer
from smtpd.smtp.ip_address import is_loopback
from smtpd.smtp.question import Answer, TlsAnswer, TlsQuestion
from smtpd.smtp.reply import CommandRefused, Reply
from smtpd.smtp.state import State

if TYPE_CHECKING:
    from smtpd.smtp.server import Client, Session

READY_FOR_TLS = Reply(220, "2.0.0", "Ready to start TLS")


def helo(session: "Session", argument: str) -> None:
    """RFC 5321 4.1.1.1"""
    _greet(session, argument, esmtp=False)


def ehlo(session: "Session", argument: str) -> None:
    _greet(session, argument, esmtp=True)


def _greet(session: "Session", argument: str, *, esmtp: bool) -> None:
    name = command.parse_helo(argument)
    introduce(session, name, esmtp=esmtp)
    keywords = session.offer.keywords(session.date) if esmtp else []
    hello = f"{session.name} Hello {name} {literal(session.address)}, pleased to meet you"
    session.reply(Reply(250, "", hello, *keywords))


def introduce(session: "Session", name: str, *, esmtp: bool) -> None:
    session.helo = name
    session.esmtp = esmtp
    session.offer = _offer(session)
    session.drop()
    session.enter(State.READY)


def _offer(session: "Session") -> Offer:
    listener, settings, facts = session.listener, session.settings, session.facts
    return Offer(
        settings.max_message_size,
        settings.limits,
        dsn=not listener.no_dsn,
        hold=settings.limits.max_hold if listener.auth else 0,
        require_tls=facts is not None,
        starttls=_may_encrypt(session),
        mechanisms=() if session.user else auth.offered(listener, facts),
        xclient=xclient.ATTRIBUTES if session.may_xclient and not must_encrypt(session) else "",
    )


def _may_encrypt(session: "Session") -> bool:
    tls = session.listener.tls
    return tls is not None and tls.mode is not Tls.AT_ONCE and session.facts is None


def must_encrypt(session: "Session") -> bool:
    """Nothing of weight is to be said in the clear."""
    tls = session.listener.tls
    return tls is not None and tls.mode is Tls.REQUIRED and session.facts is None


def starttls(session: "Session", argument: str) -> None:
    """RFC 3207 4.  Nothing has been sent behind it: the table of verbs sees to that."""
    if not _may_encrypt(session):
        raise CommandRefused(503, "5.5.1", "STARTTLS is not offered here, or done already")
    if argument:
        raise CommandRefused(501, "5.5.4", "STARTTLS takes no argument")
    session.reply(READY_FOR_TLS)
    session.ask(TlsQuestion(), lambda answer: _encrypted(session, answer))


def _encrypted(session: "Session", answer: Answer) -> None:
    assert isinstance(answer, TlsAnswer)
    session.facts = answer.facts
    session.helo = ""
    session.esmtp = False
    session.enter(State.FRESH)


def speak_for(session: "Session", argument: str) -> None:
    """XCLIENT: a proxy that we trust says who the client is.  It may say so in several commands."""
    if not session.may_xclient:
        raise CommandRefused(550, "5.7.0", "XCLIENT is not for you")
    if must_encrypt(session):  # or anybody on the way could say it
        raise CommandRefused(530, "5.7.0", "Must issue a STARTTLS command first")
    said = xclient.parse_xclient(argument)
    if said.address and is_loopback(said.address) and not is_loopback(session.client.address):
        raise CommandRefused(501, "5.5.4", "Bad value of ADDR: that is another host's loopback address, not ours")
    session.drop()
    session.client = _other_client(session, said)
    if said.login is not None or said.address is not None:  # another client is nobody before it is said who
        session.user = said.login or ""
    session.log("xclient", address=session.address, host=session.client.name, user=session.user)
    session.helo = ""
    session.enter(State.FRESH)
    if said.helo:
        introduce(session, said.helo, esmtp=said.protocol != "SMTP")
    session.say_banner()


def _other_client(session: "Session", said: xclient.XclientOverrides) -> "Client":
    client = session.client
    return client._replace(
        address=client.address if said.address is None else said.address,
        port=client.port if said.port is None else said.port,
        name=client.name if said.name is None else said.name,
        local=client.local and said.address is None,
    )
