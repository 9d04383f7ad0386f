"""Commands that change the envelopes of a selection: queue says which they are, the scheduler is told of each batch."""

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from smtpctl import selection
from smtpctl.connection import Connection, ControlError
from smtpctl.operation import REQUEST, say_count
from smtpd.envelope import first_envelope
from smtpd.imsg import RemoveEnvelopes, ScheduleEnvelopes, SelectEnvelopes, SuspendEnvelopes

PROGRESS_INTERVAL = 1.0  # seconds between two words about what has been done
NONE = "none is selected, or none that this would change"

# What is asked for the ids of a batch, one after the other; the last one counts.
Orders = Callable[[list[int]], Sequence[Any]]


def schedule(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    return _change(connection, parameters, json, "scheduled", lambda ids: [_schedule(ids)])


def remove(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    def orders(ids: list[int]) -> Sequence[Any]:
        return [RemoveEnvelopes(REQUEST, ids[0], ids[-1], envelopes=ids)]

    return _change(connection, parameters, json, "removed", orders)


def suspend(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    return _change(connection, parameters, json, "paused", lambda ids: [_suspend(ids, True)])


def resume(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    return _change(connection, parameters, json, "resumed", lambda ids: [_suspend(ids, False)])


def release(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    return _change(connection, parameters, json, "released", lambda ids: [_suspend(ids, False), _schedule(ids)])


def _schedule(ids: list[int]) -> ScheduleEnvelopes:
    return ScheduleEnvelopes(REQUEST, ids[0], ids[-1], envelopes=ids)


def _suspend(ids: list[int], suspended: bool) -> SuspendEnvelopes:
    return SuspendEnvelopes(REQUEST, ids[0], ids[-1], suspended, ids)


def _change(connection: Connection, parameters: Sequence[str], json: bool, done: str, orders: Orders) -> int:
    meant = selection.current(parameters)
    count, first, said = 0, first_envelope(1), time.monotonic()
    while first:
        part = connection.ask(SelectEnvelopes(REQUEST, first, meant))
        if part.trouble:
            raise ControlError(f"{part.trouble} ({count} {done} before)")
        if part.envelopes:
            count += [connection.ask(order) for order in orders(part.envelopes)][-1].count
        first = part.next
        if first and sys.stderr.isatty() and time.monotonic() - said > PROGRESS_INTERVAL:
            said = time.monotonic()
            print(f"smtpctl: {count} {done} so far", file=sys.stderr)
    return say_count(json, count, done, "" if count else NONE)
