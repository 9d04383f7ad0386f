"""Envelopes that are due, and what became of them.

    EnvelopesDue --> loaded --> in the line of an agent --> with it --> its result --> committed --> EnvelopesTried

    result                        on the disk                        told
    delivered                     the row is removed                 delivered, when that is durable
    deferred                      nothing; the scheduler's answer    deferred, at once
                                  (Postpone, Expire) is written
    failed, a loop, damaged,      held, with the reason              held, when that is durable
    an action that is gone

An envelope of another run of the daemon, or one whose last agent was lost with it, is perhaps delivered: its agent
looks first.  The first try of one of another run is counted on the disk before it begins, so that an envelope that
brings us down is held after the third start.  One that was counted already is tried alone in its line, so that its
neighbours are not blamed with it; and the third time not before the daemon has stood for a while, as ends that come
quickly one after the other may have another cause.

One envelope that makes our own code raise costs that envelope: deferred, and held after the third time.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial, wraps
from itertools import batched
from typing import Any, NamedTuple

from smtpd.envelope import Kind, Outcome, envelope_text, message_of
from smtpd.imsg import DeleteEnvelopes, EnvelopesDue, EnvelopesTried, ExpireEnvelopes, MarkSuspended, PostponeEnvelopes
from smtpd.ipc import errand as frames
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.errand import ForwardText, Malformed, Result
from smtpd.ipc.log import log, quoted, visible
from smtpd.queue.agents import Agents, Ready
from smtpd.queue.disk import Disk
from smtpd.queue.places import Key
from smtpd.queue.spool import Damaged
from smtpd.queue.store import (
    PAGE,
    Begin,
    Change,
    Envelope,
    Full,
    Hold,
    Message,
    Postpone,
    Remove,
    Reschedule,
    SetAside,
    Suspend,
    Unreadable,
)

DEADLINE = 300.0  # seconds that an agent has for one mail
TROUBLES = 3  # tries without an end, by our own fault, after which an envelope is held
CALM = 5.0  # seconds from the start until an envelope has the last one of them
TOLD = 4096  # results in one imsg
ERROR_MAX = 512  # characters of an error that are kept

RESULTS = {Outcome.DELIVERED: "Ok", Outcome.DEFERRED: "TempFail", Outcome.FAILED: "PermFail", Outcome.LOOP: "PermFail"}


class Ended(NamedTuple):
    """A try that the scheduler will answer with another time, or with the end of all time."""

    last_try: int
    error: str
    perhaps_delivered: bool
    troubles: int


def at_its_own_cost(step: Callable[..., None]) -> Callable[..., None]:
    """Whatever a step of one envelope raises is the end of this try, and of nothing else."""

    @wraps(step)
    def guarded(flight: "Flight", *arguments: Any, **named: Any) -> None:
        try:
            step(flight, *arguments, **named)
        except (Violation, Malformed):
            raise
        except Exception as error:  # noqa: BLE001  (rule R8: the one place around one envelope)
            flight.troubled(error)

    return guarded


class Flight:
    """One try of one envelope: an errand for an agent."""

    deadline = DEADLINE
    waits_until = math.inf

    def __init__(self, deliveries: "Deliveries", envelope: Envelope):
        self.number = envelope.id
        self.envelope = envelope
        self._deliveries = deliveries
        self._disk = deliveries.disk
        self._ready: Ready | None = None  # of the agent that has begun it; there may be another one after that
        self._session = 0
        self._counted = False
        self._over = False
        # It may be what has brought us down.  In its line only: whose agent is silent keeps nobody else waiting.
        self.alone = self._is_of_another_run and envelope.troubles > 0

    @property
    def perhaps_delivered(self) -> bool:
        return self.envelope.perhaps_delivered or self._is_of_another_run

    @property
    def _is_of_another_run(self) -> bool:
        return self.envelope.run != self._disk.store.run

    # -- on the way to the agent ----------------------------------------------------------------------------------

    @at_its_own_cost
    def begin(self, agent: int, ready: Ready) -> None:
        self._session, self._ready = agent, ready
        if self._counted or not self._is_of_another_run:
            self._fetch(ready)
        elif self.envelope.troubles >= TROUBLES:
            self._stop(ready, partial(self.held, "a try was begun and never ended, three starts running"))
        else:
            self._counted = True
            self._disk.commits.submit(Begin(self.number), partial(self._begun, ready))

    @at_its_own_cost
    def _begun(self, ready: Ready, error: Exception | None) -> None:
        # A full disk is no reason to wait: deliveries make room.
        if error is not None and not isinstance(error, Full):
            self._stop(ready, partial(self.failed, f"the queue cannot be written: {error}"))
        else:
            self._fetch(ready)

    def _fetch(self, ready: Ready) -> None:
        self._disk.find_message(message_of(self.number), partial(self._found, ready))

    @at_its_own_cost
    def _found(self, ready: Ready, message: Message | None, error: BaseException | None) -> None:
        if isinstance(error, Damaged) or (message is None and error is None):
            self._stop(ready, partial(self.held, str(error or "the content is missing")))
        elif error is not None or message is None:
            self._stop(ready, partial(self.failed, f"the queue cannot be read: {error}"))
        elif message.content is None:
            self._disk.open_content(message, partial(self._opened, ready, message))
        else:
            self._send(ready, message, None)

    @at_its_own_cost
    def _opened(self, ready: Ready, message: Message, descriptor: int | None, error: BaseException | None) -> None:
        if isinstance(error, Damaged):
            self._stop(ready, partial(self.held, str(error)))
        elif error is not None:
            self._stop(ready, partial(self.failed, f"the spool cannot be read: {error}"))
        else:
            self._send(ready, message, descriptor)

    def _send(self, ready: Ready, message: Message, descriptor: int | None) -> None:
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
            by_descriptor=descriptor is not None,
            perhaps_delivered=self.perhaps_delivered,
        )
        ready(frames.encode(deliver), descriptor)

    def _stop(self, ready: Ready, end: Callable[[], None]) -> None:
        """There is nothing to send.  Not in the midst of being begun: the agent's line may be long."""

        def stop() -> None:
            if not self._over and self._ready is ready:  # otherwise the agent went meanwhile, and we were told
                end()
                ready(None, None)

        self._deliveries.loop.call_soon(stop)

    # -- the end ----------------------------------------------------------------------------------------------------

    @at_its_own_cost
    def answered(self, answer: Result | ForwardText) -> None:
        if not isinstance(answer, Result):
            raise Malformed("a .forward instead of a result")
        text = visible(answer.text)[:ERROR_MAX]
        match answer.outcome:
            case Outcome.DELIVERED:
                self._log(answer.outcome, "Delivered")
                self._end(Remove(self.number), self._deliveries.delivered)
            case Outcome.DEFERRED:
                self._log(answer.outcome, f"Error ({text})")
                self._defer(Ended(self._deliveries.now(), text, False, 0))
            case Outcome.FAILED | Outcome.LOOP:
                looped = answer.outcome is Outcome.LOOP
                self._log(answer.outcome, "Loop detected" if looped else f"Error ({text})")
                self._hold("Loop detected" if looped else text, perhaps_delivered=False)

    @at_its_own_cost
    def failed(self, reason: str, *, sent: bool = False, permanent: bool = False) -> None:
        """No agent has answered."""
        reason = visible(reason)[:ERROR_MAX]
        if permanent:
            self.held(reason)
            return
        self._log(Outcome.DEFERRED, f"Error ({reason})")
        troubles = self.envelope.troubles if self._is_of_another_run else 0
        self._defer(Ended(self._deliveries.now(), reason, sent or self.perhaps_delivered, troubles))

    def held(self, reason: str) -> None:
        """Without an agent's word, but for good."""
        self._log(Outcome.FAILED, f"Error ({reason})")
        self._hold(reason, perhaps_delivered=self.perhaps_delivered)

    def troubled(self, error: BaseException) -> None:
        """Our own code raised."""
        log.trouble(f"envelope {envelope_text(self.number)}", error)
        if self._over:
            return
        troubles = self.envelope.troubles + 1
        reason = f"internal error: {type(error).__name__}"
        if troubles >= TROUBLES:
            self._hold(reason, perhaps_delivered=True)
        else:
            self._defer(Ended(self._deliveries.now(), reason, True, troubles))
        if self._ready is not None:
            self._deliveries.loop.call_soon(self._ready, None, None)

    def _defer(self, ended: Ended) -> None:
        self._over = True
        self._deliveries.deferred(self.number, ended)

    def _hold(self, reason: str, *, perhaps_delivered: bool) -> None:
        hold = Hold(self.number, self._deliveries.now(), reason[:ERROR_MAX], perhaps_delivered)
        self._end(hold, self._deliveries.held)

    def _end(self, change: Change, tell: Callable[[int], None]) -> None:
        """Delivered or held for good: once, whatever becomes of the commit."""
        self._over = True
        self._disk.cache.forget(self.number)

        def done(error: Exception | None) -> None:
            if error is not None:  # not of the disk: those are tried until they work
                log.trouble(f"envelope {envelope_text(self.number)}", error)
            tell(self.number)

        self._disk.commits.submit(change, done, lasting=True)

    def _log(self, outcome: Outcome, stat: str) -> None:
        envelope = self.envelope
        recipient = envelope.recipient
        named = "-" if recipient.recipient == recipient.destination else recipient.recipient
        log.line(
            f"{self._session:016x} mda delivery evpid={envelope_text(envelope.id)} from=<{envelope.origin.sender}>"
            f" to=<{recipient.destination}> rcpt=<{named}> user={recipient.user}"
            f" delay={duration(self._deliveries.now() - envelope.created)} result={RESULTS[outcome]}"
            f" stat={stat if stat.isalnum() else quoted(stat)}"
        )


class Deliveries:
    """All tries under way.  `actions` are the names of those that the configuration has."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        disk: Disk,
        agents: Agents,
        scheduler: Channel,
        actions: Iterable[str],
        statistics: Counter[str],
        now: Callable[[], float] = time.time,
    ):
        self.loop, self.disk, self._agents = loop, disk, agents
        self._scheduler, self._actions, self._statistics, self._now = scheduler, frozenset(actions), statistics, now
        self._calm_at = loop.time() + CALM
        self._flights: set[int] = set()
        self._ended: dict[int, Ended] = {}  # told as deferred; the scheduler's answer is on its way
        self._told = EnvelopesTried([], [], [])
        self._telling = False

    def now(self) -> int:
        return int(self._now())

    def __contains__(self, envelope: object) -> bool:
        return envelope in self._flights

    def __len__(self) -> int:
        return len(self._flights)

    # -- what is due ------------------------------------------------------------------------------------------------

    def due(self, imsg: EnvelopesDue) -> None:
        unknown: list[int] = []
        for id in imsg.envelopes:
            if id in self._flights:
                raise Violation(f"the scheduler wants envelope {envelope_text(id)} tried twice at a time")
            self._flights.add(id)
            envelope = self.disk.cache.maybe_envelope(id)
            if envelope is None:
                unknown.append(id)
            else:
                self._take_off(envelope)
        for key, count in (("hit", len(imsg.envelopes) - len(unknown)), ("missed", len(unknown))):
            if count:
                self._statistics[f"queue.evpcache.load.{key}"] += count
        self._load(unknown, self._take_off, self._cannot_load)

    def _load(
        self,
        ids: list[int],
        use: Callable[[Envelope], None],
        cannot: Callable[[list[int], BaseException], None],
    ) -> None:
        """Call `use` for each of `ids` that exists; those that do not are gone, those that make no sense set aside."""
        for at in range(0, len(ids), PAGE):
            page = ids[at : at + PAGE]
            self.disk.read(partial(self.disk.store.load, page), partial(self._loaded, page, use, cannot))

    def _loaded(
        self,
        page: list[int],
        use: Callable[[Envelope], None],
        cannot: Callable[[list[int], BaseException], None],
        rows: list[Envelope | Unreadable] | None,
        error: BaseException | None,
    ) -> None:
        if rows is None:
            assert error is not None
            cannot(page, error)
            return
        for row in rows:
            if isinstance(row, Unreadable):
                self.set_aside(row)
            else:
                use(row)
        for id in {*page}.difference(row.id for row in rows):
            if id in self._flights:
                self.delivered(id)

    def _cannot_load(self, page: list[int], error: BaseException) -> None:
        log.warn(f"{len(page)} envelopes cannot be read: {error}")
        for id in page:
            self.deferred(id, Ended(self.now(), f"the queue cannot be read: {error}"[:ERROR_MAX], True, 0))

    def set_aside(self, row: Unreadable) -> None:
        """A row that makes no sense stops nobody; an administrator finds it in the quarantine."""
        log.warn(f"envelope {envelope_text(row.id)} cannot be read and is set aside: {row.reason}")
        change = SetAside(row.id, self.now(), visible(row.reason)[:ERROR_MAX])
        self.disk.commits.submit(change, partial(self._set_aside, row.id), lasting=True)

    def _set_aside(self, id: int, error: Exception | None) -> None:
        if error is not None:
            log.trouble(f"envelope {envelope_text(id)}", error)
        if id in self._flights:
            self.held(id)

    def _take_off(self, envelope: Envelope) -> None:
        flight = Flight(self, envelope)
        recipient = envelope.recipient
        if recipient.kind is not Kind.MDA:
            flight.held("relaying is not available")
        elif recipient.action not in self._actions:
            flight.held(f'the configuration has no action "{recipient.action}"')
        else:
            self._give(Key(recipient.user, recipient.action), flight)

    def _give(self, key: Key, flight: Flight) -> None:
        wait = self._calm_at - self.loop.time()
        if flight.alone and flight.envelope.troubles == TROUBLES - 1 and wait > 0:
            self.loop.call_later(wait, self._agents.give, key, flight)
        else:
            self._agents.give(key, flight)

    # -- what became of it ------------------------------------------------------------------------------------------

    def delivered(self, id: int) -> None:
        self._tell(id, self._told.delivered)

    def deferred(self, id: int, ended: Ended) -> None:
        self.disk.cache.forget(id)
        self._ended[id] = ended
        self._tell(id, self._told.deferred)

    def held(self, id: int) -> None:
        self._tell(id, self._told.held)

    def _tell(self, id: int, result: list[int]) -> None:
        self._flights.remove(id)
        result.append(id)
        if not self._telling:
            self._telling = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        """Everything that this turn of the loop has ended."""
        told, self._told = self._told, EnvelopesTried([], [], [])
        self._telling = False
        if len(told.delivered) + len(told.deferred) + len(told.held) <= TOLD:
            self._scheduler.send(told)
            return
        for ids in batched(told.delivered, TOLD):
            self._scheduler.send(EnvelopesTried([*ids], [], []))
        for ids in batched(told.deferred, TOLD):
            self._scheduler.send(EnvelopesTried([], [*ids], []))
        for ids in batched(told.held, TOLD):
            self._scheduler.send(EnvelopesTried([], [], [*ids]))

    # -- what the scheduler makes of it, and what an administrator wants --------------------------------------------

    def postpone(self, imsg: PostponeEnvelopes) -> None:
        for id, next_try in imsg.tries:
            ended = self._ended.pop(id, None)
            if ended is None:
                self._change(Reschedule(id, next_try))
            else:
                self._change(
                    Postpone(id, next_try, ended.last_try, ended.error, ended.perhaps_delivered, ended.troubles)
                )

    def suspend(self, imsg: MarkSuspended) -> None:
        for id in imsg.envelopes:
            self._change(Suspend(id, imsg.suspended))

    def expire(self, imsg: ExpireEnvelopes) -> None:
        """Without bounces, what nobody could be told is kept for the administrator."""
        for id in imsg.envelopes:
            ended = self._ended.pop(id, None)
            if ended is None:
                hold = Hold(id, 0, "Expired", True)
            else:
                hold = Hold(id, ended.last_try, f"Expired: {ended.error}"[:ERROR_MAX], ended.perhaps_delivered)
            self._load([id], partial(_log_end, self.now(), "Expire", hold.error), _cannot_log)
            self._change(hold)

    def delete(self, imsg: DeleteEnvelopes) -> None:
        log_end = partial(_log_end, self.now(), "Remove", "Removed by administrator")
        for at in range(0, len(imsg.envelopes), PAGE):
            page = imsg.envelopes[at : at + PAGE]
            rows = partial(self.disk.store.load, page)
            self.disk.read(rows, partial(self._delete, page, log_end))

    def _delete(self, page: list[int], log_end: Callable[[Envelope], None], rows: Any, _error: Any) -> None:
        for row in rows or ():
            if isinstance(row, Envelope):
                log_end(row)
        for id in page:
            self._ended.pop(id, None)
            self._change(Remove(id))

    def _change(self, change: Postpone | Reschedule | Hold | Suspend | Remove) -> None:
        self.disk.cache.forget(change.envelope)
        self.disk.commits.submit(change, partial(_changed, change.envelope), lasting=True)


def _changed(id: int, error: Exception | None) -> None:
    if error is not None:
        log.trouble(f"envelope {envelope_text(id)}", error)


def _cannot_log(page: list[int], error: BaseException) -> None:
    log.warn(f"{len(page)} envelopes cannot be read: {error}")


def _log_end(now: int, what: str, stat: str, envelope: Envelope) -> None:
    recipient = envelope.recipient
    named = "-" if recipient.recipient == recipient.destination else recipient.recipient
    log.info(
        f"delivery: {what} for {envelope_text(envelope.id)}: from=<{envelope.origin.sender}>,"
        f" to=<{recipient.destination}>, rcpt=<{named}>, delay={duration(now - envelope.created)}, stat={stat}"
    )


def duration(seconds: int) -> str:
    """0s, 39s, 5m57s, 1d2h3m4s."""
    text = ""
    rest = max(0, seconds)
    for letter, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if rest >= length:
            text += f"{rest // length}{letter}"
        rest %= length
    return text or "0s"
