"""Envelopes whose command or file is not in the user's .forward any more: what does the user want now?

    Outcome.STALE --> ExpandEnvelope --> lookup --> EnvelopeExpanded --> one commit: others in the place of this one
                                               --> EnvelopeNotExpanded --> deferred, or held with the reason

The new envelopes are of the same message, with its sender, age and end.  Their counters are drawn from the upper half,
where none has ever been: an id stands in the names of files in Maildirs, and no two of a message may share one.

Several envelopes of a message may be stale at once, as a user who has changed one line has changed them all: what one
of them has been expanded to is not there a second time.  And a user who changes the file faster than mail is delivered
does not make many of one: at most NEW_MAX for each message.
"""

import secrets
from collections import OrderedDict
from collections.abc import Callable, Sequence

from smtpd.envelope import COUNTER_MAX, Recipient, first_envelope, message_of
from smtpd.imsg import EnvelopeExpanded, EnvelopeNotExpanded, ExpandEnvelope
from smtpd.ipc.question import Questions
from smtpd.queue.store import Envelope, untried

QUESTIONS = 64  # to lookup, at a time
NEW_MAX = 100  # envelopes that one user's share of a message may become, as many as at its first expansion
MEMORY = 1000  # messages of users for which that is known
UPPER_HALF = 1 << 31

Answered = Callable[[EnvelopeExpanded | EnvelopeNotExpanded], None]


class TooMany(Exception):
    """The user's share of this message has become enough envelopes."""


class Renewals:
    """`run` is that of the store."""

    def __init__(self, to_lookup: Questions, run: int):
        self._to_lookup, self._run = to_lookup, run
        self._made: OrderedDict[tuple[int, str], set[Recipient]] = OrderedDict()

    def ask(self, envelope: Envelope, answered: Answered) -> None:
        def question(request: int) -> ExpandEnvelope:
            return ExpandEnvelope(request, envelope.origin, envelope.recipient)

        self._to_lookup.ask(question, answered)

    def successors(self, envelope: Envelope, recipients: Sequence[Recipient]) -> list[Envelope]:
        """What takes the place of `envelope`; nothing when others have it all already.  Raises TooMany."""
        key = message_of(envelope.id), envelope.recipient.user
        made = self._made.get(key, set())
        new = [recipient for recipient in dict.fromkeys(recipients) if recipient not in made]
        if len(made) + len(new) > NEW_MAX:
            raise TooMany
        self._made[key] = made.union(new)
        self._made.move_to_end(key)
        if len(self._made) > MEMORY:
            self._made.popitem(last=False)
        first = UPPER_HALF + secrets.randbelow(COUNTER_MAX - UPPER_HALF - NEW_MAX)
        return [self._successor(envelope, first + number, recipient) for number, recipient in enumerate(new)]

    def forget(self, envelope: Envelope, successors: Sequence[Envelope]) -> None:
        """They could not be stored."""
        made = self._made.get((message_of(envelope.id), envelope.recipient.user), set())
        made.difference_update(successor.recipient for successor in successors)

    def _successor(self, envelope: Envelope, counter: int, recipient: Recipient) -> Envelope:
        id = first_envelope(message_of(envelope.id)) + counter
        return untried(id, self._run, envelope.created, envelope.expires, envelope.origin, recipient, envelope.terms)
