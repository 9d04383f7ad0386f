"""Limits of relaying: how many connections at a time, how soon after each other, how many messages a minute.

    key                              limits (`mta limit`)
    ("host", address, port)          max-conn-per-host        conn-delay-host         over all destinations
    ("route", source, address, port) max-conn-per-route       conn-delay-route        reconn-delay-route
    ("source", source)               max-conn-per-source      conn-delay-source
    ("connector", source, number)    max-conn-per-connector   conn-delay-connector
    ("relay", number)                max-conn-per-relay       conn-delay-relay        `number` of a destination
    ("domain", domain)               max-conn-per-domain      conn-delay-domain       over all actions
    ("all",)                         CONNECTIONS_MAX of connections.py                over everything
    ("messages", …)                  message-rate…                                    see MessageRate

A connection takes a place of each of its keys, or of none.  A destination that finds one full waits there; when a place
becomes free, or the pause is over, the destination that has waited longest is woken (`woken`), and tries all again.
It keeps its number in the order (`ticket`) until it has a connection, wherever it waits meanwhile.

A key is forgotten when it has no connection, nothing that waits and no pause.
"""

import heapq
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

Key = tuple[str | int, ...]
MINUTE = 60.000001  # seconds, with what is lost in sums of fractions


class Place(NamedTuple):
    """What one connection needs of one key: fewer than `most` others, and pauses in seconds."""

    key: Key
    most: int
    delay: float = 0.0  # after a connect
    reconnect_delay: float = 0.0  # after the end of a connection


class Blocked(NamedTuple):
    """The key that has no place; `until`: for how long, None: until a connection of it ends."""

    key: Key
    until: float | None = None


@dataclass(slots=True)
class _Entry:
    holders: dict[int, None] = field(default_factory=dict)  # connections, in the order of their begin
    not_before: float = 0.0  # seconds: the next connect
    waiting: dict[int, int] = field(default_factory=dict)  # destination -> ticket
    order: list[tuple[int, int]] = field(default_factory=list)  # a heap of these, and of some that wait no more
    timed: bool = False  # there is a timer for `not_before`


class Limits:
    def __init__(self) -> None:
        self._entries: dict[Key, _Entry] = {}
        self._timers: list[tuple[float, Key]] = []  # a heap: when a pause is over
        self._free: set[Key] = set()  # that a waiting destination may be woken for
        self._waits = 0  # of destinations for keys

    def __len__(self) -> int:
        return len(self._entries)

    # -- places ------------------------------------------------------------------------

    def take(self, connection: int, places: Iterable[Place], now: float) -> Blocked | None:
        """A place of each key for this connection; or of none, and what is full."""
        places = tuple(places)
        for place in places:
            entry = self._entries.get(place.key)
            if entry is None:
                continue
            if len(entry.holders) >= place.most:
                return Blocked(place.key)
            if now < entry.not_before:
                return Blocked(place.key, entry.not_before)
        for place in places:
            entry = self._entries.setdefault(place.key, _Entry())
            entry.holders[connection] = None
            entry.not_before = max(entry.not_before, now + place.delay)
        return None

    def release(self, connection: int, places: Iterable[Place], now: float) -> None:
        for place in places:
            entry = self._entries[place.key]
            del entry.holders[connection]
            if place.reconnect_delay:
                entry.not_before = max(entry.not_before, now + place.reconnect_delay)
            self.freed(place.key, now)

    def pause(self, key: Key, until: float, now: float) -> bool:
        """Give no place of this key until then.  False: a pause is under way; it is not made longer."""
        entry = self._entries.setdefault(key, _Entry())
        if now < entry.not_before:
            return False
        entry.not_before = until
        self._set_timer(entry, key)
        return True

    def freed(self, key: Key, now: float) -> None:
        """There may be a place of this key again: a connection has ended, or more are allowed."""
        entry = self._entries.get(key)
        if entry is None:
            return
        if now < entry.not_before:
            self._set_timer(entry, key)
        elif entry.waiting:
            self._free.add(key)
        elif not entry.holders:
            del self._entries[key]

    def holders(self, key: Key) -> Iterator[int]:
        """The connections that have a place of this key, in the order of their begin; valid until one comes or goes."""
        entry = self._entries.get(key)
        return iter(entry.holders if entry else ())

    # -- destinations that wait ------------------------------------------------------------

    def wait(self, blocked: Blocked, ticket: int, destination: int) -> None:
        """Wait for a place of the key; a lower ticket comes first."""
        entry = self._entries.setdefault(blocked.key, _Entry())
        self._waits += destination not in entry.waiting
        entry.waiting[destination] = ticket
        heapq.heappush(entry.order, (ticket, destination))
        if len(entry.order) > 2 * len(entry.waiting) + 16:
            entry.order = sorted((ticket, destination) for destination, ticket in entry.waiting.items())
        if blocked.until is not None:
            entry.not_before = max(entry.not_before, blocked.until)
            self._set_timer(entry, blocked.key)

    def leave(self, key: Key, destination: int, now: float) -> None:
        """Wait no more."""
        entry = self._entries.get(key)
        if entry is not None and entry.waiting.pop(destination, None) is not None:
            self._waits -= 1
            self.freed(key, now)

    def others_wait(self, places: Iterable[Place], destination: int) -> bool:
        """Whether another destination waits for one of these places."""
        if not self._waits:  # so for nearly every message
            return False
        entries = [entry for place in places if (entry := self._entries.get(place.key)) is not None]
        return any(len(entry.waiting) > (destination in entry.waiting) for entry in entries)

    def woken(self, now: float) -> list[tuple[Key, int]]:
        """A destination for each key with a free place, the one that has waited longest.  Afterwards the key is to be
        given on: `freed`."""
        self._run_timers(now)
        if not self._free:
            return []
        found = []
        for key in sorted(self._free, key=repr):
            entry = self._entries.get(key)
            while entry is not None and entry.order:
                ticket, destination = heapq.heappop(entry.order)
                if entry.waiting.get(destination) == ticket:
                    del entry.waiting[destination]
                    self._waits -= 1
                    found.append((key, destination))
                    break
        self._free.clear()
        return found

    def next_time(self) -> float | None:
        return self._timers[0][0] if self._timers else None

    def _set_timer(self, entry: _Entry, key: Key) -> None:
        if not entry.timed:
            entry.timed = True
            heapq.heappush(self._timers, (entry.not_before, key))

    def _run_timers(self, now: float) -> None:
        while self._timers and self._timers[0][0] <= now:
            _, key = heapq.heappop(self._timers)
            entry = self._entries.get(key)
            if entry is not None:
                entry.timed = False
                self.freed(key, now)


class MessageRate:
    """Messages a minute: never more than `rate` in any 60 seconds.

    A tenth of them may go at once, the others are spread over the minute: a receiver that counts by the second sees no
    burst either."""

    def __init__(self) -> None:
        self._full: dict[Key, float] = {}  # when the bucket is full again

    def __len__(self) -> int:
        return len(self._full)

    def wait_until(self, key: Key, rate: int, now: float) -> float:
        """When the next message may go: `now`, or later."""
        burst = max(1, rate // 10)
        interval = MINUTE / (rate - burst + 1)
        return max(now, self._full.get(key, now) - (burst - 1) * interval)

    def count(self, key: Key, rate: int, now: float) -> None:
        interval = MINUTE / (rate - max(1, rate // 10) + 1)
        self._full[key] = max(now, self._full.get(key, now)) + interval

    def forget_full(self, now: float) -> None:
        """Those that have not been used for long enough count for nothing."""
        self._full = {key: full for key, full in self._full.items() if full > now}
