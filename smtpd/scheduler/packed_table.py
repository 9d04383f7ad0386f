"""Records of one size by number, packed: a million of them take their bytes and about a tenth.

    block    lowest number it may have    numbers, ascending: u64 each    their records, one behind the other
    block    …                            …                               …

A record is found by two binary searches, for the block and in it.  What comes or goes moves the rest of its block, of
BLOCK_MAX records at most, and the list of the blocks where one is split, emptied or joined with the next.  So a step
takes about as long with a million records as with a thousand, and never stops for all of them, as a growing dict does.

Numbers are unique where records come by `put`.  `add` allows equals, in the order they came: a queue by time.
"""

from array import array
from bisect import bisect_left, bisect_right

BLOCK_MAX = 512  # records
NUMBER_MAX = 2**64 - 1


class _Block:
    __slots__ = ("numbers", "records")

    def __init__(self, numbers: array[int], records: bytearray):
        self.numbers = numbers
        self.records = records


class PackedTable:
    """`size`: bytes of a record; `block_max`: records of a block."""

    def __init__(self, size: int, block_max: int = BLOCK_MAX):
        self._size, self._block_max = size, block_max
        self.clear()

    def clear(self) -> None:
        self._lowest = [0]  # of each block: no number of it is lower, none of the one before is higher
        self._blocks = [_Block(array("Q"), bytearray())]
        self._count = 0
        self._latest = 0  # the number that was inserted last

    def __len__(self) -> int:
        return self._count

    def __contains__(self, number: int) -> bool:
        return self.find(number) is not None

    def find(self, number: int) -> bytearray | None:
        """A copy of its record."""
        block = self._blocks[bisect_right(self._lowest, number) - 1]
        at = bisect_left(block.numbers, number)
        if at == len(block.numbers) or block.numbers[at] != number:
            return None
        return block.records[at * self._size : (at + 1) * self._size]

    def put(self, number: int, record: bytes) -> None:
        """Add the record, or replace the one that is there."""
        index = bisect_right(self._lowest, number) - 1
        block = self._blocks[index]
        at = bisect_left(block.numbers, number)
        if at < len(block.numbers) and block.numbers[at] == number:
            block.records[at * self._size : (at + 1) * self._size] = record
        else:
            self._insert(index, at, number, record)

    def add(self, number: int, record: bytes) -> None:
        """Behind those of the same number."""
        index = bisect_right(self._lowest, number) - 1
        self._insert(index, bisect_right(self._blocks[index].numbers, number), number, record)

    def remove(self, number: int) -> None:
        """It must be there."""
        index = bisect_right(self._lowest, number) - 1
        at = bisect_left(self._blocks[index].numbers, number)
        assert self._blocks[index].numbers[at] == number
        self._delete(index, at)

    def first(self) -> int | None:
        """The lowest number."""
        return self._blocks[0].numbers[0] if self._count else None

    def take_first(self) -> bytearray:
        """Remove the record of the lowest number, which must be there."""
        record = self._blocks[0].records[: self._size]
        self._delete(0, 0)
        return record

    def numbers(self, first: int = 0, last: int = NUMBER_MAX) -> list[array[int]]:
        """Those from `first` to `last` as they are now, ascending, in pieces."""
        pieces = []
        for index in range(bisect_right(self._lowest, first) - 1, len(self._blocks)):
            if self._lowest[index] > last:
                break
            numbers = self._blocks[index].numbers
            pieces.append(numbers[bisect_left(numbers, first) : bisect_right(numbers, last)])
        return pieces

    def _insert(self, index: int, at: int, number: int, record: bytes) -> None:
        block = self._blocks[index]
        if len(block.numbers) == self._block_max:
            # Numbers mostly ascend: a block is split behind the one that came last, so that it becomes full again.
            ascending = at == self._block_max or at > 0 and block.numbers[at - 1] == self._latest
            half = at if ascending else self._block_max // 2
            behind = _Block(block.numbers[half:], block.records[half * self._size :])
            del block.numbers[half:], block.records[half * self._size :]
            self._blocks.insert(index + 1, behind)
            self._lowest.insert(index + 1, behind.numbers[0] if behind.numbers else number)
            if number >= self._lowest[index + 1]:
                index, at = index + 1, at - half
            block = self._blocks[index]
        self._latest = number
        block.numbers.insert(at, number)
        place = at * self._size
        block.records[place:place] = record
        self._count += 1

    def _delete(self, index: int, at: int) -> None:
        block = self._blocks[index]
        del block.numbers[at], block.records[at * self._size : (at + 1) * self._size]
        self._count -= 1
        if len(block.numbers) < self._block_max // 4 and index + 1 < len(self._blocks):
            self._join_next(index)

    def _join_next(self, index: int) -> None:
        block, behind = self._blocks[index], self._blocks[index + 1]
        if not block.numbers or len(block.numbers) + len(behind.numbers) <= self._block_max // 2:
            block.numbers.extend(behind.numbers)
            block.records += behind.records
            del self._blocks[index + 1], self._lowest[index + 1]
