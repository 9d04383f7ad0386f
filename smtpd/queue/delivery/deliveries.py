"""Envelopes that are due: loaded, given to their carrier, and what the scheduler and administrators say of them.

    EnvelopesDue --> loaded --> attempt --> carrier --> result --> concluded --> EnvelopesTried

What an end comes to on the disk and for the scheduler is the table in conclude.py.

An envelope of another run of the daemon, or one whose last agent was lost with it, is perhaps delivered: its agent
looks first, and so do those of all later attempts, as an agent may fail before it can look.  The first attempt of one
of another run, and each one of an envelope that made our own code raise, is counted on the disk before it begins, so
that an envelope that brings us down is held after the third start.  One that was counted already is tried alone in the
queue of its agent, so that its neighbours are not blamed with it; and the third time not before the daemon has stood
for a while, as ends that come quickly one after the other may have another cause.
"""

from collections import Counter
from collections.abc import Mapping
from functools import partial

from smtpd.envelope import Duty, Kind, envelope_text
from smtpd.imsg import DeleteEnvelopes, EnvelopesDue, ExpireEnvelopes, MarkSuspended, PostponeEnvelopes
from smtpd.ipc.log import log
from smtpd.queue.agents.pool import AgentPool
from smtpd.queue.delivery import expiry
from smtpd.queue.delivery.attempt import Attempt, AttemptContext
from smtpd.queue.delivery.carrier import Carrier
from smtpd.queue.delivery.conclude import GONE, TROUBLES_MAX
from smtpd.queue.delivery.destination import Delays
from smtpd.queue.delivery.in_flight import Word
from smtpd.queue.store.store import PAGE, Envelope, Reschedule, Suspend, UnreadableRow

SUSPECT_DELAY = 5.0  # seconds from the start until an envelope has the last of its attempts that may bring us down


class Deliveries:
    """All attempts under way.  `carriers`: of each kind of envelope its own."""

    def __init__(
        self,
        context: AttemptContext,
        carriers: Mapping[Kind, Carrier],
        delays: Delays,
        agents: AgentPool,
        statistics: Counter[str],
    ):
        self._context, self._carriers, self._delays = context, carriers, delays
        self._agents, self._statistics = agents, statistics
        self._loop, self._disk = context.loop, context.disk
        self._in_flight, self._conclusions = context.in_flight, context.conclusions
        self._suspects_from = self._loop.time() + SUSPECT_DELAY
        self._stopping = False

    # -- what is due ------------------------------------------------------------------------------------------------

    def due(self, imsg: EnvelopesDue) -> None:
        if self._stopping:
            return  # at the next start
        unknown: list[int] = []
        for id in imsg.envelopes:
            self._in_flight.add(id)
            envelope = self._disk.cache.maybe_envelope(id)
            if envelope is None:
                unknown.append(id)
            else:
                self._start_attempt(envelope)
        for key, count in (("hit", len(imsg.envelopes) - len(unknown)), ("missed", len(unknown))):
            if count:
                self._statistics[f"queue.evpcache.load.{key}"] += count
        for at in range(0, len(unknown), PAGE):
            page = unknown[at : at + PAGE]
            self._disk.load(page, partial(self._loaded, page))

    def _loaded(
        self, page: list[int], rows: list[Envelope | UnreadableRow] | None, error: BaseException | None
    ) -> None:
        if rows is None:
            # They were not tried: nothing of their rows changes but the time of the next attempt.
            log.warn(f"{len(page)} envelopes cannot be read: {error}")
            for id in page:
                self._in_flight.tell(id, Word.DEFERRED)
            return
        for row in rows:
            if isinstance(row, UnreadableRow):
                self._conclusions.quarantine(row)
            else:
                self._start_attempt(row)
        for id in {*page}.difference(row.id for row in rows):
            self._conclusions.conclude(id, GONE)

    def _start_attempt(self, envelope: Envelope) -> None:
        attempt = Attempt(envelope, self._context)
        self._in_flight.begin(envelope.id, attempt)
        attempt.run_guarded(self._carry, attempt)

    def _carry(self, attempt: Attempt) -> None:
        envelope = attempt.envelope
        is_new_notice = envelope.recipient.duty is Duty.EXPAND
        begin = Attempt.expand if is_new_notice else self._carriers[envelope.recipient.kind].carry
        wait = self._suspects_from - self._loop.time()
        if expiry.is_overdue(envelope.terms, self._conclusions.now()):
            attempt.end_overdue()
        elif envelope.troubles == TROUBLES_MAX - 1 and wait > 0:
            self._loop.call_later(wait, attempt.run_guarded, begin, attempt)
        else:
            begin(attempt)

    # -- what the scheduler makes of it, and what an administrator wants --------------------------------------------

    def postpone(self, imsg: PostponeEnvelopes) -> None:
        for id, next_try in imsg.tries:
            if not self._conclusions.postpone(id, next_try):
                self._change(Reschedule(id, next_try))

    def suspend(self, imsg: MarkSuspended) -> None:
        for id in imsg.envelopes:
            self._change(Suspend(id, imsg.suspended))

    def expire(self, imsg: ExpireEnvelopes) -> None:
        self._conclusions.expire(imsg.envelopes, self._delays.find_reason(imsg.destination))

    def delete(self, imsg: DeleteEnvelopes) -> None:
        self._conclusions.remove(imsg.envelopes)

    def _change(self, change: Reschedule | Suspend) -> None:
        self._disk.cache.forget(change.envelope)
        self._disk.commits.submit(change, partial(_changed, change.envelope), must_succeed=True)

    # -- the daemon stops -------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Nothing more is due.  What is under way goes on."""
        self._stopping = True

    def end(self) -> None:
        """What is deferred from here on has been interrupted, and is tried at the next start.  An attempt that was
        counted, and has not come to its end, has not brought us down, and is not to look so."""
        self._in_flight.flush()
        self._conclusions.stop()
        self._agents.end()
        for attempt in self._in_flight.attempts():
            attempt.interrupt()


def _changed(id: int, error: Exception | None) -> None:
    if error is not None:
        log.trouble(f"envelope {envelope_text(id)}", error)
