"""What each process is told of the configuration: its slice, resolved, and nothing that it need not know.

The parent passes the slices on without looking into them, all but its own.

Each text has the type of the imsg field that it ends up in, or is a Setting, which none carries: what does not fit is
an error of the configuration (slicing.py), and never of a process that receives it.
"""

import re
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from smtpd.config.model import Auth, DeliveryLimits, Limits, Match, Method, Proxy, Tls
from smtpd.envelope import ALIAS_FILES_MAX, Line, Path, Seconds, Setting, Word
from smtpd.tables.table import Service

LMTP_USER = "_smtpm"  # whom an lmtp action runs as that names nobody
PROGRAM_USER = "_smtpf"  # and a program that answers for a table

AliasFiles = Annotated[tuple[Path, ...], msgspec.Meta(max_length=ALIAS_FILES_MAX)]

UNLIMITED = 2**63 - 1  # bytes of a message, where the configuration says 0

LOWEST_ID = 100  # of a user who may receive; below are those that Unix systems bring along: bin, mail, www-data
NOBODY = (65534, 65535)  # the last ids of 16 bits, which are nobody's
# Ciphers that no listener has: without a certificate, without encryption, and with RSA as the way to exchange keys,
# as crypto decrypts nothing.
NEVER_CIPHERS = ":!aNULL:!eNULL:!kRSA"
OUR_PREFIX = "_smtp"  # what the names of our own users begin with

# Whom the parent starts agents for: one word of /etc/passwd, no path, no option, nothing that a terminal or a log would
# take for more.
USER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,62}")


@dataclass(frozen=True)
class TlsSlice:
    mode: Tls
    pki: tuple[Word, ...]  # names, the first or "*" for clients that name none of them
    verify: bool = False
    ca: Word = ""
    ciphers: Setting = ""  # for TLS up to 1.2, in OpenSSL's words; empty: our own choice
    protocols: tuple[Setting, ...] = ("TLSv1.2", "TLSv1.3")  # in a row, of TLSv1, TLSv1.1, TLSv1.2, TLSv1.3


@dataclass(frozen=True)
class PkiSlice:
    name: Word
    cert: Path
    key: Path


@dataclass(frozen=True)
class CaSlice:
    name: Word
    cert: Path


@dataclass(frozen=True)
class DoorSlice:
    """What lookup is asked about those who come in by a listener: its tables, empty for none."""

    number: int  # of the listener
    auth: bool = False
    credentials: Word = ""  # empty: users of the system
    senders: Word = ""
    hostnames: Word = ""
    xclient: Word = ""


@dataclass(frozen=True)
class ListenerSlice:
    """One bound address.  `number` names its socket in the imsgs.

    Where `interface` is named there is no address yet: the parent looks for them, and adds a socket for each."""

    number: int
    address: Word  # numeric, without brackets; of a link-local one with %interface; empty: that of `interface`
    port: int
    hostname: Word  # of the banner, of Received
    tag: Word
    interface: Word = ""
    family: int | None = None  # of the addresses of `interface`: 4, 6, or both
    tls: TlsSlice | None = None
    auth: Auth | None = None
    scram: bool = False  # the credentials are what SCRAM needs
    welcome: bool = False  # `hostnames` or `xclient`: lookup has to be asked about the client
    senders: bool = False
    masquerade: bool = False
    mask_src: bool = False
    no_dsn: bool = False
    proxy: Proxy | None = None
    received_auth: bool = False


SOCKET = ListenerSlice(-1, "", 0, "", "")  # `listen on socket`: no listener of the kernel's, so it has no number


@dataclass(frozen=True)
class Person:
    """A user of a userbase that is no table of the system's."""

    uid: int
    gid: int
    home: Path


@dataclass(frozen=True)
class AgentSlice:
    """A local action as the parent and the agents need it: what is run, and as whom."""

    name: Word
    method: Method
    target: Line  # the path of a maildir, the destination of lmtp, the command of mda
    junk: bool = False
    rcpt_to: bool = False
    wrapper: Line = ""  # its command
    user: Word = ""  # to run as; empty: as the recipient
    people: dict[Word, Person] | None = None  # of a userbase whose uids count; None: users of the system, or `user`


@dataclass(frozen=True)
class ProgramSlice:
    """A program that answers for a table: `arguments` with its absolute path first."""

    table: Word
    arguments: tuple[Path, ...]
    user: Word


@dataclass(frozen=True)
class TableSlice:
    """A table as lookup opens it.  The builtin ones (anyhost, localhost, localnames) are filled in here."""

    name: Word
    entries: tuple[Setting, ...] = ()
    pairs: tuple[tuple[Setting, Setting], ...] | None = None
    path: Path | None = None  # read by lookup itself
    backend: Word = ""  # as in the model
    services: tuple[Service, ...] = ()  # what it is asked for


@dataclass(frozen=True)
class ParentSlice:
    listeners: tuple[ListenerSlice, ...]
    actions: tuple[AgentSlice, ...]
    files: tuple[Path, ...]  # that lookup reads (tables, what they include): checked by the parent, unveiled by lookup
    dispatchers: int
    sandbox_required: bool | None
    server_name: Word
    sub_addr_delim: Word = "+"
    programs: tuple[ProgramSlice, ...] = ()
    alias_commands: Word = ""  # the user who runs what alias files name; empty: nobody does
    alias_files: AliasFiles = ()  # those that are text files
    pki: tuple[PkiSlice, ...] = ()
    ca: tuple[CaSlice, ...] = ()
    passwords: bool = False  # a listener authenticates users of the system


@dataclass(frozen=True)
class DispatcherSlice:
    listeners: tuple[ListenerSlice, ...]
    server_name: Word
    max_message_size: int
    limits: Limits  # already divided by the number of dispatchers
    dhe: dict[Word, Word] = field(default_factory=dict)  # pki -> "auto" or "legacy"
    socket: ListenerSlice = SOCKET


@dataclass(frozen=True)
class ExpansionSlice:
    """A local action as lookup needs it: how a recipient becomes users.  Tables by name, empty for none."""

    name: Word
    method: Method
    alias: Word = ""
    virtual: Word = ""
    userbase: Word = ""  # empty: users of the system
    user: Word = ""  # that the action runs as
    rcpt_to: bool = False  # of lmtp: the server is told the address, not the user


@dataclass(frozen=True)
class LookupSlice:
    server_name: Word
    matches: tuple[Match, ...]
    tables: tuple[TableSlice, ...]
    actions: tuple[ExpansionSlice, ...]
    sub_addr_delim: Word
    files: tuple[Path, ...]
    alias_commands: Word = ""
    doors: tuple[DoorSlice, ...] = ()
    auth_failure_rate: int = 10  # a minute, of an address and of a user


@dataclass(frozen=True)
class DeliverySlice:
    """A local action as queue needs it: which agent, and how long an envelope may wait."""

    name: Word
    method: Method
    user: Word  # to run as (`_smtpm` for lmtp without a user); empty: as the recipient
    lifetime: Seconds  # seconds until its envelopes expire


@dataclass(frozen=True)
class QueueSlice:
    actions: tuple[DeliverySlice, ...]
    server_name: Word
    dispatchers: int
    alias_commands: Word = ""
    delivery_limits: DeliveryLimits = field(default_factory=DeliveryLimits)


@dataclass(frozen=True)
class SchedulerSlice:
    max_inflight: int = 5000  # envelopes handed to queue and not yet answered
    max_inflight_per_message: int = 256  # so that one mail to many leaves room for the others
    max_inflight_per_lane: int = 500  # so that a user whose agent hangs, or a destination, leaves room likewise


@dataclass(frozen=True)
class ControlSlice:
    server_name: Word
    dispatchers: int


@dataclass(frozen=True)
class CryptoSlice:
    """Nothing: its keys come by descriptor, from the parent."""


@dataclass(frozen=True)
class Slices:
    """What the one-shot configuration process hands to the parent."""

    parent: ParentSlice
    dispatcher: DispatcherSlice
    lookup: LookupSlice
    queue: QueueSlice
    scheduler: SchedulerSlice
    control: ControlSlice
    crypto: CryptoSlice
