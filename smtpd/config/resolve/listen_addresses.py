"""listen on WHERE -> the addresses to bind: those of an interface or a name, or the address itself.

eth0              all addresses that it has          192.0.2.1   "::1"     itself
tun0              none yet: the parent looks     mx.example.org        what it resolves to
                  for them from time to time             "*"                   0.0.0.0 and ::
"""

import ipaddress
import re

from smtpd.config.errors import Report, SourcePosition, quoted, suggestion
from smtpd.config.host import Host, numeric
from smtpd.config.model import Listen
from smtpd.slice import WILDCARDS

ALL_ADDRESSES = {"*": tuple(WILDCARDS.values())}
INTERFACE_GROUPS = ("all", "egress")  # of OpenBSD: all interfaces, and those with a default route
INTERFACE = re.compile(r"(?=.{1,15}\Z)[A-Za-z][A-Za-z0-9_-]*(\.[0-9]+)?")  # eth0.7: a VLAN


def listen_addresses(listen: Listen, host: Host, position: SourcePosition, report: Report) -> tuple[str, ...]:
    """The addresses of an interface, the address itself, or what the resolver finds, tried in this order; each address
    once.  Empty, with a warning, for an interface that does not exist or has no address yet."""
    if listen.operand in host.interfaces:
        kind, addresses = "interface", host.interfaces[listen.operand]
    elif listen.operand in ALL_ADDRESSES:
        kind, addresses = "address", ALL_ADDRESSES[listen.operand]
    elif address := numeric(listen.operand):
        named = host.resolve(address) if "%" in address else ()  # fe80::1%2 -> fe80::1%eth0
        kind, addresses = "address", named or (address,)
        if "%" not in address and family(address) == 6 and ipaddress.ip_address(address).is_link_local:
            expected = f'expected one, as in "{address}%eth0"'
            report.add(position, f"link-local address {address} without an interface, {expected}")
    else:
        kind, addresses = "name", host.resolve(listen.operand)
        if not addresses:
            _unknown(listen, host, position, report)
            return ()
    of_family = tuple(dict.fromkeys(address for address in addresses if listen.family in (None, family(address))))
    if not of_family:
        wanted = f"IPv{listen.family} address" if listen.family else "address"
        if kind == "interface":
            report.warn(position, f"interface {quoted(listen.operand)} has no {wanted} yet")
        else:
            text = f"is not an {wanted}" if kind == "address" else f"has no {wanted}"
            report.add(position, f"{kind} {quoted(listen.operand)} {text}")
    return of_family


def may_get_more(listen: Listen, host: Host, addresses: tuple[str, ...]) -> bool:
    """Whether an interface has only link-local addresses: those are there as soon as it is up, others come by DHCP or
    from a router."""
    return listen.operand in host.interfaces and all(ipaddress.ip_address(one).is_link_local for one in addresses)


def _unknown(listen: Listen, host: Host, position: SourcePosition, report: Report) -> None:
    hint = suggestion(listen.operand, host.interfaces)
    if listen.operand in INTERFACE_GROUPS:
        text = f'interface groups are not supported: {quoted(listen.operand)}, expected one interface, or "*" for all'
        report.add(position, text)
    elif INTERFACE.fullmatch(listen.operand):
        text = f"unknown interface or host {quoted(listen.operand)}"
        report.warn(position, f"{text}; the listener starts when the interface appears{hint}")
    else:
        text = f"unknown interface or host {quoted(listen.operand)}{hint}"
        report.add(position, text)


def family(address: str) -> int:
    return 6 if ":" in address else 4
