"""What an expansion is made of: the nodes that wait, who named them, and what they ask.

    AddressNode   bob@here.test, to be decided by the rules
    UserNode      bob+lists, under an action
    Source        who names the next ones: the client, an entry of a table, a user's .forward

A node remembers its OWNER, the user whose .forward is the nearest above it, and the ENTRY of a table that named it when
that entry could be the node's own too: what has been asked is not asked again, and one's own name means oneself.
"""

from dataclasses import dataclass
from typing import NamedTuple

from smtpd.domain_name import normal, normal_address
from smtpd.envelope import Duty
from smtpd.slice import ExpansionSlice
from smtpd.tables.alias_syntax import Target

ForwardOwner = tuple[str, str]  # userbase, empty for users of the system, and the name there
TableEntry = tuple[str, str]  # table and key


@dataclass(frozen=True)
class UserQuestion:
    """Answered by "user", "unknown", "root", "daemon" or "later"."""

    name: str


@dataclass(frozen=True)
class ForwardQuestion:
    """Answered by a Forward.  `action`: the one whose userbase has the user; empty for a user of the system."""

    user: str
    action: str


@dataclass(frozen=True)
class IncludeQuestion:
    """Answered by the targets in that file, a tuple."""

    path: str


@dataclass(frozen=True)
class ServerQuestion:
    """Does the LMTP server of this action know SMTPUTF8?  Answered by a Server."""

    action: str


ExpansionQuestion = UserQuestion | ForwardQuestion | IncludeQuestion | ServerQuestion


@dataclass(frozen=True)
class ServerAnswer:
    """`verdict`: "utf8", "ascii", "later".  `reason` is for the log, never for a client."""

    verdict: str
    reason: str = ""


@dataclass(frozen=True)
class ForwardAnswer:
    """`verdict`: as in imsg.ForwardRead.  `reason` is for the log, never for a client; of a "text" it tells which lines
    were skipped."""

    verdict: str
    targets: tuple[Target, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class AddressNode:
    depth: int
    address: str  # user@domain
    owner: ForwardOwner | None = None
    entry: TableEntry | None = None
    internal: bool = False  # it came out of an expansion

    @property
    def key(self) -> object:
        local, _, domain = self.address.rpartition("@")
        return local, normal(domain), self.owner, self.entry, self.internal

    def __str__(self) -> str:
        return self.address


@dataclass(frozen=True, slots=True)
class UserNode:
    depth: int
    name: str  # with its sub-address
    action: ExpansionSlice
    destination: str  # the nearest address above
    owner: ForwardOwner | None = None
    entry: TableEntry | None = None

    @property
    def key(self) -> object:
        return self.name, self.action.name, normal_address(self.destination), self.owner, self.entry

    def __str__(self) -> str:
        return f"user {self.name}"


Node = AddressNode | UserNode


class TargetSource(NamedTuple):
    """Whoever names the next nodes, and what a command or a file there would be."""

    text: str  # for the log
    owner: ForwardOwner | None
    entry: TableEntry | None = None
    duty: Duty | None = None  # None: it may name no commands
    user: str = ""  # who would run them
