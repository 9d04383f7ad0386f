"""When a key matches an entry of a table.

    Strings      equal, without case
    Domains      example.com | *.example.com | mail*.example.com | *        in any spelling (domain_name.py)
    Addresses    user | user@domain | @domain | @, the domain as above
    Networks     192.0.2.1 | 192.0.2.0/24 | 2001:db8::/32 | [2001:db8::1] | local
    Expressions  POSIX extended regular expressions, searched in the key; the only ones with case

A `*` before a dot stands for one label, so `*.example.com` matches `a.example.com` and not `a.b.example.com`; at the
end of an entry it stands for one character or more; elsewhere for any number of characters, dots included.

Entries are sorted into sets once, so that a list of 100 000 names costs one set lookup.  Only domains with other `*`,
and regular expressions, are tried one after the other.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from socket import AF_INET, AF_INET6, inet_pton
from typing import Protocol

from smtpd.domain_name import normal, normal_address, spellings
from smtpd.slice import Service
from smtpd.tables.regex import Pattern
from smtpd.tables.relay_host import RelayHostError, parse_relay_host, without_label

_SPECIAL = re.compile(r"[!-/:-@\[-^`{-~]")  # RE2 rejects a backslash before any other character
IPV4_MAPPED = b"\x00" * 10 + b"\xff\xff"  # an IPv4 address inside an IPv6 one


class Matcher(Protocol):
    def check(self, key: str) -> bool: ...


class Strings:
    """Equal strings, without case; those with an @ as addresses."""

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
    """Addresses and patterns of addresses.  `delimiter` begins a sub-address: an entry without one matches all
    sub-addresses of its user, an entry with one only that.  The key of the null sender is "@"."""

    def __init__(self, entries: Iterable[str], delimiter: str):
        self._delimiter = delimiter
        self._all = False
        self._exact: set[str] = set()  # user@domain
        self._users: set[str] = set()
        self._globs: dict[str, Domains] = {}  # user -> patterns of domains
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
        """Whether there is any address or network among the entries."""
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
    """Why an entry is invalid for a service; empty if it is valid.  Any text may be a user, an address, a domain or a
    tag."""
    if service is Service.REGEX:
        try:
            Pattern(entry)
        except ValueError as error:  # RegexError, and numbers too long for int()
            return f'invalid regular expression "{_shortened(entry)}": {error}'
    elif service is Service.NETADDR and not _is_network(entry):
        examples = "192.0.2.1, 192.0.2.0/24, 2001:db8::/32 or local"
        return f'invalid network "{_shortened(entry)}", expected one such as {examples}'
    elif service is Service.SOURCE and _packed(entry) is None:
        return f'invalid address "{_shortened(entry)}", expected one such as 192.0.2.1 or 2001:db8::1'
    elif service is Service.RELAYHOST:
        try:
            parse_relay_host(entry)
        except RelayHostError as error:
            return f'invalid host "{_shortened(without_label(entry))}": {error}'
    return ""


def _shortened(entry: str) -> str:
    return entry if len(entry) <= 60 else entry[:57] + "..."


def _is_network(entry: str) -> bool:
    """Whether the entry is an address, a network, or `local`, which stands for programs of this host."""
    try:
        return entry.lower() == "local" or Networks([entry.partition("%")[0]]).is_numeric()
    except ValueError:
        return False


def _without_brackets(address: str) -> str:
    return address[1:-1].removeprefix("ipv6:") if address.startswith("[") and address.endswith("]") else address


def _packed(address: str) -> bytes | None:
    """The address as 4 or 16 bytes, an IPv4-mapped one as 4; None if it is none."""
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
    """The matcher of a service; Strings for services without their own.  Raises ValueError for an entry that is invalid
    for the service."""
    if service is Service.AUTH:
        raise ValueError("only a program can check passwords")
    makers: dict[Service, Callable[[Iterable[str]], Matcher]] = {
        Service.DOMAIN: Domains,
        Service.MAILADDR: lambda entries: Addresses(entries, delimiter),
        Service.NETADDR: Networks,
        Service.REGEX: Expressions,
    }
    return makers.get(service, Strings)(entries)
