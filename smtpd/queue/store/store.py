"""The rows that the queue keeps on disk, their changes, and the interface of a store of them.

A message and its envelopes, from its id to its end:

    state         rows of envelopes   row of message   spool file (large content only)
    RESERVED      no                  no               no
    RECEIVING     no                  no               may exist
    SYNCED        no                  no               exists, fsynced with its directory
    STORED        exist               exists           exists
    GONE          no                  no               may exist until the next start

    RECEIVING -> STORED  is one commit.  From that moment the mail is ours: 250.
    STORED    -> GONE    is the commit that removes the last envelope, or the last row of what its sender is to be told
                         (recipient_status.py); the spool file is unlinked after it.

A crash in RECEIVING, SYNCED or GONE leaves a spool file without a row, which the next start removes.  A crash in STORED
leaves a message that the scan finds.  An envelope that is being tried has no state of its own here: its `run` tells
that it was stored, or last tried, in another life of the daemon, so a try may have ended without our knowing it.

Of a message with commands or files out of a .forward the store keeps, as long as the message is there, which recipients
its envelopes have, or had when they were delivered or removed by an administrator (`expanded`).  So what a user puts
into the .forward in the place of one of them is not delivered a second time to the others.

Ids are 31 and 63 bits, rows are typed, `run` belongs to the process that opened the store: nothing here would have to
change for a database that several hosts share.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Protocol

import msgspec
from msgspec.structs import replace

from smtpd.envelope import Duty, EnvelopeId, Kind, MailParameters, MessageId, Origin, Recipient, Schedule, Seconds, Text
from smtpd.next_hop import StsRow, TlsHost
from smtpd.queue.store.recipient_status import RecipientStatus
from smtpd.selection import Selection

AS_IT_CAME = 0  # the coding of content that is not coded; content_codec.py has the others
PAGE = 1000  # rows of one read at the most: no read transaction outlives a page

Count = Annotated[int, msgspec.Meta(ge=0, le=2**31)]


# The lane and the number of the sender, of an envelope's kind, action, user, duty, destination, and who has sent it.
# Duties come as the row has them.
LaneOf = Callable[[Kind, str, str, int, str, str], tuple[int, int]]


class Envelope(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A row: one recipient of one message, and the history of its tries."""

    id: EnvelopeId
    run: Count  # of the store, when the envelope was stored or last tried
    created: Seconds
    expires: Seconds
    next_try: Seconds  # 0: at once
    last_try: Seconds  # 0: never
    retries: Count
    troubles: Count  # tries, one after the other, that our own code did not bring to an end
    perhaps_delivered: bool  # some try ended without a word of the agent
    held: bool
    suspended: bool
    error: Text
    origin: Origin
    recipient: Recipient
    terms: MailParameters
    is_notice: bool = False  # a delivery status notification of this host

    def schedule(self, lane: int = 0, sender: int = 0) -> Schedule:
        return Schedule(
            self.id,
            self.recipient.kind,
            self.created,
            self.expires,
            self.next_try,
            self.retries,
            self.held,
            self.suspended,
            lane,
            self.terms.priority,
            self.terms.release,
            sender,
        )


def untried(
    id: int,
    run: int,
    created: int,
    expires: int,
    origin: Origin,
    recipient: Recipient,
    terms: MailParameters,
    next_try: int = 0,
    *,
    is_notice: bool = False,
) -> Envelope:
    """A new envelope, to be tried at once if not told otherwise.  Times in seconds since 1970."""
    return Envelope(
        id=id,
        run=run,
        created=created,
        expires=expires,
        next_try=next_try,
        last_try=0,
        retries=0,
        troubles=0,
        perhaps_delivered=False,
        held=False,
        suspended=False,
        error="",
        origin=origin,
        recipient=recipient,
        terms=terms,
        is_notice=is_notice,
    )


class Message(msgspec.Struct, frozen=True, gc=False):
    """A row: the content that the envelopes of one message share.  `content` is None when it stands in a spool file.

    In memory content is never coded: `coding` says how it is stored, and `digest` is of what is stored.
    """

    id: MessageId
    size: int  # bytes
    digest: bytes  # SHA-256
    content: bytes | None
    coding: int = AS_IT_CAME


class UnreadableRow(msgspec.Struct, frozen=True, gc=False):
    """A row that exists and cannot be read."""

    id: int
    reason: str


def recipient_key(recipient: Recipient) -> bytes:
    """What tells recipients of one message apart, in few bytes."""
    fields = msgspec.structs.astuple(recipient)
    return hashlib.sha256(msgspec.msgpack.encode(fields if recipient.sender else fields[:-1])).digest()


# -- changes of rows --------------------------------------------------------------------------------------------------


class Add(msgspec.Struct, frozen=True, gc=False):
    message: Message
    envelopes: list[Envelope]


class Remove(msgspec.Struct, frozen=True, gc=False):
    """Delivered, failed, or removed by an administrator.  A message goes with its last envelope.

    `undelivered` is the recipient_key of an envelope that goes without having been delivered, as the user wants
    something else in its place that the message's other envelopes are or were for.  It is not `expanded` any more then,
    unless an administrator has removed the envelope before.
    """

    envelope: int
    undelivered: bytes = b""


class Postpone(msgspec.Struct, frozen=True, gc=False):
    """A try has ended and there will be another one."""

    envelope: int
    next_try: int
    last_try: int
    error: str
    perhaps_delivered: bool
    troubles: int


class Reschedule(msgspec.Struct, frozen=True, gc=False):
    """An administrator wants the next try at another time, also if it was held."""

    envelope: int
    next_try: int


class Hold(msgspec.Struct, frozen=True, gc=False):
    """Only an administrator makes it due again.  `last_try` is 0 when it was not tried."""

    envelope: int
    last_try: int
    error: str
    perhaps_delivered: bool


class CountAttempt(msgspec.Struct, frozen=True, gc=False):
    """A try of an envelope of another run, or of one with troubles: it counts as trouble until its end is known."""

    envelope: int


class Uncount(msgspec.Struct, frozen=True, gc=False):
    """A try that was counted was not made: it counts no more, and not as one of another run either."""

    envelope: int


class Replace(msgspec.Struct, frozen=True, gc=False):
    """Others of the same message take the place of an envelope that was not delivered, at least one.

    What an administrator wanted of the envelope goes for them, too, up to this change and also in the same transaction:
    they are suspended when it is, and not made when it is gone.
    """

    envelope: int
    undelivered: bytes  # its recipient_key
    renewer: str  # the user whose .forward names the others, for this or other users
    envelopes: list[Envelope]


class Suspend(msgspec.Struct, frozen=True, gc=False):
    envelope: int
    suspended: bool


class Quarantine(msgspec.Struct, frozen=True, gc=False):
    """To the quarantine with a row that cannot be read."""

    envelope: int
    when: int
    reason: str


class Owe(msgspec.Struct, frozen=True, gc=False):
    """The sender is to be told this of an envelope."""

    envelope: int
    status: RecipientStatus


class StoreNotice(msgspec.Struct, frozen=True, gc=False):
    """A notice is added, and what it tells is not owed any more: the keys of rows of one message, at least one.

    It may be repeated: nothing is changed where the notice is there already, or nothing of it is owed.  So it has an id
    of the queue's own.  `envelope` is that of the first key.
    """

    envelope: int
    told: tuple[tuple[int, int], ...]  # envelope and action
    add: Add


class RememberTls(msgspec.Struct, frozen=True, gc=False):
    """What a dispatcher knows of other hosts' TLS, with the time of the clock: nothing here is from later."""

    when: int
    hosts: list[TlsHost]
    policies: list[StsRow]


class Recode(msgspec.Struct, frozen=True, gc=False):
    """The content of a message is stored in another way, if it is still stored as in `before`.

    `content`: to be coded as it is now.  None: it is in a file of `coding`, which has `digest`.
    """

    message: MessageId
    before: int  # its coding
    content: bytes | None
    digest: bytes
    coding: int


OneChange = Add | Remove | Postpone | Reschedule | Hold | CountAttempt | Uncount | Replace | Suspend | Quarantine | Owe


class Compound(msgspec.Struct, frozen=True, gc=False):
    """Changes that belong to the end of one envelope: all of them in one transaction, or none.

    It may be repeated, as after a failed commit it is not known whether it has happened: nothing is changed where the
    envelope is gone, or a message is there already that it adds.  So a message that it adds has an id of the queue's
    own, which no other message can have.
    """

    envelope: int
    changes: tuple[OneChange, ...]


Change = OneChange | Compound | StoreNotice | RememberTls | Recode


def changed(envelope: Envelope, change: OneChange, run: int) -> Envelope:
    """The row after `change`, in the store's `run`.  Raises TypeError for a change that makes or ends rows."""
    match change:
        case Postpone(_, next_try, last_try, error, perhaps_delivered, troubles):
            return replace(
                envelope,
                run=run,
                next_try=next_try,
                last_try=last_try,
                retries=envelope.retries + 1,
                troubles=troubles,
                perhaps_delivered=perhaps_delivered,
                held=False,
                error=error,
            )
        case Reschedule(_, next_try):
            return replace(envelope, next_try=next_try, held=False)
        case Hold(_, 0, error):
            return replace(envelope, held=True, troubles=0, error=error)
        case Hold(_, last_try, error, perhaps_delivered):
            return replace(
                envelope,
                run=run,
                last_try=last_try,
                retries=envelope.retries + 1,
                troubles=0,
                perhaps_delivered=perhaps_delivered,
                held=True,
                error=error,
            )
        case CountAttempt():
            return replace(envelope, troubles=envelope.troubles + 1)
        case Uncount():
            perhaps_delivered = envelope.perhaps_delivered or envelope.run != run
            troubles = max(0, envelope.troubles - 1)
            return replace(envelope, run=run, troubles=troubles, perhaps_delivered=perhaps_delivered)
        case Suspend(_, suspended):
            return replace(envelope, suspended=suspended)
    raise TypeError(type(change).__name__)


def successors(change: Replace, *, suspended: bool) -> list[Envelope]:
    """The rows that `change` makes, of an envelope that is suspended or not."""
    return [replace(envelope, suspended=suspended) for envelope in change.envelopes]


def changes_of(change: Change, envelope: int) -> list[OneChange]:
    """Those of `change` that concern the row of `envelope`."""
    parts = change.changes if isinstance(change, Compound) else (change,)
    others = Add | Owe | StoreNotice | RememberTls | Recode
    return [part for part in parts if not isinstance(part, others) and part.envelope == envelope]


def expanded_keys(add: Add) -> list[bytes]:
    """The recipients that have to be remembered of a new message, each once; none when no .forward is concerned."""
    recipients = [envelope.recipient for envelope in add.envelopes]
    if all(recipient.duty is not Duty.FORWARDED for recipient in recipients):
        return []
    return [*dict.fromkeys(map(recipient_key, recipients))]


# -- errors -----------------------------------------------------------------------------------------------------------


class StoreFull(Exception):
    """There is no room for it now.  The store is as it was, and goes on."""


class StoreBroken(Exception):
    """The disk failed or the store is damaged.  What was committed last is uncertain until the store was reopened."""


class ContentDamaged(Exception):
    """Content is not there, or not what was stored."""


class Store(Protocol):
    """Rows on disk.  One thread at a time changes, one other at a time reads.

    All of it may raise StoreFull and StoreBroken; any other error is the caller's fault, and nothing has changed.
    """

    run: int  # counts how often this store was opened

    @property
    def unsettled(self) -> bool:
        """settle has something to do."""

    # -- changes: by the writing thread ---------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change]) -> list[int]:
        """All `changes` durably, or none.  Returns messages that are gone and had a spool file."""

    def settle(self) -> None:
        """Whatever is better done after the answers have left than before."""

    def shrink(self) -> bool:
        """Give a little of the unused space back.  True when there is more to do."""

    def repair(self, doubtful: Sequence[int]) -> None:
        """After StoreBroken: close, check, open again, and take back the messages in `doubtful`, which were refused."""

    def close(self) -> None: ...

    # -- reads: by the reading thread -------------------------------------------------------------------------------

    def load(self, envelopes: Sequence[int]) -> Sequence[Envelope | UnreadableRow]:
        """Those of `envelopes` (at most PAGE) that exist."""

    def envelopes(self, first: int, last: int, limit: int) -> Sequence[Envelope | UnreadableRow]:
        """The first `limit` of them from `first` to `last`, by id."""

    def select(self, selection: Selection, first: int, last: int, limit: int) -> tuple[list[int], int]:
        """The ids that `selection` means of a number of envelopes from `first` on, up to `limit` of them, and the id
        behind the last one that was looked at; 0: there are no more up to `last`."""

    def schedules(self, after: int, limit: int, lane_of: LaneOf) -> Sequence[Schedule | UnreadableRow]:
        """The first `limit` above `after` that no try of this run and no submission has touched, by id."""

    def find_message(self, message: int) -> Message | None:
        """Raises ContentDamaged, and content_codec.KeyMissing."""

    def expanded(self, message: int) -> Mapping[bytes, str]:
        """recipient_key of each recipient that this message's envelopes have, or had when they were delivered or
        removed -> whose .forward brought it since the message was stored; empty for the others."""

    def sizes(self, messages: Iterable[int]) -> dict[int, int]:
        """Bytes of content of those that exist."""

    def messages(self, first: int, last: int) -> set[int]:
        """The ids from `first` to `last` that are taken."""

    def spooled(self, after: int, limit: int) -> list[tuple[int, int]]:
        """The first `limit` messages above `after` whose content stands in a spool file, each with its coding."""

    def codings(self, after: int, limit: int) -> list[tuple[int, int]]:
        """The first `limit` messages above `after`, each with its coding."""

    def owed(self, after: int, limit: int) -> list[int]:
        """The first `limit` messages above `after` whose senders are to be told something."""

    def statuses(self, message: int, limit: int) -> Sequence[RecipientStatus | UnreadableRow]:
        """What the sender of a message is to be told: the first `limit` rows, by envelope."""

    def tls_hosts(self, after: int, limit: int) -> tuple[list[TlsHost], int]:
        """The first `limit` rows above the number `after`, and the number of the last one; 0: there are no more."""

    def sts_policies(self, after: int, limit: int) -> tuple[list[StsRow], int]:
        """As tls_hosts."""

    def quarantine(self, limit: int) -> list[tuple[int, int, str]]:
        """Envelope id, when it was set aside, why; the newest first."""
