"""listen on WHERE -> the addresses that are bound: of an interface, of a name, or the one that stands there.

eth0              all addresses that it has          192.0.2.1   "::1"     itself
tun0              none yet: the parent looks for     mx.example.org        what it resolves to
                  them from time to time             "*"                   0.0.0.0 and ::
"""

import ipaddress
import re

from smtpd.config.errors import Report, SourcePosition, quoted, suggestion
from smtpd.config.host import Host, numeric
from smtpd.config.model import Listen

ALL_ADDRESSES = {"*": ("0.0.0.0", "::")}
WILDCARDS = {4: "0.0.0.0", 6: "::"}
INTERFACE_GROUPS = ("all", "egress")  # of OpenBSD, with all interfaces, and with those that lead to a default route
INTERFACE = re.compile(r"(?=.{1,15}\Z)[A-Za-z][A-Za-z0-9_-]*(\.[0-9]+)?")  # eth0.7 is one of a VLAN


def listen_addresses(listen: Listen, host: Host, place: SourcePosition, report: Report) -> tuple[str, ...]:
    """An interface by its name, an address, or what the resolver knows, in this order; each address once.  None for an
    interface that is not there yet, or has no address: a warning says so."""
    if listen.operand in host.interfaces:
        kind, addresses = "interface", host.interfaces[listen.operand]
    elif listen.operand in ALL_ADDRESSES:
        kind, addresses = "address", ALL_ADDRESSES[listen.operand]
    elif address := numeric(listen.operand):
        named = host.resolve(address) if "%" in address else ()  # fe80::1%2 -> fe80::1%eth0
        kind, addresses = "address", named or (address,)
        if "%" not in address and family(address) == 6 and ipaddress.ip_address(address).is_link_local:
            expected = f'expected the interface behind it, as in "{address}%eth0"'
            report.add(place, f"{address} is an address of one link only, {expected}")
    else:
        kind, addresses = "name", host.resolve(listen.operand)
        if not addresses:
            _unknown(listen, host, place, report)
            return ()
    of_family = tuple(dict.fromkeys(address for address in addresses if listen.family in (None, family(address))))
    if not of_family:
        wanted = f"IPv{listen.family} address" if listen.family else "address"
        if kind == "interface":
            report.warn(place, f"interface {quoted(listen.operand)} has no {wanted} yet")
        else:
            text = f"is not an {wanted}" if kind == "address" else f"has no {wanted}"
            report.add(place, f"{kind} {quoted(listen.operand)} {text}")
    return of_family


def may_get_more(listen: Listen, host: Host, addresses: tuple[str, ...]) -> bool:
    """Whether these are all that an interface has as soon as it is up: others come by DHCP, or from a router."""
    return listen.operand in host.interfaces and all(ipaddress.ip_address(one).is_link_local for one in addresses)


def _unknown(listen: Listen, host: Host, place: SourcePosition, report: Report) -> None:
    hint = suggestion(listen.operand, host.interfaces)
    if listen.operand in INTERFACE_GROUPS:
        text = f'{quoted(listen.operand)} is a group of interfaces, expected the name of one, or "*" for all addresses'
        report.add(place, text)
    elif INTERFACE.fullmatch(listen.operand):
        text = f"there is no interface {quoted(listen.operand)} yet, and no such host name"
        report.warn(place, f"{text}; it is waited for{hint}")
    else:
        text = f"{quoted(listen.operand)} is neither an interface nor an address nor a name that resolves{hint}"
        report.add(place, text)


def family(address: str) -> int:
    return 6 if ":" in address else 4
