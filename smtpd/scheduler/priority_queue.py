"""A line: envelopes that wait for a place, the one of the highest priority first, equals in the order they came.

    join(envelope, priority)   ...   leave()  -->  the one whose turn it is

Every FAIRth time somebody of a lower priority has the turn, each of these in its turn, the next lower one first.  So
whatever comes in with a high one, a line of all nineteen priorities serves each of them once in 18 * FAIR times.
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
        """Not of an empty line."""
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
