"""Mail addresses, as RFC 5321 4.1.2 writes them in MAIL and RCPT.

    <bob@here.test>                   Address("bob", "here.test")
    <"o \\"h\\""@here.test>             Address('o "h"', "here.test")     unquoted inside, quoted again when printed
    <bob@[IPv6:2001:DB8:0::1]>        Address("bob", "[IPv6:2001:db8::1]")
    <@a.test,@b.test:bob@here.test>   Address("bob", "here.test")         the source route is dropped
    <bob@here.test.>                  Address("bob", "here.test")         likewise the dot of DNS, which the RFC has not
    <postmaster>                      Address("postmaster", "")           the session knows the domain
    <>                                Address("", "")                     the null sender

An Address holds no control character, no line separator and nothing that turns the direction of writing, so it can be
printed, logged and stored as it is.  It is not safe for a shell, and is never given to one.

Longer local parts than the 64 octets of the RFC are taken, up to 255: rewritten senders (SRS, VERP) have them, and the
RFC would rather see no limit (4.5.3.1).  Not understood: RFC 5322 comments and display names, general address literals.
"""

import ipaddress
import re
import unicodedata

from msgspec import Struct

MAX_LOCAL = 255  # octets; RFC 5321 4.5.3.1.1 asks for at least 64
MAX_DOMAIN = 255  # RFC 5321 4.5.3.1.2
MAX_LABEL = 63  # RFC 1035 2.3.4

# What the two may not hold: of ASCII all but atext (RFC 5322 3.2.3), all but qtextSMTP (RFC 5321 4.1.2).  \u0080 and
# up stand for UTF8-non-ascii of RFC 6531 3.3; which of these will do, the category of each decides below.  A class that
# names them, \u0080-\U0010ffff, makes each pattern take ten milliseconds to compile, in four processes of each start.
_ATOM = r"[^\x00-\x20\x7f\"(),.:;<>@\[\\\]]++"
_DOT_STRING = rf"{_ATOM}(?:\.{_ATOM})*+"
_QUOTED = r'"(?:[^\x00-\x1f\x7f"\\]|\\[ -~])*+"'
_ROUTE = r"(?:@[^@,:<>\" ]++(?:,@[^@,:<>\" ]++)*+:)?+"  # RFC 5321 4.1.1.3: accepted, ignored
_MAILBOX = rf"(?P<local>{_DOT_STRING}|{_QUOTED})(?:@(?P<domain>[^@<>\" ]++))?+"

_DOT_STRING_RE = re.compile(_DOT_STRING)
_MAILBOX_RE = re.compile(_MAILBOX)
_PATH_RE = re.compile(rf"<[ \t]*+(?:{_ROUTE}{_MAILBOX})?+[ \t]*+>")
_BARE_RE = re.compile(rf"{_MAILBOX}(?![^ \t])")

_LABEL_RE = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?+", re.ASCII)
_LITERAL_RE = re.compile(r"\[(?:(?P<four>[0-9.]+)|(?:IPv6:)?(?P<six>[0-9A-Fa-f:.]+))\]", re.IGNORECASE | re.ASCII)
_QUOTED_PAIR_RE = re.compile(r"\\(.)")
_TO_QUOTE_RE = re.compile(r'(["\\])')

_JOINERS = "\u200c\u200d"  # without width, and words of some languages need them (RFC 5892 A.1, A.2)
_MIDDLE_MARKS = "\u00b7\u0375\u05f3\u05f4\u30fb"  # RFC 5892 A.3 to A.7


class AddressError(ValueError):
    """Not an address; the argument says what is wrong with it."""


class Address(Struct, frozen=True):
    local: str
    domain: str

    def __str__(self) -> str:
        """As it stands between the angle brackets; empty for the null sender."""
        local = self.local
        if local and not _DOT_STRING_RE.fullmatch(local):
            local = '"' + _TO_QUOTE_RE.sub(r"\\\1", local) + '"'
        return f"{local}@{self.domain}" if self.domain else local

    def isascii(self) -> bool:
        return self.local.isascii() and self.domain.isascii()


NULL = Address("", "")


def parse_path(text: str) -> tuple[Address, str]:
    """The path that `text` begins with, and the rest of the text.  Raises AddressError.

    Without brackets too, and with blanks inside of them: scanners and scripts write that, and other servers take it.
    """
    found = (_PATH_RE if text.startswith("<") else _BARE_RE).match(text)
    if not found:
        raise AddressError("not of the form <local-part@domain>")
    if found["local"] is None:
        return NULL, text[found.end() :]
    return _address(found), text[found.end() :]


def parse_mailbox(text: str) -> Address:
    """All of `text` as an address without brackets; what str() prints of any Address but NULL.  Raises AddressError."""
    found = _MAILBOX_RE.fullmatch(text)
    if not found:
        raise AddressError("not of the form local-part@domain")
    return _address(found)


def parse_domain(text: str) -> str:
    """A domain name or an address literal, the latter in canonical form.  Raises AddressError."""
    if text.startswith("["):
        return _literal(text)
    if len(text.encode(errors="surrogatepass")) > MAX_DOMAIN:
        raise AddressError("domain too long")
    for label in text.split("."):
        _check_label(label)
    return text


def _address(found: re.Match[str]) -> Address:
    local = found["local"]
    if local.startswith('"'):
        local = _QUOTED_PAIR_RE.sub(r"\1", local[1:-1])
    if not local:
        raise AddressError("empty local part")
    if len(local.encode(errors="surrogatepass")) > MAX_LOCAL:
        raise AddressError("local part too long")
    if not local.isascii():
        _check_local_characters(local)
    return Address(local, parse_domain(found["domain"].removesuffix(".")) if found["domain"] is not None else "")


def _check_label(label: str) -> None:
    """RFC 5321 4.1.2 sub-domain, with the underscore that host names out there have; or RFC 6531 3.3 U-label."""
    if label.isascii():
        if not _LABEL_RE.fullmatch(label):
            raise AddressError("malformed domain")
    elif not all(_fits_label(char) for char in label) or label.startswith("-") or label.endswith("-"):
        raise AddressError("malformed domain")
    if len(label) > MAX_LABEL:
        raise AddressError("domain label too long")


def _fits_label(char: str) -> bool:
    """Whether RFC 5892 could allow it: a resolver checks the rest of its rules."""
    return char in "-_" or char in _JOINERS or char in _MIDDLE_MARKS or unicodedata.category(char)[0] in "LMN"


def _check_local_characters(local: str) -> None:
    """No C1 control, no line separator, no blank but the ASCII one, no turn of direction, and nothing private or
    unassigned (RFC 8264 9.10)."""
    for char in local:
        kind = unicodedata.category(char)
        if kind in ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp") and char not in _JOINERS or kind == "Zs" and char != " ":
            raise AddressError("unprintable character")


def _literal(text: str) -> str:
    """`[192.0.2.1]`, `[IPv6:2001:db8::1]`; also `[2001:db8::1]`, which others write."""
    found = _LITERAL_RE.fullmatch(text)
    if not found:
        raise AddressError("malformed address literal")
    try:
        if found["four"] is not None:
            return f"[{ipaddress.IPv4Address(found['four'])}]"
        return f"[IPv6:{ipaddress.IPv6Address(found['six'])}]"
    except ValueError:
        raise AddressError("malformed address literal") from None
