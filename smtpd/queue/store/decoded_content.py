"""Decoded content in memory, for the processes that deliver it: how much there may be at a time.

    holder   of an attempt, or of the attempts that a dispatcher has together
    ask      granted(True) when there is room, granted(False) when there has been none for WAIT_MAX
    release  the attempt is over: the memory is emptied, whoever still has a descriptor of it

The content of one attempt is in memory of its own: a process that takes its time, or keeps the descriptor, costs the
share of its user, or of its dispatcher, and no longer than until the end of its attempt.  A single content that is
larger than a share may have more, when its owner has nothing else.
"""

import asyncio
import os
from collections import defaultdict
from collections.abc import Callable

DECODED_MAX = 256 * 1024 * 1024  # bytes of all decoded content; of one alone it may be more
SHARE_MAX = DECODED_MAX // 4  # bytes of one owner
WAIT_MAX = 10.0  # seconds that an attempt waits for room


class ContentHolder:
    """`owner`: the user, or the dispatcher, whose share it takes."""

    def __init__(self, owner: str):
        self.owner = owner
        self.is_over = False
        self._held: list[tuple[int, Callable[[], None]]] = []  # a descriptor of ours, and what gives its room back

    def keep(self, descriptor: int, give_back: Callable[[], None]) -> None:
        """`descriptor` is copied."""
        self._held.append((os.dup(descriptor), give_back))

    def release(self) -> None:
        self.is_over = True
        held, self._held = self._held, []
        for descriptor, give_back in held:
            os.ftruncate(descriptor, 0)
            os.close(descriptor)
            give_back()


class _Waiting:
    __slots__ = ("granted", "owner", "size", "timer")

    def __init__(self, owner: str, size: int, granted: Callable[[bool], None]):
        self.owner, self.size, self.granted = owner, size, granted
        self.timer: asyncio.TimerHandle | None = None


class ContentMemory:
    def __init__(self, loop: asyncio.AbstractEventLoop, most: int = DECODED_MAX, share: int = SHARE_MAX):
        self._loop, self._most, self._share = loop, most, share
        self.used = 0
        self._of_owner: defaultdict[str, int] = defaultdict(int)
        self._waiting: dict[_Waiting, None] = {}  # in the order of arrival

    def ask(self, owner: str, size: int, granted: Callable[[bool], None]) -> None:
        waiting = _Waiting(owner, size, granted)
        if self._fits(waiting):
            self._take(waiting)
        else:
            self._waiting[waiting] = None
            waiting.timer = self._loop.call_later(WAIT_MAX, self._give_up, waiting)

    def give_back(self, owner: str, size: int) -> None:
        self.used -= size
        self._of_owner[owner] -= size
        if not self._of_owner[owner]:
            del self._of_owner[owner]
        for waiting in [*self._waiting]:
            if self.used >= self._most:
                return
            if waiting in self._waiting and self._fits(waiting):
                del self._waiting[waiting]
                self._take(waiting)

    def _fits(self, waiting: _Waiting) -> bool:
        of_owner = self._of_owner.get(waiting.owner, 0)
        is_alone = not self.used or self.used + waiting.size <= self._most
        return is_alone and (not of_owner or of_owner + waiting.size <= self._share)

    def _take(self, waiting: _Waiting) -> None:
        if waiting.timer is not None:
            waiting.timer.cancel()
        self.used += waiting.size
        self._of_owner[waiting.owner] += waiting.size
        waiting.granted(True)

    def _give_up(self, waiting: _Waiting) -> None:
        del self._waiting[waiting]
        waiting.granted(False)
