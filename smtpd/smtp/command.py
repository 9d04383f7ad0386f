"""One command line: its verb, its argument, and the parameters of MAIL and RCPT.

    b"mail FROM: <amy@there.test> SIZE=100 BODY=8BITMIME"

    command     "MAIL", "FROM: <amy@there.test> SIZE=100 BODY=8BITMIME"
    mail        Mail(Address("amy", "there.test"), size=100, utf8=False)

What is wrong raises Refuse with the answer.  Parameters of extensions that are not offered are refused (RFC 5321
4.1.1.11); AUTH= is taken and ignored (RFC 4954 5: nobody here is trusted to say it).
"""

import re
from dataclasses import dataclass

from smtpd.smtp.address import NULL, Address, AddressError, domain, path
from smtpd.smtp.reply import Refuse

_FROM = re.compile(r"FROM:[ \t]*", re.IGNORECASE | re.ASCII)  # blanks behind the colon are against the RFC, and common
_TO = re.compile(r"TO:[ \t]*", re.IGNORECASE | re.ASCII)
_PARAMETER = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?", re.ASCII)  # RFC 5321 4.1.2 esmtp-param
_BLANKS = re.compile(r"[ \t]+")
_DIGITS = re.compile(r"[0-9]{1,20}", re.ASCII)  # RFC 1870 3


@dataclass(frozen=True, slots=True)
class Mail:
    """`size` is 0 when the client did not say."""

    sender: Address
    size: int
    utf8: bool


def command(line: bytes) -> tuple[str, str]:
    """The verb in capitals, and the rest without blanks around it."""
    verb, _, argument = line.partition(b" ")
    try:
        # upper() while it is bytes: as text there are letters that are no ASCII and whose capitals are
        return verb.strip(b" \t").upper().decode("ascii"), argument.strip(b" \t").decode("utf-8")
    except UnicodeDecodeError:
        raise Refuse(500, "5.5.2", "Neither ASCII nor UTF-8") from None


def mail(argument: str) -> Mail:
    """RFC 5321 4.1.1.2"""
    prefix = _FROM.match(argument)
    if not prefix:
        raise Refuse(501, "5.5.4", "Syntax: MAIL FROM:<address>")
    try:
        sender, rest = path(argument[prefix.end() :])
    except AddressError as error:
        raise Refuse(553, "5.1.0", f"Sender address syntax error: {error}") from None
    parameters = _parameters(rest)
    asked = Mail(sender, _size(parameters), _utf8(parameters))
    _check_body(parameters)
    parameters.pop("AUTH", None)
    _check_all_known(parameters)
    if not (asked.utf8 or sender.isascii()):
        raise Refuse(553, "5.6.7", "Address is not ASCII, and MAIL said no SMTPUTF8")  # RFC 6531 3.5
    return asked


def rcpt(argument: str, *, utf8: bool) -> Address:
    """RFC 5321 4.1.1.3; `utf8` is what MAIL said."""
    prefix = _TO.match(argument)
    if not prefix:
        raise Refuse(501, "5.5.4", "Syntax: RCPT TO:<address>")
    try:
        recipient, rest = path(argument[prefix.end() :])
    except AddressError as error:
        raise Refuse(501, "5.1.3", f"Recipient address syntax error: {error}") from None
    if recipient == NULL:
        raise Refuse(501, "5.1.3", "Recipient address syntax error: empty")
    _check_all_known(_parameters(rest))
    if not (utf8 or recipient.isascii()):
        raise Refuse(553, "5.6.7", "Address is not ASCII, and MAIL said no SMTPUTF8")
    return recipient


def helo(argument: str) -> str:
    """The name in HELO or EHLO: a domain or an address literal (RFC 5321 4.1.1.1)."""
    if not argument:
        raise Refuse(501, "5.5.1", "Syntax: HELO name")
    try:
        if not argument.isascii():
            raise AddressError("not ASCII")
        return domain(argument)
    except AddressError as error:
        raise Refuse(501, "5.5.4", f"Invalid name: {error}") from None


def _parameters(rest: str) -> dict[str, str | None]:
    if rest and rest[0] not in " \t":
        raise Refuse(501, "5.5.4", "A blank must follow the address")
    parameters: dict[str, str | None] = {}
    for word in filter(None, _BLANKS.split(rest)):
        found = _PARAMETER.fullmatch(word)
        if not found:
            raise Refuse(501, "5.5.4", "Malformed parameter")
        keyword = found[1].upper()
        if keyword in parameters:
            raise Refuse(501, "5.5.4", f"{keyword} given twice")
        parameters[keyword] = found[2]
    return parameters


def _size(parameters: dict[str, str | None]) -> int:
    """RFC 1870 3"""
    if "SIZE" not in parameters:
        return 0
    value = parameters.pop("SIZE")
    if value is None or not _DIGITS.fullmatch(value):
        raise Refuse(501, "5.5.4", "SIZE needs a number")
    return int(value)


def _utf8(parameters: dict[str, str | None]) -> bool:
    """RFC 6531 3.4"""
    if "SMTPUTF8" not in parameters:
        return False
    if parameters.pop("SMTPUTF8") is not None:
        raise Refuse(501, "5.5.4", "SMTPUTF8 takes no value")
    return True


def _check_body(parameters: dict[str, str | None]) -> None:
    """RFC 6152 2.  Content is taken as it comes whatever is said here; both are a promise of the client."""
    value = parameters.pop("BODY", "7BIT") or ""
    if value.upper() not in ("7BIT", "8BITMIME"):
        raise Refuse(501, "5.5.4", "BODY is 7BIT or 8BITMIME")


def _check_all_known(parameters: dict[str, str | None]) -> None:
    for keyword in parameters:
        raise Refuse(555, "5.5.4", f"Parameter {keyword} not recognised")  # RFC 5321 4.1.1.11
