"""Sockets that the service manager has bound for us: sd_listen_fds(3), without its library.

    LISTEN_PID  the receiving pid          LISTEN_FDS  how many, from descriptor 3 on

A listener takes the one with its address and port, and binds nothing itself.  A wildcard address is an address like any
other: one that takes everything is not for a listener that wants one address.  What no listener takes is closed, and
said; so is a socket of IPv6 that takes IPv4 as well, as those are two listeners.
"""

import ipaddress
import os
import socket
from collections.abc import MutableMapping

from smtpd.config.host import address_of
from smtpd.ipc.log import log
from smtpd.slice import ListenerSlice

FIRST_DESCRIPTOR = 3  # SD_LISTEN_FDS_START
SOCKETS_MAX = 1024
BOTH_FAMILIES = "it takes IPv4 too: say BindIPv6Only=ipv6-only, and listen for each"


def count_sockets(environment: MutableMapping[str, str]) -> int:
    """How many there are for us.  The variables are removed, so that no child inherits them."""
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isascii() or not count.isdecimal() or len(count) > 4:
        return 0
    return min(int(count), SOCKETS_MAX)


class InheritedSockets:
    """The sockets in descriptors 3 and on, `count` of them."""

    def __init__(self, count: int = 0):
        self._sockets: dict[tuple[str, int], socket.socket] = {}
        for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + count):
            try:
                os.set_inheritable(descriptor, False)
                found = socket.socket(fileno=descriptor)
            except OSError as error:  # not there, or no socket
                log.warn(f"descriptor {descriptor} of the service manager is not used: {error.strerror}")
            else:
                self._add(found)

    def _add(self, found: socket.socket) -> None:
        objection = find_objection(found)
        where = None if objection else (canonical_address(address_of(found.getsockname())), found.getsockname()[1])
        if objection is None and where in self._sockets:
            objection = "there are two of it"
        if objection or where is None:
            log.warn(f"socket {describe_socket(found)} of the service manager is not used: {objection}")
            found.close()
        else:
            self._sockets[where] = found

    def maybe_take(self, listener: ListenerSlice) -> socket.socket | None:
        """The one for this listener, if there is one."""
        return self._sockets.pop((canonical_address(listener.address), listener.port), None)

    def close(self) -> None:
        """Every listener has taken its own."""
        for found in self._sockets.values():
            log.warn(
                f"socket {describe_socket(found)} of the service manager is not used: "
                "no listener has this address and port"
            )
            found.close()
        self._sockets.clear()


def find_objection(found: socket.socket) -> str | None:
    """Why it cannot be used."""
    if found.family not in (socket.AF_INET, socket.AF_INET6) or found.type != socket.SOCK_STREAM:
        return "it is not of TCP"
    if not found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return "it does not listen"
    if found.family == socket.AF_INET6 and not found.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        return BOTH_FAMILIES if canonical_address(found.getsockname()[0]) == "::" else None
    return None


def describe_socket(found: socket.socket) -> str:
    if found.family not in (socket.AF_INET, socket.AF_INET6):
        return str(found.fileno())
    address = found.getsockname()
    return f"{address_of(address)} port {address[1]}"


def canonical_address(address: str) -> str:
    """One spelling of each address; a link-local one with its interface's name."""
    try:
        return str(ipaddress.ip_address(address))
    except ValueError:
        return address
