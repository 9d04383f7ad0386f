"""A limit of concurrency: so many places for each key, and a queue of the envelopes that wait for one.

    enter(key, envelope, priority)  -->  True: it has a place         False: it waits
    leave(key)                      -->  the envelope that gets the place, or None when none waits

A place that is left goes straight to the next: it is never free in between.  Whether the one that waited is still there
is not known here; the caller leaves again, in the place of one that is not.
"""

from smtpd.scheduler.priority_queue import PriorityQueue


class ConcurrencyLimit:
    def __init__(self, places: int):
        self.places = places
        self._taken: dict[int, int] = {}
        self._waiting: dict[int, PriorityQueue] = {}

    def enter(self, key: int, envelope: int, priority: int = 0) -> bool:
        """Take a place of `key`, or wait for one."""
        taken = self._taken.get(key, 0)
        if taken < self.places:
            self._taken[key] = taken + 1
            return True
        queue = self._waiting.get(key)
        if queue is None:
            queue = self._waiting[key] = PriorityQueue()
        queue.join(envelope, priority)
        return False

    def leave(self, key: int) -> int | None:
        """Give up a place of `key`, to the envelope that is returned."""
        queue = self._waiting.get(key)
        if queue:
            return queue.leave()
        self._waiting.pop(key, None)
        taken = self._taken[key] - 1
        if taken:
            self._taken[key] = taken
        else:
            del self._taken[key]
        return None
