"""Numeric addresses of hosts: one way to write each, and which are this host's own.

plain          ::ffff:192.0.2.1     ->  192.0.2.1
is_loopback    127.9.8.7, ::1       the plain form, as text
"""

import ipaddress

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def unmapped(address: IPAddress) -> IPAddress:
    """An IPv4 address is one, also where a socket for both families has made an IPv6 address of it."""
    return isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped or address


def is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
