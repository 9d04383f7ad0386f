"""Which hosts take the mail of a destination, in which order: RFC 5321 5.1, RFC 7505.  No I/O; chance is an argument.

    MX of there.test --> 10 a, 10 b, 20 us, 30 c --> a and b, shuffled; not us, and nothing behind us
                         none                    --> there.test itself (implicit MX)
                         .                       --> NoHosts: there.test takes no mail (null MX)

A host that cannot be used is left out with its reason, and the others stay.  This host is known by its names, and by
every address it has at the moment: mail that only it could take would come back to it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from smtpd.lookup.destination import NoHosts, address_fault, is_localhost, is_this_host, loop
from smtpd.lookup.dns_message import DnsFailure, DnsResult, MxRecord
from smtpd.lookup.host_records import HostRecords
from smtpd.lookup.resolver_config import is_host_name
from smtpd.next_hop import HOSTS_MAX, MailHost
from smtpd.slice import WILDCARDS

ROOT = "."

Shuffle = Callable[[list[MxRecord]], None]


@dataclass(frozen=True)
class ThisHost:
    """`names` in ASCII and lower case; `listening`: address and port, an address may be empty: any of an interface.
    `has_address`: asked of the system each time, as addresses come and go."""

    names: frozenset[str]
    listening: tuple[tuple[str, int], ...]
    has_address: Callable[[str], bool]

    def listens(self, address: str, port: int) -> bool:
        addresses = {at for at, of_port in self.listening if of_port == port}
        if address in addresses:
            return True
        if "%" in address:  # has_address() would look for its interface
            return False
        if WILDCARDS[6 if ":" in address else 4] in addresses:
            return is_this_host(address) or self.has_address(address)
        return "" in addresses and not is_this_host(address) and self.has_address(address)


@dataclass(frozen=True)
class Exchangers:
    """The MX records that are left: at least one, in the order to try."""

    records: tuple[MxRecord, ...]
    secure: bool
    implicit: bool = False  # there is no MX record: the domain itself
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Selected:
    """At least one host, in the order to try."""

    hosts: tuple[MailHost, ...]
    skipped: tuple[str, ...] = ()


def select_exchangers(
    domain: str, answer: DnsResult[MxRecord] | DnsFailure, names: frozenset[str], shuffle: Shuffle
) -> Exchangers | NoHosts:
    """`names`: of this host."""
    if isinstance(answer, DnsFailure):
        return NoHosts(451, "4.4.3", f"MX lookup of {domain}: {answer.reason}")
    if not answer.values:
        if domain in names:
            return loop(domain, f"it has no MX record, and {domain} is this host")
        # RFC 5321 5.1: "If an empty list of MXs is returned, the address is treated as if it was associated with an
        # implicit MX RR, with a preference of 0, pointing to that host."
        return Exchangers((MxRecord(0, domain),), answer.secure, implicit=True)
    records = [record for record in answer.values if record.host != ROOT]
    if not records:
        return NoHosts(556, "5.1.10", f"{domain} does not accept mail (null MX)")  # RFC 7505 3, 4.2
    return _exchangers(domain, _ordered(records, shuffle), answer.secure, names)


def _ordered(records: Sequence[MxRecord], shuffle: Shuffle) -> list[MxRecord]:
    """By preference; RFC 5321 5.1: "If there are multiple destinations with the same preference and there is no clear
    reason to favor one, then the sender-SMTP MUST randomize them"."""
    best: dict[str, MxRecord] = {}
    for record in sorted(records, key=_preference):
        host = record.host.lower()
        best.setdefault(host, MxRecord(record.preference, host))
    ordered: list[MxRecord] = []
    for _, level in groupby(best.values(), key=_preference):
        alike = list(level)
        shuffle(alike)
        ordered += alike
    return ordered


def _preference(record: MxRecord) -> int:
    return record.preference


def _exchangers(domain: str, records: list[MxRecord], secure: bool, names: frozenset[str]) -> Exchangers | NoHosts:
    # RFC 5321 5.1: "If the server is among them, all MX records with its preference and worse are discarded."
    ours = next((record for record in records if record.host in names), None)
    better = [record for record in records if ours is None or record.preference < ours.preference]
    faults = {record.host: _fault(record.host) for record in better}
    skipped = tuple(f"{host}: {fault}" for host, fault in faults.items() if fault)[:HOSTS_MAX]
    usable = tuple(record for record in better if not faults[record.host])[:HOSTS_MAX]
    if usable:
        return Exchangers(usable, secure, skipped=skipped)
    if ours is not None:
        return loop(domain, f"its best usable MX record names this host: {ours.host}")
    if all(is_localhost(record.host) for record in better):
        return loop(domain, "its MX records name localhost")
    return NoHosts(550, "5.4.4", f"{domain}: no usable MX record: {skipped[0]}")


def _fault(host: str) -> str:
    if is_localhost(host):
        return "MX record names localhost"
    if is_host_name(host):
        return ""
    literal = host.rpartition(".")[2].isdigit() or ":" in host
    return f"MX record names {'an address' if literal else 'no valid host name'}"  # RFC 5321 5.1, 2.3.5


def select_hosts(
    domain: str, exchangers: Exchangers, found: Sequence[HostRecords], has_address: Callable[[str], bool]
) -> Selected | NoHosts:
    """`found`: the records of each exchanger.  RFC 5321 5.1: a host with an address of ours is us, and mail goes only
    to hosts that are preferred to it."""
    pairs = list(zip(exchangers.records, found, strict=True))
    own = next((record for record, host in pairs if any(map(has_address, host.addresses))), None)
    better = [(record, host) for record, host in pairs if own is None or record.preference < own.preference]
    hosts = tuple(_mail_host(record, host) for record, host in better if host.addresses)
    skipped = tuple(f"{record.host}: {_missing(host)}" for record, host in better if not host.addresses)
    if hosts:
        return Selected(hosts, (*exchangers.skipped, *skipped)[:HOSTS_MAX])
    if own is not None and not better:
        return loop(domain, f"{own.host} has an address of this host")
    if failure := next((host.failure for _, host in better if host.failure), ""):
        return NoHosts(451, "4.4.3", failure)
    if all(host.fault for _, host in better):
        if any(host.loops for _, host in better):
            return loop(domain, skipped[0])
        return NoHosts(550, "5.4.4", f"{domain}: no usable address: {skipped[0]}")
    if not exchangers.implicit:
        return NoHosts(451, "4.4.4", f"no MX host of {domain} has an address: {skipped[0]}")
    if not found[0].exists:
        return NoHosts(550, "5.1.2", f"domain does not exist: {domain}")
    return NoHosts(550, "5.4.4", f"{domain} has neither an MX record nor an address")


def _mail_host(record: MxRecord, host: HostRecords) -> MailHost:
    dane = host.dane
    return MailHost(
        record.host, record.preference, list(host.addresses), host.secure, dane.state, dane.base, list(dane.records)
    )


def _missing(host: HostRecords) -> str:
    return host.failure or host.fault or ("no address" if host.exists else "no such host")


def select_address(literal: str, address: str, has_address: Callable[[str], bool]) -> Selected | NoHosts:
    """The host of a domain literal: RFC 5321 4.1.3."""
    if is_this_host(address) or has_address(address):
        return loop(literal, "it is an address of this host")
    if fault := address_fault(address):
        return NoHosts(550, "5.1.2", f"{literal} is {fault}")
    return Selected((MailHost("", 0, [address]),))


def select_smarthost(name: str, host: HostRecords, port: int, this: ThisHost) -> Selected | NoHosts:
    """The host that the configuration names, all of its addresses; `name` is empty where it names an address."""
    addresses = [address for address in host.addresses if not this.listens(address, port)]
    if addresses:
        return Selected((_mail_host(MxRecord(0, name), replace(host, addresses=tuple(addresses))),))
    if host.addresses:
        shown = name or host.addresses[0]
        return NoHosts(451, "4.4.6", f"smarthost {shown} port {port} is this host, where smtpd listens itself")
    if host.failure:
        return NoHosts(451, "4.4.3", f"smarthost {name}: {host.failure}")
    return NoHosts(451, "4.4.4", f"smarthost {name}: {_missing(host)}")
