"""The network that an address is counted with: an IPv4 address's /24, an IPv6 address's /64.

A site has a /64 at the least: who counted its single addresses would count nothing.
"""

import socket

_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 2.5.5.2: an IPv4 address, written as one of IPv6


def network_of(address: str) -> str:
    """A word that is the same for all addresses of the network; what is no address stands for itself."""
    if ":" not in address:
        return address.rpartition(".")[0] or address
    try:
        packed = socket.inet_pton(socket.AF_INET6, address.partition("%")[0])
    except OSError:
        return address
    if packed.startswith(_MAPPED):
        return ".".join(str(byte) for byte in packed[12:15])
    return packed[:8].hex(":", 2)
