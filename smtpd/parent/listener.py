"""Sockets that need root: bound here, and listening; whoever is handed them accepts.

They listen from the start, for two reasons.  Two programs may be bound to one address as long as neither listens, so
only listening shows that it is ours.  And a client that comes while the others still start waits, and is not refused.

With several dispatchers each has a socket of its own at the same address, and the kernel spreads the clients.  The
kernel gives such an address to processes of one uid only, so nobody else can step in between.
"""

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterable

from smtpd.ipc.log import log
from smtpd.slice import ListenerSlice

BACKLOG = 4096  # a short one makes twenty clients at once wait for their second SYN
CONTROL_BACKLOG = 128
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # linux/in.h, linux/in6.h


class AddressInUse(Exception):
    """Somebody else has this address."""


def supported(listeners: Iterable[ListenerSlice]) -> tuple[ListenerSlice, ...]:
    """Those whose addresses are of a family that this kernel has.  Each other one is a warning and does not stop the
    start: a host name may have addresses of both families."""
    found = []
    for listener in listeners:
        if ":" not in listener.address or _has(socket.AF_INET6):
            found.append(listener)
        else:
            log.warn(f"cannot listen on {listener.address} port {listener.port}: this system has no IPv6")
    return tuple(found)


def _has(family: int) -> bool:
    try:
        socket.socket(family, socket.SOCK_STREAM).close()
    except OSError as error:
        if error.errno == errno.EAFNOSUPPORT:
            return False
        raise
    return True


def resolve(listener: ListenerSlice) -> tuple[int, tuple]:
    """Its family, and its address as the kernel wants it.  Raises OSError, for an %interface that there is not."""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    found = socket.getaddrinfo(listener.address, listener.port, type=socket.SOCK_STREAM, flags=flags)
    return found[0][0], found[0][4]


def bind(listener: ListenerSlice, *, shared: bool, early: bool = True) -> socket.socket:
    """`shared`: several are bound to the same address.  `early`: perhaps no interface has it yet.  Raises Occupied or
    OSError."""
    where = f"{listener.address} port {listener.port}"
    family, address = resolve(listener)
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if early:
            _bind_early(made, family, address, where)
        else:
            made.bind(address)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(f"{where} is in use") from None
        raise OSError(error.errno, f"cannot listen on {where}: {error.strerror}") from None
    return made


def _bind_early(made: socket.socket, family: int, address: tuple, where: str) -> None:
    try:
        made.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL or not hasattr(socket, "SO_BINDTODEVICE"):
            raise
        # An interface that comes up later is no reason to stay down.
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        made.bind(address)
        log.warn(f"{where}: no interface has this address yet")


def bind_control(path: str) -> socket.socket:
    """The socket for smtpctl, open to all: control looks at who connects.  Raises Occupied or OSError."""
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise AddressInUse(f"{path} is there, and is no socket")
        if _answers(path):
            raise AddressInUse(f"{path}: another smtpd answers here")
        os.unlink(path)  # a crash has left it
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o111)
    try:
        made.bind(path)
    finally:
        os.umask(before)
    made.listen(CONTROL_BACKLOG)
    return made


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except TimeoutError:
            return True  # its backlog is full
        return True
