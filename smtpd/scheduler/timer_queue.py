"""Timers of a million things, packed: 16 bytes each, and about a third more.

Of one second the timer goes first that was set first.  None is taken back: its time comes with it, and tells whether it
is still meant.
"""

from smtpd.scheduler.packed_table import PackedTable

_NUMBER = 8  # bytes


class TimerQueue:
    def __init__(self) -> None:
        self._numbers = PackedTable(_NUMBER)  # by time

    def __len__(self) -> int:
        return len(self._numbers)

    def clear(self) -> None:
        self._numbers.clear()

    def set(self, time: int, number: int) -> None:
        """`time` in seconds, `number` of what it is for: neither is negative."""
        self._numbers.add(time, number.to_bytes(_NUMBER))

    def next_time(self) -> int | None:
        return self._numbers.first()

    def take(self, now: int) -> tuple[int, int] | None:
        """The next timer whose time has come, which is set no more: its time, and its number."""
        time = self._numbers.first()
        if time is None or time > now:
            return None
        return time, int.from_bytes(self._numbers.take_first())
