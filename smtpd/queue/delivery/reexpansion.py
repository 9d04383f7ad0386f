"""Expands an envelope again whose command or file is not in the user's .forward any more; and a notice, which is new.

    Outcome.STALE, notice --> ExpandEnvelope --> lookup --> EnvelopeNotExpanded --> deferred, or held with the reason
                                               --> EnvelopeExpanded --> less what the message's other envelopes are for,
                                                   or were for when they were delivered --> one commit: these in the
                                                   place of this one; or it is removed, when there is nothing new

The new envelopes are of the same message, with its sender, age and end.  Their counters are drawn from the upper half,
where none has ever been: an id stands in the names of files in Maildirs, and no two of a message may share one.

What the others are and were for stands on the disk (`Store.expanded`), as long as the message is there.  An envelope
that was replaced undelivered is not among them: a user who puts an earlier command back gets it run.

Several envelopes of a message may be stale at once, as a user who has changed one line has changed them all: they are
replaced one after the other.  And a user who changes the file faster than mail is delivered does not make many of one:
at most SUCCESSORS_MAX for each message, whether they are there at once or one after the other.
"""

import secrets
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from smtpd.envelope import COUNTER_MAX, Duty, Recipient, envelope_text, first_envelope, message_of
from smtpd.imsg import EnvelopeExpanded, EnvelopeNotExpanded, ExpandEnvelope
from smtpd.ipc.log import log
from smtpd.ipc.request_window import RequestWindow
from smtpd.queue.delivery.conclude import Conclusion
from smtpd.queue.store.disk import Disk
from smtpd.queue.store.store import Envelope, Remove, Replace, UnreadableRow, recipient_key, untried

QUESTIONS_MAX = 64  # to lookup, at a time
SUCCESSORS_MAX = 100  # envelopes that one user's share of a message may become, as many as at its first expansion
NOTICE_SUCCESSORS_MAX = 1000  # those of a notice, whose recipient may be an alias of the administrator's
ROUNDS_KEPT = 1000  # messages of users whose replacements are counted
UPPER_HALF = 1 << 31

Answered = Callable[[EnvelopeExpanded | EnvelopeNotExpanded], None]
Conclude = Callable[[int, Conclusion, Callable[[Exception | None], None]], None]
Replaced = Callable[[list[Envelope] | None, Exception | None], None]


class TooManySuccessors(Exception):
    """The user's share of this message has become too many envelopes."""


class Reexpansions:
    """`conclude(envelope, conclusion, done)` ends the envelope that others take the place of."""

    def __init__(self, to_lookup: RequestWindow, disk: Disk, conclude: Conclude):
        self._to_lookup, self._disk, self._conclude = to_lookup, disk, conclude
        self._waiting: dict[int, deque[Callable[[], None]]] = {}  # of each message; the first one is under way
        self._rounds: OrderedDict[tuple[int, str], int] = OrderedDict()  # replacements of a message for a user

    @property
    def under_way(self) -> bool:
        """Something is to be replaced, or being replaced, on the disk."""
        return bool(self._waiting)

    def ask(self, envelope: Envelope, answered: Answered) -> None:
        def question(request: int) -> ExpandEnvelope:
            return ExpandEnvelope(request, envelope.origin, envelope.recipient)

        self._to_lookup.ask(question, answered)

    def replace(self, envelope: Envelope, recipients: Sequence[Recipient], replaced: Replaced) -> None:
        """Put what is new of `recipients` in the place of `envelope`, which goes.

        `replaced(successors, None)` when that is durable, as they stand on the disk; there are none when others have it
        all, or an administrator has removed the envelope.  `replaced(None, error)` when nothing has changed;
        TooManySuccessors is one such error.
        """
        waiting = self._waiting.setdefault(message_of(envelope.id), deque())
        waiting.append(partial(self._look, envelope, recipients, replaced))
        if len(waiting) == 1:
            waiting[0]()

    def _look(self, envelope: Envelope, recipients: Sequence[Recipient], replaced: Replaced) -> None:
        expanded = partial(self._disk.store.expanded, message_of(envelope.id))
        self._disk.read(expanded, partial(self._looked, envelope, recipients, replaced))

    def _looked(
        self,
        envelope: Envelope,
        recipients: Sequence[Recipient],
        replaced: Replaced,
        expanded: Mapping[bytes, str] | None,
        error: Exception | None,
    ) -> None:
        try:
            change, successors = self._decide(envelope, recipients, expanded, error)
        except Exception as raised:  # noqa: BLE001  (one envelope, rule R8)
            self._end(envelope, partial(replaced, None), raised)
        else:
            changed = partial(self._changed, envelope, successors, replaced)
            self._conclude(envelope.id, Conclusion((change,)), changed)

    def _decide(
        self,
        envelope: Envelope,
        recipients: Sequence[Recipient],
        expanded: Mapping[bytes, str] | None,
        error: Exception | None,
    ) -> tuple[Replace | Remove, list[Envelope]]:
        if error is not None:
            raise error
        own = recipient_key(envelope.recipient)
        others = {key: renewer for key, renewer in (expanded or {}).items() if key != own}
        new = [recipient for recipient in dict.fromkeys(recipients) if recipient_key(recipient) not in others]
        there = sum(renewer == envelope.recipient.user for renewer in others.values())
        most = NOTICE_SUCCESSORS_MAX if envelope.recipient.duty is Duty.EXPAND else SUCCESSORS_MAX
        if there + len(new) > most or (new and not self._counts_another(envelope)):
            raise TooManySuccessors
        successors = self._successors(envelope, new)
        if not successors:
            return Remove(envelope.id, own), []
        return Replace(envelope.id, own, envelope.recipient.user, successors), successors

    def _counts_another(self, envelope: Envelope) -> bool:
        """False after SUCCESSORS_MAX replacements: an envelope that is always stale would go on without end."""
        key = message_of(envelope.id), envelope.recipient.user
        rounds = self._rounds[key] = self._rounds.get(key, 0) + 1
        self._rounds.move_to_end(key)
        if len(self._rounds) > ROUNDS_KEPT:
            self._rounds.popitem(last=False)
        return rounds <= SUCCESSORS_MAX

    def _changed(
        self, envelope: Envelope, successors: list[Envelope], replaced: Replaced, error: Exception | None
    ) -> None:
        if error is not None or not successors:
            self._end(envelope, partial(replaced, None if error else []), error)
        else:
            made = partial(self._made, envelope, successors, replaced)
            self._disk.load([successor.id for successor in successors], made)

    def _made(
        self,
        envelope: Envelope,
        successors: list[Envelope],
        replaced: Replaced,
        rows: list[Envelope | UnreadableRow] | None,
        error: BaseException | None,
    ) -> None:
        """What an administrator wanted of the envelope may have changed them, or kept them from being made.  One that
        cannot be read is told as it was to be: its first try sets it aside."""
        if rows is None:
            log.warn(f"envelopes in the place of {envelope_text(envelope.id)} cannot be read: {error}")
        else:
            found = {row.id: row for row in rows}
            successors = [
                row if isinstance(row := found[planned.id], Envelope) else planned
                for planned in successors
                if planned.id in found
            ]
        self._end(envelope, partial(replaced, successors), None)

    def _end(self, envelope: Envelope, replaced: Callable[[Exception | None], None], error: Exception | None) -> None:
        message = message_of(envelope.id)
        waiting = self._waiting[message]
        waiting.popleft()
        if waiting:
            waiting[0]()
        else:
            del self._waiting[message]
        replaced(error)

    def _successors(self, envelope: Envelope, recipients: list[Recipient]) -> list[Envelope]:
        first = UPPER_HALF + secrets.randbelow(COUNTER_MAX - UPPER_HALF - NOTICE_SUCCESSORS_MAX)
        return [self._successor(envelope, first + number, recipient) for number, recipient in enumerate(recipients)]

    def _successor(self, envelope: Envelope, counter: int, recipient: Recipient) -> Envelope:
        return untried(
            first_envelope(message_of(envelope.id)) + counter,
            self._disk.store.run,
            envelope.created,
            envelope.expires,
            envelope.origin,
            recipient,
            envelope.terms,
            is_notice=envelope.is_notice,
        )
