"""A listening socket at an address of a listener: bound here, and handed to a dispatcher, which accepts.

With several dispatchers each has a socket of its own at the same address, and the kernel spreads the clients.  The
kernel gives such an address to processes of one uid only, so no other user's process can share it.
"""

import errno
import socket
from collections.abc import Callable

from smtpd.slice import ListenerSlice

BACKLOG = 4096  # a short one makes twenty clients at once wait for their second SYN


class AddressInUse(Exception):
    """Another socket is bound to this address."""


def resolve(listener: ListenerSlice) -> tuple[int, tuple]:
    """Its family, and its address as the kernel wants it.  Raises OSError, for an %interface that there is not."""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    found = socket.getaddrinfo(listener.address, listener.port, type=socket.SOCK_STREAM, flags=flags)
    return found[0][0], found[0][4]


def bind(
    listener: ListenerSlice, *, shared: bool, bind_to: Callable[[socket.socket, tuple], None] = socket.socket.bind
) -> socket.socket:
    """`shared`: several are bound to the same address.  `bind_to` does it.  Raises AddressInUse or OSError."""
    where = f"{listener.address} port {listener.port}"
    family, address = resolve(listener)
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bind_to(made, address)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"{where} is in use") from None
        raise OSError(error.errno, f"cannot listen on {where}: {error.strerror}") from None
    return made
