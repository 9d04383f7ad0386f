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

Senders have turns (turns.py), each over all its destinations, and a destination is tried in the turn of one of its
senders; within a sender the higher priority goes first, and others all the same (priority_queue.py).  A turn is one
envelope, and those right behind it of the same message, as they share a transaction.

An envelope that is removed, expired or suspended while it waits is left in place: the caller sees that when its turn
comes.  To delay a destination, or to resume one, is a step or two whatever waits for it.  A destination that stays
delayed has its envelopes looked through, every EXPIRY_INTERVAL at the most, for those whose time is over.
"""

import struct
from collections import OrderedDict, deque
from collections.abc import Iterator
from itertools import islice

from smtpd.scheduler.packed_table import PackedTable
from smtpd.scheduler.sender_queue import ENTRY_BYTES, Waiting, envelopes, joined, left, next_tag
from smtpd.scheduler.timer_queue import TimerQueue
from smtpd.scheduler.timer_table import TimerTable
from smtpd.scheduler.turns import Turns

ALLOWED_FIRST = 10  # envelopes in flight of a destination of which nothing is known
ALLOWED_DELAYED = 1  # the same, after it was delayed
FREE_DIVISOR = 8  # none has more than this part of the free places, and one
TURN_MAX = 100  # envelopes of one turn: recipients of one transaction
LOOKS_MAX = 100  # destinations that are looked at for one turn
EXPIRY_INTERVAL = 600  # seconds between two looks through a delayed destination
DELAY_MIN = 2  # seconds that a delay lasts, whatever a dispatcher says: it may be in the hands of an attacker
WITHOUT_MAIL_MAX = 10_000  # destinations whose delay is kept although nothing of them waits
NUMBER_MAX = 2**64 - 1  # of a destination


# A destination that is packed: waiting, allowed, delayed_until, delayed_at, timer, looked, flags.
_RECORD = struct.Struct(f"<{ENTRY_BYTES}sIQQQQB")
_WAITS, _PAUSED, _IN_TURN = 0x01, 0x02, 0x04


class _Destination:
    __slots__ = (
        *("inflight", "allowed", "delayed_until", "delayed_at", "paused", "in_turn", "timer", "looked"),
        *("waiting", "packed"),
    )

    def __init__(self) -> None:
        self.inflight = 0
        self.allowed = ALLOWED_FIRST
        self.delayed_until = 0  # seconds; 0: it is not
        self.delayed_at = 0
        self.paused = False  # by an administrator
        self.in_turn = False  # stands among those whose turn comes, with its next tag; then something waits
        self.timer = 0  # when it is due; 0: none is set
        self.looked = 0  # when its envelopes were looked through
        self.waiting: Waiting = b""
        self.packed = False  # this is a copy

    @property
    def is_held(self) -> bool:
        return self.paused or self.delayed_until > 0

    @property
    def unused(self) -> bool:
        return not (self.waiting or self.inflight or self.is_held)

    @property
    def can_be_packed(self) -> bool:
        return not self.inflight and isinstance(self.waiting, bytes) and len(self.waiting) <= ENTRY_BYTES


class Destinations:
    """`limit`: envelopes of one destination in flight.  Times in seconds, of the caller's clock."""

    def __init__(self, limit: int):
        self._limit = limit
        # A destination stands in one of the two: a million of them may have one envelope each, and be dead.
        self._known: dict[int, _Destination] = {}
        self._packed = PackedTable(_RECORD.size)  # with one envelope at the most, and none in flight
        self.delayed = 0  # how many there are
        self._senders = Turns()
        self._turns = TimerQueue()  # destinations by tag; one is left where a lower one has come
        self._timers = TimerTable()  # of delayed destinations: the end of the delay, or the next look
        self._without_mail: OrderedDict[int, None] = OrderedDict()  # delayed, nothing waits for them; the oldest first
        self._looked_through: deque[tuple[int, Iterator[int]]] = deque()  # what is left to look at, of delayed ones

    def __len__(self) -> int:
        return len(self._known) + len(self._packed)

    def __bool__(self) -> bool:
        """There may be one whose turn it is."""
        return len(self._turns) > 0

    def is_delayed(self, destination: int) -> bool:
        known = self._find(destination)
        return known is not None and known.delayed_until > 0

    def is_paused(self, destination: int) -> bool:
        known = self._find(destination)
        return known is not None and known.paused

    def _find(self, destination: int) -> _Destination | None:
        """What is changed in it has to be kept."""
        known = self._known.get(destination)
        if known is None and (record := self._packed.find(destination)) is not None:
            return _found(record)
        return known

    def _keep(self, destination: int, known: _Destination) -> None:
        """Give it turns, if it can use any; forget it, if nothing needs it."""
        if known.waiting and not known.in_turn and not known.is_held and known.inflight < known.allowed:
            known.in_turn = True
            self._turns.set(next_tag(known.waiting), destination)
        if known.unused:
            self._without_mail.pop(destination, None)
            self._forget(destination, known)
            return
        if known.can_be_packed:
            self._pack(destination, known)
        else:
            self._unpack(destination, known)
        if not (known.waiting or known.inflight or known.paused):
            self._without_mail[destination] = None
            if len(self._without_mail) > WITHOUT_MAIL_MAX:
                oldest, _ = self._without_mail.popitem(last=False)
                self.resume(oldest)

    def _pack(self, destination: int, known: _Destination) -> None:
        if not known.packed:
            self._known.pop(destination, None)
        self._packed.put(destination, _packed(known))

    def _unpack(self, destination: int, known: _Destination) -> None:
        if known.packed:
            self._packed.remove(destination)
            known.packed = False
        self._known[destination] = known

    def _forget(self, destination: int, known: _Destination) -> None:
        if known.packed:
            self._packed.remove(destination)
        else:
            self._known.pop(destination, None)
        if not len(self):
            self._turns.clear()

    # -- what waits, and whose turn it is -----------------------------------------------------------------------------

    def add(self, destination: int, sender: int, envelope: int, priority: int = 0, *, first: bool = False) -> None:
        """It is due; `first`: before the others of its sender and priority, as it was given and not tried."""
        known = self._find(destination) or _Destination()
        self._without_mail.pop(destination, None)
        before = next_tag(known.waiting) if known.in_turn else 0
        known.waiting = joined(known.waiting, sender, envelope, priority, self._senders, first=first)
        if known.in_turn and (tag := next_tag(known.waiting)) < before:
            self._turns.set(tag, destination)
        self._keep(destination, known)

    def next_turn(self, free: int, most: int = TURN_MAX) -> tuple[int, list[int]]:
        """A destination, and at most `most` envelopes of it, of one message; none when no destination has a turn, or
        many were looked at.  `free`: places that it could take, at least one.  What is really started is told by
        `started`."""
        for _ in range(LOOKS_MAX):
            turn = self._turns.take(NUMBER_MAX)
            if turn is None:
                break
            tag, destination = turn
            known = self._find(destination)
            if known is None or not known.in_turn or next_tag(known.waiting) != tag:
                continue
            known.in_turn = False
            room = min(self._room(known, free), most)
            if not known.is_held and room > 0:
                self._senders.given(tag)
                taken, known.waiting = left(known.waiting, room, self._senders)
                self._unpack(destination, known)  # `started` comes for it
                return destination, taken
            if known.packed:
                self._pack(destination, known)
        return 0, []

    def _room(self, known: _Destination, free: int) -> int:
        return min(self._limit, known.allowed, 1 + free // FREE_DIVISOR) - known.inflight

    def started(self, destination: int, count: int) -> None:
        """So many of what its turn brought are in flight; the others do not wait any more."""
        known = self._known[destination]
        known.inflight += count
        self._keep(destination, known)

    def ended(self, destination: int, *, tried: bool) -> None:
        """One that was in flight has come back; `tried`: with a result, so the destination is there."""
        known = self._known[destination]
        known.inflight -= 1
        if tried:
            known.allowed = min(self._limit, max(known.allowed + 1, ALLOWED_FIRST))
        self._keep(destination, known)

    # -- delayed, and paused ------------------------------------------------------------------------------------------

    def delay(self, destination: int, now: int, until: int) -> None:
        """No host of it can be reached: give nothing before `until`, which lies ahead."""
        known = self._find(destination) or _Destination()
        if not known.delayed_until:
            known.delayed_at = now
            self.delayed += 1
        known.delayed_until, known.allowed = until, ALLOWED_DELAYED
        known.looked = known.looked or now
        self._set_timer(destination, known)
        self._keep(destination, known)

    def delay_reported(self, destination: int, now: int, seconds: int) -> None:
        """A dispatcher cannot reach it."""
        self.delay(destination, now, now + max(DELAY_MIN, seconds))

    def resume_reported(self, destination: int, now: int) -> None:
        """A dispatcher can reach it again."""
        known = self._find(destination)
        if known is None or not known.delayed_until:
            return
        earliest = known.delayed_at + DELAY_MIN
        if earliest <= now:
            self.resume(destination)
        elif earliest < known.delayed_until:
            known.delayed_until = earliest
            self._set_timer(destination, known)
            self._keep(destination, known)

    def _set_timer(self, destination: int, known: _Destination) -> None:
        self._cancel_timer(destination, known)
        known.timer = min(known.delayed_until, known.looked + EXPIRY_INTERVAL)
        self._timers.set(known.timer, destination)

    def _cancel_timer(self, destination: int, known: _Destination) -> None:
        if known.timer:
            self._timers.cancel(known.timer, destination)
            known.timer = 0

    def resume(self, destination: int) -> bool:
        """It can be reached again, or an administrator wants it tried.  False when it was not delayed."""
        known = self._find(destination)
        if known is None or not known.delayed_until:
            return False
        self._end_delay(destination, known)
        self._keep(destination, known)
        return True

    def pause(self, destination: int, paused: bool) -> bool:
        """Give nothing of it until it is resumed, by an administrator.  False when it was so already."""
        known = self._find(destination) or _Destination()
        if paused is known.paused:
            return False
        known.paused = paused
        self._keep(destination, known)
        return True

    def next_time(self) -> int | None:
        """When `run_timers` has something to do."""
        return self._timers.next_time()

    def run_timers(self, now: int, effort: int) -> None:
        """Resume the destinations whose time has come, at most `effort` of them."""
        for _ in range(effort):
            destination = self._timers.take(now)
            if destination is None:
                return
            known = self._find(destination)
            assert known is not None  # it is delayed
            known.timer = 0
            if known.delayed_until <= now:
                self._end_delay(destination, known)
            else:
                known.looked = now
                self._looked_through.append((destination, iter(envelopes(known.waiting))))
                self._set_timer(destination, known)
            self._keep(destination, known)

    def _end_delay(self, destination: int, known: _Destination) -> None:
        self._cancel_timer(destination, known)
        known.delayed_until = 0
        self.delayed -= 1

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


def _packed(known: _Destination) -> bytes:
    assert isinstance(known.waiting, bytes)
    return _RECORD.pack(
        known.waiting,
        known.allowed,
        known.delayed_until,
        known.delayed_at,
        known.timer,
        known.looked,
        (_WAITS if known.waiting else 0) | (_PAUSED if known.paused else 0) | (_IN_TURN if known.in_turn else 0),
    )


def _found(record: bytearray) -> _Destination:
    known = _Destination()
    (waiting, known.allowed, known.delayed_until, known.delayed_at, known.timer, known.looked, flags) = _RECORD.unpack(
        record
    )
    known.waiting = waiting if flags & _WAITS else b""
    known.paused, known.in_turn = bool(flags & _PAUSED), bool(flags & _IN_TURN)
    known.packed = True
    return known
