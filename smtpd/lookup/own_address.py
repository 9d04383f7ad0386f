"""Whether an address is one of this host, at this moment.

A process in a sandbox cannot list the interfaces.  But the kernel lets a socket be bound to an address of this host
only, and a datagram socket that is connected to such an address often has it itself; nothing is sent for either.  So
addresses that come and go are noticed at once.

    bind                 every address; but with the sysctl ip_nonlocal_bind every address of others, too
    connect, getsockname not the second address of a network: its traffic comes from the first one

Whether binding says anything is tried with addresses that no host has.
"""

import secrets
import socket

DISCARD_PORT = 9  # nothing is sent to it


def has_address(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect((address, DISCARD_PORT))
            source = sock.getsockname()[0]
    except OSError:  # no route, no IPv6, a broadcast address; one of this host can always be connected to
        return False
    return source == address or (_can_be_bound(family, address) and not _can_be_bound(family, _foreign(family)))


def _can_be_bound(family: socket.AddressFamily, address: str) -> bool:
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.bind((address, 0))
            return True
    except OSError:
        return False


def _foreign(family: socket.AddressFamily) -> str:
    """An address that is never assigned: of class E (RFC 1112 4), of the prefix that is discarded (RFC 6666)."""
    if family == socket.AF_INET:
        return ".".join(map(str, (240 + secrets.randbelow(15), *(secrets.randbelow(256) for _ in range(3)))))
    return f"100::{secrets.randbelow(1 << 16):x}:{secrets.randbelow(1 << 16):x}"
