"""What this host itself says of names: /etc/resolv.conf and /etc/hosts.

Read once, before the sandbox is entered; both belong to root.  What is wrong in them is passed over, as everybody else
passes over it.  A host without name servers knows the names in its hosts file and no others.

Not understood: search lists and options, as only complete names are looked up; nsswitch.conf.
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
    """A name server; `address` as connect takes it."""

    family: int
    address: tuple[str, int] | tuple[str, int, int, int]


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
    named = [server_at(line[1]) for line in words if len(line) > 1 and line[0] == "nameserver"]
    return tuple(server for server in named if server is not None)[:SERVERS_MAX]


def server_at(text: str, port: int = PORT) -> NameServer | None:
    address, _, scope = text.partition("%")
    try:
        if ipaddress.ip_address(address).version == 4:
            return NameServer(socket.AF_INET, (address, port))
        return NameServer(socket.AF_INET6, (address, port, 0, socket.if_nametoindex(scope) if scope else 0))
    except (ValueError, OSError):
        return None


def parse_hosts(text: str) -> tuple[dict[str, str], dict[str, frozenset[str]]]:
    """Names by address, addresses by name; the first line with an address gives its name."""
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
    """The one way to write a numeric address: no zone, and IPv4 in its own clothes.  None: it is no address."""
    try:
        return str(unmapped(ipaddress.ip_address(address.partition("%")[0])))
    except ValueError:
        return None


LABEL_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
LABEL_MAX, NAME_MAX = 63, 253  # RFC 1035 2.3.4, without the length of the root


def is_host_name(name: str) -> bool:
    """RFC 1123 2.1, with the underscore that is out there.  A name that reads as an address is none: it would lie to
    whoever reads a log or writes a rule."""
    labels = name.lower().split(".")
    fit = all(0 < len(label) <= LABEL_MAX and LABEL_CHARACTERS.issuperset(label) for label in labels)
    return fit and len(name) <= NAME_MAX and not labels[-1].isdigit() and not name.startswith("-")
