"""From whom and to whom: what the command line, the header and the system say of it.

sender       the first that there is: -f, the field From, the caller
recipients   operands, and with -t those in To, Cc and Bcc; each once
"""

import contextlib
import os
import pwd
import re
from email.header import Header

from smtpctl.letter import Letter
from smtpctl.option import DATAERR, SOFTWARE, USAGE, Failed, Options
from smtpctl.submission import Mail
from smtpctl.text import visible
from smtpd.header import address as address_list
from smtpd.smtp.address import NULL, Address, AddressError, path

_NOTIFY = re.compile(r"never|(?:success|failure|delay)(?:,(?:success|failure|delay))*", re.IGNORECASE)
_RET = re.compile(r"full|hdrs", re.IGNORECASE)
_ENVID = re.compile(r"[!-~]{1,100}")  # RFC 3461 4.4
_WORD = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+")  # RFC 5322 3.2.3, needs no quotes in a name


class Person:
    """Who calls."""

    def __init__(self) -> None:
        try:
            entry = pwd.getpwuid(os.getuid())
            self.login, self.name = entry.pw_name, _full_name(entry)
        except KeyError:
            self.login, self.name = "anonymous", ""


def _full_name(entry: pwd.struct_passwd) -> str:
    name = entry.pw_gecos.partition(",")[0].replace("&", entry.pw_name.capitalize())
    return "".join(filter(str.isprintable, name))


def read_recipients(options: Options) -> list[Address]:
    """Those on the command line.  Raises Failed, without any when -t does not say that there will be more."""
    recipients = [address for operand in options.operands for address in _addresses(os.fsencode(operand), USAGE)]
    if not recipients and "t" not in options.flags:
        raise Failed(SOFTWARE, "no recipients")
    return recipients


def address(letter: Letter, options: Options, recipients: list[Address], person: Person) -> Mail:
    """What stands on the envelope.  Raises Failed."""
    if "t" in options.flags:
        for value in letter.values(b"to", b"cc", b"bcc"):
            recipients = recipients + _addresses(value, DATAERR)
    if not recipients:
        raise Failed(SOFTWARE, "no recipients")
    return Mail(
        _sender(letter, options, person),
        tuple(dict.fromkeys(recipients)),
        letter.size,
        eight_bit=not letter.is_ascii,
        ret=_word(options, "R", _RET).upper(),
        envid=_word(options, "V", _ENVID),
        notify=_word(options, "N", _NOTIFY).upper(),
    )


def _sender(letter: Letter, options: Options, person: Person) -> Address:
    said = options.values.get("f")
    if said is not None:
        if said in ("", "<>"):
            return NULL
        (sender, *others) = _addresses(os.fsencode(said), USAGE) or [NULL]
        if others or sender == NULL:
            raise Failed(USAGE, "-f is one address")
        return sender
    for value in letter.values(b"from"):
        with contextlib.suppress(Failed, IndexError):  # what others read as a name, and not we, keeps no mail back
            return _addresses(value, DATAERR)[0]
    return _addresses(os.fsencode(person.login), SOFTWARE)[0]


def _word(options: Options, letter: str, fits: re.Pattern[str]) -> str:
    word = options.values.get(letter, "")
    if letter in options.values and not fits.fullmatch(word):
        raise Failed(USAGE, f"-{letter} {visible(word)} makes no sense")
    return word


def _addresses(value: bytes, status: int) -> list[Address]:
    """Of a list as the fields To and Cc are.  Raises Failed, with that status."""
    try:
        found = [path(f"<{text.decode()}>") for text in address_list.addresses(value)]
        if any(rest or address == NULL for address, rest in found):
            raise AddressError("not one address")
    except (AddressError, ValueError) as error:
        text = visible(value.decode(errors="replace").strip())
        reason = "not UTF-8" if isinstance(error, UnicodeError) else error
        raise Failed(status, f"not an address: {text[:200]} ({reason})") from None
    return [address for address, _ in found]


def from_field(sender: Address, options: Options, person: Person) -> bytes:
    """The field that is missing.  A name is no more than a name: it can end no line."""
    name = options.values.get("F", person.name)
    if not name.isprintable():
        raise Failed(USAGE, "-F is not a name: it does not print")
    author = str(sender) or person.login
    if not name:
        return f"From: {author}".encode()
    return f"From: {_phrase(name)} <{author}>".encode()


def _phrase(name: str) -> str:
    """RFC 5322 3.2.5, RFC 2047 5"""
    if not name.isascii() or "=?" in name:
        return Header(name, "utf-8", header_name="From").encode()
    if all(map(_WORD.fullmatch, name.split(" "))):
        return name
    return '"' + re.sub(r'(["\\])', r"\\\1", name) + '"'
