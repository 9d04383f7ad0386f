"""What is tried when, and what has to wait for others: no clock, no channel, only answers to "now".

    submit --> WAITING --time--> due --> lane's gate --> message's gate --> line of its kind --turn--> INFLIGHT
                  ^                        AT_LANE         AT_MESSAGE           IN_LINE                   |
                  +------------------------- tried: deferred ---------------------------------------------+
                                                    delivered: forgotten       held, expired: HELD  <-----+

The gates keep one agent (lane) and one mail to many (message) from filling the line: whoever comes behind a hundred
thousand recipients of one mail waits for `max_inflight_per_message` of them.  A narrow lane, of an agent that may take
minutes for a mail, has a quarter of the places of others, so that only many of them together could fill the line.  The
two lines, for agents and for relays, are served in turn, and neither may take more than three quarters of what may be
in flight.

At each gate and in each line the one of the highest priority goes first, and some others all the same (line.py).  Who
has a place keeps it: a gate that is full of others' mail opens for an urgent one when the next of them is through.

An envelope expires when its next try would be later than its time: so it is tried at least once, also after the daemon
was down for days.

Sizes: a turn does a bounded number of steps, as everything may become due in one second.
"""

import heapq
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec

from smtpd.config.slice import SchedulerSlice
from smtpd.envelope import NARROW, Kind, Schedule, message_of
from smtpd.ipc.channel import Violation
from smtpd.scheduler.gate import Gate
from smtpd.scheduler.line import Line
from smtpd.scheduler.retry import next_try, times_of
from smtpd.scheduler.shelf import Envelope, Shelf, State

EFFORT = 1000  # envelopes moved in one turn: some milliseconds
NARROWER = 4  # times fewer places that a narrow lane has

_DUE = {State.AT_LANE, State.AT_MESSAGE, State.IN_LINE}
TRANSITIONS: dict[State, set[State]] = {
    State.WAITING: {State.IDLE, *_DUE},
    State.IDLE: _DUE,
    State.AT_LANE: {State.AT_MESSAGE, State.IN_LINE},
    State.AT_MESSAGE: {State.IN_LINE},
    State.IN_LINE: {State.INFLIGHT, State.IDLE},
    State.INFLIGHT: {State.WAITING, State.HELD},
    State.HELD: _DUE,
}


@dataclass
class Aftermath:
    """What queue has to be told about envelopes that were tried, or stand in the place of one that was."""

    postponed: list[tuple[int, int]] = field(default_factory=list)  # envelope, next try
    expired: list[int] = field(default_factory=list)
    removed: list[int] = field(default_factory=list)  # as an administrator wished while they were in flight
    suspended: list[int] = field(default_factory=list)  # likewise, and queue does not know
    resumed: list[int] = field(default_factory=list)


class Policy:
    def __init__(self, limits: SchedulerSlice):
        self.shelf = Shelf()
        self.inflight: Counter[Kind] = Counter()
        self.paused: set[Kind] = set()
        self.statistics: Counter[str] = Counter()
        self._places = limits.max_inflight
        self._places_of_kind = limits.max_inflight - limits.max_inflight // 4
        self._lanes = Gate(limits.max_inflight_per_lane)
        self._narrow_lanes = Gate(max(1, limits.max_inflight_per_lane // NARROWER))
        self._messages = Gate(limits.max_inflight_per_message)
        self._lines: dict[Kind, Line] = {kind: Line() for kind in Kind}
        self._turns = deque(Kind)  # whose line is served next
        # Time and envelope in one number, as a million tuples would take three times the memory.  A timer that its
        # envelope does not wait for any more is left in place: what it finds tells.
        self._timers: list[int] = []

    # -- what comes from queue -----------------------------------------------------

    def submit(self, schedule: Schedule, now: int, ahead: int = 0) -> None:
        """A new envelope, or one that the scan found, with times of a clock that is `ahead` seconds ahead of `now`.
        One that is known already is left alone."""
        if schedule.envelope in self.shelf:
            return
        times = times_of(schedule, now, ahead)
        envelope = Envelope(
            schedule.envelope,
            schedule.kind,
            times.origin,
            times.expires,
            times.next_try,
            schedule.lane,
            State.HELD if schedule.held else State.WAITING,
            schedule.suspended,
            priority=schedule.priority,
        )
        if envelope.state is State.HELD:
            self.shelf.put(envelope)
            self.statistics["scheduler.envelope.held"] += 1
        elif times.next_try <= now:
            self.shelf.put(envelope)
            self._become_due(envelope)
        else:
            self._set_timer(envelope, times.next_try)
            self.shelf.put(envelope)

    def tried(self, delivered: Iterable[int], deferred: Iterable[int], held: Iterable[int], now: int) -> Aftermath:
        """The results of what was in flight.  Raises Violation for anything else."""
        aftermath = Aftermath()
        for id in delivered:
            self._forget(self._land(id, "ok"))
        for id in deferred:
            envelope = self._land(id, "tempfail")
            if not self._is_removed(envelope, aftermath):
                self._try_again(envelope, now, aftermath)
        for id in held:
            envelope = self._land(id, "permfail")
            if not self._is_removed(envelope, aftermath):
                self._enter(envelope, State.HELD)
        return aftermath

    def replaced(self, id: int, schedules: Iterable[Schedule], now: int, ahead: int = 0) -> Aftermath:
        """Others, with times as for `submit`, stand in the place of one that was in flight.  What an administrator
        wanted of that one while queue replaced it goes for them.  Raises Violation when it was not in flight."""
        before = self._land(id, "replaced")
        self._forget(before)
        aftermath = Aftermath()
        for schedule in schedules:
            if before.removed:
                aftermath.removed.append(schedule.envelope)
                continue
            if schedule.suspended is not before.suspended:
                (aftermath.suspended if before.suspended else aftermath.resumed).append(schedule.envelope)
            self.submit(msgspec.structs.replace(schedule, suspended=before.suspended), now, ahead)
        return aftermath

    def _land(self, id: int, result: str) -> Envelope:
        envelope = self.shelf.find(id)
        if envelope is None or envelope.state is not State.INFLIGHT:
            raise Violation(f"queue tried envelope {id:016x}, which was not in flight")
        self.inflight[envelope.kind] -= 1
        self.statistics[f"scheduler.delivery.{result}"] += 1
        self._give_places(envelope)
        return envelope

    def _is_removed(self, envelope: Envelope, aftermath: Aftermath) -> bool:
        if envelope.removed:
            self._forget(envelope)
            aftermath.removed.append(envelope.id)
        return envelope.removed

    def _try_again(self, envelope: Envelope, now: int, aftermath: Aftermath) -> None:
        time = next_try(envelope.kind, envelope.created, now)
        if time > envelope.expires:
            self.statistics["scheduler.envelope.expired"] += 1
            self._enter(envelope, State.HELD)
            aftermath.expired.append(envelope.id)
        else:
            self.statistics["scheduler.envelope.updated"] += 1
            self._set_timer(envelope, time)
            self._enter(envelope, State.WAITING)
            aftermath.postponed.append((envelope.id, time))

    # -- time ------------------------------------------------------------------------

    def turn(self, now: int, effort: int = EFFORT) -> list[int]:
        """The envelopes that are to be tried now: they are in flight from here on."""
        self._ring(now, effort)
        return self._serve(effort)

    def busy(self, now: int) -> bool:
        """There is more to do for the next turn, at once."""
        return (bool(self._timers) and self._timers[0] >> 63 <= now) or self._next_kind() is not None

    def next_time(self) -> int | None:
        """When a turn has to come at the latest."""
        return self._timers[0] >> 63 if self._timers else None

    def _set_timer(self, envelope: Envelope, time: int) -> None:
        if not (envelope.timed and envelope.next_try == time):
            heapq.heappush(self._timers, time << 63 | envelope.id)
        envelope.timed, envelope.next_try = True, time

    def _ring(self, now: int, effort: int) -> None:
        """Let those whose time has come become due."""
        for _ in range(effort):
            if not self._timers or self._timers[0] >> 63 > now:
                return
            timer = heapq.heappop(self._timers)
            envelope = self.shelf.find(timer & (1 << 63) - 1)
            if envelope is None or not envelope.timed or envelope.next_try != timer >> 63:
                continue
            envelope.timed = False
            self.shelf.put(envelope)
            if envelope.state is State.WAITING:
                self._become_due(envelope)

    def _serve(self, effort: int) -> list[int]:
        """Take from the lines what has a free place."""
        due: list[int] = []
        for _ in range(effort):
            kind = self._next_kind()
            if kind is None:
                break
            self._turns.remove(kind)
            self._turns.append(kind)
            envelope = self.shelf.find(self._lines[kind].leave())
            if envelope is None or envelope.state is not State.IN_LINE:
                continue  # removed while it stood there
            if envelope.suspended:
                self._give_places(envelope)
                self._enter(envelope, State.IDLE)
            else:
                self.inflight[kind] += 1
                self._enter(envelope, State.INFLIGHT)
                due.append(envelope.id)
        return due

    def _next_kind(self) -> Kind | None:
        if self.inflight.total() >= self._places:
            return None
        for kind in self._turns:
            if self._lines[kind] and kind not in self.paused and self.inflight[kind] < self._places_of_kind:
                return kind
        return None

    # -- what an administrator wants -------------------------------------------------------

    def schedule(self, ids: Iterable[int]) -> tuple[int, list[int]]:
        """Make these due, held ones too.  Returns how many are, and those that were not."""
        count, changed = 0, []
        for envelope in self._known(ids):
            if envelope.suspended or envelope.state is State.INFLIGHT:
                continue
            count += 1
            if envelope.state in (State.WAITING, State.HELD):
                self._line_up(envelope)
                changed.append(envelope.id)
        return count, changed

    def remove(self, ids: Iterable[int]) -> list[int]:
        """Returns those that queue is to delete now.  One that is in flight is known until its result comes."""
        gone = []
        for envelope in self._known(ids):
            if envelope.removed:
                continue
            if envelope.state is State.INFLIGHT:
                envelope.removed = True
                self.shelf.put(envelope)
            else:
                self._give_places(envelope)
                self._forget(envelope)
            gone.append(envelope.id)
        self.statistics["scheduler.envelope.removed"] += len(gone)
        return gone

    def suspend(self, ids: Iterable[int], suspended: bool) -> list[int]:
        """Start no try of these, or start them again.  Returns those for which that is new."""
        changed = []
        for envelope in self._known(ids):
            if envelope.suspended is not suspended:
                envelope.suspended = suspended
                self.shelf.put(envelope)
                if envelope.state is State.IDLE:
                    self._line_up(envelope)
                changed.append(envelope.id)
        return changed

    def pause(self, kind: Kind, paused: bool) -> bool:
        """Start nothing of this kind, or start again.  False when it was so already."""
        if paused is (kind in self.paused):
            return False
        (self.paused.add if paused else self.paused.discard)(kind)
        return True

    def _known(self, ids: Iterable[int]) -> Iterable[Envelope]:
        for id in ids:
            envelope = self.shelf.find(id)
            if envelope is not None:
                yield envelope

    # -- the way of an envelope from its time to its turn --------------------------------------

    def _become_due(self, envelope: Envelope) -> None:
        if envelope.suspended:
            self._enter(envelope, State.IDLE)
        else:
            self._line_up(envelope)

    def _line_up(self, envelope: Envelope) -> None:
        if envelope.lane and not self._gate_of(envelope).enter(_lane(envelope), envelope.id, envelope.priority):
            self._enter(envelope, State.AT_LANE)
        else:
            self._pass_lane(envelope)

    def _gate_of(self, envelope: Envelope) -> Gate:
        return self._narrow_lanes if envelope.lane & NARROW else self._lanes

    def _pass_lane(self, envelope: Envelope) -> None:
        if self._messages.enter(_message(envelope), envelope.id, envelope.priority):
            self._pass_message(envelope)
        else:
            self._enter(envelope, State.AT_MESSAGE)

    def _pass_message(self, envelope: Envelope) -> None:
        self._lines[envelope.kind].join(envelope.id, envelope.priority)
        self._enter(envelope, State.IN_LINE)

    def _give_places(self, envelope: Envelope) -> None:
        """Hand on the places that it has at the gates, by where it stands."""
        if envelope.state in (State.IN_LINE, State.INFLIGHT):
            self._hand_on(self._messages, _message(envelope), State.AT_MESSAGE, self._pass_message)
        if envelope.state in (State.AT_MESSAGE, State.IN_LINE, State.INFLIGHT) and envelope.lane:
            self._hand_on(self._gate_of(envelope), _lane(envelope), State.AT_LANE, self._pass_lane)

    def _hand_on(self, gate: Gate, key: int, waiting: State, onward: Callable[[Envelope], None]) -> None:
        while (id := gate.leave(key)) is not None:
            envelope = self.shelf.find(id)
            if envelope is not None and envelope.state is waiting:
                return onward(envelope)
        return None

    # -- the state: written here only --------------------------------------------------------------

    def _enter(self, envelope: Envelope, state: State) -> None:
        assert state in TRANSITIONS[envelope.state], f"{envelope.id:016x}: {envelope.state.name} to {state.name}"
        if State.HELD in (state, envelope.state):
            self.statistics["scheduler.envelope.held"] += 1 if state is State.HELD else -1
        envelope.state = state
        self.shelf.put(envelope)

    def _forget(self, envelope: Envelope) -> None:
        if envelope.state is State.HELD:
            self.statistics["scheduler.envelope.held"] -= 1
        self.shelf.remove(envelope.id)
        if not len(self.shelf):
            self._timers.clear()


def _lane(envelope: Envelope) -> int:
    return envelope.lane << 2 | envelope.kind


def _message(envelope: Envelope) -> int:
    """Each kind has its own gate: what is paused must not keep the rest of a message waiting."""
    return message_of(envelope.id) << 2 | envelope.kind
