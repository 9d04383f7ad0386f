"""The noun everybody shares: an envelope, one recipient of one message, and what became of it.

    message id    31 bits, printed as 8 hex digits
    envelope id   message id above a 32 bit counter, printed as 16 hex digits

An envelope keeps the *name* of its action and what the rules need to decide again, never a command line.
"""

from enum import IntEnum
from typing import Annotated

import msgspec

MESSAGE_ID_MAX = 2**31 - 1
COUNTER_MAX = 2**32 - 1

MessageId = Annotated[int, msgspec.Meta(ge=1, le=MESSAGE_ID_MAX)]
EnvelopeId = Annotated[int, msgspec.Meta(ge=1 << 32, le=(MESSAGE_ID_MAX << 32) | COUNTER_MAX)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**40)]  # since 1970, or a duration
Lane = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]  # a user or a destination: one lane gets its share; 0: none

# \Z and not $, which would let a line feed pass at the end
_PRINTABLE = r"\A[^\x00-\x1f\x7f]*\Z"

Word = Annotated[str, msgspec.Meta(max_length=256, pattern=_PRINTABLE)]  # a name, or half an address
Path = Annotated[str, msgspec.Meta(max_length=1024, pattern=_PRINTABLE)]  # an address, a path
Text = Annotated[str, msgspec.Meta(max_length=1024, pattern=_PRINTABLE)]  # of a reply or an error


class Kind(IntEnum):
    """Who carries an envelope: the local delivery agents, or a relay session."""

    MDA = 1
    MTA = 2


class Outcome(IntEnum):
    """What became of one try."""

    DELIVERED = 1
    DEFERRED = 2
    FAILED = 3
    LOOP = 4


class Origin(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the session knew of where a mail comes from; the rules may ask for all of it again."""

    sender: Path  # empty for the null sender
    address: Word  # of the client, numeric; "local" for a local program
    client: Word  # its verified name or "<unknown>"
    helo: Word
    hostname: Word  # of our listener
    tag: Word
    esmtp: bool


class Recipient(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One way that a RCPT TO took through rules and aliases: what lookup adds to a message."""

    recipient: Path  # as the client named it
    destination: Path  # after expansion
    action: Word  # name, looked up again at delivery
    kind: Kind
    user: Word  # for local delivery
    extension: Word  # the sub-address


class Schedule(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What the scheduler knows of an envelope."""

    envelope: EnvelopeId
    kind: Kind
    created: Seconds
    expires: Seconds
    next_try: Seconds  # 0: at once
    retries: int
    held: bool  # only an administrator makes it due
    suspended: bool  # `smtpctl pause envelope`
    lane: Lane = 0


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An envelope as the queue lists it."""

    schedule: Schedule
    origin: Origin
    recipient: Recipient
    last_try: Seconds  # 0: never
    error: str  # of the last try, or why it is held
    inflight: bool
    size: int  # bytes of content


def message_of(envelope: int) -> int:
    """The message id inside an envelope id."""
    return envelope >> 32


def first_envelope(message: int) -> int:
    return message << 32


def last_envelope(message: int) -> int:
    return (message << 32) | COUNTER_MAX


def message_text(message: int) -> str:
    return f"{message:08x}"


def envelope_text(envelope: int) -> str:
    return f"{envelope:016x}"
