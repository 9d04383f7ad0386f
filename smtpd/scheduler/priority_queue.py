"""A queue with priorities: the highest first, equals in the order they came, and a share for the lower ones.

    join(envelope, priority)   ...   leave()  -->  the envelope that is next

Every LOWER_PRIORITY_INTERVALth time an envelope of a lower priority is next, of each of these priorities in turn, the
next lower one first.  So whatever comes in with a high priority, a queue of all nineteen serves each of them once in
18 * LOWER_PRIORITY_INTERVAL times.
"""

from collections import deque
from collections.abc import Callable, Iterator

LOWER_PRIORITY_INTERVAL = 8


class PriorityQueue:
    __slots__ = ("_waiting", "_times", "_favoured")

    def __init__(self) -> None:
        self._waiting: dict[int, deque[int]] = {}  # by priority; none is empty
        self._times = 0  # that there was a choice
        self._favoured = 0  # the lower priority that had the last turn out of turn

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def __iter__(self) -> Iterator[int]:
        """All that wait, in no order."""
        for waiting in self._waiting.values():
            yield from waiting

    def join(self, envelope: int, priority: int, *, first: bool = False) -> None:
        """Behind its equals; `first`: before them."""
        waiting = self._waiting.get(priority)
        if waiting is None:
            waiting = self._waiting[priority] = deque()
        if first:
            waiting.appendleft(envelope)
        else:
            waiting.append(envelope)

    def leave(self) -> int:
        """Not of an empty queue."""
        priority = self._next() if len(self._waiting) > 1 else next(iter(self._waiting))
        waiting = self._waiting[priority]
        envelope = waiting.popleft()
        if not waiting:
            del self._waiting[priority]
        return envelope

    def leave_alike(self, kind: Callable[[int], int], most: int) -> list[int]:
        """The envelope that is next, and those right behind it, of its priority, that have the same `kind`; at most
        `most`.  Not of an empty queue."""
        priority = self._next() if len(self._waiting) > 1 else next(iter(self._waiting))
        waiting = self._waiting[priority]
        left = [waiting.popleft()]
        while waiting and len(left) < most and kind(waiting[0]) == kind(left[0]):
            left.append(waiting.popleft())
        if not waiting:
            del self._waiting[priority]
        return left

    def _next(self) -> int:
        highest = max(self._waiting)
        self._times += 1
        if self._times % LOWER_PRIORITY_INTERVAL:
            return highest
        lower = self._waiting.keys() - {highest}
        self._favoured = max((p for p in lower if p < self._favoured), default=max(lower))
        return self._favoured
