"""SRS, the Sender Rewriting Scheme: a sender that SPF allows for forwarded mail, and back from it for the bounce.

    amy@there.test, forwarded for bob@here.test     SRS0=HHHH=TT=there.test=amy@here.test
    that, forwarded again for eve@else.test         SRS1=HHHH=here.test==HHHH=TT=there.test=amy@else.test
    that, forwarded again                           likewise: the first host that forwarded it stays in it

    HHHH    4 characters of base64: SHA-1 of the key and all that follows HHHH=, the domain included
    TT      2 characters of base32: days since 1970, modulo 1024

As OpenSMTPD writes and reads them, so that hosts of both kinds can share a key.  It is not an HMAC; nothing is lost, as
the 24 bits that are shown of a hash are too few to continue it.  They are enough for what they protect: without them
any host could send to any address through ours, as a bounce.  Each guess costs a refused RCPT.

`rewrite` and `reverse` are pure.  Only mail with a sender is rewritten, and only bounces are reversed: the callers see
to that.  The hash is compared with case, as the local part that it covers has case.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass, field

from smtpd.domain_name import normal
from smtpd.smtp.address import Address, AddressError, parse_domain, parse_mailbox
from smtpd.smtp.idna import ascii_domain

DAY_SECONDS = 86400
DAYS = 1024  # that a timestamp can tell apart
TTL_MAX = 512  # days; of longer ones, a timestamp of the future could be one of the past
CLOCK_DRIFT = 1  # days that a timestamp may lie in the future: another host may have made it
HASH_LENGTH = 4  # characters
LENGTH_MAX = 254  # octets; RFC 5321 4.5.3.1.3: a path has at most 256, with its brackets
BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
FIRST, FURTHER = "SRS0=", "SRS1="


class SrsError(ValueError):
    """An address that looks rewritten and is not accepted; the text is the reason."""


@dataclass(frozen=True)
class Rewriter:
    """Rewrites with `key`, and reverses what `key` or `backup` made; an empty `backup` is none.  `ttl` in days."""

    key: str = field(repr=False)
    backup: str = field(repr=False, default="")
    ttl: int = 4

    def rewrite(self, sender: str, domain: str, now: float) -> str:
        """The sender for mail that is forwarded for an address at `domain`.  `sender` is user@domain, `now` in seconds
        since 1970.  The same sender if there is no such form of it, as where it would be too long."""
        try:
            address = parse_mailbox(sender)
            behind = _embedded(address, now)
            return _address(_prefix(address), self.key, behind, domain) if behind else sender
        except AddressError:
            return sender

    def reverse(self, recipient: str, now: float) -> str:
        """The address that `recipient`, for which `is_rewritten`, was made from.  Raises SrsError."""
        try:
            address = parse_mailbox(recipient)
            return str(parse_mailbox(self._reverse(address, now)))
        except AddressError as malformed:
            raise SrsError(f"it holds no address: {malformed}") from None

    def _reverse(self, address: Address, now: float) -> str:
        """Raises SrsError, AddressError."""
        prefix, text = _prefix(address), _hashed_text(address)
        signature, separator, behind = text[:HASH_LENGTH], text[HASH_LENGTH : HASH_LENGTH + 1], text[HASH_LENGTH + 1 :]
        if separator != "=" or not self._has_signed(signature, f"{behind}@{normal(address.domain)}"):
            raise SrsError("its hash is wrong")
        if prefix == FIRST:
            stamp, domain, local = _split(behind)
            self._check_age(stamp, now)
            return str(Address(local, parse_domain(domain)))
        host, _, original = behind.partition("=")
        if not original.startswith("="):
            raise SrsError('"==" is missing')
        # The hash of the first host is checked there.
        stamp, _, _ = _split(original[1 + HASH_LENGTH + 1 :])
        self._check_age(stamp, now)
        return str(Address(f"{FIRST}{original[1:]}", parse_domain(host)))

    def _has_signed(self, signature: str, text: str) -> bool:
        made = [_hash(key, text) for key in (self.key, self.backup) if key]
        # Each is compared, and in constant time: the hash is a secret until it is right.
        return any([hmac.compare_digest(one.encode(), signature.encode(errors="surrogatepass")) for one in made])

    def _check_age(self, stamp: str, now: float) -> None:
        if len(stamp) != 2 or not all(char in BASE32 for char in stamp):
            raise SrsError("its timestamp is malformed")
        day = BASE32.index(stamp[0]) * len(BASE32) + BASE32.index(stamp[1])
        age = (_day(now) - day) % DAYS
        if self.ttl < age < DAYS - CLOCK_DRIFT:
            raise SrsError("it has expired")


def is_rewritten(address: str) -> bool:
    """Whether the address has the form of a rewritten one.  Its beginning may have any case, as in OpenSMTPD."""
    return address[: len(FIRST)].upper() in (FIRST, FURTHER) or address[:1] == '"' and is_rewritten(address[1:])


def _prefix(address: Address) -> str:
    """SRS0= or SRS1=, or nothing."""
    prefix = address.local[: len(FIRST)].upper()
    return prefix if prefix in (FIRST, FURTHER) else ""


def _hashed_text(address: Address) -> str:
    return address.local[len(FIRST) :]


def _embedded(address: Address, now: float) -> str:
    """What follows `HHHH=`, without the domain; empty if the address cannot be rewritten."""
    if not address.local or not address.domain:
        return ""
    domain = ascii_domain(address.domain) or address.domain
    match _prefix(address):
        case "":
            return f"{_stamp(now)}={domain}={address.local}"
        case "SRS0=":
            return f"{domain}=={_hashed_text(address)}"
    text = _hashed_text(address)
    return text[HASH_LENGTH + 1 :] if text[HASH_LENGTH : HASH_LENGTH + 1] in ("=", "+", "-") else ""


def _address(prefix: str, key: str, behind: str, domain: str) -> str:
    """Raises AddressError where the result is too long."""
    domain = normal(domain)
    name = f"{FURTHER if prefix else FIRST}{_hash(key, f'{behind}@{domain}')}={behind}"
    made = str(parse_mailbox(str(Address(name, ascii_domain(domain) or domain))))
    if len(made.encode()) > LENGTH_MAX:
        raise AddressError("address too long")
    return made


def _split(text: str) -> tuple[str, str, str]:
    """TT=domain=local.  Raises SrsError."""
    stamp, first, rest = text.partition("=")
    domain, second, local = rest.partition("=")
    if not first or not second or not local:
        raise SrsError("it is incomplete")
    return stamp, domain, local


def _hash(key: str, text: str) -> str:
    digest = hashlib.sha1((key + text).encode(errors="surrogatepass"), usedforsecurity=False).digest()
    return base64.b64encode(digest)[:HASH_LENGTH].decode("ascii")


def _stamp(now: float) -> str:
    day = _day(now)
    return BASE32[day >> 5] + BASE32[day & 0x1F]


def _day(now: float) -> int:
    return int(now // DAY_SECONDS) % DAYS
