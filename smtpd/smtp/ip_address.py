"""Numeric addresses of hosts: one way to write each, this host's own, and which are counted together.

unmapped           ::ffff:192.0.2.1     ->  192.0.2.1
is_loopback        127.9.8.7, ::1       without a mapping, as text
counted_address    192.0.2.1            ->  192.0.2.1       2001:db8::1  ->  2001:db8:0:0
network_of         192.0.2.1            ->  192.0.2         2001:db8::1  ->  2001:db8:0:0

A site has at least a /64 of IPv6, so its single addresses are never counted: a client could use 2^64 of them.
"""

import ipaddress
import socket

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 2.5.5.2: an IPv4 address, written as one of IPv6


def unmapped(address: IPAddress) -> IPAddress:
    """An IPv4 address is one, also where a socket for both families has made an IPv6 address of it."""
    return isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped or address


def is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def counted_address(address: str) -> str:
    """What limits of one address are counted by: the address of IPv4, the /64 of IPv6; any other text is itself."""
    if ":" not in address:
        return address
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except OSError:
        return address
    if packed.startswith(_MAPPED):
        return ".".join(str(byte) for byte in packed[12:])
    return packed[:8].hex(":", 2)


def network_of(address: str) -> str:
    """What limits of a network are counted by: the /24 of IPv4, the /64 of IPv6; any other text is itself."""
    counted = counted_address(address)
    return counted if ":" in counted else counted.rpartition(".")[0] or counted
