"""Timers that are taken back: at most one for each number, and none is left behind.

    second 1800000015    numbers, ascending, packed: 8 bytes each, and about a third more
    second 1800000600    …

Each second that has timers has a table of its own, so this is for times that lie within some minutes or hours.  Of one
second the lowest number goes first.
"""

from bisect import bisect_left, insort

from smtpd.scheduler.packed_table import PackedTable


class TimerTable:
    def __init__(self) -> None:
        self._seconds: list[int] = []  # that have timers, ascending
        self._numbers: dict[int, PackedTable] = {}  # by second; none is empty
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def set(self, time: int, number: int) -> None:
        """`time` in seconds, `number` of what it is for; it has none now."""
        numbers = self._numbers.get(time)
        if numbers is None:
            numbers = self._numbers[time] = PackedTable(0)
            insort(self._seconds, time)
        numbers.put(number, b"")
        self._count += 1

    def cancel(self, time: int, number: int) -> None:
        """It must be set."""
        numbers = self._numbers[time]
        numbers.remove(number)
        self._count -= 1
        if not len(numbers):
            del self._numbers[time], self._seconds[bisect_left(self._seconds, time)]

    def next_time(self) -> int | None:
        return self._seconds[0] if self._seconds else None

    def take(self, now: int) -> int | None:
        """The number of the next timer whose time has come, which is set no more."""
        time = self.next_time()
        if time is None or time > now:
            return None
        number = self._numbers[time].first()
        assert number is not None
        self.cancel(time, number)
        return number
