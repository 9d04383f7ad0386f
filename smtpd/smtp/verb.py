"""The table of commands: in which states each is allowed; and the commands that only need a reply."""

from collections.abc import Callable
from typing import NamedTuple

from smtpd.smtp import content, hello, login, mail, starttls, xclient
from smtpd.smtp.reply import CommandRefused, Reply
from smtpd.smtp.session import Session
from smtpd.smtp.state import BETWEEN_MAILS, COMMANDING, GREETED, IN_MAIL, State

CANNOT_VERIFY = Reply(252, "2.0.0", "Cannot VRFY user, but will accept the message and try")
BYE = Reply(221, "2.0.0", "Bye")
HELP = Reply(
    214,
    "2.0.0",
    "This is smtpd",
    "Commands: HELO EHLO STARTTLS AUTH MAIL RCPT DATA BDAT RSET NOOP QUIT HELP VRFY",
    "Trouble with mail of this host: write to postmaster at it",
    "End of HELP info",
)


class Verb(NamedTuple):
    obey: Callable[[Session, str], None]
    states: tuple[State, ...] = COMMANDING
    argument: bool = True  # may have one
    unproductive: bool = False  # counts towards UNPRODUCTIVE_MAX (session.py)
    ends_group: bool = False  # nothing may be sent behind it before its reply (RFC 2920 3.1)
    reply_may_wait: bool = False  # for those to the next commands (RFC 2920 3.2)


def rset(session: Session, argument: str) -> None:
    session.drop()
    if session.state is not State.FRESH:
        session.enter(State.READY)
    session.reply(mail.OK)


def quit(session: Session, argument: str) -> None:
    session.hang_up(BYE, "quit")


def noop(session: Session, argument: str) -> None:
    session.reply(mail.OK)


def help(session: Session, argument: str) -> None:
    session.reply(HELP)


def vrfy(session: Session, argument: str) -> None:
    if not argument:
        raise CommandRefused(501, "5.5.4", "Syntax: VRFY name")
    if not (argument.isascii() or argument.upper().endswith(" SMTPUTF8")):  # RFC 6531 3.7.4.2
        raise CommandRefused(553, "5.6.7", "Name is not ASCII, and VRFY said no SMTPUTF8")
    session.reply(CANNOT_VERIFY)  # RFC 5321 3.5.3: whether a user exists is not told


def not_implemented(session: Session, argument: str) -> None:
    raise CommandRefused(502, "5.5.1", "Command not implemented")


def not_smtp(session: Session, argument: str) -> None:
    """A browser that was made to send SMTP commands in the body of a form."""
    raise CommandRefused(500, "5.5.1", "This is no HTTP server", close=True)


def unknown(session: Session, argument: str) -> None:
    raise CommandRefused(500, "5.5.1", "Command unrecognized")


UNKNOWN = Verb(unknown)
VERBS = {
    "HELO": Verb(hello.helo, unproductive=True),
    "EHLO": Verb(hello.ehlo, unproductive=True),
    "STARTTLS": Verb(starttls.starttls, BETWEEN_MAILS, unproductive=True, ends_group=True),
    "AUTH": Verb(login.auth, GREETED, unproductive=True),  # RFC 4954 4
    "XCLIENT": Verb(xclient.xclient, BETWEEN_MAILS, unproductive=True),
    "MAIL": Verb(mail.mail, GREETED, reply_may_wait=True),
    "RCPT": Verb(mail.rcpt, IN_MAIL, reply_may_wait=True),
    "DATA": Verb(content.data, IN_MAIL, argument=False, ends_group=True),
    "BDAT": Verb(content.bdat),  # checks the state itself: its chunk is read in any
    "RSET": Verb(rset, argument=False, unproductive=True, reply_may_wait=True),
    "QUIT": Verb(quit, argument=False),
    "NOOP": Verb(noop, unproductive=True),
    "HELP": Verb(help, unproductive=True),  # RFC 5321 4.1.1.8: may have an argument
    "VRFY": Verb(vrfy, unproductive=True),
    "EXPN": Verb(not_implemented),
    **dict.fromkeys(("GET", "POST", "PUT", "HEAD", "CONNECT"), Verb(not_smtp)),
}
