"""From what a client named to who gets it: rules, users, sub-addresses, .forward.  No channel, file or clock.

    RCPT TO:<bob+lists@here.test>
      address  bob+lists@here.test     the rules: which action?
      user     bob, extension lists    FindUser: is there one, may it receive?
                                       ReadForward: does it want its mail elsewhere?
                 amy@there.test          an address again; the rules, as for a mail from here
                 bob                     own name: this is where it stays

Nodes wait in a queue; each becomes envelopes, further nodes, or a refusal, which is then the answer for the whole
recipient: nothing of it is delivered (and nothing of it is lost, as the client still has it).

What ends an expansion that would not end: a node that has been there is not taken twice, none is DEPTH deep, and there
are NODES of them at the most.  A user's own name in that user's .forward, or an address that leads to it, means the
mailbox; a .forward that leads back by way of another user is a loop.  A recipient of which nothing is left is refused.

Not understood yet: aliases, relaying, and in a .forward commands, files and `error:`.
"""

from collections import deque
from collections.abc import Generator
from dataclasses import dataclass

from smtpd.envelope import Kind, Origin, Recipient
from smtpd.lookup.rule import Case, Refused, Rules
from smtpd.tables import expansion as language
from smtpd.tables.table import Unavailable

DEPTH = 10
NODES = 100
WORD, PATH, TEXT = 256, 1024, 1024  # characters that an imsg carries (envelope.py)
NAME_MAX = 32  # of useradd(8); what is longer is no user of any system
NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")


@dataclass(frozen=True)
class FindUser:
    """Answered by "user", "unknown", "root", "daemon" or "later"."""

    name: str


@dataclass(frozen=True)
class ReadForward:
    """Answered by a Forward."""

    user: str


@dataclass(frozen=True)
class Forward:
    """`verdict`: "none", "text", "refused", "later", "malformed".  `reason` is for the log, never for a client."""

    verdict: str
    targets: tuple[language.Target, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Expanded:
    """At least one, no two for the same mailbox."""

    recipients: tuple[Recipient, ...]


@dataclass(frozen=True)
class Refusal:
    """`text` is for the client, `reason`, where there is one, for the log."""

    code: int
    enhanced: str
    text: str
    reason: str = ""


class _Refuse(Exception):
    def __init__(self, code: int, enhanced: str, text: str, reason: str = ""):
        super().__init__(code, enhanced, text)
        self.refusal = Refusal(code, enhanced, text, reason)


def _invalid(enhanced: str) -> _Refuse:
    return _Refuse(550, enhanced, "Invalid recipient")


def _later(reason: str) -> _Refuse:
    return _Refuse(451, "4.3.0", "Temporary failure", reason)


# RFC 3463 X.2.4: mailing list expansion problem
def _expansion_failed(text: str) -> _Refuse:
    return _Refuse(524, "5.2.4", text)


def _expansion_deferred(text: str, reason: str = "") -> _Refuse:
    return _Refuse(424, "4.2.4", text, reason)


@dataclass(frozen=True)
class AddressNode:
    depth: int
    address: str  # user@domain
    owner: str  # the user whose .forward names it; empty for the client's own

    @property
    def key(self) -> object:
        return self.address, bool(self.owner)


@dataclass(frozen=True)
class UserNode:
    depth: int
    name: str  # with its sub-address
    owner: str
    action: str
    destination: str  # the nearest address above

    @property
    def key(self) -> object:
        return self.name, self.action, self.owner


Node = AddressNode | UserNode
Question = FindUser | ReadForward
Steps = Generator[Question, str | Forward, None]


class Expansion:
    """One recipient on its way.  `steps()` yields questions, is sent their answers, and returns how it ended."""

    def __init__(self, rules: Rules, delimiter: str, server_name: str, origin: Origin, recipient: str):
        self._rules = rules
        self._delimiter = delimiter
        self._server_name = server_name
        self._origin = origin
        self._recipient = recipient
        self._nodes: deque[Node] = deque()
        self._seen: set[object] = set()
        self._recipients: dict[object, Recipient] = {}

    def steps(self) -> Generator[Question, str | Forward, Expanded | Refusal]:
        try:
            self._add(AddressNode(0, self._complete(self._recipient), ""))
            while self._nodes:
                yield from self._expand(self._nodes.popleft())
            if not self._recipients:
                raise _expansion_failed("Recipient leads back to itself")
        except _Refuse as refused:
            return self._refusal(refused.refusal)
        return Expanded(tuple(self._recipients.values()))

    def _refusal(self, refusal: Refusal) -> Refusal:
        text = f"{refusal.text}: <{self._recipient}>"[:TEXT]
        return Refusal(refusal.code, refusal.enhanced, text, refusal.reason)

    def _complete(self, recipient: str) -> str:
        """RFC 5321 4.1.1.3: <postmaster> comes without a domain."""
        return recipient if "@" in recipient else f"{recipient}@{self._server_name}"

    def _add(self, node: Node) -> None:
        if node.depth >= DEPTH:
            raise _expansion_failed("Recipient is forwarded too often")
        if node.key in self._seen:
            return
        if len(self._seen) >= NODES:
            raise _expansion_deferred("Recipient is forwarded to too many")
        self._seen.add(node.key)
        self._nodes.append(node)

    def _expand(self, node: Node) -> Steps:
        if isinstance(node, AddressNode):
            self._address(node)
        else:
            yield from self._user(node)

    # -- an address: the rules ---------------------------------------------------------

    def _address(self, node: AddressNode) -> None:
        local, _, domain = node.address.rpartition("@")
        action = self._rules.decide(Case(self._origin, node.address, domain.lower(), bool(node.owner)))
        if isinstance(action, Unavailable):
            raise _later(action.reason)
        if isinstance(action, Refused):
            raise _invalid("5.7.1")
        name = local.lower()
        if len(name) > WORD or len(node.address) > PATH:  # lower() makes some letters two
            raise _invalid("5.1.1")
        self._add(UserNode(node.depth + 1, name, node.owner, action, node.address))

    # -- a user: the system, and what the user wants -------------------------------------

    def _user(self, node: UserNode) -> Steps:
        name, _, extension = node.name.partition(self._delimiter)
        yield from self._check_user(name)
        if name == node.owner:
            self._deliver(node, name, extension)
            return
        forward = yield ReadForward(name)
        assert isinstance(forward, Forward)
        if forward.verdict == "none" or forward.verdict == "text" and not forward.targets:
            self._deliver(node, name, extension)
        elif forward.verdict == "text":
            for target in forward.targets:
                self._forward(node, name, target)
        else:
            raise _forward_trouble(name, forward)

    def _check_user(self, name: str) -> Steps:
        if not is_user_name(name):
            raise _invalid("5.1.1")
        verdict = yield FindUser(name)
        if verdict == "unknown":
            raise _invalid("5.1.1")
        if verdict in ("root", "daemon"):
            raise _invalid("5.2.1")  # RFC 3463 X.2.1: the mailbox exists, and takes nothing
        if verdict != "user":
            raise _later(f"user {name} cannot be looked up now")

    def _forward(self, node: UserNode, user: str, target: language.Target) -> None:
        match target:
            case language.Address(local, domain):
                self._add(AddressNode(node.depth + 1, f"{local}@{domain}", user))
            case language.User(name):
                self._add(UserNode(node.depth + 1, name.lower(), user, node.action, node.destination))
            case _:
                kind = type(target).__name__.lower()
                reason = f".forward of {user}: {kind} is not available yet"
                raise _expansion_deferred("Recipient is forwarded to what is not available yet", reason)

    def _deliver(self, node: UserNode, user: str, extension: str) -> None:
        to = Recipient(self._recipient, node.destination, node.action, Kind.MDA, user, extension)
        self._recipients.setdefault((to.action, user, extension), to)


def _forward_trouble(user: str, forward: Forward) -> _Refuse:
    reason = f".forward of {user}: {forward.reason}"
    if forward.verdict == "refused":
        return _Refuse(524, "5.2.4", "Recipient's forwarding is not acceptable", reason)
    if forward.verdict == "malformed":
        return _expansion_deferred("Recipient's forwarding is not understood", reason)
    return _later(reason)


def is_user_name(name: str) -> bool:
    """POSIX 3.436 user names, in lower case.  Nobody is asked whether anything else is a user."""
    return 0 < len(name) <= NAME_MAX and NAME.issuperset(name) and name[0] not in "-."
