"""What a child says while the parent has no loop yet: waited for, with a deadline.

Nobody has anything to say before Begin but one answer, so one imsg is taken at a time.
"""

import os
import select
import time
from typing import Any

from smtpd.ipc.channel import Closed, Violation
from smtpd.parent.child import Child, describe_end

TAKING = 10.0  # seconds until a child has read what it is handed
DYING = 2.0  # seconds between the end of a channel and that of its process


class CannotStart(Exception):
    """Why, in words for the administrator, a line each."""


def receive(children: list[Child], deadline: float, kernel_log: int | None) -> tuple[Child, Any]:
    """The next imsg of any of `children`.  Raises CannotStart when one breaks the rules or dies, or none answers."""
    poll = select.poll()
    by_descriptor = {child.channel.fileno(): child for child in children}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    while True:
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            raise CannotStart(f"{', '.join(child.title for child in children)} did not answer in time")
        child = by_descriptor[ready[0][0]]
        received = _receive(child, kernel_log)
        if len(received) > 1:
            raise CannotStart(f"{child.title} broke the rules: more than one answer")
        if received:
            return child, received[0][0]


def _receive(child: Child, kernel_log: int | None) -> list[tuple[Any, int | None]]:
    try:
        return child.channel.receive()
    except Violation as error:
        raise CannotStart(f"{child.title} broke the rules: {error}") from None
    except Closed:
        raise CannotStart(f"{child.title} {_end_of(child, kernel_log)}") from None


def _end_of(child: Child, kernel_log: int | None) -> str:
    deadline = time.monotonic() + DYING
    while not child.wait(os.WNOHANG):
        if time.monotonic() > deadline:
            return "closed its channel"
        time.sleep(0.01)
    return describe_end(child, kernel_log)


def flush(child: Child) -> None:
    """Hand over all that was sent to `child`.  If it is gone, that is found out when its answer is waited for."""
    poll = select.poll()
    poll.register(child.channel.fileno(), select.POLLOUT)
    deadline = time.monotonic() + TAKING
    try:
        while not child.channel.flush():
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise CannotStart(f"{child.title} does not take what it is handed")
    except Closed:
        pass
