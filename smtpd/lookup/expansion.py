"""Expansion of a recipient: rules, aliases, users, .forward.  No channel, file or clock.

    RCPT TO:<sales+x@here.test>
      address  sales+x@here.test       the rules choose an action; its `virtual` table must have the address
      user     sales+x                 its `alias`: sales+x, then sales
      user       bob, as named there   UserQuestion, or the action's userbase: does the user exist, may it receive?
                                       ForwardQuestion: the user's .forward
      address      amy@there.test        an address again: the rules, as for local mail; one that relays ends here
      user         bob                   the owner's name: the mailbox
                   "|filter", /file      run as bob, by bob's own file

Nodes are processed from a queue.  Each becomes envelopes, further nodes, or a refusal; one refusal refuses the whole
recipient: nothing of it is delivered, and nothing is lost, as the client still has the mail.

NOTIFY and ORCPT of the client apply to all envelopes of its recipient: RFC 3461 5.2.7.

The sender of mail that a relay action with `srs` forwards, to another address than the client named, is rewritten for
the domain that the client named (smtp/srs.py).  It is made here, as the key is nowhere else, and kept in the envelope.

A bounce to a sender that was rewritten with our key (smtp/srs.py) goes to the original sender, as local mail: the rules
decide about that address.  Mail that is no bounce, and an address that is not one of ours, go by the rules as they are.

An LMTP server is told the sender and the recipient.  If one of them is not ASCII and the server lacks SMTPUTF8
(RFC 6531 3.6), the recipient is refused at RCPT.

Bounds: no node is processed twice, none is deeper than DEPTH_MAX, and there are at most FORWARD_NODES_MAX nodes below
.forward files and NODES_MAX in all.  The table entry that named a node is not looked up for it again, so an alias may
name itself.  A user's own name in that user's .forward means the mailbox; a .forward that leads back by way of another
user is a loop.  A recipient that expands to nothing is refused.
"""

from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, replace
from typing import Any

from smtpd.domain_name import normal, normal_address
from smtpd.envelope import Duty, Kind, Notify, Origin, Recipient
from smtpd.lookup.expansion_config import ExpansionConfig
from smtpd.lookup.node import (
    AddressNode,
    ExpansionQuestion,
    IncludeQuestion,
    Node,
    ServerQuestion,
    TableEntry,
    TargetSource,
    UserNode,
)
from smtpd.lookup.refusal import (
    RecipientError,
    Refusal,
    expansion_deferred,
    expansion_failed,
    from_error_target,
    invalid_recipient,
    smtputf8_required,
    temporary_failure,
)
from smtpd.lookup.rule import Rejected, RuleInput
from smtpd.lookup.trace import NO_TRACE, Trace
from smtpd.lookup.user_check import check_user, forward_error, forward_question
from smtpd.slice import ExpansionSlice, Method, Service
from smtpd.smtp.idna import ascii_address
from smtpd.smtp.srs import SrsError, is_rewritten
from smtpd.tables import alias_syntax as language
from smtpd.tables.lookup_keys import alias_keys, virtual_keys
from smtpd.tables.table import PendingAnswer, TableUnavailable

DEPTH_MAX = 10
FORWARD_NODES_MAX = 100  # nodes below .forward files
NODES_MAX = 1000  # nodes in all; aliases are the administrator's
WORD_MAX, PATH_MAX = 256, 1024  # characters that an imsg carries (envelope.py)
NOTIFY_DEFAULT = Notify(0)
DEV_NULL = language.File("/dev/null")
COMMANDS_ALLOWED = "commands and files need a table in a text file, and alias-commands"


@dataclass(frozen=True)
class Expanded:
    """The envelopes of a recipient, at least one."""

    recipients: tuple[Recipient, ...]


Steps = Generator[ExpansionQuestion | PendingAnswer, Any, None]
ExpansionSteps = Generator[ExpansionQuestion | PendingAnswer, Any, Expanded | Refusal]


class Expansion:
    """One expansion.  `steps()` yields questions, is sent their answers, and returns Expanded or Refusal."""

    def __init__(
        self,
        config: ExpansionConfig,
        origin: Origin,
        recipient: str,
        trace: Trace = NO_TRACE,
        *,
        notify: Notify = NOTIFY_DEFAULT,
        original: str = "",
    ):
        self._config = config
        self._origin = origin
        self._recipient = recipient
        self._trace = trace
        self._notify = notify
        self._original = original
        self._srs_error = ""  # why an address that looks rewritten was not reversed
        self._nodes: deque[Node] = deque()
        self._seen: set[object] = set()
        self._listed = self._forwarded = 0  # number of nodes and commands: in all, and below .forward files
        self._recipients: dict[object, Recipient] = {}

    def steps(self) -> ExpansionSteps:
        """Expand the recipient that the client named."""
        return self._all(AddressNode(0, self._first_address))

    @property
    def _first_address(self) -> str:
        """The recipient that the client named.  RFC 5321 4.1.1.3: <postmaster> has no domain."""
        return self._recipient if "@" in self._recipient else f"{self._recipient}@{self._config.server_name}"

    def steps_from(self, user: str, extension: str, action: ExpansionSlice, destination: str) -> ExpansionSteps:
        """Expand a user whose .forward has changed.  Aliases are not looked up, as if one had named the user."""
        name = f"{user}{self._config.delimiter}{extension}" if extension else user
        return self._all(UserNode(0, name, action, destination, entry=(action.alias or action.virtual, name)))

    def _all(self, first: Node) -> ExpansionSteps:
        node = first
        try:
            self._add(first)
            while self._nodes:
                node = self._nodes.popleft()
                self._trace.node(node)
                yield from self._address(node) if isinstance(node, AddressNode) else self._user(node)
            if not self._recipients:
                raise expansion_failed("Recipient leads to nobody")
        except RecipientError as refused:
            refusal = refused.refusal(self._recipient)
            if self._srs_error and not refusal.reason:
                return replace(refusal, reason=self._srs_error)
            return _explained(refusal, node)
        return Expanded(tuple(self._recipients.values()))

    def _add(self, node: Node) -> None:
        if node.depth >= DEPTH_MAX:
            raise expansion_failed("Recipient is forwarded too often")
        new = node.key not in self._seen
        self._trace.named(node, new)
        if new:
            self._count(node.owner is not None)
            self._seen.add(node.key)
            self._nodes.append(node)

    def _count(self, forwarded: bool) -> None:
        self._listed += 1
        self._forwarded += forwarded
        if self._forwarded > FORWARD_NODES_MAX or self._listed > NODES_MAX:
            raise expansion_deferred("Recipient is forwarded to too many")

    # -- an address: the rules ---------------------------------------------------------

    def _address(self, node: AddressNode) -> Steps:
        if (original := self._reversed(node.address)) is not None:
            self._add(AddressNode(node.depth + 1, original, node.owner, node.entry, internal=True))
            return
        local, _, domain = node.address.rpartition("@")
        case = RuleInput(self._origin, node.address, normal(domain), node.internal)
        decided = yield from self._config.rules.decide(case, self._trace)
        if isinstance(decided, TableUnavailable):
            raise temporary_failure(decided.reason)
        if isinstance(decided, Rejected):
            raise invalid_recipient("5.7.1")
        name, action = local.lower(), self._config.actions[decided]
        relays = action.method is Method.RELAY
        if len(node.address) > PATH_MAX or (len(name) > WORD_MAX and not relays):  # lower() can make text longer
            raise invalid_recipient("5.1.1")
        if relays:
            self._relay(node, action)
            return
        user = UserNode(node.depth + 1, name, action, node.address, node.owner, node.entry)
        if not action.virtual:
            self._add(user)
        elif not (yield from self._look_up(user, virtual_keys(name, normal(domain), self._config.delimiter))):
            raise expansion_failed("Invalid recipient")

    def _reversed(self, address: str) -> str | None:
        """The original sender that a bounce is for; None for any other mail or address."""
        srs = self._config.srs
        if srs is None or self._origin.sender or not is_rewritten(address):
            return None
        try:
            return srs.reverse(address, self._config.now())
        except SrsError as error:
            self._srs_error = f"a rewritten sender (SRS): {error}"
            return None

    # -- a name: aliases ---------------------------------------------------------------

    def _user(self, node: UserNode) -> Steps:
        name = node.name.partition(self._config.delimiter)[0]
        own = node.owner == (node.action.userbase, name)
        if not own and (node.action.alias or node.action.virtual):
            found = yield from self._look_up(node, alias_keys(node.name, self._config.delimiter))
            if found:
                return
        yield from self._person(node, own)

    def _look_up(self, node: UserNode, keys: Iterable[str]) -> Generator[ExpansionQuestion | PendingAnswer, Any, bool]:
        """Look up the keys in order, and add the targets of the first entry.  Returns whether there was one."""
        table = node.action.alias or node.action.virtual
        for key in keys:
            if (table, key) == node.entry:
                return False
            value = yield from self._config.find(table, Service.ALIAS, key)
            if isinstance(value, TableUnavailable):
                raise expansion_deferred("Aliases of the recipient cannot be read now", value.reason)
            if value is not None:
                self._trace.entry(table, key, value)
                yield from self._entry(node, table, key, value)
                return True
        return False

    def _entry(self, node: UserNode, table: str, key: str, value: str) -> Steps:
        text = f"{key} in table {table}"
        may_run = table in self._config.texts and self._config.alias_commands != ""
        duty = Duty.ALIASED if may_run else None
        source = TargetSource(text, node.owner, (table, key), duty, self._config.alias_commands)
        try:
            targets = language.parse_value(value)
        except language.AliasSyntaxError as error:
            raise expansion_deferred("Aliases of the recipient are not understood", f"{text}: {error}") from None
        for target in targets:
            if isinstance(target, language.Include):
                included = yield IncludeQuestion(target.path)
                self._take(node, included, source._replace(text=f"{target.path}, {text}", duty=None))
            else:
                self._take(node, (target,), source)

    # -- a user: of the system or of a userbase, and the user's .forward ---------------------

    def _person(self, node: UserNode, own: bool) -> Steps:
        name, _, extension = node.name.partition(self._config.delimiter)
        action = node.action
        home = yield from check_user(self._config, name, action)
        if own or action.user and (action.userbase or action.user != name):
            yield from self._deliver(node, name, extension, home)
            return
        forward = yield forward_question(name, action)
        self._trace.forward(name, forward)
        if forward.verdict == "none" or forward.verdict == "text" and not forward.targets:
            yield from self._deliver(node, name, extension, home)
        elif forward.verdict == "text":
            owner = action.userbase, name
            self._take(node, forward.targets, TargetSource(f".forward of {name}", owner, None, Duty.FORWARDED, name))
        else:
            raise forward_error(name, forward)

    # -- targets, and deliveries ---------------------------------------------------------------

    def _take(self, node: UserNode, targets: Iterable[language.Target], source: TargetSource) -> None:
        depth, delimiter = node.depth + 1, self._config.delimiter
        for target in targets:
            match target:
                case language.Address():
                    address = str(target)
                    local, _, domain = normal_address(address).rpartition("@")
                    keys = virtual_keys(local, domain, delimiter)
                    self._add(AddressNode(depth, address, source.owner, _own(source, keys), internal=True))
                case language.User(name):
                    entry = _own(source, alias_keys(name.lower(), delimiter))
                    self._add(UserNode(depth, name.lower(), node.action, node.destination, source.owner, entry))
                case language.ErrorReply():
                    self._check_more_than_addresses(node, source)
                    raise from_error_target(target)
                case language.Command() | language.File():
                    self._run(node, target, source)
                case _:
                    raise expansion_deferred("Recipient is forwarded to an include file", source.text)

    def _check_more_than_addresses(self, node: UserNode, source: TargetSource) -> None:
        if node.action.method is Method.FORWARD_ONLY:
            raise temporary_failure(f"{source.text}: action {node.action.name} is {node.action.method}")

    def _run(self, node: UserNode, target: language.Command | language.File, source: TargetSource) -> None:
        self._check_more_than_addresses(node, source)
        self._count(source.owner is not None)
        name, _, extension = node.name.partition(self._config.delimiter)
        if target == DEV_NULL:
            self._reach(node, name, extension, Duty.DISCARD)
        elif source.duty is None:
            reason = f"{source.text}: {COMMANDS_ALLOWED}"
            raise expansion_deferred("Recipient is forwarded to a command that may not be run", reason)
        else:
            self._reach(node, source.user, extension, source.duty, digest=language.digest(target))

    def _deliver(self, node: UserNode, user: str, extension: str, home: str) -> Steps:
        if node.action.method is Method.EXPAND_ONLY:
            raise expansion_failed("Recipient is forwarded to nobody")
        if node.action.method is Method.FORWARD_ONLY:
            raise expansion_deferred("Recipient is forwarded to nobody")
        if node.action.method is Method.LMTP:
            yield from self._check_server(node, node.destination if node.action.rcpt_to else user)
        self._reach(node, user, extension, Duty.DELIVER, home=home)

    def _check_server(self, node: UserNode, told: str) -> Steps:
        """Refuse addresses that the LMTP server cannot take.  Only addresses beyond ASCII need a question."""
        by_sender = ascii_address(self._origin.sender) is None
        if not by_sender and ascii_address(told) is not None:
            return
        server = yield ServerQuestion(node.action.name)
        if server.verdict == "later":
            raise temporary_failure(f"server of action {node.action.name}: {server.reason}")
        if server.verdict != "utf8":
            raise smtputf8_required("Sender's" if by_sender else "Recipient's")

    def _relay(self, node: AddressNode, action: ExpansionSlice) -> None:
        """Add an envelope for another host, unless there is the same one: by action and address, whose local part only
        that host may compare (RFC 5321 2.4)."""
        to = Recipient(
            self._recipient,
            node.address,
            action.name,
            Kind.MTA,
            "",
            "",
            notify=self._notify,
            original=self._original,
            sender=self._rewritten_sender(node, action),
        )
        local, _, domain = node.address.rpartition("@")
        self._keep(to, (Kind.MTA, action.name, local, normal(domain)))

    def _rewritten_sender(self, node: AddressNode, action: ExpansionSlice) -> str:
        """The sender that the next host is told; empty for the message's own.  Mail of local users and programs keeps
        it: they send from a domain that this host may send for."""
        srs, sender, first = self._config.srs, self._origin.sender, self._first_address
        forwarded = normal_address(node.address) != normal_address(first)
        if srs is None or not sender or not forwarded or action.name not in self._config.srs_actions:
            return ""
        made = srs.rewrite(sender, first.rpartition("@")[2], self._config.now())
        return made if made != sender else ""

    def _reach(
        self, node: UserNode, user: str, extension: str, duty: Duty, *, digest: str = "", home: str = ""
    ) -> None:
        """Add an envelope, unless there is the same one: by duty, action, user and address."""
        action = node.action.name
        to = Recipient(
            self._recipient,
            node.destination,
            action,
            Kind.MDA,
            user,
            extension,
            duty,
            digest,
            home,
            self._notify,
            self._original,
        )
        self._keep(to, (duty, digest, action, user, extension, normal_address(node.destination)))

    def _keep(self, to: Recipient, key: object) -> None:
        self._trace.recipient(to, key not in self._recipients)
        self._recipients.setdefault(key, to)


def _explained(refusal: Refusal, node: Node) -> Refusal:
    """The refusal, with the node that caused it for the log; the client knows only the name that it gave."""
    address_and_its_user = 1
    if refusal.reason or node.depth <= address_and_its_user:
        return refusal
    return replace(refusal, reason=f"it leads to {node}")


def _own(source: TargetSource, keys: Iterable[str]) -> TableEntry | None:
    """The entry that named a node, if it is among those that would be looked up for it."""
    return source.entry if source.entry is not None and source.entry[1] in keys else None
