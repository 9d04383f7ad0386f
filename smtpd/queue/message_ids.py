"""Blocks of free message ids, looked up in the store; and the queue's own block.

    dispatcher --ReserveMessageIds--> Blocks.reserve --> MessageIdsReserved
    the queue's own messages          OwnIds.maybe_take, OwnIds.spend

Own ids are for messages that the queue makes itself.  They are at hand before one is needed, so that such a message can
be part of the change that it belongs to (Compound in store/store.py); neither a dispatcher nor lookup can name them.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial

from smtpd.ipc.log import log
from smtpd.queue.reservation import QUEUE, Reservations
from smtpd.queue.store.disk import Disk

RETRY_DELAY = 1.0  # seconds until the store is asked again for free ids
OWN_MIN = 256  # own ids with fewer of which the next block is fetched

Reserved = Callable[[list[int]], None]


class Blocks:
    def __init__(self, loop: asyncio.AbstractEventLoop, disk: Disk, reservations: Reservations):
        self._loop, self._disk, self._reservations = loop, disk, reservations

    def reserve(self, owner: int, reserved: Reserved) -> None:
        """`reserved(ids)`, some ids that belong to `owner` now, as soon as the store can be read."""
        first, last = self._reservations.advance()
        done = partial(self._looked_up, owner, reserved, first, last)
        self._disk.read(partial(self._disk.store.messages, first, last), done)

    def _looked_up(
        self, owner: int, reserved: Reserved, first: int, last: int, taken: set[int] | None, error: BaseException | None
    ) -> None:
        if taken is None:
            log.warn(f"cannot look for free message ids: {error}")
            self._loop.call_later(RETRY_DELAY, self.reserve, owner, reserved)
        elif ids := self._reservations.reserve(owner, first, last, taken):
            reserved(ids)
        else:
            self.reserve(owner, reserved)


class OwnIds:
    def __init__(self, blocks: Blocks, reservations: Reservations):
        self._blocks, self._reservations = blocks, reservations
        self._ids: deque[int] = deque()
        self._asked = False

    def refill(self) -> None:
        if len(self._ids) < OWN_MIN and not self._asked:
            self._asked = True
            self._blocks.reserve(QUEUE, self._refilled)

    def _refilled(self, ids: list[int]) -> None:
        self._asked = False
        self._ids.extend(ids)
        self.refill()

    def maybe_take(self) -> int | None:
        """An id for a message of the queue's own; None while there is none, as the store cannot be read."""
        id = self._ids.popleft() if self._ids else None
        self.refill()
        return id

    def spend(self, message: int) -> None:
        """It is stored, or refused for good."""
        self._reservations.spend(message)
