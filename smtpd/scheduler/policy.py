"""Decides which envelope is tried when, and which has to wait for others: no clock, no channel, only answers to "now".

    submit --> WAITING --time--> due
                ^                +--local--> limit of its lane --> limit of its message --> its turn --> INFLIGHT
                |                |           WAITING_FOR_LANE      WAITING_FOR_MESSAGE      QUEUED             |
                |                +--to be relayed--> turn of its destination and its sender --> INFLIGHT       |
                |                 ^                  WAITING_FOR_DESTINATION                      |            |
                |                 +---------------------------- returned, not tried --------------+            |
                +--------------------------- tried: deferred --------------------------------------------------+
                                                    delivered: forgotten              held, expired: HELD  <---+

The limits keep one agent (lane) and one mail to many (message) from filling the queue: an envelope behind a hundred
thousand recipients of one mail waits for `max_inflight_per_message` of them.  A narrow lane, of an agent that may take
minutes for a mail, has a quarter of the places of others, so that only many of them together could fill the queue.
Relayed mail has its limit by destination (destinations.py).  Agents and relays are served in turn, and neither may take
more than three quarters of what may be in flight.

At each limit and in each queue the envelope of the highest priority goes first, and some others all the same
(priority_queue.py).  An envelope that has a place keeps it: a limit that is full of other mail lets an urgent one pass
when the next of them is through.

An envelope expires when its next try would be later than its time: so it is tried at least once, also after the daemon
was down for days.  One whose destination cannot be reached is not tried: it expires at its time.

Sizes: a turn does a bounded number of steps, as everything may become due in one second.
"""

from collections import Counter, deque
from collections.abc import Callable, Container, Iterable

import msgspec

from smtpd.envelope import AGENT_LANE_MAX, NARROW, Kind, Schedule, message_of
from smtpd.ipc.channel import Violation
from smtpd.scheduler.concurrency_limit import ConcurrencyLimit
from smtpd.scheduler.destinations import Destinations
from smtpd.scheduler.envelope_table import EnvelopeState, EnvelopeTable, ScheduledEnvelope
from smtpd.scheduler.priority_queue import PriorityQueue
from smtpd.scheduler.retry import next_try, times_of
from smtpd.scheduler.timer_queue import TimerQueue
from smtpd.slice import SchedulerSlice

STEPS_PER_TURN = 1000  # envelopes moved in one turn: some milliseconds
NARROW_LANE_DIVISOR = 4  # a narrow lane has so many times fewer places

_DUE = {
    EnvelopeState.WAITING_FOR_LANE,
    EnvelopeState.WAITING_FOR_MESSAGE,
    EnvelopeState.QUEUED,
    EnvelopeState.WAITING_FOR_DESTINATION,
}
TRANSITIONS: dict[EnvelopeState, set[EnvelopeState]] = {
    EnvelopeState.WAITING: {EnvelopeState.DUE_SUSPENDED, *_DUE},
    EnvelopeState.DUE_SUSPENDED: _DUE,
    EnvelopeState.WAITING_FOR_LANE: {EnvelopeState.WAITING_FOR_MESSAGE, EnvelopeState.QUEUED},
    EnvelopeState.WAITING_FOR_MESSAGE: {EnvelopeState.QUEUED},
    EnvelopeState.QUEUED: {EnvelopeState.INFLIGHT, EnvelopeState.DUE_SUSPENDED},
    EnvelopeState.WAITING_FOR_DESTINATION: {
        EnvelopeState.INFLIGHT,
        EnvelopeState.DUE_SUSPENDED,
        EnvelopeState.HELD,
    },
    EnvelopeState.INFLIGHT: {
        EnvelopeState.WAITING,
        EnvelopeState.HELD,
        EnvelopeState.WAITING_FOR_DESTINATION,
        EnvelopeState.DUE_SUSPENDED,
    },
    EnvelopeState.HELD: _DUE,
}


class QueueUpdates(msgspec.Struct):
    """Updates for queue: of envelopes that were tried, or that replace one that was."""

    postponed: list[tuple[int, int]] = []  # envelope, next try
    expired: list[int] = []
    removed: list[int] = []  # as an administrator wished while they were in flight
    suspended: list[int] = []  # likewise, and queue does not know
    resumed: list[int] = []


class Policy:
    def __init__(self, limits: SchedulerSlice):
        self.table = EnvelopeTable()
        self.inflight: Counter[Kind] = Counter()
        self.paused: set[Kind] = set()
        self.statistics: Counter[str] = Counter()
        self._places = limits.max_inflight
        self._places_of_kind = limits.max_inflight - limits.max_inflight // 4
        self._lanes = ConcurrencyLimit(limits.max_inflight_per_lane)
        self._narrow_lanes = ConcurrencyLimit(max(1, limits.max_inflight_per_lane // NARROW_LANE_DIVISOR))
        self._messages = ConcurrencyLimit(limits.max_inflight_per_message)
        self._local = PriorityQueue()
        self.destinations = Destinations(limits.max_inflight_per_destination)
        self._expired: dict[int, list[int]] = {}  # destination -> envelopes that queue has not been told of
        self._turns = deque(Kind)  # the kind that is served next, first
        # A timer that its envelope does not wait for any more is left in place: what it finds tells.
        self._timers = TimerQueue()

    # -- what comes from queue -----------------------------------------------------

    def submit(self, schedule: Schedule, now: int, ahead: int = 0) -> None:
        """A new envelope, or one that the scan found, with times of a clock that is `ahead` seconds ahead of `now`.
        One that is known already is left alone.  Raises Violation."""
        if schedule.kind is Kind.MDA and schedule.lane > AGENT_LANE_MAX:
            raise Violation(f"queue schedules envelope {schedule.envelope:016x} for agent {schedule.lane}")
        if schedule.envelope in self.table:
            return
        times = times_of(schedule, now, ahead)
        envelope = ScheduledEnvelope(
            schedule.envelope,
            schedule.kind,
            times.origin,
            times.expires,
            times.next_try,
            schedule.lane,
            EnvelopeState.HELD if schedule.held else EnvelopeState.WAITING,
            schedule.suspended,
            priority=schedule.priority,
            sender=schedule.sender,
        )
        if envelope.state is EnvelopeState.HELD:
            self.table.put(envelope)
            self.statistics["scheduler.envelope.held"] += 1
        elif times.next_try <= now:
            self._become_due(envelope)
        else:
            self._set_timer(envelope, times.next_try)
            self.table.put(envelope)

    def tried(
        self,
        delivered: Iterable[int],
        deferred: Iterable[int],
        held: Iterable[int],
        now: int,
        returned: Iterable[int] = (),
        failed: Iterable[int] = (),
    ) -> QueueUpdates:
        """The results of what was in flight; `returned`: it was not tried.  Raises Violation for anything else."""
        updates = QueueUpdates()
        for id in delivered:
            self._forget(self._take_result(id, "ok"))
        for id in failed:
            self._forget(self._take_result(id, "permfail"))
        for id in deferred:
            envelope = self._take_result(id, "tempfail")
            if not self._is_removed(envelope, updates):
                self._try_again(envelope, now, updates)
        for id in held:
            envelope = self._take_result(id, "permfail")
            if not self._is_removed(envelope, updates):
                self._enter(envelope, EnvelopeState.HELD)
        for id in returned:
            envelope = self._take_result(id, "returned")
            if envelope.kind is not Kind.MTA:
                raise Violation(f"queue returned envelope {id:016x}, which is local")
            if self._is_removed(envelope, updates):
                continue
            if not self.destinations.is_delayed(envelope.lane):  # otherwise it would be given again at once
                self.destinations.delay_reported(envelope.lane, now, 0)
            self._become_due(envelope, first=True)
        return updates

    def ended(self, ids: Iterable[int]) -> None:
        """These have expired, and queue has nothing of them any more.  The result of one that is in flight, as an
        administrator has wanted it tried, is still expected."""
        for envelope in self._known(ids):
            if envelope.state is not EnvelopeState.INFLIGHT:
                self._release_limits(envelope)
                self._forget(envelope)

    def replaced(self, id: int, schedules: Iterable[Schedule], now: int, ahead: int = 0) -> QueueUpdates:
        """Others, with times as for `submit`, stand in the place of one that was in flight.  What an administrator
        wanted of that one while queue replaced it goes for them.  Raises Violation when it was not in flight."""
        before = self._take_result(id, "replaced")
        self._forget(before)
        updates = QueueUpdates()
        for schedule in schedules:
            if before.removed:
                updates.removed.append(schedule.envelope)
                continue
            if schedule.suspended is not before.suspended:
                (updates.suspended if before.suspended else updates.resumed).append(schedule.envelope)
            self.submit(msgspec.structs.replace(schedule, suspended=before.suspended), now, ahead)
        return updates

    def _take_result(self, id: int, result: str) -> ScheduledEnvelope:
        envelope = self.table.find(id)
        if envelope is None or envelope.state is not EnvelopeState.INFLIGHT:
            raise Violation(f"queue tried envelope {id:016x}, which was not in flight")
        self.inflight[envelope.kind] -= 1
        self.statistics[f"scheduler.delivery.{result}"] += 1
        self._release_limits(envelope, tried=result != "returned")
        return envelope

    def _is_removed(self, envelope: ScheduledEnvelope, updates: QueueUpdates) -> bool:
        if envelope.removed:
            self._forget(envelope)
            updates.removed.append(envelope.id)
        return envelope.removed

    def _try_again(self, envelope: ScheduledEnvelope, now: int, updates: QueueUpdates) -> None:
        time = next_try(envelope.kind, envelope.created, now)
        if time > envelope.expires:
            self.statistics["scheduler.envelope.expired"] += 1
            self._enter(envelope, EnvelopeState.HELD)
            updates.expired.append(envelope.id)
        else:
            self.statistics["scheduler.envelope.updated"] += 1
            self._set_timer(envelope, time)
            self._enter(envelope, EnvelopeState.WAITING)
            updates.postponed.append((envelope.id, time))

    # -- time ------------------------------------------------------------------------

    def turn(self, now: int, effort: int = STEPS_PER_TURN) -> list[int]:
        """The envelopes that are to be tried now: they are in flight from here on."""
        self._run_timers(now, effort)
        self.destinations.run_timers(now, effort)
        if self.destinations.is_looked_through:
            self._expire_delayed(now, effort)
        return self._start_due(effort)

    def busy(self, now: int) -> bool:
        """There is more to do for the next turn, at once."""
        next_time = self.next_time()
        is_late = next_time is not None and next_time <= now
        return is_late or self.destinations.is_looked_through or self._next_kind() is not None

    def next_time(self) -> int | None:
        """When a turn has to come at the latest."""
        times = (self._timers.next_time(), self.destinations.next_time())
        return min((time for time in times if time is not None), default=None)

    def take_expired(self) -> dict[int, list[int]]:
        """Envelopes that have expired since this was asked last, by the destination that they have waited for."""
        expired, self._expired = self._expired, {}
        return expired

    def _expire_delayed(self, now: int, effort: int) -> None:
        for id in self.destinations.look_through(effort):
            envelope = self.table.find(id)
            if (
                envelope is not None
                and envelope.state is EnvelopeState.WAITING_FOR_DESTINATION
                and envelope.expires <= now
                and not envelope.suspended
            ):
                self.statistics["scheduler.envelope.expired"] += 1
                self._enter(envelope, EnvelopeState.HELD)
                self._expired.setdefault(envelope.lane, []).append(id)

    def _set_timer(self, envelope: ScheduledEnvelope, time: int) -> None:
        if not (envelope.timed and envelope.next_try == time):
            self._timers.set(time, envelope.id)
        envelope.timed, envelope.next_try = True, time

    def _run_timers(self, now: int, effort: int) -> None:
        """Make due the envelopes whose time has come."""
        for _ in range(effort):
            timer = self._timers.take(now)
            if timer is None:
                return
            time, id = timer
            envelope = self.table.find(id)
            if envelope is None or envelope.next_try != time:
                continue
            envelope.timed = False
            self.table.put(envelope)
            if envelope.state is EnvelopeState.WAITING:
                self._become_due(envelope)

    def _start_due(self, effort: int) -> list[int]:
        """Start what is due, as far as there are places."""
        due: list[int] = []
        while effort > 0:
            kind = self._next_kind()
            if kind is None:
                break
            self._turns.remove(kind)
            self._turns.append(kind)
            effort -= self._start_local(due) if kind is Kind.MDA else self._start_relays(due, effort)
        return due

    def _start_local(self, due: list[int]) -> int:
        """The next one.  Returns how many were looked at."""
        envelope = self.table.find(self._local.leave())
        if envelope is None or envelope.state is not EnvelopeState.QUEUED:
            return 1  # removed while it was queued
        if envelope.suspended:
            self._release_limits(envelope)
            self._enter(envelope, EnvelopeState.DUE_SUSPENDED)
        else:
            self._start(envelope, due)
        return 1

    def _start_relays(self, due: list[int], effort: int) -> int:
        """The next turn of a destination.  Returns how many were looked at."""
        destination, ids = self.destinations.next_turn(self._free_places(Kind.MTA), effort)
        if not ids:
            return 1
        started = len(due)
        for id in ids:
            envelope = self.table.find(id)
            if envelope is None or envelope.state is not EnvelopeState.WAITING_FOR_DESTINATION:
                continue  # removed or expired while it waited
            if envelope.suspended:
                self._enter(envelope, EnvelopeState.DUE_SUSPENDED)
            else:
                self._start(envelope, due)
        self.destinations.started(destination, len(due) - started)
        return len(ids)

    def _start(self, envelope: ScheduledEnvelope, due: list[int]) -> None:
        self.inflight[envelope.kind] += 1
        self._enter(envelope, EnvelopeState.INFLIGHT)
        due.append(envelope.id)

    def _next_kind(self) -> Kind | None:
        for kind in self._turns:
            waits = self._local if kind is Kind.MDA else self.destinations
            if waits and kind not in self.paused and self._free_places(kind) > 0:
                return kind
        return None

    def _free_places(self, kind: Kind) -> int:
        return min(self._places - self.inflight.total(), self._places_of_kind - self.inflight[kind])

    # -- what an administrator wants -------------------------------------------------------

    def schedule(self, ids: Iterable[int]) -> tuple[int, list[int]]:
        """Make these due, held ones too.  Returns how many are, and those that were not."""
        count, changed = 0, []
        for envelope in self._known(ids):
            if envelope.suspended or envelope.state is EnvelopeState.INFLIGHT or self._is_paused(envelope):
                continue
            count += 1
            if envelope.kind is Kind.MTA:
                self.destinations.resume(envelope.lane)
            if envelope.state in (EnvelopeState.WAITING, EnvelopeState.HELD):
                self._enqueue(envelope)
                changed.append(envelope.id)
        return count, changed

    def destinations_of(self, ids: Iterable[int]) -> list[int]:
        """Where these are to be relayed, apart from the suspended ones."""
        known = self._known(ids)
        return sorted({each.lane for each in known if each.kind is Kind.MTA and each.lane and not each.suspended})

    def remove(self, ids: Iterable[int]) -> list[int]:
        """Returns those that queue is to delete now.  One that is in flight is known until its result comes."""
        gone = []
        for envelope in self._known(ids):
            if envelope.removed:
                continue
            if envelope.state is EnvelopeState.INFLIGHT:
                envelope.removed = True
                self.table.put(envelope)
            else:
                self._release_limits(envelope)
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
                self.table.put(envelope)
                if envelope.state is EnvelopeState.DUE_SUSPENDED:
                    self._enqueue(envelope)
                changed.append(envelope.id)
        return changed

    def is_for(self, id: int, destinations: Container[int]) -> bool:
        """It is to be relayed to one of these."""
        envelope = self.table.find(id)
        return envelope is not None and envelope.kind is Kind.MTA and envelope.lane in destinations

    def pause_destination(self, destination: int, paused: bool) -> None:
        """Start nothing of it, or start again, also where it was delayed."""
        self.destinations.pause(destination, paused)
        if not paused:
            self.destinations.resume(destination)

    def pause(self, kind: Kind, paused: bool) -> bool:
        """Start nothing of this kind, or start again.  False when it was so already."""
        if paused is (kind in self.paused):
            return False
        (self.paused.add if paused else self.paused.discard)(kind)
        return True

    def _is_paused(self, envelope: ScheduledEnvelope) -> bool:
        return envelope.kind is Kind.MTA and self.destinations.is_paused(envelope.lane)

    def _known(self, ids: Iterable[int]) -> Iterable[ScheduledEnvelope]:
        for id in ids:
            envelope = self.table.find(id)
            if envelope is not None:
                yield envelope

    # -- the way of an envelope from its time to its turn --------------------------------------

    def _become_due(self, envelope: ScheduledEnvelope, *, first: bool = False) -> None:
        if envelope.suspended:
            self._enter(envelope, EnvelopeState.DUE_SUSPENDED)
        else:
            self._enqueue(envelope, first=first)

    def _enqueue(self, envelope: ScheduledEnvelope, *, first: bool = False) -> None:
        if envelope.kind is Kind.MTA:
            self.destinations.add(envelope.lane, envelope.sender, envelope.id, envelope.priority, first=first)
            self._enter(envelope, EnvelopeState.WAITING_FOR_DESTINATION)
        elif envelope.lane and not self._lane_limit(envelope).enter(envelope.lane, envelope.id, envelope.priority):
            self._enter(envelope, EnvelopeState.WAITING_FOR_LANE)
        else:
            self._pass_lane(envelope)

    def _lane_limit(self, envelope: ScheduledEnvelope) -> ConcurrencyLimit:
        return self._narrow_lanes if envelope.lane & NARROW else self._lanes

    def _pass_lane(self, envelope: ScheduledEnvelope) -> None:
        if self._messages.enter(message_of(envelope.id), envelope.id, envelope.priority):
            self._pass_message(envelope)
        else:
            self._enter(envelope, EnvelopeState.WAITING_FOR_MESSAGE)

    def _pass_message(self, envelope: ScheduledEnvelope) -> None:
        self._local.join(envelope.id, envelope.priority)
        self._enter(envelope, EnvelopeState.QUEUED)

    def _release_limits(self, envelope: ScheduledEnvelope, *, tried: bool = False) -> None:
        """Pass on the places that it has at the limits, by its state; `tried`: with a result."""
        if envelope.kind is Kind.MTA:
            if envelope.state is EnvelopeState.INFLIGHT:
                self.destinations.ended(envelope.lane, tried=tried)
            return
        if envelope.state in (EnvelopeState.QUEUED, EnvelopeState.INFLIGHT):
            self._pass_on(
                self._messages, message_of(envelope.id), EnvelopeState.WAITING_FOR_MESSAGE, self._pass_message
            )
        if (
            envelope.state in (EnvelopeState.WAITING_FOR_MESSAGE, EnvelopeState.QUEUED, EnvelopeState.INFLIGHT)
            and envelope.lane
        ):
            self._pass_on(self._lane_limit(envelope), envelope.lane, EnvelopeState.WAITING_FOR_LANE, self._pass_lane)

    def _pass_on(
        self, limit: ConcurrencyLimit, key: int, waiting: EnvelopeState, onward: Callable[[ScheduledEnvelope], None]
    ) -> None:
        while (id := limit.leave(key)) is not None:
            envelope = self.table.find(id)
            if envelope is not None and envelope.state is waiting:
                return onward(envelope)
        return None

    # -- the state: written here only --------------------------------------------------------------

    def _enter(self, envelope: ScheduledEnvelope, state: EnvelopeState) -> None:
        assert state in TRANSITIONS[envelope.state], f"{envelope.id:016x}: {envelope.state.name} to {state.name}"
        if EnvelopeState.HELD in (state, envelope.state):
            self.statistics["scheduler.envelope.held"] += 1 if state is EnvelopeState.HELD else -1
        envelope.state = state
        self.table.put(envelope)

    def _forget(self, envelope: ScheduledEnvelope) -> None:
        if envelope.state is EnvelopeState.HELD:
            self.statistics["scheduler.envelope.held"] -= 1
        self.table.remove(envelope.id)
        if not len(self.table):
            self._timers.clear()
