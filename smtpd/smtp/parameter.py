"""The parameters of MAIL and RCPT, each extension with the errors of its own RFC.

    SIZE=100                   1870     ENVID= RET=             3461, where DSN is offered
    BODY=BINARYMIME            6152, 3030     NOTIFY= ORCPT=    likewise, of RCPT
    SMTPUTF8                   6531     HOLDFOR= HOLDUNTIL=     4865, where FUTURERELEASE is offered
    AUTH=amy@there.test        4954     BY=120;RT               2852
    REQUIRETLS                 8689     MT-PRIORITY=3           6710

A parameter of an extension that is not offered is unknown, like any other (RFC 5321 4.1.1.11).  Durations become points
in time: `date` is now, in seconds since 1970.  Whether this client may ask for it is checked by mail.py.
"""

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from smtpd.envelope import Body, MailParameters, Notify
from smtpd.smtp import xtext
from smtpd.smtp.address import AddressError, parse_mailbox
from smtpd.smtp.extension import Offer
from smtpd.smtp.reply import CommandRefused

NO_PARAMETERS = MailParameters()
NO_NOTIFY = Notify(0)
MAX_ENVID = 100  # RFC 3461 4.4
MAX_ORCPT = 500  # RFC 3461 4.2

_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~\u00a0-\U0010ffff]+))?")  # RFC 5321 4.1.2, RFC 6531 3.3
_BLANKS = re.compile(r"[ \t]+")
_SIZE = re.compile(r"[0-9]{1,20}", re.ASCII)  # RFC 1870 3
_BY = re.compile(r"([+-]?[0-9]{1,9});([NR])(T?)", re.ASCII | re.IGNORECASE)  # RFC 2852 4
_SECONDS = re.compile(r"[0-9]{1,9}", re.ASCII)  # RFC 4865 4
_DATE = re.compile(  # RFC 3339 5.6
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?(?:Z|[+-][0-9]{2}:[0-9]{2})", re.ASCII
)
_PRIORITY = re.compile(r"-?[0-9]", re.ASCII)  # RFC 6710 4
_TYPE = re.compile(r"[!#-'*+./0-9=?A-Z^-~-]+", re.ASCII)  # RFC 5321 4.1.2 Atom
_EMBEDDED = re.compile(r"\\x\{([0-9A-F]{2,6})\}")  # RFC 6533 3

_BODIES = {"7BIT": Body.SEVEN_BIT, "8BITMIME": Body.EIGHT_BIT, "BINARYMIME": Body.BINARY}
_NOTICES = {word.name: word for word in Notify}

Given = dict[str, str | None]


class ParameterContext(NamedTuple):
    """What the meaning of a parameter depends on."""

    offer: Offer
    date: int = 0
    utf8: bool = False  # MAIL said SMTPUTF8


Parser = Callable[[str | None, ParameterContext], dict[str, Any]]  # value -> fields of MailParameters, or those of RCPT


class UnknownParameter(Exception):
    """No parameter of this name is offered."""


def mail_parameters(rest: str, offer: Offer, date: int) -> tuple[int, MailParameters]:
    """Of MAIL, after the path: the size (0: not said) and the others.  Raises CommandRefused."""
    if not rest:
        return 0, NO_PARAMETERS
    given = _split(rest)
    size = _size(given.pop("SIZE")) if "SIZE" in given else 0
    if "HOLDFOR" in given and "HOLDUNTIL" in given:  # RFC 4865 4
        raise _malformed("HOLDFOR and HOLDUNTIL exclude each other")
    terms = MailParameters(**_read(given, MAIL, ParameterContext(offer, date)))
    if terms.by_mode == "R" and terms.release >= terms.deliver_by:
        raise _malformed("It would have to be delivered before it is released")
    return size, terms


def rcpt_parameters(rest: str, offer: Offer, *, utf8: bool) -> tuple[Notify, str]:
    """Of RCPT, after the path: NOTIFY, and ORCPT decoded.  Raises CommandRefused."""
    if not rest:
        return NO_NOTIFY, ""
    read = _read(_split(rest), RCPT, ParameterContext(offer, utf8=utf8))
    return read.get("notify", NO_NOTIFY), read.get("original", "")


def _split(rest: str) -> Given:
    if rest[0] not in " \t":
        raise _malformed("A blank must follow the address")
    given: Given = {}
    for word in filter(None, _BLANKS.split(rest)):
        found = _PARAMETER.fullmatch(word)
        if not found:
            raise _malformed("Malformed parameter")
        keyword = found[1].upper()
        if keyword in given:
            raise _malformed(f"{keyword} given twice")
        if keyword != "ORCPT" and found[2] and not found[2].isascii():
            raise _malformed(f"{keyword} is not ASCII")
        given[keyword] = found[2]
    return given


def _read(given: Given, parsers: dict[str, Parser], now: ParameterContext) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for keyword, value in given.items():
        try:
            fields |= parsers.get(keyword, _unknown)(value, now)
        except UnknownParameter:
            raise CommandRefused(555, "5.5.4", f"Parameter {keyword} not recognised") from None  # RFC 5321 4.1.1.11
    return fields


def _unknown(value: str | None, now: ParameterContext) -> dict[str, Any]:
    raise UnknownParameter


def _malformed(text: str) -> CommandRefused:
    return CommandRefused(501, "5.5.4", text)


def _size(value: str | None) -> int:
    if value is None or not _SIZE.fullmatch(value):
        raise _malformed("SIZE needs a number")
    return int(value)


def _body(value: str | None, now: ParameterContext) -> dict[str, Any]:
    """RFC 6152 2, RFC 3030 3.  7BIT and 8BITMIME are a promise of the client that is not checked."""
    body = _BODIES.get((value or "").upper())
    if body is None:
        raise _malformed("BODY is 7BIT, 8BITMIME or BINARYMIME")
    return {"body": body}


def _utf8(value: str | None, now: ParameterContext) -> dict[str, Any]:
    if value is not None:  # RFC 6531 3.4
        raise _malformed("SMTPUTF8 takes no value")
    return {"utf8": True}


def _require_tls(value: str | None, now: ParameterContext) -> dict[str, Any]:
    if not now.offer.require_tls:  # RFC 8689 4.1: only under TLS
        raise UnknownParameter
    if value is not None:
        raise _malformed("REQUIRETLS takes no value")
    return {"require_tls": True}


def _ret(value: str | None, now: ParameterContext) -> dict[str, Any]:
    if not now.offer.dsn:
        raise UnknownParameter
    word = (value or "").upper()
    if word not in ("FULL", "HDRS"):  # RFC 3461 4.3
        raise _malformed("RET is FULL or HDRS")
    return {"ret": word}


def _envid(value: str | None, now: ParameterContext) -> dict[str, Any]:
    if not now.offer.dsn:
        raise UnknownParameter
    if not value or len(value) > MAX_ENVID:
        raise _malformed(f"ENVID needs at most {MAX_ENVID} characters")
    decoded = _decode("ENVID", value)
    if not decoded.isascii():  # RFC 3461 4.4: printable ASCII and blanks
        raise _malformed("ENVID is not ASCII")
    return {"envid": decoded}


def _submitter(value: str | None, now: ParameterContext) -> dict[str, Any]:
    """RFC 4954 5"""
    if value == "<>":
        return {"submitter": value}
    try:
        return {"submitter": str(parse_mailbox(_decode("AUTH", value or "")))}
    except AddressError as error:
        raise _malformed(f"AUTH address syntax error: {error}") from None


def _hold_for(value: str | None, now: ParameterContext) -> dict[str, Any]:
    """RFC 4865 4"""
    if not now.offer.hold:
        raise UnknownParameter
    if not value or not _SECONDS.fullmatch(value) or not int(value):
        raise _malformed("HOLDFOR needs a number of seconds")
    return {"release": _check_hold(now.date + int(value), now)}


def _hold_until(value: str | None, now: ParameterContext) -> dict[str, Any]:
    if not now.offer.hold:
        raise UnknownParameter
    text = (value or "").upper()
    try:
        if not _DATE.fullmatch(text):
            raise ValueError
        release = int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        raise _malformed("HOLDUNTIL needs a date and time with its zone") from None
    if release <= now.date:
        raise _malformed("HOLDUNTIL is not in the future")
    return {"release": _check_hold(release, now)}


def _check_hold(release: int, now: ParameterContext) -> int:
    if release > now.date + now.offer.hold:
        raise _malformed(f"No message is held for more than {now.offer.hold} seconds")
    return release


def _by(value: str | None, now: ParameterContext) -> dict[str, Any]:
    """RFC 2852 4.  With N the time may have passed before the message came here."""
    found = _BY.fullmatch(value or "")
    if not found:
        raise _malformed("Syntax: BY=seconds;mode")
    seconds, mode = int(found[1]), found[2].upper()
    if mode == "R" and seconds <= 0:
        raise _malformed("With mode R the time has to be positive")
    return {"deliver_by": max(1, now.date + seconds), "by_mode": mode, "by_trace": bool(found[3])}


def _priority(value: str | None, now: ParameterContext) -> dict[str, Any]:
    if not value or not _PRIORITY.fullmatch(value):
        raise CommandRefused(501, "5.5.2", "MT-PRIORITY is a number from -9 to 9")  # RFC 6710 4.1
    return {"priority": int(value)}


def _notify(value: str | None, now: ParameterContext) -> dict[str, Any]:
    """RFC 3461 4.1"""
    if not now.offer.dsn:
        raise UnknownParameter
    notify = Notify(0)
    for word in (value or "").upper().split(","):
        if word not in _NOTICES:
            raise _malformed("NOTIFY is NEVER, or some of SUCCESS, FAILURE and DELAY")
        notify |= _NOTICES[word]
    if Notify.NEVER in notify and notify != Notify.NEVER:
        raise _malformed("NOTIFY=NEVER stands alone")
    return {"notify": notify}


def _original(value: str | None, now: ParameterContext) -> dict[str, Any]:
    """RFC 3461 4.2: a type of addresses, and one of them"""
    if not now.offer.dsn:
        raise UnknownParameter
    kind, _, address = (value or "").partition(";")
    if not address or not _TYPE.fullmatch(kind):
        raise _malformed("Syntax: ORCPT=type;address")
    if len(kind) + len(address) >= MAX_ORCPT:
        raise _malformed(f"ORCPT has more than {MAX_ORCPT} characters")
    if kind.lower() == "utf-8":
        decoded = _decode_utf8(address, utf8=now.utf8)
    else:
        decoded = _decode("ORCPT", address)
    return {"original": f"{kind};{decoded}"}


def _decode(keyword: str, value: str) -> str:
    try:
        return xtext.decode(value)
    except ValueError:
        raise _malformed(f"{keyword} is not xtext") from None


def _decode_utf8(address: str, *, utf8: bool) -> str:
    """RFC 6533 3: characters by number, or, in a message that said SMTPUTF8, as they are."""
    if not (utf8 or address.isascii()):
        raise _malformed("ORCPT is not ASCII, and MAIL said no SMTPUTF8")
    try:
        decoded = _EMBEDDED.sub(lambda number: chr(int(number[1], 16)), address)
    except ValueError:
        decoded = ""
    if not decoded.isprintable() or not decoded:
        raise _malformed("ORCPT is not printable")
    return decoded


MAIL: dict[str, Parser] = {
    "BODY": _body,
    "SMTPUTF8": _utf8,
    "REQUIRETLS": _require_tls,
    "RET": _ret,
    "ENVID": _envid,
    "AUTH": _submitter,
    "HOLDFOR": _hold_for,
    "HOLDUNTIL": _hold_until,
    "BY": _by,
    "MT-PRIORITY": _priority,
}
RCPT: dict[str, Parser] = {"NOTIFY": _notify, "ORCPT": _original}
