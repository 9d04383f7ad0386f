"""Time for the scheduler: seconds that pass, whatever the wall clock is set to meanwhile.

    now()     the wall clock as it stood at the start of the process, moved on by a clock that cannot be set
    ahead()   seconds by which the wall clock is ahead of that by now: 0 until it is stepped

Intervals and expiry are counted in now().  What is kept on disk or told to others is in the time of the wall clock:
now() + ahead().  A clock that is slewed moves both.
"""

import time
from collections.abc import Callable

# Goes on while the machine is suspended, where the system has such a clock.
_STEADY = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def _steady() -> float:
    return time.clock_gettime(_STEADY)


class Clock:
    def __init__(self, wall: Callable[[], float] = time.time, steady: Callable[[], float] = _steady):
        self._wall, self._steady = wall, steady
        self._start = wall() - steady()

    def exact(self) -> float:
        """As now, with the fraction."""
        return self._start + self._steady()

    def now(self) -> int:
        return int(self.exact())

    def ahead(self) -> int:
        return round(self._wall() - self.exact())
