"""The commands of a mail, MAIL and RCPT with their parameters, and what a server cannot be given at all.

    the mail needs             the server offers      said                    without the extension
    its size                   SIZE             1870  SIZE=                   nothing; if it is too large, fails: 5.3.4
    8-bit content              8BITMIME         6152  BODY=8BITMIME           converted by seven_bit.py, or fails: 5.6.3
    an address beyond ASCII    SMTPUTF8         6531  SMTPUTF8                in ASCII (idna.py), or fails: 5.6.7
    UTF-8 in the header        SMTPUTF8               SMTPUTF8                fails: 5.6.9
    RET, ENVID, NOTIFY, ORCPT  DSN              3461  the same                nothing; RecipientResult.dsn is false
    REQUIRETLS                 REQUIRETLS       8689  REQUIRETLS              fails: 5.7.30
    BY, mode R                 DELIVERBY        2852  BY= the time left       fails: 5.3.3
    BY, mode N                                        BY= the time left       nothing
    MT-PRIORITY                MT-PRIORITY      6710  the same                nothing
    HOLDFOR, HOLDUNTIL         FUTURERELEASE    4865  HOLDFOR= the time left  deferred
    AUTH                       AUTH, logged in  4954  AUTH=                   nothing

A message that came as BINARYMIME was made text when it came (binary_mime.py), so it needs no more than 8BITMIME.  A
server of LMTP is the last one: it gets 8-bit content and headers as they are, as it stores any.
"""

import re
from typing import NamedTuple

from smtpd.envelope import Notify, Outcome
from smtpd.smtp import xtext
from smtpd.smtp.client_action import ClientMail, ClientRecipient, RecipientResult
from smtpd.smtp.client_content import ContentFacts
from smtpd.smtp.client_extension import Extensions
from smtpd.smtp.idna import ascii_address
from smtpd.tls.facts import TlsFacts

BY_MAX = 999_999_999  # seconds; RFC 2852 4: nine digits

# An address between angle brackets: no control character, blank or bracket outside of quotes, which could end the path,
# or the line.
_BAD = r"\x00-\x1f\x7f-\x9f\ud800-\udfff"
_PATH = re.compile(rf'(?:"(?:[^"\\{_BAD}]|\\[ -~])*"|[^{_BAD} @<>"\\]+)(?:@[^{_BAD} @<>"\\]+)?')
_TYPE = re.compile(r"[!-*,-<>-~]+")
_EMBEDDED = re.compile(r"[^!-*,-<>-\[\]-~]")


class Refusal(NamedTuple):
    """A verdict of ours.  For a message or for one recipient."""

    code: int
    enhanced: str
    reason: str

    def result(self, recipient: int) -> RecipientResult:
        outcome = Outcome.FAILED if self.code >= 500 else Outcome.DEFERRED
        text = f"{self.enhanced} {self.reason}".strip()
        return RecipientResult(recipient, outcome, self.code, self.enhanced, text, local=True)


EIGHT_BIT_REFUSED = Refusal(554, "5.6.3", "the server takes no 8-bit content, and it cannot be converted")
UTF8_HEADER_REFUSED = Refusal(554, "5.6.9", "the server takes no header that is not ASCII")
NO_REQUIRETLS = Refusal(550, "5.7.30", "REQUIRETLS support required")  # RFC 8689 5
EXPIRED = Refusal(554, "5.4.7", "the time to deliver it by has passed")
NO_DELIVERBY = Refusal(554, "5.3.3", "the server does not promise to deliver it in time")
HELD = Refusal(450, "4.3.3", "it is to be held until later, and the server does not hold mails")


class MailCommands:
    """One mail for one server.  `facts`: of the TLS connection.  `date`: seconds since 1970."""

    def __init__(
        self, mail: ClientMail, extensions: Extensions, facts: TlsFacts | None, date: int, *, user: str, lmtp: bool
    ):
        self._mail = mail
        self._extensions = extensions
        self._facts = facts
        self._date = date
        self._user = user
        self._lmtp = lmtp
        self._eight_bit = extensions.has("8BITMIME")
        self._offers_utf8 = extensions.has("SMTPUTF8") and (lmtp or self._eight_bit)  # RFC 6531 3.1
        self.content: ContentFacts | None = None  # once it has been looked at

    @property
    def wants_facts(self) -> bool:
        """Whether the commands depend on what the content is."""
        mail = self._mail
        if self._lmtp or mail.eight_bit is False or self.content is not None:
            return False
        return not self._eight_bit or mail.parameters.utf8

    @property
    def wants_conversion(self) -> bool:
        return not self._eight_bit and self.content is not None and self.content.eight_bit

    # -- what the server cannot be given ------------------------------------------------------------

    def maybe_refusal(self) -> Refusal | None:
        """Why this server cannot be given the mail, for whichever recipient."""
        terms, limit = self._mail.parameters, self._extensions.number("SIZE")
        if limit and self._mail.size > limit:  # RFC 1870 6.1
            return Refusal(552, "5.3.4", f"message too large for the server: more than {limit} bytes")
        if terms.require_tls and not self._requires_tls():
            return NO_REQUIRETLS
        if terms.by_mode and (refusal := self._maybe_refusal_of_time()):
            return refusal
        if terms.release > self._date and self._hold() > self._extensions.number("FUTURERELEASE"):
            return HELD
        if self._mail.sender and (refusal := self._maybe_refusal_of_address(self._mail.sender)):
            return refusal
        return self._maybe_refusal_of_content(self.content) if self.content else None

    def maybe_recipient_refusal(self, recipient: ClientRecipient) -> Refusal | None:
        return self._maybe_refusal_of_address(recipient.address)

    def _requires_tls(self) -> bool:
        """RFC 8689 4.2.1: the connection is verified, and the server passes the requirement on."""
        return self._facts is not None and self._facts.verified and self._extensions.has("REQUIRETLS")

    def _maybe_refusal_of_time(self) -> Refusal | None:
        """RFC 2852 4.1: a message to be returned when it is late is given to no server that would not return it."""
        if self._mail.parameters.by_mode != "R":
            return None
        left = self._mail.parameters.deliver_by - self._date
        if left <= 0:
            return EXPIRED
        if not self._extensions.has("DELIVERBY"):
            return NO_DELIVERBY
        least = self._extensions.number("DELIVERBY")
        return Refusal(554, "5.4.7", f"the server needs {least} seconds to deliver it") if left < least else None

    def _maybe_refusal_of_address(self, address: str) -> Refusal | None:
        if not _PATH.fullmatch(address):
            return Refusal(553, "5.1.3", f"cannot be written as an address: {address!a}")
        if not self._offers_utf8 and ascii_address(address) is None:  # RFC 6531 3.5
            return Refusal(553, "5.6.7", f"the server takes no address that is not ASCII: {address!a}")
        return None

    def _maybe_refusal_of_content(self, content: ContentFacts) -> Refusal | None:
        if self._mail.parameters.utf8 and content.utf8_header and not self._offers_utf8:
            return UTF8_HEADER_REFUSED
        if not self._eight_bit and not content.convertible:
            return EIGHT_BIT_REFUSED
        return None

    # -- the commands ---------------------------------------------------------------------------------

    def uses_utf8(self, recipients: list[ClientRecipient]) -> bool:
        """Whether MAIL says SMTPUTF8 (RFC 6531 3.4): only where it is needed, as a later server may not have it.  To
        LMTP a domain in Unicode is told as it is: it may be the name of a mailbox."""
        if not self._offers_utf8:
            return False
        if self._has_utf8_header():
            return True
        addresses = [self._mail.sender, *(recipient.address for recipient in recipients)]
        if "".join(addresses).isascii():
            return False
        return self._lmtp or any(ascii_address(address) is None for address in addresses)

    def _has_utf8_header(self) -> bool:
        if not self._mail.parameters.utf8:
            return False
        return self.content.utf8_header if self.content else self._lmtp

    def mail(self, *, utf8: bool) -> bytes:
        """MAIL.  Only after `maybe_refusal`."""
        terms, has = self._mail.parameters, self._extensions.has
        words = [f"MAIL FROM:<{self._told(self._mail.sender, utf8=utf8)}>"]
        if has("SIZE"):
            words.append(f"SIZE={self._mail.size}")  # RFC 1870 6: an estimate is allowed
        eight_bit = self.content.eight_bit if self.content else self._mail.eight_bit is not False
        if self._eight_bit and eight_bit:
            words.append("BODY=8BITMIME")  # also where it is not known
        if utf8:
            words.append("SMTPUTF8")
        if has("DSN"):
            words += [f"RET={terms.ret}"] if terms.ret else []
            words += [f"ENVID={xtext.encode(terms.envid)}"] if terms.envid else []
        if terms.require_tls:
            words.append("REQUIRETLS")
        if terms.submitter and self._user:  # RFC 4954 5
            words.append(f"AUTH={xtext.encode(terms.submitter)}")
        if terms.by_mode and has("DELIVERBY"):
            left = max(-BY_MAX, min(terms.deliver_by - self._date, BY_MAX))
            words.append(f"BY={left};{terms.by_mode}{'T' * terms.by_trace}")
        if terms.priority and has("MT-PRIORITY"):
            words.append(f"MT-PRIORITY={terms.priority}")
        if terms.release > self._date:
            words.append(f"HOLDFOR={self._hold()}")
        return _line(words)

    def rcpt(self, recipient: ClientRecipient, *, utf8: bool) -> bytes:
        """RCPT.  Only after `maybe_recipient_refusal`."""
        words = [f"RCPT TO:<{self._told(recipient.address, utf8=utf8)}>"]
        if self._extensions.has("DSN"):
            if recipient.notify:
                notify = ",".join(word.name or "" for word in Notify if word in recipient.notify)
                words.append(f"NOTIFY={notify}")
            original = _original(recipient.original)
            words += [f"ORCPT={original}"] if original else []
        return _line(words)

    def _told(self, address: str, *, utf8: bool) -> str:
        return address if utf8 else ascii_address(address) or ""

    def _hold(self) -> int:
        return self._mail.parameters.release - self._date


def _original(original: str) -> str:
    """ORCPT (RFC 3461 4.2).  A type utf-8 has its own encoding, ASCII in every case (RFC 6533 3)."""
    kind, _, address = original.partition(";")
    if not address or not _TYPE.fullmatch(kind):
        return ""
    if kind.lower() == "utf-8":
        return f"{kind};" + _EMBEDDED.sub(lambda found: f"\\x{{{ord(found[0]):02X}}}", address)
    return f"{kind};{xtext.encode(address)}"


def _line(words: list[str]) -> bytes:
    return " ".join(words).encode() + b"\r\n"
