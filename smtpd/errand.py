"""The frames between queue and an agent: what a user's own process is asked to do, and what it answers.

    queue   Deliver, one mail (content in the frame, or a descriptor with it)  -->  agent
            ReadForward, ProbeServer                                           -->
            InProgress                                                         <--  of a slow kind, when it begins
            Result, ForwardText, ServerProbed                                  <--

One packet of a SOCK_SEQPACKET pair holds one frame, so a descriptor cannot stray.  Fixed structs and counted bytes, not
decoded by msgspec: all code that reads what a user's process sends is in this file.  queue believes nothing of what
comes back but that it came from that user: decode raises FrameError, and that agent is dropped.

    kind u8 | flags u8 | reserved u16 | rest u32 | envelope or request u64 | …     big-endian
"""

import struct

from msgspec import Struct

from smtpd.envelope import Outcome

HEADER = struct.Struct(">BBHIQ")
PACKET_MAX = 96 * 1024  # bytes of one frame at the most; a Deliver with a descriptor has no content in it
TEXT_MAX = 512  # bytes of a result's text
FORWARD_MAX = 4095  # bytes of a .forward
MAILBOX_KINDS = frozenset({"mbox"})  # kinds of agents that the parent hands mailboxes, by a socket of their own
TRANSACTION_MAX = 3600.0  # seconds that an agent gives an LMTP server for one mail, all steps together

# What an agent of each kind may do: the parent compiles it, the nursery's child installs it.  None: it runs commands of
# its user, or of the administrator as that user, and there is nothing that those may need and the user may not.
PROMISES: dict[str, str | None] = {
    "forward": "stdio rpath",
    "maildir": "stdio rpath wpath cpath flock recvfd",
    "mbox": "stdio flock recvfd",
    "lmtp": "stdio inet recvfd",
    "lmtp-unix": "stdio unix recvfd",
    "command": None,
    "expansion-target": None,
}

# The process that hands in a mail which was kept while the daemon did not run is no agent; it gets its filter likewise.
OFFLINE, OFFLINE_PROMISES = "offline", "stdio"

DELIVER, READ_FORWARD, RESULT, FORWARD, PROBE_SERVER, SERVER_PROBED, IN_PROGRESS = 1, 2, 3, 4, 5, 6, 7
BY_DESCRIPTOR, PERHAPS_DELIVERED, UTF8 = 0x01, 0x02, 0x04
_FLAGS = {"by_descriptor": BY_DESCRIPTOR, "perhaps_delivered": PERHAPS_DELIVERED, "utf8": UTF8}

_DELIVER = struct.Struct(">QQQHHHHHHH")  # created, size, lock, and the lengths of seven strings
_RESULT = struct.Struct(">B")
VERDICTS = ("none", "text", "unsafe", "later", "malformed")
SERVERS = ("utf8", "ascii", "later")


class FrameError(Exception):
    """Not a frame."""


class AgentSpec(Struct, frozen=True):
    """What an agent is made for: as the configuration has it, or empty.

    kind        target                              wrapper    further
    forward
    maildir     the Maildir                                    junk
    mbox
    lmtp        host[:port], numeric or a name                 rcpt_to
    lmtp-unix   /path of the socket                            rcpt_to
    command     the command line                    its line
    expansion-target                                its line   files: alias files; none: the user's .forward
                                                               owner: of those files
    """

    kind: str
    target: str = ""
    wrapper: str = ""
    junk: bool = False
    rcpt_to: bool = False
    delimiter: str = "+"  # of sub-addresses
    files: tuple[str, ...] = ()
    shared: bool = False  # the action names the user to run as: mail of many users comes
    owner: int = 0  # the uid of the daemon: root, or the ordinary user who started it


class Deliver(Struct, frozen=True):
    """One mail for this user.  `content` is empty when `by_descriptor`: then `size` bytes are to be read there."""

    envelope: int
    created: int  # seconds since 1970, of the envelope: part of the file's name
    size: int
    sender: str
    recipient: str  # as RCPT named it
    destination: str
    extension: str
    content: bytes
    by_descriptor: bool
    perhaps_delivered: bool  # look first whether it is there already
    user: str = ""  # the recipient: not the user that the agent runs as, where the action names one
    home: str = ""  # of that user, when a userbase has it and the action names the user to run as
    digest: str = ""  # of the command or file, for an expansion-target
    lock: int = 0  # the number of the mailbox's lock, for an mbox
    utf8: bool = False  # RFC 6531: MAIL said SMTPUTF8


class ReadForward(Struct, frozen=True):
    request: int


class ProbeServer(Struct, frozen=True):
    """Greet the LMTP server, to hear what it takes."""

    request: int


class ServerProbed(Struct, frozen=True):
    request: int
    verdict: str  # of SERVERS: it knows SMTPUTF8 (RFC 6531), or not, or cannot be asked now
    reason: str


class Result(Struct, frozen=True):
    envelope: int
    outcome: Outcome
    text: str


class ForwardText(Struct, frozen=True):
    request: int
    verdict: str  # of VERDICTS
    content: bytes  # the file, or the reason


class InProgress(Struct, frozen=True):
    """The agent works on it; for an LMTP server it is sent again while the transaction goes on."""

    number: int  # of an envelope or a request


Request = Deliver | ReadForward | ProbeServer
Answer = Result | ForwardText | ServerProbed


def number_of(errand: Request | Answer | InProgress) -> int:
    """Of its envelope or request: what belongs together has the same."""
    match errand:
        case Deliver() | Result():
            return errand.envelope
        case InProgress():
            return errand.number
    return errand.request


def encode(errand: Request | Answer | InProgress) -> bytes:
    match errand:
        case InProgress():
            return HEADER.pack(IN_PROGRESS, 0, 0, 0, errand.number)
        case Deliver():
            return _encode_deliver(errand)
        case ReadForward():
            return HEADER.pack(READ_FORWARD, 0, 0, 0, errand.request)
        case Result():
            text = errand.text.encode(errors="replace")[:TEXT_MAX]
            head = HEADER.pack(RESULT, 0, 0, _RESULT.size + len(text), errand.envelope)
            return head + _RESULT.pack(errand.outcome) + text
        case ProbeServer():
            return HEADER.pack(PROBE_SERVER, 0, 0, 0, errand.request)
        case ServerProbed():
            text = errand.reason.encode(errors="replace")[:TEXT_MAX]
            head = HEADER.pack(SERVER_PROBED, 0, 0, _RESULT.size + len(text), errand.request)
            return head + _RESULT.pack(SERVERS.index(errand.verdict)) + text
        case ForwardText():
            head = HEADER.pack(FORWARD, 0, 0, _RESULT.size + len(errand.content), errand.request)
            return head + _RESULT.pack(VERDICTS.index(errand.verdict)) + errand.content


def _encode_deliver(mail: Deliver) -> bytes:
    texts = (mail.sender, mail.recipient, mail.destination, mail.extension, mail.user, mail.home, mail.digest)
    strings = [text.encode() for text in texts]
    fixed = _DELIVER.pack(mail.created, mail.size, mail.lock, *map(len, strings))
    rest = b"".join((fixed, *strings, mail.content))
    flags = sum(flag for name, flag in _FLAGS.items() if getattr(mail, name))
    return HEADER.pack(DELIVER, flags, 0, len(rest), mail.envelope) + rest


def decode(packet: bytes) -> Request | Answer | InProgress:
    """One frame.  Raises FrameError."""
    try:
        kind, flags, reserved, length, number = HEADER.unpack_from(packet)
        rest = packet[HEADER.size :]
        if reserved or len(rest) != length or len(packet) > PACKET_MAX:
            raise FrameError(f"frame of {len(packet)} bytes")
        if kind == DELIVER:
            return _decode_deliver(flags, number, rest)
        if flags:
            raise FrameError(f"flags {flags:#x}")
        if kind == READ_FORWARD and not rest:
            return ReadForward(number)
        if kind == IN_PROGRESS and not rest:
            return InProgress(number)
        if kind == PROBE_SERVER and not rest:
            return ProbeServer(number)
        if kind == SERVER_PROBED and len(rest) <= _RESULT.size + TEXT_MAX:
            return ServerProbed(number, SERVERS[rest[0]], rest[1:].decode(errors="replace"))
        if kind == RESULT and len(rest) <= _RESULT.size + TEXT_MAX:
            return Result(number, Outcome(rest[0]), rest[1:].decode(errors="replace"))
        if kind == FORWARD and len(rest) <= _RESULT.size + FORWARD_MAX:
            return ForwardText(number, VERDICTS[rest[0]], rest[1:])
    except (struct.error, IndexError, ValueError) as error:
        raise FrameError(str(error)) from None
    raise FrameError(f"kind {kind}")


def _decode_deliver(flags: int, envelope: int, rest: bytes) -> Deliver:
    created, size, lock, *lengths = _DELIVER.unpack_from(rest)
    at = _DELIVER.size
    strings = []
    for length in lengths:
        strings.append(rest[at : at + length].decode())
        at += length
    if at > len(rest) or flags & ~sum(_FLAGS.values()):
        raise FrameError("lengths or flags")
    by_descriptor, perhaps, utf8 = (bool(flags & flag) for flag in _FLAGS.values())
    if len(rest) - at != (0 if by_descriptor else size):
        raise FrameError("size")
    sender, recipient, destination, extension, user, home, digest = strings
    mail = (envelope, created, size, sender, recipient, destination, extension, rest[at:], by_descriptor, perhaps)
    return Deliver(*mail, user, home, digest, lock, utf8)
