"""One try of one envelope: an errand for an agent, and what becomes of it.

    begin --> counted, if suspect --> content fetched --> ready(frame) --> answered | failed
                                                                                    |
    told, once: delivered, deferred, held, replaced  <------------------------------+

    suspect: of another run, or with troubles from earlier attempts

One envelope that makes our own code raise costs that envelope: deferred, and held after the third time.
"""

import asyncio
import math
import os
from collections.abc import Callable
from functools import partial, wraps
from typing import Any, NamedTuple, Protocol

from smtpd import errand as frames
from smtpd.envelope import Duty, Outcome, envelope_text, message_of
from smtpd.errand import Answer, FrameError, Result
from smtpd.imsg import EnvelopeExpanded, EnvelopeNotExpanded
from smtpd.ipc.channel import Violation
from smtpd.ipc.log import log, visible
from smtpd.queue.agents.agent_socket import Ready
from smtpd.queue.delivery import delivery_log, expiry
from smtpd.queue.delivery.reexpansion import Reexpansions, TooManySuccessors
from smtpd.queue.store.disk import Disk
from smtpd.queue.store.spool import ContentDamaged
from smtpd.queue.store.store import Change, CountAttempt, Envelope, Hold, Message, Remove, StoreFull

TROUBLES_MAX = 3  # tries without an end, by our own fault, after which an envelope is held
ERROR_MAX = 512  # characters of an error that are kept


class Ended(NamedTuple):
    """A try that the scheduler will answer with another time, or with the end of all time."""

    last_try: int
    error: str
    perhaps_delivered: bool
    troubles: int
    expired: str = expiry.EXPIRED  # what the end of all time would be


class Tower(Protocol):
    """Who hears of a flight's end."""

    loop: asyncio.AbstractEventLoop
    disk: Disk
    reexpansions: Reexpansions

    def now(self) -> int: ...
    def delivered(self, id: int) -> None: ...
    def deferred(self, id: int, ended: Ended) -> None: ...
    def held(self, id: int) -> None: ...
    def replaced(self, id: int, envelopes: list[Envelope]) -> None: ...


def at_its_own_cost(step: Callable[..., None]) -> Callable[..., None]:
    """Whatever a step of one envelope raises is the end of this try, and of nothing else."""

    @wraps(step)
    def guarded(attempt: "Attempt", *arguments: Any, **named: Any) -> None:
        attempt.run_guarded(step, attempt, *arguments, **named)

    return guarded


def _kept(reason: str) -> str:
    """As much of `reason` as a row may hold, of characters that it may hold."""
    return visible(reason.encode(errors="backslashreplace").decode())[:ERROR_MAX]


class Attempt:
    """One try of one envelope: an errand for an agent."""

    waits_until = math.inf

    def __init__(self, tower: Tower, envelope: Envelope):
        self.number = envelope.id
        self.priority = envelope.terms.priority
        self.deadline = math.inf  # that of the agent's line
        self.envelope = envelope
        self._tower = tower
        self._disk = tower.disk
        self._ready: Ready | None = None  # of the agent that has begun it; there may be another one after that
        self._session = self._lock = 0
        self._counted = False
        self.over = False
        self.removed = False  # by an administrator: not begun any more
        # It may be what has brought us down.  In its line only: whose agent is silent keeps nobody else waiting.
        self.alone = envelope.troubles > 0

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
            self.troubled(error)

    # -- on the way to the agent ----------------------------------------------------------------------------------

    @at_its_own_cost
    def begin(self, agent: int, lock: int, ready: Ready) -> None:
        self._session, self._lock, self._ready = agent, lock, ready
        if self.over:  # our own code raised after it had joined the line
            self._tower.loop.call_soon(ready, None, None)
        elif self._counted or not (self._is_of_another_run or self.envelope.troubles):
            self._fetch(ready)
        elif self.envelope.troubles >= TROUBLES_MAX:
            self._stop(ready, partial(self.held, "a try was begun and never ended, three starts running"))
        else:
            self._counted = True
            self._disk.commits.submit(CountAttempt(self.number), partial(self._begun, ready))

    @at_its_own_cost
    def _begun(self, ready: Ready, error: Exception | None) -> None:
        # A full disk is no reason to wait: deliveries make room.
        if error is not None and not isinstance(error, StoreFull):
            self._stop(ready, partial(self.failed, f"the queue cannot be written: {error}"))
        else:
            self._fetch(ready)

    def _fetch(self, ready: Ready) -> None:
        self._disk.find_message(message_of(self.number), partial(self._found, ready))

    @at_its_own_cost
    def _found(self, ready: Ready, message: Message | None, error: BaseException | None) -> None:
        if self.removed:
            self._stop(ready, self._forget)
        elif isinstance(error, ContentDamaged) or (message is None and error is None):
            self._stop(ready, partial(self.held, str(error or "the content is missing")))
        elif error is not None or message is None:
            self._stop(ready, partial(self.failed, f"the queue cannot be read: {error}"))
        elif message.content is None:
            self._disk.open_content(message, partial(self._opened, ready, message))
        else:
            self._send(ready, message, None)

    @at_its_own_cost
    def _opened(self, ready: Ready, message: Message, descriptor: int | None, error: BaseException | None) -> None:
        if self.removed and error is not None:
            self._stop(ready, self._forget)
        elif isinstance(error, ContentDamaged):
            self._stop(ready, partial(self.held, str(error)))
        elif error is not None:
            self._stop(ready, partial(self.failed, f"the spool cannot be read: {error}"))
        else:
            self._send(ready, message, descriptor)

    def _send(self, ready: Ready, message: Message, descriptor: int | None) -> None:
        try:
            frame = self._frame(message, by_descriptor=descriptor is not None)
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise
        ready(frame, descriptor)

    def _frame(self, message: Message, *, by_descriptor: bool) -> bytes:
        envelope = self.envelope
        deliver = frames.Deliver(
            envelope=envelope.id,
            created=envelope.created,
            size=message.size,
            sender=envelope.origin.sender,
            recipient=envelope.recipient.recipient,
            destination=envelope.recipient.destination,
            extension=envelope.recipient.extension,
            content=message.content or b"",
            by_descriptor=by_descriptor,
            perhaps_delivered=self.perhaps_delivered,
            user=envelope.recipient.user,
            home=envelope.recipient.home,
            digest=envelope.recipient.digest,
            lock=self._lock,
            utf8=envelope.terms.utf8,
        )
        return frames.encode(deliver)

    def _stop(self, ready: Ready, end: Callable[[], None]) -> None:
        """There is nothing to send.  Not in the midst of being begun: the agent's line may be long."""

        def stop() -> None:
            if not self.over and self._ready is ready:  # otherwise the agent went meanwhile, and we were told
                self.run_guarded(end)
                ready(None, None)

        self._tower.loop.call_soon(stop)

    # -- the end ----------------------------------------------------------------------------------------------------

    @at_its_own_cost
    def answered(self, answer: Answer) -> None:
        if not isinstance(answer, Result):
            raise FrameError("no result of a delivery")
        text = _kept(answer.text)
        match answer.outcome:
            case Outcome.DELIVERED:
                self._log(answer.outcome, "Delivered")
                self._end(Remove(self.number), self._tower.delivered)
            case Outcome.DEFERRED:
                self._log(answer.outcome, f"Error ({text})")
                # The agent may not have come to look for an earlier copy: its user's home was not there.
                self._defer(Ended(self._tower.now(), text, self.perhaps_delivered, 0))
            case Outcome.FAILED | Outcome.LOOP:
                looped = answer.outcome is Outcome.LOOP
                self._log(answer.outcome, "Loop detected" if looped else f"Error ({text})")
                self._hold("Loop detected" if looped else text, perhaps_delivered=self.perhaps_delivered)
            case Outcome.STALE:
                self._renew()

    @at_its_own_cost
    def discard(self) -> None:
        """For /dev/null: no agent is needed for that."""
        self._log(Outcome.DELIVERED, "Discarded")
        self._end(Remove(self.number), self._tower.delivered)

    @at_its_own_cost
    def failed(self, reason: str, *, sent: bool = False, permanent: bool = False) -> None:
        """No agent has answered."""
        if self.over:  # our own code raised after it had joined the line
            return
        reason = _kept(reason)
        if permanent:
            self.held(reason)
            return
        self._log(Outcome.DEFERRED, f"Error ({reason})")
        troubles = 0 if sent else self.envelope.troubles  # what no agent had shows nothing of the envelope
        self._defer(Ended(self._tower.now(), reason, sent or self.perhaps_delivered, troubles))

    def _forget(self) -> None:
        """Its row is gone already."""
        self.over = True
        self._disk.cache.forget(self.number)
        self._tower.delivered(self.number)

    def interrupt(self) -> None:
        """The daemon stops, and this is with no agent.  An attempt that is not counted leaves no trace."""
        if self._counted and not self.over:
            self.failed("the daemon was stopped")
        self.over = True

    def held(self, reason: str) -> None:
        """Without an agent's word, but for good."""
        reason = _kept(reason)
        self._log(Outcome.FAILED, f"Error ({reason})")
        self._hold(reason, perhaps_delivered=self.perhaps_delivered)

    def troubled(self, error: BaseException) -> None:
        """Our own code raised."""
        log.trouble(f"envelope {envelope_text(self.number)}", error)
        if self.over:
            return
        troubles = self.envelope.troubles + 1
        reason = f"internal error: {type(error).__name__}"
        if troubles >= TROUBLES_MAX:
            self._hold(reason, perhaps_delivered=True)
        else:
            self._defer(Ended(self._tower.now(), reason, True, troubles))
        if self._ready is not None:
            self._tower.loop.call_soon(self._ready, None, None)

    def _defer(self, ended: Ended) -> None:
        self.over = True
        expired = expiry.why_expired(self.envelope.terms, self.envelope.expires)
        self._tower.deferred(self.number, ended._replace(expired=expired))

    def _hold(self, reason: str, *, perhaps_delivered: bool) -> None:
        hold = Hold(self.number, self._tower.now(), reason, perhaps_delivered)
        self._end(hold, self._tower.held)

    def _end(self, change: Change, tell: Callable[[int], None]) -> None:
        """Delivered or held for good: once, whatever becomes of the commit."""
        self.over = True
        self._disk.cache.forget(self.number)

        def done(error: Exception | None) -> None:
            if error is not None:  # not of the disk: those are tried until they work
                log.trouble(f"envelope {envelope_text(self.number)}", error)
            tell(self.number)

        self._disk.commits.submit(change, done, must_succeed=True)

    def _log(self, outcome: Outcome, stat: str) -> None:
        delivery_log.log_attempt(self.envelope, self._session, outcome, stat, self._tower.now())

    # -- what it was for is not in the user's .forward any more -------------------------------------------------------

    def _renew(self) -> None:
        match self.envelope.recipient.duty:
            case Duty.FORWARDED:
                self._tower.reexpansions.ask(self.envelope, self._renewed)
            case Duty.ALIASED:
                self.held("the alias file does not name this any more")
            case _:
                raise FrameError("stale, and not out of any file")

    @at_its_own_cost
    def _renewed(self, imsg: EnvelopeExpanded | EnvelopeNotExpanded) -> None:
        if self.over:  # interrupted
            return
        if isinstance(imsg, EnvelopeNotExpanded):
            self.failed(imsg.reason, permanent=imsg.permanent)
            return
        self._tower.reexpansions.replace(self.envelope, imsg.recipients, self._replaced)

    @at_its_own_cost
    def _replaced(self, successors: list[Envelope] | None, error: Exception | None) -> None:
        if self.over:  # interrupted
            return
        if isinstance(error, TooManySuccessors):
            self.failed("the .forward changes faster than mail is delivered")
            return
        if successors is None:
            assert error is not None
            log.trouble(f"envelope {envelope_text(self.number)}", error)
            self.failed(f"it cannot be expanded again: {type(error).__name__}")
            return
        self.over = True
        self._disk.cache.forget(self.number)
        log.info(f"envelope {envelope_text(self.number)} expanded again: {len(successors)} in its place")
        self._tower.replaced(self.number, successors)
