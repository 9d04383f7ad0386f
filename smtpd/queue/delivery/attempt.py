"""One attempt of one envelope, whichever carrier makes it: counted, given its content, and ended once.

    carry --> carrier: prepare --> counted, if suspect --> content --> ready(message, descriptor)
                       count   --> counted, if suspect --> counted(size), and prepare later
                       finish(result) --> STALE: expanded again (reexpansion.py)     otherwise: concluded (conclude.py)

An envelope is suspect when an attempt of it has not come to an end: it may be what has brought the daemon down.

A notice to a sender is expanded as its first attempt (notices.py): counted like any, and given to lookup.

An envelope that makes our own code raise costs that envelope: it is deferred, and held after the third time.
"""

import asyncio
import os
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple

from smtpd.envelope import Duty, Outcome, envelope_text, message_of
from smtpd.errand import FrameError
from smtpd.imsg import EnvelopeExpanded, EnvelopeNotExpanded
from smtpd.ipc.channel import Violation
from smtpd.ipc.log import log
from smtpd.queue.delivery import conclude
from smtpd.queue.delivery.conclude import TROUBLES_MAX, Conclusion, Conclusions
from smtpd.queue.delivery.in_flight import InFlight
from smtpd.queue.delivery.reexpansion import Reexpansions, TooManySuccessors
from smtpd.queue.delivery.result import AttemptResult
from smtpd.queue.store.content_codec import KeyMissing
from smtpd.queue.store.decoded_content import ContentHolder
from smtpd.queue.store.disk import Disk
from smtpd.queue.store.store import ContentDamaged, CountAttempt, Envelope, Message, StoreFull

Ready = Callable[[Message | None, int | None], None]


class AttemptContext(NamedTuple):
    """What all attempts need."""

    loop: asyncio.AbstractEventLoop
    disk: Disk
    in_flight: InFlight
    conclusions: Conclusions
    reexpansions: Reexpansions
    lane_of: Callable[[Envelope], tuple[int, int]]


def contained(step: Callable[..., None]) -> Callable[..., None]:
    """Whatever a step of one envelope raises is the end of this attempt, and of nothing else."""

    @wraps(step)
    def guarded(attempt: "Attempt", *arguments: Any, **named: Any) -> None:
        attempt.run_guarded(step, attempt, *arguments, **named)

    return guarded


class Attempt:
    """`over` when it has had its end."""

    def __init__(self, envelope: Envelope, context: AttemptContext):
        self.envelope = envelope
        self._context = context
        self._loop, self._disk, self._conclusions = context.loop, context.disk, context.conclusions
        self._log_id = 0  # of the agent or connection that has it; 0 before that
        self._ready: Ready | None = None  # of the carrier that wants the content; it may ask a second time
        self._opens = True  # a file with the content is opened for it
        self._holder: ContentHolder | None = None  # of content that is decoded for it
        self._other_holder: ContentHolder | None = None  # the carrier's
        self._counted = False
        self.over = False
        self.removed = False  # by an administrator: not begun any more
        self.when_removed: Callable[[], None] | None = None  # of a carrier that has handed the content on already

    @property
    def is_suspect(self) -> bool:
        """An earlier attempt has not come to an end, by our fault."""
        return self.envelope.troubles > 0

    @property
    def perhaps_delivered(self) -> bool:
        return self.envelope.perhaps_delivered or self._is_of_another_run

    @property
    def _is_of_another_run(self) -> bool:
        return self.envelope.run != self._disk.store.run

    def run_guarded(self, step: Callable[..., None], *arguments: Any, **named: Any) -> None:
        """Take a step of this envelope: what it raises costs this envelope, and nothing else."""
        try:
            step(*arguments, **named)
        except (Violation, FrameError):
            raise
        except Exception as error:  # noqa: BLE001  (rule R8: the one place around one envelope)
            self.fault(error)

    # -- the content, for the carrier -----------------------------------------------------------------------------

    @contained
    def prepare(self, log_id: int, ready: Ready, *, opens: bool = True, holder: ContentHolder | None = None) -> None:
        """Call `ready(message, descriptor)` when the attempt is counted, if it has to be, and the content is there; or
        `ready(None, None)` when the attempt is over, but not before this returns.  `log_id` is that of the agent or
        connection in the log.  Without `opens` there is no descriptor.  `holder` has what is decoded for it; without
        one it is given back at the end of the attempt."""
        self._log_id, self._ready, self._opens = log_id, ready, opens
        self._other_holder = holder
        if self.over:  # our own code raised after the carrier had taken it
            self._loop.call_soon(ready, None, None)
        elif self._counted or not (self._is_of_another_run or self.is_suspect):
            self._fetch(ready)
        elif self.envelope.troubles >= TROUBLES_MAX:
            self._stop(ready, partial(self.hold, "a try was begun and never ended, three starts running"))
        else:
            self._counted = True
            self._disk.commits.submit(CountAttempt(self.envelope.id), partial(self._begun, ready))

    def count(self, counted: Callable[[Message | None], None]) -> None:
        """Call `counted(message)` when the attempt is counted, if it has to be; or `counted(None)` when it is over."""

        def ready(message: Message | None, _no_descriptor: int | None) -> None:
            self._ready = None
            counted(message)

        self.prepare(0, ready, opens=False)

    @contained
    def _begun(self, ready: Ready, error: Exception | None) -> None:
        # A full disk is no reason to wait: deliveries make room.
        if error is not None and not isinstance(error, StoreFull):
            self._stop(ready, partial(self._defer, f"the queue cannot be written: {error}"))
        else:
            self._fetch(ready)

    def _fetch(self, ready: Ready) -> None:
        self._disk.find_message(message_of(self.envelope.id), partial(self._found, ready))

    @contained
    def _found(self, ready: Ready, message: Message | None, error: BaseException | None) -> None:
        if self.removed:
            self._stop(ready, partial(self._end, conclude.GONE))
        elif isinstance(error, KeyMissing):
            self._stop(ready, partial(self._wait_for_key, str(error)))
        elif isinstance(error, ContentDamaged) or (message is None and error is None):
            self._stop(ready, partial(self.hold, str(error or "the content is missing")))
        elif error is not None or message is None:
            self._stop(ready, partial(self._defer, f"the queue cannot be read: {error}"))
        elif message.content is None and self._opens:
            holder = self._other_holder
            if holder is None:
                holder = self._holder = ContentHolder(self.envelope.recipient.user)
            self._disk.open_content(message, holder, partial(self._opened, ready, message))
        else:
            ready(message, None)

    @contained
    def _opened(self, ready: Ready, message: Message, descriptor: int | None, error: BaseException | None) -> None:
        if self.removed:
            if descriptor is not None:
                os.close(descriptor)
            self._stop(ready, partial(self._end, conclude.GONE))
        elif isinstance(error, KeyMissing):
            self._stop(ready, partial(self._wait_for_key, str(error)))
        elif isinstance(error, ContentDamaged):
            self._stop(ready, partial(self.hold, str(error)))
        elif error is not None:
            self._stop(ready, partial(self._defer, f"the spool cannot be read: {error}"))
        else:
            ready(message, descriptor)

    def _stop(self, ready: Ready, end: Callable[[], None]) -> None:
        """There is nothing to carry.  Not in the midst of being begun: the carrier may have much to begin."""

        def stop() -> None:
            if not self.over and self._ready is ready:  # otherwise the carrier gave it up meanwhile, and we were told
                self.run_guarded(end)
                ready(None, None)

        self._loop.call_soon(stop)

    # -- the end ----------------------------------------------------------------------------------------------------

    def remove(self) -> None:
        """An administrator has removed the envelope: it is not begun any more."""
        self.removed = True
        if self.when_removed is not None:
            self.when_removed()

    @contained
    def finish(self, result: AttemptResult) -> None:
        """What the carrier says."""
        if self.over:  # our own code raised after the carrier had taken it
            return
        if result.outcome is Outcome.STALE:
            self._reexpand()
        else:
            before = self.perhaps_delivered
            self._end(conclude.of_attempt(self.envelope, result, self._log_id, perhaps_delivered=before))

    def hold(self, reason: str) -> None:
        """There is something for an administrator to mend."""
        self._finish_unsent(Outcome.FAILED, reason, ours=True)

    def _defer(self, reason: str) -> None:
        self._finish_unsent(Outcome.DEFERRED, reason)

    def _wait_for_key(self, reason: str) -> None:
        """Keys change at a start only, so it does not expire before the next one."""
        now, before = self._conclusions.now(), self.perhaps_delivered
        self._end(conclude.of_missing_key(self.envelope, reason, now, perhaps_delivered=before))

    def _finish_unsent(self, outcome: Outcome, reason: str, *, ours: bool = False) -> None:
        self.finish(AttemptResult(outcome, reason, self._conclusions.now(), sent=False, answered=False, ours=ours))

    @contained
    def end_overdue(self) -> None:
        """Its sender does not want it delivered any more."""
        self._end(conclude.of_overdue(self.envelope, self._conclusions.now()))

    def expand(self) -> None:
        """It is a notice: have lookup say which envelopes take its place."""

        def counted(message: Message | None) -> None:
            if message is not None:
                self.run_guarded(self._reexpand)

        self.count(counted)

    def give_back(self) -> None:
        """It was not made: the destination cannot be reached now.  Nothing of it is left on the disk."""
        self._end(conclude.of_return(self.envelope, counted=self._counted))

    def interrupt(self) -> None:
        """The daemon stops, and no carrier has this.  An attempt that is not counted leaves no trace."""
        if self._counted:
            self._defer("the daemon was stopped")
        self.over = True

    def fault(self, error: BaseException) -> None:
        """Our own code raised."""
        log.trouble(f"envelope {envelope_text(self.envelope.id)}", error)
        if self.over:
            return
        self._end(conclude.of_fault(self.envelope, error, self._conclusions.now()))
        if self._ready is not None:
            self._loop.call_soon(self._ready, None, None)

    def _end(self, conclusion: Conclusion) -> None:
        """Once, whatever becomes of the change."""
        self.over = True
        self._release()
        self._conclusions.conclude(self.envelope.id, conclusion)

    def _release(self) -> None:
        if self._holder is not None:
            self._holder.release()
            self._holder = None

    # -- what it was for is not in the user's .forward any more -------------------------------------------------------

    def _reexpand(self) -> None:
        if self.envelope.recipient.duty is Duty.ALIASED:
            self.hold("the alias file does not name this any more")
        else:
            self._context.reexpansions.ask(self.envelope, self._expanded)

    @contained
    def _expanded(self, imsg: EnvelopeExpanded | EnvelopeNotExpanded) -> None:
        if self.over:  # interrupted
            return
        if isinstance(imsg, EnvelopeNotExpanded):
            self._finish_unsent(Outcome.FAILED if imsg.permanent else Outcome.DEFERRED, imsg.reason)
            return
        if any(recipient.duty in (Duty.READ, Duty.EXPAND) for recipient in imsg.recipients):
            raise Violation(f"lookup expands envelope {envelope_text(self.envelope.id)} to what is no delivery")
        self._context.reexpansions.replace(self.envelope, imsg.recipients, self._replaced)

    @contained
    def _replaced(self, successors: list[Envelope] | None, error: Exception | None) -> None:
        id = self.envelope.id
        if self.over:  # interrupted
            return
        if isinstance(error, TooManySuccessors):
            is_new = self.envelope.recipient.duty is Duty.EXPAND
            self._defer("it leads to too many" if is_new else "the .forward changes faster than mail is delivered")
            return
        if successors is None:
            assert error is not None
            log.trouble(f"envelope {envelope_text(id)}", error)
            self._defer(f"it cannot be expanded again: {type(error).__name__}")
            return
        schedules = [envelope.schedule(*self._context.lane_of(envelope)) for envelope in successors]
        self.over = True
        self._release()
        log.info(f"envelope {envelope_text(id)} expanded again: {len(successors)} in its place")
        self._context.in_flight.tell_replaced(id, schedules)
