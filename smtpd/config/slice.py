"""What each process is told of the configuration: its slice, resolved, and nothing that it need not know.

The parent passes the slices on without looking into them, all but its own.
"""

from dataclasses import dataclass

from smtpd.config.model import Limits, Match


@dataclass(frozen=True)
class ListenerSlice:
    """One bound address.  `number` names its socket in the imsgs."""

    number: int
    address: str  # numeric, without brackets
    port: int
    hostname: str  # of the banner, of Received
    tag: str


@dataclass(frozen=True)
class MaildirSlice:
    """An action that stores into a Maildir."""

    name: str
    path: str  # "~/…" or absolute; may hold %{user.username} and %{user.directory}
    junk: bool


@dataclass(frozen=True)
class TableSlice:
    """A table as lookup opens it.  The builtin ones (anyhost, localhost, localnames) are filled in here."""

    name: str
    entries: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] | None = None
    path: str | None = None  # read by lookup itself


@dataclass(frozen=True)
class ParentSlice:
    listeners: tuple[ListenerSlice, ...]
    actions: tuple[MaildirSlice, ...]
    files: tuple[str, ...]  # that lookup reads (tables): checked by the parent, unveiled by lookup
    dispatchers: int
    sandbox_required: bool | None
    server_name: str


@dataclass(frozen=True)
class DispatcherSlice:
    listeners: tuple[ListenerSlice, ...]
    server_name: str
    max_message_size: int
    limits: Limits  # already divided by the number of dispatchers


@dataclass(frozen=True)
class LookupSlice:
    server_name: str
    matches: tuple[Match, ...]
    tables: tuple[TableSlice, ...]
    actions: tuple[str, ...]
    sub_addr_delim: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class QueueSlice:
    """`lifetimes`: name of each action -> seconds until its envelopes expire."""

    lifetimes: dict[str, int]
    actions: tuple[MaildirSlice, ...]
    server_name: str
    max_message_size: int
    dispatchers: int


@dataclass(frozen=True)
class SchedulerSlice:
    max_inflight: int = 5000  # envelopes handed to queue and not yet answered
    max_inflight_per_message: int = 256  # so that one mail to many leaves room for the others
    max_inflight_per_lane: int = 500  # so that a user whose agent hangs, or a destination, leaves room likewise


@dataclass(frozen=True)
class ControlSlice:
    server_name: str
    dispatchers: int


@dataclass(frozen=True)
class CryptoSlice:
    """No key yet; the process stands and answers the control room."""


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
