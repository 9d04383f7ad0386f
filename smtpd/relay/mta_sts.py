"""MTA-STS, RFC 8461: what a domain says of its own MX hosts, over HTTPS.

    parse_policy(body)      what stands at the well-known URL  ->  StsPolicy; raises StsPolicyError
    matches(policy, host)   whether the policy names this MX host

    version: STSv1                 names itself, first or anywhere
    mode: enforce                  only the hosts of `mx`, with a valid certificate; testing, none: nothing is refused
    mx: mail.example.com           one or more
    mx: *.example.net              one label in the place of the star
    max_age: 604800                seconds that the policy may be kept

The record that announces a policy is looked for by lookup (lookup/mta_sts_record.py), the policy is fetched by the
dispatcher (dispatcher/outbound/policy_fetch.py).  StsPolicies keeps policies, and says which one to fetch:

    no policy, and a record      FIRST      mail waits for it
    another id in the record     FIRST      mail waits: the hosts that it names may be new (RFC 8461 5.1)
    a day old, or half its age   BESIDE     fetched while mail goes by the policy that is there
    kept over a restart          BESIDE     once: a dispatcher that was taken over may have made it up
    otherwise                    NONE

A policy that is there holds until it ends, whatever DNS and HTTPS say meanwhile: an attacker who suppresses both must
not end it.

What is read comes from any host of the network: its size is bounded before it comes here (POLICY_SIZE_MAX), its lines,
fields and patterns are bounded here.
"""

import ipaddress
import math
import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum
from itertools import islice

from smtpd.domain_name import ascii_form

HTTPS_PORT = 443  # of policy hosts, RFC 8461 3.3
POLICY_SIZE_MAX = 64 * 1024  # bytes, RFC 8461 3.3
MX_PATTERNS_MAX = 256  # of one policy
MAX_AGE_MAX = 31_557_600  # seconds, RFC 8461 3.2
POLICIES_MAX = 20_000  # that are kept
POLICIES_BYTES_MAX = 32 * 1024 * 1024  # of their patterns
POLICY_BYTES = 500  # that a policy takes beside its patterns, about
FETCH_RETRY_DELAY = 300.0  # seconds after a fetch that failed, RFC 8461 3.3: five minutes or longer
REFRESH_INTERVAL = 86_400.0  # seconds after which a policy is fetched again although its id is the same, RFC 8461 10.2

_MAX_AGE = re.compile(r"[0-9]{1,10}")
_DOMAIN = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_BLANKS = " \t"


class StsPolicyError(Exception):
    """Not a policy; the argument says why."""


class StsMode(Enum):
    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class StsPolicy:
    """`mx`: patterns in lower case, ASCII form, without a dot at the end."""

    mode: StsMode
    mx: tuple[str, ...]
    max_age: int  # seconds


def parse_policy(body: bytes) -> StsPolicy:
    """The policy in the body of an HTTPS answer (RFC 8461 3.2).  Raises StsPolicyError."""
    if len(body) > POLICY_SIZE_MAX:
        raise StsPolicyError("longer than 64 KiB")
    fields: dict[str, str] = {}
    patterns: list[str] = []
    for line in body.decode("utf-8", "replace").split("\n"):
        name, colon, value = line.removesuffix("\r").partition(":")
        name, value = name.strip(_BLANKS), value.strip(_BLANKS)
        if not colon:
            continue
        if name == "mx":
            patterns += _pattern(value)
        elif name in ("version", "mode", "max_age"):
            fields.setdefault(name, value)  # RFC 8461 3.2: "all entries except for the first SHOULD be ignored"
    if len(patterns) > MX_PATTERNS_MAX:
        raise StsPolicyError(f"more than {MX_PATTERNS_MAX} mx")
    return _policy(fields, tuple(dict.fromkeys(patterns)))


def _policy(fields: dict[str, str], patterns: tuple[str, ...]) -> StsPolicy:
    if fields.get("version") != "STSv1":
        raise StsPolicyError("not of version STSv1")
    try:
        mode = StsMode(fields.get("mode"))
    except ValueError:
        raise StsPolicyError("no mode enforce, testing or none") from None
    if not _MAX_AGE.fullmatch(fields.get("max_age", "")):
        raise StsPolicyError("no max_age")
    if not patterns and mode is not StsMode.NONE:
        raise StsPolicyError("no valid mx")
    return StsPolicy(mode, patterns, min(int(fields["max_age"]), MAX_AGE_MAX))


def _pattern(value: str) -> list[str]:
    """The pattern of one mx; nothing if it is none, so that one bad line does not end the protection of the others."""
    star = "*." if value.startswith("*.") else ""
    if len(value) > 255:
        return []
    name = ascii_form(value.removeprefix(star))
    if len(name) > 253 or not _DOMAIN.fullmatch(name) or _is_address(name):
        return []
    return [star + name]


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def matches(policy: StsPolicy, host: str) -> bool:
    """Whether one of the patterns is this MX host.  RFC 8461 4.1: the star is one label, the leftmost, and not none."""
    name = ascii_form(host)
    first, dot, rest = name.partition(".")
    return name in policy.mx or bool(first and dot and f"*.{rest}" in policy.mx)


class Fetch(Enum):
    NONE = "not to be fetched"
    BESIDE = "to be fetched while the policy that is kept holds"
    FIRST = "to be fetched before mail is sent"


@dataclass(frozen=True, slots=True)
class KeptPolicy:
    """A policy, the id that its record had, and when it was fetched: seconds since 1970, as it is kept over a
    restart.  `doubtful`: it comes from before one."""

    policy: StsPolicy
    id: str
    fetched: float
    doubtful: bool = False

    @property
    def ends(self) -> float:
        return self.fetched + self.policy.max_age

    @property
    def refresh_at(self) -> float:
        """RFC 8461 10.2: a day, and well before it ends."""
        return min(self.fetched + REFRESH_INTERVAL, self.fetched + self.policy.max_age / 2)

    @property
    def size(self) -> int:
        return POLICY_BYTES + sum(map(len, self.policy.mx))


class StsPolicies:
    """The policies of domains, those used least recently first."""

    def __init__(self, most: int = POLICIES_MAX, most_bytes: int = POLICIES_BYTES_MAX):
        self._most, self._most_bytes = most, most_bytes
        self._kept: OrderedDict[str, KeptPolicy] = OrderedDict()
        self._bytes = 0
        self._failed: OrderedDict[str, float] = OrderedDict()  # domain -> when it may be fetched again
        self._to_keep: dict[str, None] = {}  # domains, in the order of time

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, domain: str, now: float) -> StsPolicy | None:
        """The policy that holds now."""
        kept = self._kept.get(domain)
        if kept is None:
            return None
        if now >= kept.ends:
            self._forget(domain)
            return None
        self._kept.move_to_end(domain)
        return kept.policy

    def fetch(self, domain: str, record_id: str, now: float) -> Fetch:
        """Whether the policy is to be fetched, after its TXT record was looked for; `record_id` is empty without one.

        Without a record there is nothing to fetch; the policy that is kept goes on to hold (RFC 8461 3.3, 5.1)."""
        if not record_id or now < self._failed.get(domain, 0.0):
            return Fetch.NONE
        if self.find(domain, now) is None or self._kept[domain].id != record_id:
            return Fetch.FIRST
        kept = self._kept[domain]
        return Fetch.BESIDE if kept.doubtful or now >= kept.refresh_at else Fetch.NONE

    def time_left(self, domain: str, record_id: str, now: float) -> float:
        """Seconds until another answer than that of `find` may be right: the policy has ended, or one that could not be
        fetched may be tried again."""
        kept = self._kept.get(domain)
        if kept is not None and now < kept.ends:
            return kept.ends - now
        return max(0.0, self._failed.get(domain, 0.0) - now) if record_id else math.inf

    def to_refresh(self, most: int, now: float) -> list[tuple[str, str]]:
        """Domains and ids of policies that have to be fetched again although no mail asks for them, at most `most`:
        otherwise an attacker would wait until a policy ends.  Those that protect nothing may end."""
        due = (
            (domain, kept.id)
            for domain, kept in self._kept.items()
            if kept.policy.mode is not StsMode.NONE
            and kept.refresh_at <= now < kept.ends
            and now >= self._failed.get(domain, 0.0)
        )
        return list(islice(due, most))

    def fetched(self, domain: str, record_id: str, policy: StsPolicy, now: float) -> None:
        self._failed.pop(domain, None)
        if policy.max_age < FETCH_RETRY_DELAY:  # otherwise the next mail would have it fetched again at once
            self._wait_to_fetch(domain, now)
        self._keep(domain, KeptPolicy(policy, record_id, now))
        if domain in self._kept:
            self._to_keep[domain] = None

    def fetch_failed(self, domain: str, now: float) -> None:
        """The policy that is kept, if any, goes on to hold.  It is the last one to be refreshed again: hosts that do
        not answer must not keep others from their turn."""
        if domain in self._kept:
            self._kept.move_to_end(domain)
        self._wait_to_fetch(domain, now)

    def _wait_to_fetch(self, domain: str, now: float) -> None:
        self._failed[domain] = now + FETCH_RETRY_DELAY
        self._failed.move_to_end(domain)
        if len(self._failed) > self._most:
            self._failed.popitem(last=False)

    # -- over a restart -----------------------------------------------------------------------------

    def to_keep(self, most: int) -> dict[str, KeptPolicy]:
        """Up to `most` policies that are not kept so far; they count as kept now."""
        domains = list(islice(self._to_keep, most))
        for domain in domains:
            del self._to_keep[domain]
        return {domain: self._kept[domain] for domain in domains}

    def not_kept(self, domains: Iterable[str]) -> None:
        """These could not be kept."""
        self._to_keep |= dict.fromkeys(domain for domain in domains if domain in self._kept)

    def restore(self, domain: str, kept: KeptPolicy) -> None:
        """Keep a policy that comes from before a restart.  Its age is bounded anew: a file may be old."""
        bounded = replace(kept.policy, max_age=min(kept.policy.max_age, MAX_AGE_MAX))
        self._keep(domain, replace(kept, policy=bounded, doubtful=True))

    def _keep(self, domain: str, kept: KeptPolicy) -> None:
        self._forget(domain)
        self._kept[domain] = kept
        self._bytes += kept.size
        while len(self._kept) > self._most or self._bytes > self._most_bytes:
            self._forget(next(iter(self._kept)))

    def _forget(self, domain: str) -> None:
        kept = self._kept.pop(domain, None)
        self._to_keep.pop(domain, None)
        if kept is not None:
            self._bytes -= kept.size
