"""The carrier of relayed mail: attempts become messages for the dispatcher that has their destination.

    attempts of one turn of the loop --by message, destination, sender--> counted --> RelayMessage --> dispatcher
    dispatcher --FetchContent--> the content      RelayTried, ReturnRecipients --> each attempt has its end

Small content goes with RelayMessage, as long as a dispatcher has not more than CONTENT_AHEAD_MAX of attempts that it
has not answered: to slow hosts it goes when a connection asks for it, as large content does.  When an envelope is
removed meanwhile, WithdrawRecipient has the dispatcher leave it out, unless the message is being sent.

A message has at most RECIPIENTS_MAX recipients, and ADDRESS_BYTES_MAX of their addresses.  An envelope that is suspect
goes alone.  What can be under way is bounded by what the scheduler gives at a time.

A dispatcher may be in the hands of an attacker.  It gets the content of a message while it has an attempt of it, and
its word counts for the envelopes of that attempt, once each; anything else is a Violation.  It may say that a message
was delivered that was not, and delay its own destinations.
"""

import asyncio
import os
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from smtpd.envelope import RECIPIENTS_MAX, Outcome, RelayRecipient, RelayResult, envelope_text, message_of
from smtpd.imsg import (
    ContentFetched,
    ContentFileFetched,
    ContentNotFetched,
    DelayDestination,
    DestinationDelayed,
    DestinationResumed,
    FetchContent,
    RelayMessage,
    RelayTried,
    ResumeDestination,
    ReturnRecipients,
    TryDestination,
    TryDestinations,
    WithdrawRecipient,
)
from smtpd.ipc.channel import Channel, Violation
from smtpd.queue.delivery.attempt import Attempt
from smtpd.queue.delivery.destination import Delays, Destination, Numbers
from smtpd.queue.delivery.result import AttemptResult
from smtpd.queue.store.decoded_content import ContentHolder
from smtpd.queue.store.store import Envelope, Message
from smtpd.slice import Method, QueueSlice

ADDRESS_BYTES_MAX = 32 * 1024  # bytes of the addresses in one RelayMessage
CONTENT_AHEAD_MAX = 8 * 1024 * 1024  # bytes of content that a dispatcher has before it asks for it
OVER_KEPT = 4096  # attempts that queue has ended, whose dispatcher may not know it yet
# What a dispatcher has asked for and not read: with more of it, its next FetchContent waits.
UNREAD_BYTES_MAX = 16 * 1024 * 1024
UNREAD_DESCRIPTORS_MAX = 128
UNREAD_PAUSE = 0.05  # seconds until that is looked at again
RESULTS = frozenset({Outcome.DELIVERED, Outcome.DEFERRED, Outcome.FAILED, Outcome.LOOP})

GroupKey = tuple[int, Destination, str, int]  # message, destination, sender; of a suspect, its envelope


class _Group:
    """The attempts of one RelayMessage, by envelope; less those that the dispatcher has answered."""

    __slots__ = ("ahead", "attempts", "destination", "fetching", "holder", "number", "owner", "paused", "request")

    def __init__(self, number: int, destination: Destination, owner: int, attempts: Sequence[Attempt]):
        self.number, self.destination, self.owner = number, destination, owner
        self.attempts = {attempt.envelope.id: attempt for attempt in attempts}
        self.fetching: Attempt | None = None  # the one that gets the content
        self.request = 0  # of the FetchContent under way, or the last one
        self.paused = False  # that waits until the dispatcher has read more
        self.ahead = 0  # bytes of content that the dispatcher has without having asked
        self.holder = ContentHolder(f"dispatcher {owner}")  # until all are answered: it may send to several hosts


class RelayCarrier:
    """`now` is the time of the wall clock; `dispatchers` in the order of their numbers."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        configuration: QueueSlice,
        numbers: Numbers,
        delays: Delays,
        dispatchers: Sequence[Channel],
        scheduler: Channel,
        now: Callable[[], int],
    ):
        self._loop, self._numbers, self._delays, self._now = loop, numbers, delays, now
        self._actions = {action.name for action in configuration.actions if action.method is Method.RELAY}
        self._dispatchers, self._scheduler = dispatchers, scheduler
        self._collected: defaultdict[GroupKey, list[Attempt]] = defaultdict(list)
        self._groups: dict[int, _Group] = {}
        self._of_destination: defaultdict[int, int] = defaultdict(int)  # number -> groups under way
        self._ahead: defaultdict[int, int] = defaultdict(int)  # number of a dispatcher -> bytes of content
        self._over: OrderedDict[int, int] = OrderedDict()  # attempt that queue has ended -> its dispatcher
        self._next = 0

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def results_may_come(self) -> bool:
        """A dispatcher that has attempts is there, or what it said before its end is not read yet."""
        return any(not self._owner(group.destination.number).closed for group in self._groups.values())

    # -- from the scheduler to a dispatcher -------------------------------------------------------------------------

    def carry(self, attempt: Attempt) -> None:
        envelope = attempt.envelope
        recipient = envelope.recipient
        if recipient.action not in self._actions or not self._dispatchers:
            attempt.hold(f'the configuration has no relay action "{recipient.action}"')
            return
        destination = self._numbers.destination(recipient.action, recipient.destination)
        if not self._collected:
            self._loop.call_soon(self._give_collected)
        alone = envelope.id if attempt.is_suspect else 0
        sender = recipient.sender or envelope.origin.sender
        self._collected[message_of(envelope.id), destination, sender, alone].append(attempt)

    def _give_collected(self) -> None:
        collected, self._collected = self._collected, defaultdict(list)
        for (_, destination, sender, _), attempts in collected.items():
            for some in _portions(attempts):
                _Counting(some, partial(self._give, destination, sender))

    def _give(self, destination: Destination, sender: str, attempts: Sequence[Attempt], message: Message) -> None:
        """All of them are counted."""
        first = attempts[0].envelope
        owner = self._owner(destination.number)
        content = message.content or b""
        if self._ahead[owner.number] + len(content) > CONTENT_AHEAD_MAX:
            content = b""
        self._next += 1
        imsg = RelayMessage(
            attempt=self._next,
            message=message_of(first.id),
            destination=destination.number,
            action=destination.action,
            domain=destination.domain,
            sender=sender,
            terms=first.terms,
            created=first.created,
            size=message.size,
            recipients=[_recipient(attempt.envelope) for attempt in attempts],
            content=content,
        )
        owner.send(imsg)
        group = self._groups[self._next] = _Group(self._next, destination, owner.number, attempts)
        if content:
            group.ahead = len(content)
            self._ahead[group.owner] += group.ahead
        for attempt in attempts:
            attempt.when_removed = partial(self._withdraw, group, attempt.envelope.id)
        self._of_destination[destination.number] += 1
        self._delays.resume(destination.number)  # otherwise the scheduler would not have given it

    def _owner(self, destination: int) -> Channel:
        return self._dispatchers[destination % len(self._dispatchers)]

    def _withdraw(self, group: _Group, envelope: int) -> None:
        """It is removed, or over, and may wait in the dispatcher beside others of its message."""
        if envelope in group.attempts and group.number in self._groups:
            self._owner(group.destination.number).send(WithdrawRecipient(group.number, envelope))

    # -- the content ------------------------------------------------------------------------------------------------

    def _end_ahead(self, group: _Group) -> None:
        self._ahead[group.owner] -= group.ahead
        group.ahead = 0

    def fetch(self, channel: Channel, imsg: FetchContent) -> None:
        if self._is_over(channel, imsg.attempt):
            channel.send(ContentNotFetched(imsg.request))
            return
        group = self._get(channel, imsg.attempt)
        if group.fetching is not None or group.paused:
            raise Violation(
                f"dispatcher {channel.number} fetches the content of attempt {imsg.attempt} twice at a time"
            )
        group.request, group.paused = imsg.request, True
        self._fetch_when_read(group, channel)

    def _fetch_when_read(self, group: _Group, channel: Channel) -> None:
        """Content waits here, and open files with it, only as far as a dispatcher reads it."""
        if channel.bytes_waiting > UNREAD_BYTES_MAX or channel.descriptors_waiting > UNREAD_DESCRIPTORS_MAX:
            self._loop.call_later(UNREAD_PAUSE, self._fetch_when_read, group, channel)
        else:
            group.paused = False
            self._fetch(group, channel)

    def _fetch(self, group: _Group, channel: Channel) -> None:
        """By the first attempt that is not over.  When it comes to its end meanwhile, it is the next one's turn: as the
        content cannot be read, or the dispatcher has answered for it."""
        attempt = next((attempt for attempt in group.attempts.values() if not attempt.over), None)
        group.fetching = attempt
        if attempt is not None:
            fetched = partial(self._fetched, group, attempt, channel)
            attempt.prepare(group.number, fetched, holder=group.holder)
            return
        channel.send(ContentNotFetched(group.request))
        if group.attempts:
            self._end(group)
            self._over[group.number] = group.owner
            if len(self._over) > OVER_KEPT:
                self._over.popitem(last=False)

    def _fetched(
        self, group: _Group, attempt: Attempt, channel: Channel, message: Message | None, descriptor: int | None
    ) -> None:
        if group.fetching is not attempt:  # it has come to its end before
            if descriptor is not None:
                os.close(descriptor)
        elif message is None:
            self._fetch(group, channel)
        else:
            group.fetching = None
            for other in group.attempts.values():
                if other.over:  # our own code raised: it has another try, and is not to be sent beside that
                    self._withdraw(group, other.envelope.id)
            if descriptor is not None:
                channel.send(ContentFileFetched(group.request), descriptor)
            else:
                channel.send(ContentFetched(group.request, message.content or b""))

    # -- what a dispatcher says -------------------------------------------------------------------------------------

    def tried(self, channel: Channel, imsg: RelayTried) -> None:
        if self._is_over(channel, imsg.attempt):
            return
        group = self._get(channel, imsg.attempt)
        for result in imsg.results:
            attempt = self._answered(channel, group, result.envelope)
            if result.outcome not in RESULTS or 0 < result.code < 200:
                raise Violation(
                    f"dispatcher {channel.number} reports what cannot be of {envelope_text(result.envelope)}"
                )
            attempt.finish(self._result(result))
        self._go_on(group, channel)

    def give_back(self, channel: Channel, imsg: ReturnRecipients) -> None:
        if self._is_over(channel, imsg.attempt):
            return
        group = self._get(channel, imsg.attempt)
        for envelope in imsg.envelopes:
            attempt = self._answered(channel, group, envelope)
            if not attempt.over:
                attempt.give_back()
        self._go_on(group, channel)

    def _is_over(self, channel: Channel, attempt: int) -> bool:
        return self._over.get(attempt) == channel.number

    def _get(self, channel: Channel, attempt: int) -> _Group:
        group = self._groups.get(attempt)
        if group is None or group.owner != channel.number:
            raise Violation(f"dispatcher {channel.number} speaks of attempt {attempt}, which it does not have")
        return group

    def _answered(self, channel: Channel, group: _Group, envelope: int) -> Attempt:
        attempt = group.attempts.pop(envelope, None)
        if attempt is None:
            what = f"{envelope_text(envelope)}, which attempt {group.number} does not have"
            raise Violation(f"dispatcher {channel.number} answers for envelope {what}")
        return attempt

    def _go_on(self, group: _Group, channel: Channel) -> None:
        """With those that are not answered."""
        if not group.attempts:
            self._end(group)
        if group.fetching is not None and group.fetching.envelope.id not in group.attempts:
            self._fetch(group, channel)

    def _end(self, group: _Group) -> None:
        del self._groups[group.number]
        self._end_ahead(group)
        group.holder.release()
        number = group.destination.number
        self._of_destination[number] -= 1
        if not self._of_destination[number]:
            del self._of_destination[number]

    def _result(self, result: RelayResult) -> AttemptResult:
        return AttemptResult(
            result.outcome,
            result.text,
            self._now(),
            code=result.code,
            enhanced=result.enhanced,
            remote=result.remote,
            answered=not result.uncertain,
            logged=True,
        )

    # -- destinations -----------------------------------------------------------------------------------------------

    def delay(self, channel: Channel, imsg: DelayDestination) -> None:
        self._check_owner(channel, imsg.destination)
        if imsg.destination in self._of_destination or self._delays.find_reason(imsg.destination):
            self._delays.delay(imsg.destination, imsg.seconds, imsg.reason or "it cannot be reached")
            self._scheduler.send(DestinationDelayed(imsg.destination, imsg.seconds))

    def resume(self, channel: Channel, imsg: ResumeDestination) -> None:
        self._check_owner(channel, imsg.destination)
        if self._delays.find_reason(imsg.destination):
            self._delays.resume(imsg.destination)
            self._scheduler.send(DestinationResumed(imsg.destination))

    def try_destinations(self, imsg: TryDestinations) -> None:
        """An administrator has scheduled mail for them."""
        for destination in imsg.destinations:
            self._owner(destination).send(TryDestination(destination))

    def _check_owner(self, channel: Channel, destination: int) -> None:
        if self._owner(destination) is not channel:
            raise Violation(f"dispatcher {channel.number} speaks of a destination that it does not have")


class _Counting:
    """Attempts that are to go together, while they are counted on the disk, as far as they have to be."""

    def __init__(self, attempts: Sequence[Attempt], give: Callable[[Sequence[Attempt], Message], None]):
        self._attempts, self._give = attempts, give
        self._left = len(attempts)
        self._message: Message | None = None
        for attempt in attempts:
            attempt.count(self._counted)

    def _counted(self, message: Message | None) -> None:
        """Of one of them; None: it is over."""
        self._left -= 1
        self._message = self._message or message
        if not self._left:
            ready = [attempt for attempt in self._attempts if not attempt.over]
            if ready and self._message is not None:
                self._give_all(ready, self._message)

    def _give_all(self, ready: Sequence[Attempt], message: Message) -> None:
        """They go together, so what our own code raises is the end of each of them: none waits for an answer to what
        the dispatcher was never given."""
        try:
            self._give(ready, message)
        except Violation:
            raise
        except Exception as error:  # noqa: BLE001  (the envelopes of one RelayMessage, rule R8)
            for attempt in ready:
                attempt.fault(error)


def _portions(attempts: Iterable[Attempt]) -> Iterator[list[Attempt]]:
    """So many as go into one RelayMessage, of at least one."""
    portion: list[Attempt] = []
    room = ADDRESS_BYTES_MAX
    for attempt in attempts:
        recipient = attempt.envelope.recipient
        size = sum(len(text.encode()) for text in (recipient.recipient, recipient.destination, recipient.original))
        if portion and (len(portion) == RECIPIENTS_MAX or size > room):
            yield portion
            portion, room = [], ADDRESS_BYTES_MAX
        portion.append(attempt)
        room -= size
    yield portion


def _recipient(envelope: Envelope) -> RelayRecipient:
    to = envelope.recipient
    return RelayRecipient(envelope.id, to.destination, to.recipient, to.notify, to.original)
