"""Envelopes in flight: from EnvelopesDue to the one result of each that the scheduler hears.

The results of one turn of the loop go in one imsg.
"""

import asyncio
from enum import IntEnum
from itertools import batched
from typing import Protocol

from smtpd.envelope import Schedule, envelope_text
from smtpd.imsg import EnvelopeReplaced, EnvelopesEnded, EnvelopesTried
from smtpd.ipc.channel import Channel, Violation

RESULTS_MAX = 4096  # in one imsg


class Word(IntEnum):
    """What the scheduler is told of an envelope: the place of its list in EnvelopesTried."""

    DELIVERED = 0  # or gone otherwise: forget it
    DEFERRED = 1  # say when to try it again, or that its time is over
    HELD = 2  # until an administrator schedules it
    RETURNED = 3  # not tried: its destination cannot be reached now
    FAILED = 4  # for good, and gone: forget it


class Attempted(Protocol):
    """What has to be known of an attempt here (attempt.py)."""

    def remove(self) -> None: ...

    def interrupt(self) -> None: ...


class InFlight:
    def __init__(self, loop: asyncio.AbstractEventLoop, scheduler: Channel):
        self._loop, self._scheduler = loop, scheduler
        self._attempts: dict[int, Attempted | None] = {}  # None: its row is being read
        self._results: tuple[list[int], ...] = [], [], [], [], []  # by Word
        self._flushing = False

    def __contains__(self, envelope: object) -> bool:
        return envelope in self._attempts

    def __len__(self) -> int:
        return len(self._attempts)

    def add(self, envelope: int) -> None:
        if envelope in self._attempts:
            raise Violation(f"the scheduler wants envelope {envelope_text(envelope)} tried twice at a time")
        self._attempts[envelope] = None

    def begin(self, envelope: int, attempt: Attempted) -> None:
        self._attempts[envelope] = attempt

    def maybe_attempt(self, envelope: int) -> Attempted | None:
        return self._attempts.get(envelope)

    def attempts(self) -> list[Attempted]:
        return [attempt for attempt in self._attempts.values() if attempt is not None]

    # -- the results ------------------------------------------------------------------------------------------------

    def tell(self, envelope: int, word: Word) -> None:
        del self._attempts[envelope]
        self._results[word].append(envelope)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self.flush)

    def tell_replaced(self, envelope: int, schedules: list[Schedule]) -> None:
        del self._attempts[envelope]
        self._scheduler.send(EnvelopeReplaced(envelope, schedules))

    def flush(self) -> None:
        """Send the results of this turn of the loop."""
        if not self._flushing:
            return
        results, self._results = self._results, ([], [], [], [], [])
        self._flushing = False
        if sum(map(len, results)) <= RESULTS_MAX:
            self._scheduler.send(EnvelopesTried(*results))
            return
        for word, all_of_it in enumerate(results):
            for ids in batched(all_of_it, RESULTS_MAX):
                page: list[list[int]] = [[], [], [], [], []]
                page[word] = [*ids]
                self._scheduler.send(EnvelopesTried(*page))

    def tell_ended(self, envelopes: list[int]) -> None:
        """Of envelopes that were not in flight: they are gone."""
        self._scheduler.send(EnvelopesEnded(envelopes))
