"""The name servers and host names of this host: /etc/resolv.conf and /etc/hosts.

Both files are read once, before the sandbox is entered.  Invalid lines are skipped, as by the C library.  Without name
servers only the names in the hosts file are known.

A name server is trusted to have validated what it calls validated (the AD bit of DNSSEC) if it is on this host, or
`options trust-ad` says so: resolv.conf(5).  On the way from any other one the bit can be forged.

Not read: search lists and other options, as only complete names are looked up; nsswitch.conf.
"""

import ipaddress
import socket
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from smtpd.smtp.ip_address import unmapped

RESOLV_CONF, HOSTS_FILE = "/etc/resolv.conf", "/etc/hosts"
PORT = 53
SERVERS_MAX = 3  # MAXNS of resolv.conf(5)


@dataclass(frozen=True)
class NameServer:
    """A name server; `address`: for socket.connect."""

    family: int
    address: tuple[str, int] | tuple[str, int, int, int]
    trusted: bool = False  # its AD bit counts


@dataclass(frozen=True)
class ResolverConfig:
    servers: tuple[NameServer, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)  # address -> its first name
    addresses: Mapping[str, frozenset[str]] = field(default_factory=dict)  # name -> addresses


def read_resolver_config(resolv_conf: str = RESOLV_CONF, hosts: str = HOSTS_FILE) -> ResolverConfig:
    return ResolverConfig(parse_servers(_read(resolv_conf)), *parse_hosts(_read(hosts)))


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def parse_servers(text: str) -> tuple[NameServer, ...]:
    words = [line.split() for line in text.splitlines()]
    trust = any("trust-ad" in line for line in words if line and line[0] == "options")
    named = [server_at(line[1], trust=trust) for line in words if len(line) > 1 and line[0] == "nameserver"]
    return tuple(server for server in named if server is not None)[:SERVERS_MAX]


def server_at(text: str, port: int = PORT, trust: bool = False) -> NameServer | None:
    address, _, scope = text.partition("%")
    try:
        parsed = ipaddress.ip_address(address)
        trusted = trust or unmapped(parsed).is_loopback
        if parsed.version == 4:
            return NameServer(socket.AF_INET, (address, port), trusted)
        number = socket.if_nametoindex(scope) if scope else 0
        return NameServer(socket.AF_INET6, (address, port, 0, number), trusted)
    except (ValueError, OSError):
        return None


def parse_hosts(text: str) -> tuple[dict[str, str], dict[str, frozenset[str]]]:
    """(address -> name, name -> addresses); the first line with an address gives its name."""
    names: dict[str, str] = {}
    addresses: defaultdict[str, set[str]] = defaultdict(set)
    for line in text.splitlines():
        address, *given = line.partition("#")[0].split() or [""]
        key = canonical_address(address)
        valid = [name.lower() for name in given if is_host_name(name)]
        if key is None or not valid:
            continue
        names.setdefault(key, valid[0])
        for name in valid:
            addresses[name].add(key)
    return names, {name: frozenset(found) for name, found in addresses.items()}


def canonical_address(address: str) -> str | None:
    """The canonical text of an IP address: without zone, IPv4-mapped as IPv4.  None for anything else."""
    try:
        return str(unmapped(ipaddress.ip_address(address.partition("%")[0])))
    except ValueError:
        return None


LABEL_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
LABEL_MAX, NAME_MAX = 63, 253  # RFC 1035 2.3.4, without the root label


def is_host_name(name: str) -> bool:
    """Whether the text is a host name: RFC 1123 2.1, with underscores.  A name that looks like an address is none: it
    would be misleading in logs and rules."""
    labels = name.lower().split(".")
    fit = all(0 < len(label) <= LABEL_MAX and LABEL_CHARACTERS.issuperset(label) for label in labels)
    return fit and len(name) <= NAME_MAX and not labels[-1].isdigit() and not name.startswith("-")
