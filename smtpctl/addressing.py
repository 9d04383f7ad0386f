"""Sender and recipients of a mail for sendmail: from the command line, the header and the user database.

sender       the first that there is: -f, the field From, the caller
recipients   operands, and with -t those in To, Cc and Bcc, or where a mail is sent on in Resent-To and so on; each once
"""

import os
import pwd

from smtpctl import simple_address
from smtpctl.raw_mail import RawMail
from smtpctl.sendmail_option import DATAERR, SOFTWARE, USAGE, SendmailError, SendmailOptions
from smtpctl.submission import SubmissionMail
from smtpctl.visible import visible

TYPE_CHECKING = False  # see raw_mail.py
if TYPE_CHECKING:
    from collections.abc import Callable

NULL = ""

_NOTIFICATIONS = {"SUCCESS", "FAILURE", "DELAY"}
_RESENT_TO = (b"resent-to", b"resent-cc", b"resent-bcc")


class Caller:
    """The user who calls sendmail."""

    def __init__(self) -> None:
        try:
            entry = pwd.getpwuid(os.getuid())
            self.login, self.name = entry.pw_name, _full_name(entry)
        except KeyError:
            self.login, self.name = "anonymous", ""


def _full_name(entry: pwd.struct_passwd) -> str:
    name = entry.pw_gecos.partition(",")[0].replace("&", entry.pw_name.capitalize())
    return "".join(filter(str.isprintable, name))


def read_recipients(options: SendmailOptions) -> list[str]:
    """Those on the command line.  Raises SendmailError, without any when -t does not say that there will be more."""
    recipients = [address for operand in options.operands for address in _addresses(os.fsencode(operand), USAGE)]
    if not recipients and "t" not in options.flags:
        raise SendmailError(SOFTWARE, "no recipients")
    return recipients


def address_mail(letter: RawMail, options: SendmailOptions, recipients: list[str], person: Caller) -> SubmissionMail:
    """The envelope of the mail.  Raises SendmailError."""
    if "t" in options.flags:
        for value in _destinations(letter):
            recipients = recipients + _addresses(value, DATAERR)
    if not recipients:
        raise SendmailError(SOFTWARE, "no recipients")
    return SubmissionMail(
        _sender(letter, options, person),
        tuple(dict.fromkeys(recipients)),
        letter.size,
        eight_bit=not letter.is_ascii,
        ret=_word(options, "R", lambda word: word in ("FULL", "HDRS")).upper(),
        envid=_word(
            options, "V", lambda word: 0 < len(word) <= 100 and not word.strip(simple_address.VISIBLE)
        ),  # RFC 3461 4.4
        notify=_word(options, "N", lambda word: word == "NEVER" or _NOTIFICATIONS.issuperset(word.split(","))).upper(),
    )


def _destinations(letter: RawMail) -> list[bytes]:
    """The values of the fields that -t reads.

    A mail that is sent on has a block of Resent- fields for each time, the last time's on top: the others say where it
    has been sent before (RFC 5322 3.6.6)."""
    seen: set[bytes] = set()  # Resent- fields of the last time
    found: list[bytes] = []
    for field in letter.fields:
        if field.name in seen or found and not field.name.startswith(b"resent-"):
            break
        if field.name.startswith(b"resent-"):
            seen.add(field.name)
        if field.name in _RESENT_TO:
            found.append(field.value)
    return found if seen else letter.values(b"to", b"cc", b"bcc")


def _sender(letter: RawMail, options: SendmailOptions, person: Caller) -> str:
    said = options.values.get("f")
    if said is not None:
        if said in ("", "<>"):
            return NULL
        (sender, *others) = _addresses(os.fsencode(said), USAGE) or [NULL]
        if others or sender == NULL:
            raise SendmailError(USAGE, "-f takes one address")
        return sender
    for value in letter.values(b"from"):
        try:
            return _addresses(value, DATAERR)[0]
        except (SendmailError, IndexError):
            pass  # what others read as a name, and not we, keeps no mail back
    return _addresses(os.fsencode(person.login), SOFTWARE)[0]


def _word(options: SendmailOptions, letter: str, fits: "Callable[[str], bool]") -> str:
    word = options.values.get(letter, "")
    if letter in options.values and not fits(word.upper()):
        raise SendmailError(USAGE, f"-{letter} {visible(word)} is not valid")
    return word


def _addresses(value: bytes, status: int) -> list[str]:
    """Of a list as the fields To and Cc are.  Raises SendmailError, with that status."""
    found = simple_address.maybe_addresses(value)
    return _parse_addresses(value, status) if found is None else found


def _parse_addresses(value: bytes, status: int) -> list[str]:
    from smtpd.header import address_list
    from smtpd.smtp.address import NULL, AddressError, parse_path

    try:
        found = [parse_path(f"<{text.decode()}>") for text in address_list.addresses(value)]
        if any(rest or address == NULL for address, rest in found):
            raise AddressError("not one address")
    except (AddressError, ValueError) as error:
        text = visible(value.decode(errors="replace").strip())
        reason = "not UTF-8" if isinstance(error, UnicodeError) else error
        raise SendmailError(status, f"not an address: {text[:200]} ({reason})") from None
    return [str(address) for address, _ in found]


def from_field(sender: str, options: SendmailOptions, person: Caller) -> bytes:
    """The field that is missing.  A name is no more than a name: it can end no line."""
    name = options.values.get("F", person.name)
    if not name.isprintable():
        raise SendmailError(USAGE, "-F has unprintable characters")
    author = sender or person.login
    if not name:
        return f"From: {author}".encode()
    return f"From: {_phrase(name)} <{author}>".encode()


def _phrase(name: str) -> str:
    """RFC 5322 3.2.5, RFC 2047 5"""
    if not name.isascii() or "=?" in name:
        from smtpctl.encoding import encoded_words

        return encoded_words(name)
    if all(map(simple_address.is_word, name.split(" "))):
        return name
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"'
