"""Whether an address is one of this host, at this moment.

A process in a sandbox cannot list the interfaces.  But a datagram socket that is connected to an address of this host
is itself at that address: the kernel sends nothing, and chooses the source that the routing table has.  So addresses
that come and go are noticed at once, and what ip_nonlocal_bind(8) lets a program bind is not taken for ours.
"""

import socket

DISCARD_PORT = 9  # nothing is sent to it


def has_address(address: str) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.connect((address, DISCARD_PORT))
            return bool(sock.getsockname()[0] == address)
    except OSError:  # no route, no IPv6, a broadcast address
        return False
