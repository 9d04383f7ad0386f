"""What all processes speak of: an envelope (one recipient of one message), and the result of its delivery.

    message id    31 bits, printed as 8 hex digits
    envelope id   message id above a 32 bit counter, printed as 16 hex digits

An envelope keeps the *name* of its action and what the rules need to decide again, never a command line: a command or
file that a user's .forward names is kept as the SHA-256 of what stands there, and looked for there again at delivery.
"""

from enum import IntEnum, IntFlag
from typing import Annotated, Literal

import msgspec

MESSAGE_ID_MAX = 2**31 - 1
COUNTER_MAX = 2**32 - 1

MessageId = Annotated[int, msgspec.Meta(ge=1, le=MESSAGE_ID_MAX)]
ENVELOPE_ID_MAX = (MESSAGE_ID_MAX << 32) | COUNTER_MAX
EnvelopeId = Annotated[int, msgspec.Meta(ge=1 << 32, le=ENVELOPE_ID_MAX)]
Seconds = Annotated[int, msgspec.Meta(ge=0, le=2**40)]  # since 1970, or a duration
# What an envelope shares with others, and gets its share of: an agent, for relayed mail a destination; 0: nothing.
Lane = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
AGENT_LANE_MAX = 2**32 - 1  # of an agent
NARROW = 1 << 31  # an agent's lane with this bit gets a smaller share: the agent runs commands, or waits for a host
# The lane of relayed mail.  60 bits: Python has such a number in 32 bytes, and a larger one in 36.
DestinationNumber = Annotated[int, msgspec.Meta(ge=1, le=2**60 - 1)]
Delay = Annotated[int, msgspec.Meta(ge=1, le=86400)]  # seconds that a destination is not tried
DispatcherIndex = Annotated[int, msgspec.Meta(ge=0, le=63)]
AttemptNumber = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]  # of a RelayMessage, never twice in a run
ReplyCode = Annotated[int, msgspec.Meta(ge=0, le=599)]
RECIPIENTS_MAX = 100  # of one RelayMessage, RFC 5321 4.5.3.1.8
PAUSES_MAX = 500  # destinations, and sources of relayed mail, that administrators have paused
SenderNumber = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]  # senders of relayed mail have turns; 0: no sender

LOCAL_CLIENT = "local"  # the client address of this host's own programs
UNKNOWN_NAME = "<unknown>"  # of a client whose address has no verified name

INLINE_MAX = 16 * 1024  # bytes of content that travel in an imsg and stand in a row; what is larger has a spool file

Priority = Annotated[int, msgspec.Meta(ge=-9, le=9)]  # RFC 6710: higher goes first

# \Z and not $, which would let a line feed pass at the end
PRINTABLE = r"\A[^\x00-\x1f\x7f]*\Z"
_ONE_LINE = r"\A[^\x00-\x08\x0a-\x1f\x7f]*\Z"  # as above, and tabs

Word = Annotated[str, msgspec.Meta(max_length=256, pattern=PRINTABLE)]  # a name, or half an address
Path = Annotated[str, msgspec.Meta(max_length=1024, pattern=PRINTABLE)]  # an address, a path
Text = Annotated[str, msgspec.Meta(max_length=1024, pattern=PRINTABLE)]  # of a reply or an error
CommandLine = Annotated[str, msgspec.Meta(max_length=4096, pattern=_ONE_LINE)]  # a command of the configuration
# A text of the configuration that stays with the process that is told it: no other imsg carries it.
Setting = Annotated[str, msgspec.Meta(max_length=8192, pattern=_ONE_LINE)]
ALIAS_FILES_MAX = 32  # that commands are looked for in
SECRET = {"secret": True}  # an imsg is printed without such a field (ipc/declaration.py)
# A password: any text but NUL and line ends, which some table or library would take for its end.
Secret = Annotated[str, msgspec.Meta(max_length=1024, pattern=r"\A[^\x00\r\n]*\Z", extra=SECRET)]
SecretBytes = Annotated[bytes, msgspec.Meta(extra=SECRET)]
Digest = Annotated[str, msgspec.Meta(pattern=r"\A(?:[0-9a-f]{64})?\Z")]  # SHA-256 in hex, or nothing


class Kind(IntEnum):
    """What delivers an envelope: the local delivery agents, or a relay session."""

    MDA = 1
    MTA = 2


class Duty(IntEnum):
    """What an agent does for its user, and how a local envelope is delivered."""

    DELIVER = 1  # as its action says
    READ = 2  # tell what stands in the user's .forward; never an envelope's
    FORWARDED = 3  # to a command or file that stands in the user's .forward
    ALIASED = 4  # to a command or file that stands in an alias file of root's
    DISCARD = 5  # to /dev/null; never an agent's
    EXPAND = 6  # of a notice to a sender: not expanded yet; never an agent's


class Outcome(IntEnum):
    """What became of one try."""

    DELIVERED = 1
    DEFERRED = 2
    FAILED = 3
    LOOP = 4
    STALE = 5  # what the digest stands for is not in the user's .forward any more: expand again


class Body(IntEnum):
    """What MAIL said of the content (RFC 6152, RFC 3030)."""

    SEVEN_BIT = 0
    EIGHT_BIT = 1
    BINARY = 2  # what is kept is text all the same (smtp/binary_mime.py)


class Notify(IntFlag):
    """When the sender wants to be told (RFC 3461 4.1); none of them: the client did not say."""

    NEVER = 1
    SUCCESS = 2
    FAILURE = 4
    DELAY = 8


class Origin(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the session knew of where a mail comes from; the rules may ask for all of it again."""

    sender: Path  # empty for the null sender
    address: Word  # of the client, numeric; "local" for a local program
    client: Word  # its verified name or UNKNOWN_NAME
    helo: Word
    hostname: Word  # of our listener
    tag: Word
    esmtp: bool
    tls: bool = False  # the client's connection was encrypted
    user: Word = ""  # the authenticated user


class MailParameters(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """On what terms the client gave us the message: the parameters of MAIL, one set for all its recipients."""

    body: Body = Body.SEVEN_BIT
    utf8: bool = False  # RFC 6531: addresses or header may hold UTF-8
    require_tls: bool = False  # RFC 8689
    ret: Literal["", "FULL", "HDRS"] = ""  # RFC 3461 4.3
    envid: Word = ""  # RFC 3461 4.4, decoded
    submitter: Path = ""  # RFC 4954 5, AUTH=: an address, or "<>" for an unknown one
    release: Seconds = 0  # RFC 4865: not to be tried before
    deliver_by: Seconds = 0  # RFC 2852, as a time of the clock
    by_mode: Literal["", "R", "N"] = ""  # "R": give up then; "N": tell the sender, and go on
    by_trace: bool = False
    priority: Priority = 0  # RFC 6710


class Recipient(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One way that a RCPT TO took through rules and aliases: what lookup adds to a message."""

    recipient: Path  # as the client named it
    destination: Path  # after expansion
    action: Word  # name, looked up again at delivery
    kind: Kind
    user: Word  # for local delivery: whose mailbox, or whose .forward
    extension: Word  # the sub-address
    duty: Duty = Duty.DELIVER
    digest: Digest = ""  # of the command or file, for FORWARDED and ALIASED (tables/alias_syntax.py)
    home: Path = ""  # as the action's userbase has it, where the action names the user to run as
    notify: Notify = Notify(0)
    original: Path = ""  # RFC 3461 4.2, ORCPT: "rfc822;bob@here.test", decoded
    sender: Path = ""  # for relayed mail: what the next host is told in the place of the mail's sender (SRS)


class RelayRecipient(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A recipient of a message that is relayed."""

    envelope: EnvelopeId
    address: Path  # for RCPT TO
    recipient: Path  # as the client named it
    notify: Notify
    original: Path  # as in Recipient


class RelayResult(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """What a try to relay came to for one recipient."""

    envelope: EnvelopeId
    outcome: Outcome  # DELIVERED, DEFERRED, FAILED or LOOP
    text: Text  # the reply, or the error
    code: ReplyCode = 0  # 0: no server has replied
    enhanced: Word = ""  # RFC 3463; empty: none
    remote: Word = ""  # the host that has replied; empty: none has
    uncertain: bool = False  # the connection was lost between the final dot and its reply


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
    priority: Priority = 0
    release: Seconds = 0  # RFC 4865: not to be tried before; its tries are counted from then
    sender: SenderNumber = 0  # of relayed mail


class QueueEntry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An envelope as the queue lists it."""

    schedule: Schedule
    origin: Origin
    recipient: Recipient
    last_try: Seconds  # 0: never
    error: str  # of the last try, or why it is held
    inflight: bool
    size: int  # bytes of content
    terms: MailParameters = MailParameters()
    delayed: Text = ""  # why its destination cannot be reached; empty: it can, or nothing is known
    paused: bool = False  # its destination, by an administrator
    is_notice: bool = False  # a delivery status notification of this host


def message_of(envelope: int) -> int:
    """The message id inside an envelope id."""
    return envelope >> 32


def first_envelope(message: int) -> int:
    return message << 32


def envelope_id(message: int, number: int) -> int:
    """The id of the envelope of this number, from 1, in the order in which lookup adds the envelopes of the message.

    queue gives the ids by it, and the session that receives the message by the same rule writes them to its log without
    asking queue."""
    return first_envelope(message) + number


def last_envelope(message: int) -> int:
    return (message << 32) | COUNTER_MAX


def message_text(message: int) -> str:
    return f"{message:08x}"


def envelope_text(envelope: int) -> str:
    return f"{envelope:016x}"


def duration_text(seconds: int) -> str:
    """0s, 39s, 5m57s, 1d2h3m4s: as OpenSMTPD, without units that are zero."""
    text, rest = "", max(0, seconds)
    for letter, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        text += f"{count}{letter}" if count else ""
    return text or "0s"
