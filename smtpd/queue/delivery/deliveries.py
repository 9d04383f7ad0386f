"""Envelopes that are due, and what became of them.

    EnvelopesDue --> loaded --> in the line of an agent --> with it --> its result --> committed --> EnvelopesTried

    result                        on the disk                        told
    delivered                     the row is removed                 delivered, when that is durable
    deferred                      nothing; the scheduler's answer    deferred, at once
                                  (Postpone, Expire) is written
    failed, a loop, damaged,      held, with the reason              held, when that is durable
    nobody to deliver it
    stale                         others in its place                replaced by the others, when that is durable

An envelope of another run of the daemon, or one whose last agent was lost with it, is perhaps delivered: its agent
looks first, and so do those of all later tries, as an agent may fail before it can look.  The first try of one of
another run, and each one of an envelope that made our own code raise, is counted on the disk before it begins, so that
an envelope that brings us down is held after the third start.  One that was counted already is tried alone in its line,
so that its neighbours are not blamed with it; and the third time not before the daemon has stood for a while, as ends
that come quickly one after the other may have another cause.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from itertools import batched

from smtpd.envelope import Duty, envelope_text
from smtpd.imsg import (
    DeleteEnvelopes,
    EnvelopeReplaced,
    EnvelopesDue,
    EnvelopesTried,
    ExpireEnvelopes,
    MarkSuspended,
    PostponeEnvelopes,
)
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log, visible
from smtpd.queue.agents.pool import AgentPool
from smtpd.queue.agents.routing import AgentRouting, NoAgent
from smtpd.queue.agents.slots import AgentKey
from smtpd.queue.delivery import delivery_log, expiry
from smtpd.queue.delivery.attempt import ERROR_MAX, TROUBLES_MAX, Attempt, Ended
from smtpd.queue.delivery.reexpansion import Reexpansions
from smtpd.queue.store.disk import Disk
from smtpd.queue.store.store import (
    PAGE,
    Envelope,
    Hold,
    Postpone,
    Quarantine,
    Remove,
    Reschedule,
    Suspend,
    UnreadableRow,
)

SUSPECT_DELAY = 5.0  # seconds from the start until an envelope has the last of its tries that may bring us down
RESULTS_MAX = 4096  # results in one imsg


class Deliveries:
    """All tries under way."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        disk: Disk,
        agents: AgentPool,
        roster: AgentRouting,
        reexpansions: Reexpansions,
        scheduler: Channel,
        statistics: Counter[str],
        now: Callable[[], float] = time.time,
    ):
        self.loop, self.disk, self.reexpansions = loop, disk, reexpansions
        self._agents, self._roster = agents, roster
        self._scheduler, self._statistics, self._now = scheduler, statistics, now
        self._calm_at = loop.time() + SUSPECT_DELAY
        self._attempts: dict[int, Attempt | None] = {}  # None: its row is being read
        self._ended: dict[int, Ended] = {}  # told as deferred; the scheduler's answer is on its way
        self._told = EnvelopesTried([], [], [])
        self._telling = False
        self._stopping = self._ending = False

    def now(self) -> int:
        return int(self._now())

    def __contains__(self, envelope: object) -> bool:
        return envelope in self._attempts

    def __len__(self) -> int:
        return len(self._attempts)

    # -- what is due ------------------------------------------------------------------------------------------------

    def due(self, imsg: EnvelopesDue) -> None:
        if self._stopping:
            return  # at the next start
        unknown: list[int] = []
        for id in imsg.envelopes:
            if id in self._attempts:
                raise Violation(f"the scheduler wants envelope {envelope_text(id)} tried twice at a time")
            self._attempts[id] = None
            envelope = self.disk.cache.maybe_envelope(id)
            if envelope is None:
                unknown.append(id)
            else:
                self._start_attempt(envelope)
        for key, count in (("hit", len(imsg.envelopes) - len(unknown)), ("missed", len(unknown))):
            if count:
                self._statistics[f"queue.evpcache.load.{key}"] += count
        for at in range(0, len(unknown), PAGE):
            page = unknown[at : at + PAGE]
            self.disk.load(page, partial(self._loaded, page))

    def _loaded(
        self, page: list[int], rows: list[Envelope | UnreadableRow] | None, error: BaseException | None
    ) -> None:
        """Those that do not exist are gone, those that make no sense are set aside."""
        if rows is None:
            self._cannot_load(page, error)
            return
        for row in rows:
            if isinstance(row, UnreadableRow):
                self.set_aside(row)
            else:
                self._start_attempt(row)
        for id in {*page}.difference(row.id for row in rows):
            self.delivered(id)

    def _cannot_load(self, page: list[int], error: BaseException | None) -> None:
        """They were not tried: nothing of their rows changes but the time of the next try."""
        log.warn(f"{len(page)} envelopes cannot be read: {error}")
        for id in page:
            self._tell(id, self._told.deferred)

    def set_aside(self, row: UnreadableRow) -> None:
        """A row that makes no sense stops nobody; an administrator finds it in the quarantine."""
        log.warn(f"envelope {envelope_text(row.id)} cannot be read and is set aside: {row.reason}")
        change = Quarantine(row.id, self.now(), visible(row.reason)[:ERROR_MAX])
        self.disk.commits.submit(change, partial(self._set_aside, row.id), must_succeed=True)

    def _set_aside(self, id: int, error: Exception | None) -> None:
        if error is not None:
            log.trouble(f"envelope {envelope_text(id)}", error)
        if id in self._attempts:
            self.held(id)

    def _start_attempt(self, envelope: Envelope) -> None:
        attempt = self._attempts[envelope.id] = Attempt(self, envelope)
        attempt.run_guarded(self._match, attempt)

    def _match(self, attempt: Attempt) -> None:
        """To the line of its agent, or to its end where none is for it."""
        envelope = attempt.envelope
        if expiry.is_overdue(envelope.terms, self.now()):
            attempt.held(f"{expiry.OVERDUE}: {envelope.error}" if envelope.error else expiry.OVERDUE)
            return
        if envelope.recipient.duty is Duty.DISCARD:
            attempt.discard()
            return
        try:
            key = self._roster.get_key(envelope.recipient)
        except NoAgent as nobody:
            attempt.held(str(nobody))
        else:
            attempt.deadline = self._roster.terms(key).deadline
            self._give(key, attempt)

    def _give(self, key: AgentKey, attempt: Attempt) -> None:
        wait = self._calm_at - self.loop.time()
        if attempt.alone and attempt.envelope.troubles == TROUBLES_MAX - 1 and wait > 0:
            self.loop.call_later(wait, attempt.run_guarded, self._agents.give, key, attempt)
        else:
            self._agents.give(key, attempt)

    # -- what became of it ------------------------------------------------------------------------------------------

    def delivered(self, id: int) -> None:
        self._tell(id, self._told.delivered)

    def deferred(self, id: int, ended: Ended) -> None:
        self.disk.cache.forget(id)
        if self._ending:
            del self._attempts[id]
            self._postpone(id, ended.last_try, ended)
        else:
            self._ended[id] = ended
            self._tell(id, self._told.deferred)

    def held(self, id: int) -> None:
        self._tell(id, self._told.held)

    def replaced(self, id: int, envelopes: list[Envelope]) -> None:
        del self._attempts[id]
        schedules = [envelope.schedule(self._roster.lane_of(envelope.recipient)) for envelope in envelopes]
        self._scheduler.send(EnvelopeReplaced(id, schedules))

    def _tell(self, id: int, result: list[int]) -> None:
        del self._attempts[id]
        result.append(id)
        if not self._telling:
            self._telling = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Everything that this turn of the loop has ended."""
        if not self._telling:
            return
        told, self._told = self._told, EnvelopesTried([], [], [])
        self._telling = False
        if len(told.delivered) + len(told.deferred) + len(told.held) <= RESULTS_MAX:
            self._scheduler.send(told)
            return
        for ids in batched(told.delivered, RESULTS_MAX):
            self._scheduler.send(EnvelopesTried([*ids], [], []))
        for ids in batched(told.deferred, RESULTS_MAX):
            self._scheduler.send(EnvelopesTried([], [*ids], []))
        for ids in batched(told.held, RESULTS_MAX):
            self._scheduler.send(EnvelopesTried([], [], [*ids]))

    # -- what the scheduler makes of it, and what an administrator wants --------------------------------------------

    def postpone(self, imsg: PostponeEnvelopes) -> None:
        for id, next_try in imsg.tries:
            ended = self._ended.pop(id, None)
            if ended is None:
                self._change(Reschedule(id, next_try))
            else:
                self._postpone(id, next_try, ended)

    def _postpone(self, id: int, next_try: int, ended: Ended) -> None:
        self._change(Postpone(id, next_try, ended.last_try, ended.error, ended.perhaps_delivered, ended.troubles))

    def suspend(self, imsg: MarkSuspended) -> None:
        for id in imsg.envelopes:
            self._change(Suspend(id, imsg.suspended))

    def expire(self, imsg: ExpireEnvelopes) -> None:
        """Without bounces, what nobody could be told is kept for the administrator."""
        for id in imsg.envelopes:
            ended = self._ended.pop(id, None)
            if ended is None:
                hold = Hold(id, 0, expiry.EXPIRED, True)
            else:
                why = f"{ended.expired}: {ended.error}"[:ERROR_MAX]
                hold = Hold(id, ended.last_try, why, ended.perhaps_delivered)
            self.disk.load([id], partial(self._log_end, "Expire", hold.error))
            self._change(hold)

    def delete(self, imsg: DeleteEnvelopes) -> None:
        for at in range(0, len(imsg.envelopes), PAGE):
            page = imsg.envelopes[at : at + PAGE]
            self.disk.load(page, partial(self._delete, page))

    def _delete(
        self, page: list[int], rows: list[Envelope | UnreadableRow] | None, error: BaseException | None
    ) -> None:
        self._log_end("Remove", "Removed by administrator", rows, error)
        for id in page:
            self._ended.pop(id, None)
            attempt = self._attempts.get(id)
            if attempt is not None:
                attempt.removed = True
            self._change(Remove(id))

    # -- the daemon stops -------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Nothing more is due.  What is under way goes on."""
        self._stopping = True

    def end(self) -> None:
        """What is deferred from here on has been interrupted, and is tried at the next start.  An attempt that was
        counted, and has not come to its end, has not brought us down, and is not to look so."""
        self._flush()
        self._ending = True
        self._agents.end()
        for attempt in [*self._attempts.values()]:
            if attempt is not None:
                attempt.interrupt()

    def write_deferred(self) -> None:
        """The scheduler will not say any more when to try these again: at the next start."""
        for id, ended in self._ended.items():
            self._postpone(id, ended.last_try, ended)
        self._ended.clear()

    def _log_end(
        self, what: str, stat: str, rows: list[Envelope | UnreadableRow] | None, error: BaseException | None
    ) -> None:
        if rows is None:
            log.warn(f"envelopes cannot be read, for the log: {error}")
        for row in rows or ():
            if isinstance(row, Envelope):
                try:
                    delivery_log.log_end(self.now(), what, stat, row)
                except Exception as raised:  # noqa: BLE001  (one envelope, rule R8)
                    log.trouble(f"envelope {envelope_text(row.id)}", raised)

    def _change(self, change: Postpone | Reschedule | Hold | Suspend | Remove) -> None:
        self.disk.cache.forget(change.envelope)
        self.disk.commits.submit(change, partial(_changed, change.envelope), must_succeed=True)


def _changed(id: int, error: Exception | None) -> None:
    if error is not None:
        log.trouble(f"envelope {envelope_text(id)}", error)
