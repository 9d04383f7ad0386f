"""When a key matches an entry of a table.

    Strings      the same, whatever the case
    Domains      example.com | *.example.com | mail*.example.com | *        in any spelling (domain.py)
    Addresses    user | user@domain | @domain | @, the domain as above
    Networks     192.0.2.1 | 192.0.2.0/24 | 2001:db8::/32 | [2001:db8::1] | local
    Expressions  POSIX extended regular expressions, found anywhere in the key; the only ones where case counts

A `*` before a dot stands for the letters of one label, so `*.example.com` is `a.example.com` and not `a.b.example.com`;
at the end of an entry it stands for one character or more; anywhere else for any number of them, dots too.

Entries are sorted out once, so that a list of a hundred thousand names costs a look into a set: only domains with a `*`
within them, and expressions, are tried one after the other.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from socket import AF_INET, AF_INET6, inet_pton
from typing import Protocol

from smtpd.domain_name import normal, normal_address, spellings
from smtpd.slice import Service
from smtpd.tables.regex import Pattern

_SPECIAL = re.compile(r"[!-/:-@\[-^`{-~]")  # to RE2 a backslash before anything else is a mistake
IPV4_MAPPED = b"\x00" * 10 + b"\xff\xff"  # an IPv4 address inside an IPv6 one


class Matcher(Protocol):
    def check(self, key: str) -> bool: ...


class Strings:
    """Those with an @ are addresses."""

    def __init__(self, entries: Iterable[str]):
        self._entries = frozenset(map(normal_address, entries))

    def check(self, key: str) -> bool:
        return normal_address(key) in self._entries


class Domains:
    def __init__(self, entries: Iterable[str]):
        self._exact: set[str] = set()
        self._parents: set[str] = set()  # of `*.parent`
        self._any = False
        self._patterns: list[Pattern] = []
        for entry in entries:
            self._add(normal(entry))

    def _add(self, entry: str) -> None:
        if entry == "*":
            self._any = True
        elif "*" not in entry:
            self._exact.add(entry)
        elif entry.startswith("*.") and "*" not in entry[2:]:
            self._parents.add(entry[2:])
        else:
            self._patterns.append(_glob(entry))

    def check(self, key: str) -> bool:
        key = normal(key)
        if key in self._exact or self._any and key:
            return True
        _, dot, parent = key.partition(".")
        if dot and parent in self._parents:
            return True
        return bool(self._patterns) and any(
            pattern.search(spelling) for spelling in spellings(key) for pattern in self._patterns
        )


def _glob(entry: str) -> Pattern:
    parts = []
    for part in re.findall(r"\*+\.|\*+$|\*+|[^*]+", entry):
        if part.startswith("*") and part.endswith("."):
            parts.append(r"[^.]*\.")
        elif not part.startswith("*"):
            parts.append(_SPECIAL.sub(r"\\\g<0>", part))
        else:
            parts.append(".*")
    if entry.endswith("*"):
        parts[-1] = ".+"
    return Pattern("^" + "".join(parts) + "$")


class Addresses:
    """`delimiter` begins the sub-address: an entry whose user has none is for all sub-addresses of that user, one with
    it for that sub-address alone.  The null sender has the key "@"."""

    def __init__(self, entries: Iterable[str], delimiter: str):
        self._delimiter = delimiter
        self._all = False
        self._exact: set[str] = set()  # user@domain
        self._users: set[str] = set()
        self._globs: dict[str, Domains] = {}  # user -> the patterns of domains behind it
        globs: defaultdict[str, list[str]] = defaultdict(list)
        domains: list[str] = []
        for entry in map(normal_address, entries):
            user, at, domain = entry.rpartition("@")
            if entry == "@":
                self._all = True
            elif not at:
                self._users.add(entry)
            elif not user:
                domains.append(domain)
            elif "*" in domain:
                globs[user].append(domain)
            else:
                self._exact.add(entry)
        self._domains = Domains(domains)
        self._globs = {user: Domains(patterns) for user, patterns in globs.items()}

    def check(self, key: str) -> bool:
        if self._all:
            return True
        local, _, domain = normal_address(key).rpartition("@")
        bare = local.partition(self._delimiter)[0]
        return self._domains.check(domain) or any(
            f"{user}@{domain}" in self._exact
            or user in self._users
            or (user in self._globs and self._globs[user].check(domain))
            for user in {local, bare}
        )


class Networks:
    def __init__(self, entries: Iterable[str]):
        self._texts: set[str] = set()
        self._networks: defaultdict[tuple[int, int], set[int]] = defaultdict(set)  # (bits, shift) -> prefixes
        for entry in entries:
            self._add(entry.lower())

    def _add(self, entry: str) -> None:
        self._texts.add(entry)
        address, slash, prefix = entry.partition("/")
        packed = _packed(_without_brackets(address))
        if packed is None and slash:
            packed = _packed(address + ".0" * (3 - address.count(".")))  # 10/8
        if packed is None or slash and not (prefix.isdecimal() and int(prefix) <= len(packed) * 8):
            if slash:
                raise ValueError(f"{entry} is not a network")
            return  # a word, such as "local"
        bits = len(packed) * 8
        shift = bits - int(prefix) if slash else 0
        self._networks[bits, shift].add(int.from_bytes(packed) >> shift)

    def is_numeric(self) -> bool:
        """Whether there is anything but words in it."""
        return bool(self._networks)

    def check(self, key: str) -> bool:
        if key.lower() in self._texts:
            return True
        packed = _packed(_without_brackets(key.partition("%")[0]))
        if packed is None:
            return False
        bits, number = len(packed) * 8, int.from_bytes(packed)
        return any(
            of_bits == bits and number >> shift in prefixes for (of_bits, shift), prefixes in self._networks.items()
        )


def entry_fault(service: Service, entry: str) -> str:
    """Why an entry of a list would never match, as a sentence about it; empty if there is no such reason.  Anything
    may be a user, an address, a domain or a tag."""
    if service is Service.REGEX:
        try:
            Pattern(entry)
        except ValueError as error:  # Malformed, and numbers that int() finds too long
            return f'"{_shortened(entry)}" is not a regular expression: {error}'
    elif service is Service.NETADDR and not _is_network(entry):
        examples = "192.0.2.1, 192.0.2.0/24, 2001:db8::/32 or local"
        return f'"{_shortened(entry)}" is no network, expected such as {examples}'
    return ""


def _shortened(entry: str) -> str:
    return entry if len(entry) <= 60 else entry[:57] + "..."


def _is_network(entry: str) -> bool:
    """An address, a network, or `local`: nothing else is the address of a client."""
    try:
        return entry.lower() == "local" or Networks([entry.partition("%")[0]]).is_numeric()
    except ValueError:
        return False


def _without_brackets(address: str) -> str:
    return address[1:-1].removeprefix("ipv6:") if address.startswith("[") and address.endswith("]") else address


def _packed(address: str) -> bytes | None:
    """4 or 16 bytes; an IPv4 address in IPv6 clothes is one of IPv4."""
    try:
        packed = inet_pton(AF_INET6 if ":" in address else AF_INET, address)
    except (OSError, ValueError):
        return None
    return packed[12:] if packed.startswith(IPV4_MAPPED) and len(packed) == 16 else packed


class Expressions:
    def __init__(self, entries: Iterable[str]):
        self._patterns = [Pattern(entry) for entry in entries]

    def check(self, key: str) -> bool:
        return any(pattern.search(key) for pattern in self._patterns)


def make_matcher(service: Service, entries: Iterable[str], delimiter: str) -> Matcher:
    """What has no matcher of its own is compared as a string.  Raises ValueError when an entry means nothing to this
    service."""
    if service is Service.AUTH:
        raise ValueError("only a program can check passwords")
    makers: dict[Service, Callable[[Iterable[str]], Matcher]] = {
        Service.DOMAIN: Domains,
        Service.MAILADDR: lambda entries: Addresses(entries, delimiter),
        Service.NETADDR: Networks,
        Service.REGEX: Expressions,
    }
    return makers.get(service, Strings)(entries)
