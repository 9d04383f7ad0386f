"""The sockets between processes: a socketpair for each two of them between which the table has an arrow.

With several dispatchers each has sockets of its own; no arrow goes from one to another.  None goes to crypto either:
what a dispatcher has there are sockets for one signature at a time, which keep their packets apart.
"""

import socket
from collections.abc import Iterable

from smtpd.imsg import ROLES, TABLE, TakePeer, TakeSigningSocket
from smtpd.ipc.declaration import Route
from smtpd.parent.child import Child
from smtpd.parent.start.spawn import pair
from smtpd.tls.signing import SIGNING_SOCKETS

ProcessName = tuple[str, int]  # role and number


def processes(dispatchers: int) -> list[ProcessName]:
    """All processes to be started, in their order."""
    numbers = range(1, dispatchers + 1) if dispatchers > 1 else (0,)
    return [(role, number) for role in ROLES for number in (numbers if role == "dispatcher" else (0,))]


def connected_pairs(started: Iterable[ProcessName], routes: set[Route]) -> list[tuple[ProcessName, ProcessName]]:
    """Each pair of processes between which there is an arrow, once."""
    names = list(started)
    return [
        (one, other)
        for number, one in enumerate(names)
        for other in names[number + 1 :]
        if (one[0], other[0]) in routes or (other[0], one[0]) in routes
    ]


def connect(children: Iterable[Child]) -> None:
    """Hand each of them the ends that are its own."""
    by_seat = {(child.role, child.number): child for child in children}
    for one, other in connected_pairs(by_seat, TABLE.routes()):
        ends = pair()
        by_seat[one].channel.send(TakePeer(*other), ends[0].detach())
        by_seat[other].channel.send(TakePeer(*one), ends[1].detach())


def connect_signing(children: Iterable[Child]) -> None:
    """Each dispatcher's sockets to crypto."""
    by_seat = {(child.role, child.number): child for child in children}
    crypto = by_seat["crypto", 0]
    for (role, number), dispatcher in by_seat.items():
        if role != "dispatcher":
            continue
        for _ in range(SIGNING_SOCKETS):
            ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            dispatcher.channel.send(TakeSigningSocket(number), ends[0].detach())
            crypto.channel.send(TakeSigningSocket(number), ends[1].detach())
