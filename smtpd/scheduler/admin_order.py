"""Orders of the administrator for a range of envelopes, or for some of it, carried out in slices.

    ScheduleEnvelopes --> policy.schedule --> TryDestinations, PostponeEnvelopes (until now),
                                              MarkSuspended, DeleteEnvelopes --> queue
    RemoveEnvelopes       policy.remove
    SuspendEnvelopes      policy.suspend  --> EnvelopesScheduled, EnvelopesRemoved, EnvelopesSuspended --> control

One order after the other, SLICE_SIZE envelopes in a turn of the loop: a million take a while, and no delivery waits
for them.  After a start, an order waits until the scan has found what is in its range: `remove all` means all.
"""

from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from smtpd.imsg import (
    SCHEDULED_DESTINATIONS_MAX,
    DeleteEnvelopes,
    EnvelopesRemoved,
    EnvelopesScheduled,
    EnvelopesSuspended,
    MarkSuspended,
    PostponeEnvelopes,
    RemoveEnvelopes,
    ScheduleEnvelopes,
    SuspendEnvelopes,
    TryDestinations,
)
from smtpd.scheduler.policy import Policy

SLICE_SIZE = SCHEDULED_DESTINATIONS_MAX  # envelopes in one turn: some milliseconds
UNREAD_BYTES_MAX = 1024 * 1024  # bytes that queue has not read yet: it is to catch up first

AdminOrder = ScheduleEnvelopes | RemoveEnvelopes | SuspendEnvelopes
Tell = Callable[[Any], None]


class AdminOrders:
    """The orders under way.  `to_queue` and `to_control` send an imsg."""

    def __init__(self, policy: Policy, to_queue: Tell, to_control: Tell):
        self._policy = policy
        self._to_queue, self._to_control = to_queue, to_control
        self._orders: deque[AdminOrder] = deque()
        self._ids: Iterator[int] | None = None  # of the first order, what is left of it
        self._successors: deque[int] = deque()  # of envelopes replaced meanwhile; they come last
        self._count = 0
        self.scanned: int | None = 0  # the last id that the scan has found; None: it has found all

    def add(self, order: AdminOrder) -> None:
        self._orders.append(order)

    def replaced(self, successors: list[int]) -> None:
        """The order under way does not miss those in its range: it may not have come to the one that they replace."""
        if self._ids is not None and not self._orders[0].envelopes:
            order = self._orders[0]
            self._successors.extend(id for id in successors if order.first <= id <= order.last)

    def _ids_of(self, order: AdminOrder) -> Iterator[int]:
        if order.envelopes:
            yield from (id for id in order.envelopes if id in self._policy.table)
        else:
            yield from self._policy.table.ids(order.first, order.last)
        while self._successors:
            yield self._successors.popleft()

    @property
    def ready(self) -> bool:
        """There is something to do in the next turn."""
        if not self._orders:
            return False
        order = self._orders[0]
        return self.scanned is None or order.last <= self.scanned or order.first == order.last in self._policy.table

    def turn(self, now: int) -> None:
        """The next slice of the first order.  `now` is what the wall clock says."""
        order = self._orders[0]
        if self._ids is None:
            self._ids, self._count = self._ids_of(order), 0
        ids = list(islice(self._ids, SLICE_SIZE))
        self._carry_out(order, ids, now)
        if len(ids) < SLICE_SIZE:
            self._orders.popleft()
            self._ids = None
            self._to_control(_answer(order, self._count))

    def _carry_out(self, order: AdminOrder, ids: list[int], now: int) -> None:
        if not isinstance(order, SuspendEnvelopes) and order.destinations:
            destinations = {*order.destinations}
            ids = [id for id in ids if self._policy.is_for(id, destinations)]
        tell: PostponeEnvelopes | MarkSuspended | DeleteEnvelopes
        match order:
            case ScheduleEnvelopes():
                if scheduled := self._policy.destinations_of(ids):
                    self._to_queue(TryDestinations(scheduled))
                count, changed = self._policy.schedule(ids)
                tell = PostponeEnvelopes([(id, now) for id in changed])
            case SuspendEnvelopes():
                changed = self._policy.suspend(ids, order.suspended)
                count, tell = len(changed), MarkSuspended(changed, order.suspended)
            case RemoveEnvelopes():
                changed = self._policy.remove(ids)
                count, tell = len(changed), DeleteEnvelopes(changed)
        self._count += count
        if changed:
            self._to_queue(tell)


def _answer(order: AdminOrder, count: int) -> EnvelopesScheduled | EnvelopesRemoved | EnvelopesSuspended:
    match order:
        case ScheduleEnvelopes():
            return EnvelopesScheduled(order.request, count)
        case RemoveEnvelopes():
            return EnvelopesRemoved(order.request, count)
        case SuspendEnvelopes():
            return EnvelopesSuspended(order.request, count)
