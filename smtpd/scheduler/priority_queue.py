"""A queue with priorities: the highest first, equals in the order they came, and a share for the lower ones.

    join(envelope, priority)   ...   leave()  -->  the envelope that is next

Every LOWER_PRIORITY_INTERVALth time an envelope of a lower priority is next, of each of these priorities in turn, the
next lower one first.  So whatever comes in with a high priority, a queue of all nineteen serves each of them once in
18 * LOWER_PRIORITY_INTERVAL times.
"""

from collections import deque

LOWER_PRIORITY_INTERVAL = 8


class PriorityQueue:
    __slots__ = ("_waiting", "_times", "_favoured")

    def __init__(self) -> None:
        self._waiting: dict[int, deque[int]] = {}  # by priority; none is empty
        self._times = 0  # that there was a choice
        self._favoured = 0  # the lower priority that had the last turn out of turn

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def join(self, envelope: int, priority: int) -> None:
        waiting = self._waiting.get(priority)
        if waiting is None:
            waiting = self._waiting[priority] = deque()
        waiting.append(envelope)

    def leave(self) -> int:
        """Not of an empty queue."""
        priority = self._next() if len(self._waiting) > 1 else next(iter(self._waiting))
        waiting = self._waiting[priority]
        envelope = waiting.popleft()
        if not waiting:
            del self._waiting[priority]
        return envelope

    def _next(self) -> int:
        highest = max(self._waiting)
        self._times += 1
        if self._times % LOWER_PRIORITY_INTERVAL:
            return highest
        lower = self._waiting.keys() - {highest}
        self._favoured = max((p for p in lower if p < self._favoured), default=max(lower))
        return self._favoured
