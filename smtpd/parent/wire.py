"""Who is joined to whom: a socketpair for each two processes between which the table has an arrow.

With several dispatchers each has sockets of its own; no arrow goes from one to another.
"""

from collections.abc import Iterable

from smtpd.imsg import ROLES, TABLE, TakePeer
from smtpd.ipc.declaration import Route
from smtpd.parent.child import Child, pair

Seat = tuple[str, int]  # role and number


def seats(dispatchers: int) -> list[Seat]:
    """All processes to be started, in their order."""
    numbers = range(1, dispatchers + 1) if dispatchers > 1 else (0,)
    return [(role, number) for role in ROLES for number in (numbers if role == "dispatcher" else (0,))]


def wires(seated: Iterable[Seat], routes: set[Route]) -> list[tuple[Seat, Seat]]:
    """Each pair of seats once."""
    chairs = list(seated)
    return [
        (one, other)
        for place, one in enumerate(chairs)
        for other in chairs[place + 1 :]
        if (one[0], other[0]) in routes or (other[0], one[0]) in routes
    ]


def connect(children: Iterable[Child]) -> None:
    """Hand each of them the ends that are its own."""
    by_seat = {(child.role, child.number): child for child in children}
    for one, other in wires(by_seat, TABLE.routes()):
        ends = pair()
        by_seat[one].channel.send(TakePeer(*other), ends[0].detach())
        by_seat[other].channel.send(TakePeer(*one), ends[1].detach())
