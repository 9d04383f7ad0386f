"""One command line: its verb, its argument, the parameters of MAIL and RCPT; and what of it may be logged.

    b"mail FROM: <amy@there.test> SIZE=100 BODY=8BITMIME"

    split_command   "MAIL", "FROM: <amy@there.test> SIZE=100 BODY=8BITMIME"
    parse_mail      MailCommand(Address("amy", "there.test"), 100, MailParameters(body=Body.EIGHT_BIT))
    loggable        the line, without what looks like a password

Errors raise CommandRefused with the reply.  The parameters are read by parameter.py.
"""

import re
from typing import NamedTuple

from smtpd.envelope import MailParameters, Notify
from smtpd.smtp.address import NULL, Address, AddressError, parse_domain, parse_path
from smtpd.smtp.extension import Offer
from smtpd.smtp.parameter import mail_parameters, rcpt_parameters
from smtpd.smtp.reply import CommandRefused

MAX_LOGGED = 256  # bytes of a command

_BLANKS = re.compile(rb"[ \t]+")
_FROM = re.compile(r"FROM:[ \t]*", re.IGNORECASE | re.ASCII)  # blanks after the colon are against the RFC, and common
_MECHANISM = re.compile(r"AUTH [A-Z0-9_-]{1,20}(?= )", re.ASCII)  # RFC 4422 3.1
_TO = re.compile(r"TO:[ \t]*", re.IGNORECASE | re.ASCII)


class MailCommand(NamedTuple):
    """`size` is 0 when the client did not say one."""

    sender: Address
    size: int
    terms: MailParameters


class RcptCommand(NamedTuple):
    """`original` is ORCPT, decoded."""

    recipient: Address
    notify: Notify
    original: str


def split_command(line: bytes) -> tuple[str, str]:
    """The verb in capitals, and its argument.  Blanks and tabs around each are dropped: some clients send them."""
    verb, *argument = _BLANKS.split(line.strip(b" \t"), maxsplit=1)
    try:
        # upper() of bytes: in text there are letters beyond ASCII whose capitals are ASCII
        return verb.upper().decode("ascii"), b"".join(argument).decode("utf-8")
    except UnicodeDecodeError:
        raise CommandRefused(500, "5.5.2", "Neither ASCII nor UTF-8") from None


def parse_mail(argument: str, offer: Offer, date: int) -> MailCommand:
    """RFC 5321 4.1.1.2.  `date`: seconds since 1970."""
    prefix = _FROM.match(argument)
    if not prefix:
        raise CommandRefused(501, "5.5.4", "Syntax: MAIL FROM:<address>")
    try:
        sender, rest = parse_path(argument[prefix.end() :])
    except AddressError as error:
        raise CommandRefused(553, "5.1.0", f"Sender address syntax error: {error}") from None
    size, terms = mail_parameters(rest, offer, date)
    if not (terms.utf8 or sender.isascii()):
        raise CommandRefused(553, "5.6.7", "Address is not ASCII, and MAIL said no SMTPUTF8")  # RFC 6531 3.5
    return MailCommand(sender, size, terms)


def parse_rcpt(argument: str, offer: Offer, *, utf8: bool) -> RcptCommand:
    """RFC 5321 4.1.1.3; `utf8` is what MAIL said."""
    prefix = _TO.match(argument)
    if not prefix:
        raise CommandRefused(501, "5.5.4", "Syntax: RCPT TO:<address>")
    try:
        recipient, rest = parse_path(argument[prefix.end() :])
    except AddressError as error:
        raise CommandRefused(501, "5.1.3", f"Recipient address syntax error: {error}") from None
    if recipient == NULL:
        raise CommandRefused(501, "5.1.3", "Recipient address syntax error: empty")
    notify, original = rcpt_parameters(rest, offer, utf8=utf8)
    if not (utf8 or recipient.isascii()):
        raise CommandRefused(553, "5.6.7", "Address is not ASCII, and MAIL said no SMTPUTF8")
    return RcptCommand(recipient, notify, original)


def parse_helo(argument: str) -> str:
    """The name in HELO or EHLO: a domain or an address literal (RFC 5321 4.1.1.1).  A dot at its end is dropped."""
    if not argument:
        raise CommandRefused(501, "5.5.1", "Syntax: HELO name")
    try:
        if not argument.isascii():
            raise AddressError("not ASCII")
        return parse_domain(argument.removesuffix("."))
    except AddressError as error:
        raise CommandRefused(501, "5.5.4", f"Invalid name: {error}") from None


def loggable(line: bytes) -> str:
    """A command as it may be logged.  AUTH is known by its first letters alone: a typing error after them or a refusal
    does not show the rest."""
    text = line.lstrip()[:MAX_LOGGED].decode("utf-8", "replace")
    if text[:4].upper() != "AUTH":
        return text
    mechanism = _MECHANISM.match(text)
    return (mechanism[0] if mechanism else text[:4]) + " (...)"
