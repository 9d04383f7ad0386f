"""The parts of an expansion: nodes, the source that named them, and questions with their answers.

    AddressNode   bob@here.test, to be decided by the rules
    UserNode      bob+lists, with an action
    Source        what names further nodes: the client, an entry of a table, a user's .forward

A node has an owner, the user of the nearest .forward above it, and an entry, the table entry that named it if it would
also be looked up for it: that entry is not used again, and the owner's own name means the owner's mailbox.
"""

from typing import NamedTuple

from msgspec import Struct

from smtpd.domain_name import normal, normal_address
from smtpd.envelope import Duty
from smtpd.slice import ExpansionSlice
from smtpd.tables.alias_syntax import Target

ForwardOwner = tuple[str, str]  # (userbase, or empty for system users; name)
TableEntry = tuple[str, str]  # (table, key)


class UserQuestion(Struct, frozen=True):
    """Answered by "user", "unknown", "root", "daemon" or "later"."""

    name: str


class ForwardQuestion(Struct, frozen=True):
    """Answered by a ForwardAnswer.  `action`: the one whose userbase has the user; empty for a user of the system."""

    user: str
    action: str


class IncludeQuestion(Struct, frozen=True):
    """Answered by a tuple of the targets in that file."""

    path: str


class ServerQuestion(Struct, frozen=True):
    """Whether the LMTP server of this action supports SMTPUTF8.  Answered by a ServerAnswer."""

    action: str


ExpansionQuestion = UserQuestion | ForwardQuestion | IncludeQuestion | ServerQuestion


class ServerAnswer(Struct, frozen=True):
    """`verdict`: "utf8", "ascii", "later".  `reason` is for the log, never for a client."""

    verdict: str
    reason: str = ""


class ForwardAnswer(Struct, frozen=True):
    """`verdict`: as in imsg.ForwardRead.  `reason` is for the log, never for a client; of a "text" it tells which lines
    were skipped."""

    verdict: str
    targets: tuple[Target, ...] = ()
    reason: str = ""


class AddressNode(Struct, frozen=True):
    depth: int
    address: str  # user@domain
    owner: ForwardOwner | None = None
    entry: TableEntry | None = None
    internal: bool = False  # named by an expansion, not by the client

    @property
    def key(self) -> object:
        local, _, domain = self.address.rpartition("@")
        return local, normal(domain), self.owner, self.entry, self.internal

    def __str__(self) -> str:
        return self.address


class UserNode(Struct, frozen=True):
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
    """What names further nodes, and whether and as whom its commands and files are run."""

    text: str  # for the log
    owner: ForwardOwner | None
    entry: TableEntry | None = None
    duty: Duty | None = None  # None: commands and files are not allowed
    user: str = ""  # the user who runs them
