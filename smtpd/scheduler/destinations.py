"""Relayed envelopes that are due, by destination: whose turn is next, how many may be in flight, what is delayed.

    add --> destination --> sender --> priority          next_turn --> envelopes of one destination and one sender
                 |
                 +-- delayed until …, or paused          nothing is given, nothing is changed for its envelopes
                 +-- in flight: as many as it may have   what is slow holds its own mail back, here

What a destination is only queue knows: it is a number here.

A destination may have `limit` envelopes in flight.  It begins with ALLOWED_FIRST, has one more for each envelope that a
host of it has answered, and one after it was delayed: many that are dead at the same time cost few places.  None may
have more than an eighth of the places that are free, and one: so there are always free ones, for a destination that
comes new, however many are slow.

Destinations have turns, round robin; within one its senders have; within a sender the higher priority goes first, and
others all the same (priority_queue.py).  A turn is one envelope, and those right behind it of the same message, as they
share a transaction.

An envelope that is removed, expired or suspended while it waits is left in place: the caller sees that when its turn
comes.  To delay a destination, or to resume one, is a step or two whatever waits for it.  A destination that stays
delayed has its envelopes looked through, every EXPIRY_INTERVAL at the most, for those whose time is over.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from itertools import islice

from smtpd.scheduler.sender_queue import SenderQueue, envelopes, joined, left

ALLOWED_FIRST = 10  # envelopes in flight of a destination of which nothing is known
ALLOWED_DELAYED = 1  # the same, after it was delayed
FREE_DIVISOR = 8  # none has more than this part of the free places, and one
TURN_MAX = 100  # envelopes of one turn: recipients of one transaction
EXPIRY_INTERVAL = 600  # seconds between two looks through a delayed destination
DELAY_MIN = 2  # seconds that a delay lasts, whatever a dispatcher says: it may be in the hands of an attacker
WITHOUT_MAIL_MAX = 10_000  # destinations whose delay is kept although nothing of them waits
STALE_TIMERS_MAX = 1000  # timers whose destination has another one, beside as many as there are destinations


class _Destination:
    __slots__ = (
        *("inflight", "allowed", "delayed_until", "delayed_at", "paused", "in_turn", "timer", "looked"),
        *("sender", "queue", "others"),
    )

    def __init__(self) -> None:
        self.inflight = 0
        self.allowed = ALLOWED_FIRST
        self.delayed_until = 0  # seconds; 0: it is not
        self.delayed_at = 0
        self.paused = False  # by an administrator
        self.in_turn = False  # stands among those whose turn comes; then something waits
        self.timer = 0  # the first that is set; 0: none
        self.looked = 0  # when its envelopes were looked through
        # The sender whose turn is next, and what it has; then the others, if any, as most destinations have one sender.
        self.sender = 0
        self.queue: SenderQueue | None = None
        self.others: dict[int, SenderQueue] | None = None  # none is empty

    @property
    def is_held(self) -> bool:
        return self.paused or self.delayed_until > 0

    @property
    def unused(self) -> bool:
        return self.queue is None and not (self.inflight or self.is_held)

    def join(self, sender: int, envelope: int, priority: int, *, first: bool) -> None:
        if self.queue is None:
            self.sender = sender
        if sender == self.sender:
            self.queue = joined(self.queue, envelope, priority, first=first)
        else:
            self.others = {} if self.others is None else self.others
            self.others[sender] = joined(self.others.get(sender), envelope, priority, first=first)

    def leave(self, most: int) -> list[int]:
        """What the sender has next whose turn it is; afterwards it is behind the others."""
        assert self.queue is not None
        taken, self.queue = left(self.queue, most)
        if self.others is not None:
            if self.queue is not None:
                self.others[self.sender] = self.queue
            self.sender = next(iter(self.others))
            self.queue = self.others.pop(self.sender)
            self.others = self.others or None
        return taken

    def waiting(self) -> list[int]:
        """All of its envelopes that wait."""
        queues = [] if self.queue is None else [self.queue, *(self.others or {}).values()]
        return [envelope for queue in queues for envelope in envelopes(queue)]


class Destinations:
    """`limit`: envelopes of one destination in flight.  Times in seconds, of the caller's clock."""

    def __init__(self, limit: int):
        self._limit = limit
        self._known: dict[int, _Destination] = {}
        self._turns: deque[int] = deque()  # destinations, the next one first
        self._timers: list[tuple[int, int]] = []  # time, destination; one whose destination has another is left
        self._without_mail: dict[int, None] = {}  # delayed destinations that nothing waits for, the oldest first
        self._looked_through: deque[tuple[int, Iterator[int]]] = deque()  # what is left to look at, of delayed ones

    def __len__(self) -> int:
        return len(self._known)

    def __bool__(self) -> bool:
        """There may be one whose turn it is."""
        return bool(self._turns)

    def is_delayed(self, destination: int) -> bool:
        known = self._known.get(destination)
        return known is not None and known.delayed_until > 0

    def is_paused(self, destination: int) -> bool:
        known = self._known.get(destination)
        return known is not None and known.paused

    @property
    def delayed(self) -> int:
        """How many there are.  Counts them."""
        return sum(known.delayed_until > 0 for known in self._known.values())

    # -- what waits, and whose turn it is -----------------------------------------------------------------------------

    def add(self, destination: int, sender: int, envelope: int, priority: int = 0, *, first: bool = False) -> None:
        """It is due; `first`: before the others of its sender and priority, as it was given and not tried."""
        known = self._get(destination)
        self._without_mail.pop(destination, None)
        known.join(sender, envelope, priority, first=first)
        self._queue(destination, known)

    def _get(self, destination: int) -> _Destination:
        known = self._known.get(destination)
        if known is None:
            known = self._known[destination] = _Destination()
        return known

    def _queue(self, destination: int, known: _Destination) -> None:
        """Give it turns, if it can use any."""
        if known.queue is not None and not known.in_turn and not known.is_held and known.inflight < known.allowed:
            known.in_turn = True
            self._turns.append(destination)

    def next_turn(self, free: int, most: int = TURN_MAX) -> tuple[int, list[int]]:
        """A destination, and at most `most` envelopes of it, of one message; none when no destination has a turn.
        `free`: places that it could take, at least one.  What is really started is told by `started`."""
        while self._turns:
            destination = self._turns.popleft()
            known = self._known[destination]
            known.in_turn = False
            room = min(self._room(known, free), most)
            if not known.is_held and room > 0:
                return destination, known.leave(room)
        return 0, []

    def _room(self, known: _Destination, free: int) -> int:
        return min(self._limit, known.allowed, 1 + free // FREE_DIVISOR) - known.inflight

    def started(self, destination: int, count: int) -> None:
        """So many of what its turn brought are in flight; the others do not wait any more."""
        known = self._known[destination]
        known.inflight += count
        self._queue(destination, known)
        self._drop_if_unused(destination, known)

    def ended(self, destination: int, *, tried: bool) -> None:
        """One that was in flight has come back; `tried`: with a result, so the destination is there."""
        known = self._known[destination]
        known.inflight -= 1
        if tried:
            known.allowed = min(self._limit, max(known.allowed + 1, ALLOWED_FIRST))
        self._queue(destination, known)
        self._drop_if_unused(destination, known)

    def _drop_if_unused(self, destination: int, known: _Destination) -> None:
        if known.unused:
            self._without_mail.pop(destination, None)
            del self._known[destination]
        elif known.queue is None and not (known.inflight or known.paused):
            self._without_mail[destination] = None
            if len(self._without_mail) > WITHOUT_MAIL_MAX:
                oldest = next(iter(self._without_mail))
                del self._without_mail[oldest]
                self.resume(oldest)

    # -- delayed, and paused ------------------------------------------------------------------------------------------

    def delay(self, destination: int, now: int, until: int) -> None:
        """No host of it can be reached: give nothing before `until`, which lies ahead."""
        known = self._get(destination)
        if not known.delayed_until:
            known.delayed_at = now
        known.delayed_until, known.allowed = until, ALLOWED_DELAYED
        known.looked = known.looked or now
        self._set_timer(destination, known)
        self._drop_if_unused(destination, known)

    def delay_reported(self, destination: int, now: int, seconds: int) -> None:
        """A dispatcher cannot reach it."""
        self.delay(destination, now, now + max(DELAY_MIN, seconds))

    def resume_reported(self, destination: int, now: int) -> None:
        """A dispatcher can reach it again."""
        known = self._known.get(destination)
        if known is None or not known.delayed_until:
            return
        earliest = known.delayed_at + DELAY_MIN
        if earliest <= now:
            self.resume(destination)
        else:
            self.delay(destination, now, earliest)

    def _set_timer(self, destination: int, known: _Destination) -> None:
        time = min(known.delayed_until, known.looked + EXPIRY_INTERVAL)
        if not known.timer or time < known.timer:
            known.timer = time
            heapq.heappush(self._timers, (time, destination))
            if len(self._timers) > 2 * len(self._known) + STALE_TIMERS_MAX:
                self._timers = [(each.timer, number) for number, each in self._known.items() if each.timer]
                heapq.heapify(self._timers)

    def resume(self, destination: int) -> bool:
        """It can be reached again, or an administrator wants it tried.  False when it was not delayed."""
        known = self._known.get(destination)
        if known is None or not known.delayed_until:
            return False
        known.delayed_until = 0
        self._queue(destination, known)
        self._drop_if_unused(destination, known)
        return True

    def pause(self, destination: int, paused: bool) -> bool:
        """Give nothing of it until it is resumed, by an administrator.  False when it was so already."""
        if paused is self.is_paused(destination):
            return False
        known = self._get(destination)
        known.paused = paused
        self._queue(destination, known)
        self._drop_if_unused(destination, known)
        return True

    def next_time(self) -> int | None:
        """When `run_timers` has something to do."""
        return self._timers[0][0] if self._timers else None

    def run_timers(self, now: int, effort: int) -> None:
        """Resume the destinations whose time has come, at most `effort` of them."""
        for _ in range(effort):
            if not self._timers or self._timers[0][0] > now:
                return
            time, destination = heapq.heappop(self._timers)
            known = self._known.get(destination)
            if known is None or known.timer != time:
                continue
            known.timer = 0
            if known.delayed_until <= now:
                self.resume(destination)  # unless it was before
                continue
            if known.looked + EXPIRY_INTERVAL <= now:  # and not the end of a delay that has become longer since
                known.looked = now
                self._looked_through.append((destination, iter(known.waiting())))
            self._set_timer(destination, known)

    # -- those whose time may be over ---------------------------------------------------------------------------------

    @property
    def is_looked_through(self) -> bool:
        """There is more for `look_through`."""
        return bool(self._looked_through)

    def look_through(self, effort: int) -> list[int]:
        """At most `effort` envelopes that wait for a destination that stays delayed, or have waited for it: is their
        time over?"""
        found: list[int] = []
        while self._looked_through and len(found) < effort:
            destination, left_to_look = self._looked_through[0]
            expires = self.is_delayed(destination) and not self.is_paused(destination)
            more = [*islice(left_to_look, effort - len(found))] if expires else []
            found += more
            if not more:
                self._looked_through.popleft()
        return found
