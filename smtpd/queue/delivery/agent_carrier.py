"""The carrier of local mail: an attempt becomes an errand for the agent of its recipient.

    attempt --> errand --> queue of the agent --> Deliver --> agent --Result--> AttemptResult --> attempt

Mail to /dev/null is delivered here; mail that no agent is for, by the configuration as it is now, fails.
"""

import os
from collections.abc import Callable

from smtpd import errand as frames
from smtpd.envelope import Duty, Outcome
from smtpd.errand import Answer, FrameError, Result
from smtpd.queue.agents.agent_socket import Errand, Ready
from smtpd.queue.agents.pool import AgentPool
from smtpd.queue.agents.routing import AgentRouting, NoAgent
from smtpd.queue.delivery.attempt import Attempt
from smtpd.queue.delivery.result import AttemptResult
from smtpd.queue.store.store import Message

LOOP_DETECTED = "Loop detected"


class AgentCarrier:
    """`now` is the time of the wall clock."""

    def __init__(self, agents: AgentPool, routing: AgentRouting, now: Callable[[], int]):
        self._agents, self._routing, self._now = agents, routing, now

    def carry(self, attempt: Attempt) -> None:
        recipient = attempt.envelope.recipient
        if recipient.duty is Duty.DISCARD:
            attempt.finish(AttemptResult(Outcome.DELIVERED, "Discarded", self._now()))
            return
        try:
            key = self._routing.get_key(recipient)
        except NoAgent as error:
            attempt.hold(str(error))
            return
        self._agents.give(key, _Delivery(attempt, self._routing.limits(key).deadline, self._now))


class _Delivery(Errand):
    """One attempt, as an errand for an agent."""

    def __init__(self, attempt: Attempt, deadline: float, now: Callable[[], int]):
        self.envelope = attempt.envelope
        self.number, self.deadline = self.envelope.id, deadline
        self.priority = self.envelope.terms.priority
        # It may be what has brought us down.  Alone in the queue of its agent only: one that is silent keeps no other
        # agent waiting.
        self.alone = attempt.is_suspect
        self._attempt, self._now = attempt, now
        self._lock = 0

    @property
    def over(self) -> bool:  # type: ignore[override]
        return self._attempt.over

    def begin(self, log_id: int, lock: int, ready: Ready) -> None:
        self._lock = lock

        def prepared(message: Message | None, descriptor: int | None) -> None:
            self._send(ready, message, descriptor)

        self._attempt.prepare(log_id, prepared)

    def _send(self, ready: Ready, message: Message | None, descriptor: int | None) -> None:
        if message is None:
            ready(None, None)
            return
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
            perhaps_delivered=self._attempt.perhaps_delivered,
            user=envelope.recipient.user,
            home=envelope.recipient.home,
            digest=envelope.recipient.digest,
            lock=self._lock,
            utf8=envelope.terms.utf8,
        )
        return frames.encode(deliver)

    def answered(self, answer: Answer) -> None:
        if not isinstance(answer, Result):
            raise FrameError("no result of a delivery")
        outcome, text = answer.outcome, answer.text
        if outcome is Outcome.STALE and self.envelope.recipient.duty not in (Duty.FORWARDED, Duty.ALIASED):
            raise FrameError("stale, and not out of any file")
        if outcome is Outcome.DELIVERED:
            text = "Delivered"
        elif outcome is Outcome.LOOP:
            text = LOOP_DETECTED
        self._attempt.finish(AttemptResult(outcome, text, self._now()))

    def failed(self, reason: str, *, sent: bool = False, permanent: bool = False) -> None:
        outcome = Outcome.FAILED if permanent else Outcome.DEFERRED
        result = AttemptResult(outcome, reason, self._now(), sent=sent, answered=False)
        self._attempt.finish(result)
