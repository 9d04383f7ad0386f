"""Sockets that are bound at the start: those of the listeners, and the one for smtpctl.

They listen from the start, for two reasons.  Two programs may be bound to one address as long as neither listens, so
only listening shows that it is ours.  And a client that comes while the processes still start waits, instead of being
refused.
"""

import contextlib
import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from smtpd.ipc.log import log
from smtpd.parent.listener import AddressInUse, bind
from smtpd.parent.start.activation import InheritedSockets
from smtpd.slice import ListenerSlice

CONTROL_BACKLOG = 128
_IP_FREEBIND, _IPV6_FREEBIND = 15, 78  # linux/in.h, linux/in6.h


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


def find_late(listeners: Sequence[ListenerSlice]) -> tuple[ListenerSlice, ...]:
    """Those that have no address yet, or one of an interface that there is not (fe80::1%eth7)."""
    return tuple(listener for listener in listeners if not listener.address or not _is_there(listener))


def _is_there(listener: ListenerSlice) -> bool:
    _, _, interface = listener.address.partition("%")
    return not interface or any(interface == name for _, name in socket.if_nameindex())


def bind_listeners(
    listeners: Sequence[ListenerSlice], dispatchers: int, inherited: InheritedSockets, patience: float
) -> list[list[socket.socket]]:
    """For each listener one for each dispatcher: of its own, or the service manager's.  Raises as bind_at_start."""
    found = [inherited.maybe_take(listener) for listener in listeners]
    inherited.close()  # before any is bound: what is not used may be in the way, and is named first
    sockets = []
    for listener, taken in zip(listeners, found, strict=True):
        if taken is None:
            make = partial(bind_at_start, listener, shared=dispatchers > 1)
            sockets.append([when_free(make, patience) for _ in range(dispatchers)])
        else:
            log.info(f"{listener.address} port {listener.port}: the socket is the service manager's")
            with taken:
                sockets.append([taken.dup() for _ in range(dispatchers)])
    return sockets


def when_free(bound: Callable[[], socket.socket], patience: float) -> socket.socket:
    """The socket that `bound` makes, tried again for `patience` seconds while its address is in use: the processes of a
    daemon that was killed outlive it by a moment, with all addresses that it had."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return bound()
        except AddressInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def bind_at_start(listener: ListenerSlice, *, shared: bool) -> socket.socket:
    """As bind, also where no interface has the address yet.  Raises AddressInUse or OSError."""
    return bind(listener, shared=shared, bind_to=_bind_early)


def _bind_early(made: socket.socket, address: tuple) -> None:
    try:
        made.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL or not hasattr(socket, "SO_BINDTODEVICE"):
            raise
        # An interface that comes up later is no reason to refuse the start.
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            made.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)
        made.bind(address)
        log.warn(f"{address[0]} port {address[1]}: no interface has this address yet")


def bind_control(path: str) -> socket.socket:
    """The socket for smtpctl, open to all: control looks at who connects.  Raises AddressInUse or OSError."""
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
