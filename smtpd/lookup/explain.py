"""smtpd -n --explain from=ADDRESS mail-from=A rcpt-to=B …: which rule matches, and how the recipient is expanded.

    from=203.0.113.9 mail-from=<amy@there.test> rcpt-to=<staff@here.test>
    staff@here.test
      rule 1: match from src <office> for any action "relay": no, from src <office> does not hold
      rule 2: match from any for local action "in": yes
      user staff
        <aliases> has staff: bob, x@there.test
        user bob
          user of the system: yes
          .forward: bob, |vacation bob
          = delivered to bob by action "in" (maildir)
          = |vacation bob, run as bob
        x@there.test
          …
          = refused: 550 5.7.1 Invalid recipient: <staff@here.test>
    refused: 550 5.7.1 Invalid recipient: <staff@here.test>

The text comes from the expansion itself (trace.py), with the rights of the caller: tables, includes and .forward files
of others are read as that user.  Table programs belong to the running daemon and are not asked.
"""

import pwd
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from smtpd.config.model import Table
from smtpd.config.printer import print_condition, print_match
from smtpd.envelope import LOCAL_CLIENT, UNKNOWN_NAME, Duty, Kind, Origin, Recipient
from smtpd.imsg import ForwardRead
from smtpd.ipc.log import visible
from smtpd.lookup.expansion import Expanded, Expansion, ExpansionSteps
from smtpd.lookup.expansion_config import make_expansion_config
from smtpd.lookup.include_file import IncludeFiles
from smtpd.lookup.node import (
    ExpansionQuestion,
    ForwardAnswer,
    ForwardQuestion,
    IncludeQuestion,
    Node,
    ServerAnswer,
    ServerQuestion,
    UserQuestion,
)
from smtpd.lookup.open_tables import open_tables
from smtpd.lookup.recipient import to_forward_answer
from smtpd.lookup.refusal import Refusal
from smtpd.lookup.resolver_config import canonical_address
from smtpd.lookup.trace import Trace
from smtpd.sandbox import find_uids
from smtpd.slice import OUR_PREFIX, OUR_USERS, Condition, ExpansionSlice, LookupSlice, Match, is_system_account
from smtpd.smtp.address import NULL, AddressError, parse_mailbox
from smtpd.tables import alias_syntax as language
from smtpd.tables.program import ProgramTable
from smtpd.tables.table import PendingAnswer, TableUnavailable

EXPLAIN_KEYS = ("from", "mail-from", "rcpt-to", "tag", "helo", "rdns", "auth", "tls")
VERDICTS = {"user": "yes", "unknown": "no", "root": "root, who receives nothing", "daemon": "one who receives nothing"}
PROGRAM_NOT_ASKED = "only the running daemon asks its program"

ReadFile = Callable[[str], tuple[str, bytes, str]]  # user -> (verdict, content, reason), as agents answer


class ExplainError(ValueError):
    """Invalid arguments of --explain."""


@dataclass(frozen=True)
class ExplainRequest:
    origin: Origin
    recipient: str

    def __str__(self) -> str:
        """All arguments, with their defaults."""
        origin = self.origin
        name = "" if origin.client == UNKNOWN_NAME else origin.client
        tls = "yes" if origin.tls else ""
        more = {"tag": origin.tag, "helo": origin.helo, "rdns": name, "auth": origin.user, "tls": tls}
        said = "".join(f" {key}={value}" for key, value in more.items() if value)
        return f"from={origin.address} mail-from=<{origin.sender}> rcpt-to=<{self.recipient}>{said}"


def explain(configuration: LookupSlice, words: Sequence[str], read_forward: ReadFile) -> int:
    """Print the expansion.  Returns 0 if the recipient is accepted.  `read_forward` reads a system user's .forward."""
    try:
        asked = parse(words, configuration.server_name)
    except (ExplainError, AddressError) as error:
        print(f"--explain: {error}", file=sys.stderr)
        return 1
    tables = open_tables(configuration)
    for table in tables.values():
        if isinstance(table, ProgramTable):
            table.lost(PROGRAM_NOT_ASKED)
    config = make_expansion_config(configuration, tables, find_uids(OUR_USERS))
    shown = {t.name: Table(t.name, t.entries, t.pairs, t.path, t.backend) for t in configuration.tables}
    told = ExplainTrace(shown, config.actions)
    outcome = ExpansionDriver(told, read_forward).drive(Expansion(config, asked.origin, asked.recipient, told).steps())
    end = told.ended(outcome)
    print("\n".join(visible(line) for line in [str(asked), *told.lines(), end]))
    return 0 if isinstance(outcome, Expanded) else 1


def parse(words: Sequence[str], server_name: str) -> ExplainRequest:
    """key=value, each once; only rcpt-to is required.  Raises ExplainError, AddressError."""
    given = dict[str, str]()
    for word in words:
        key, sign, value = word.partition("=")
        if key not in EXPLAIN_KEYS or not sign:
            raise ExplainError(f'"{word}": expected one of {", ".join(f"{known}=" for known in EXPLAIN_KEYS)}')
        if key in given:
            raise ExplainError(f"duplicate {key}=")
        given[key] = value
    if "rcpt-to" not in given:
        raise ExplainError("rcpt-to= is missing")
    client = given.get("from", LOCAL_CLIENT)
    address = LOCAL_CLIENT if client == LOCAL_CLIENT else canonical_address(client)
    if address is None:
        raise ExplainError(f'from="{client}": expected an address, or {LOCAL_CLIENT}')
    sender = _without_brackets(given.get("mail-from", ""))
    sender = str(parse_mailbox(sender) if sender else NULL)
    recipient = str(parse_mailbox(_without_brackets(given["rcpt-to"])))
    origin = Origin(
        sender=sender,
        address=address,
        client=given.get("rdns", "").lower() or UNKNOWN_NAME,
        helo=given.get("helo", ""),
        hostname=server_name,
        tag=given.get("tag", ""),
        esmtp=True,
        tls=_yes_or_no("tls", given.get("tls", "no")),
        user=given.get("auth", ""),
    )
    return ExplainRequest(origin, recipient)


def _yes_or_no(key: str, value: str) -> bool:
    if value not in ("yes", "no"):
        raise ExplainError(f'{key}="{value}": expected yes or no')
    return value == "yes"


def _without_brackets(path: str) -> str:
    return path[1:-1] if path.startswith("<") and path.endswith(">") else path


@dataclass
class Step:
    """The trace of one node, and of the nodes that it names."""

    title: str
    looked_at: bool = False
    parts: "list[str | Step]" = field(default_factory=list)

    def lines(self, indent: int = 0) -> list[str]:
        found = ["  " * indent + self.title + ("" if self.looked_at else ": not processed")]
        for part in self.parts:
            found += part.lines(indent + 1) if isinstance(part, Step) else ["  " * (indent + 1) + part]
        return found


class ExplainTrace(Trace):
    """Collects the trace.  Nodes are processed in the order in which they were named, and printed below the node that
    named them."""

    def __init__(self, tables: Mapping[str, Table], actions: Mapping[str, ExpansionSlice]):
        self._tables, self._actions = dict(tables), actions
        self._commands: dict[str, str] = {}  # digest -> command or file
        self._first = self._now = Step("")
        self._steps: dict[int, Step] = {}  # by id() of the node
        self._rules = 0

    def lines(self) -> list[str]:
        return [line for part in self._first.parts if isinstance(part, Step) for line in part.lines()]

    def say(self, text: str) -> None:
        self._now.parts.append(text)

    def node(self, node: Node) -> None:
        self._now = self._steps[id(node)]
        self._now.looked_at = True
        self._rules = 0

    def rule(self, match: Match, failed: Condition | None, verdict: bool | TableUnavailable) -> None:
        self._rules += 1
        words = " ".join(print_match(match, self._tables).split())
        if isinstance(verdict, TableUnavailable):
            words += f": cannot be asked: {verdict.reason}"
        elif verdict:
            words += ": yes"
        elif failed is not None:
            group = {id(match.source): "from ", id(match.destination): "for "}.get(id(failed), "")
            condition = " ".join(print_condition(group, failed, self._tables).split())
            words += f": no, {condition} does not hold"
        self.say(f"rule {self._rules}: {words}")

    def entry(self, table: str, key: str, value: str) -> None:
        self.say(f"{table if table.startswith('<') else f'<{table}>'} has {key}: {value}")
        with suppress(language.AliasSyntaxError):
            self._keep(language.parse_value(value))

    def forward(self, user: str, forward: ForwardAnswer) -> None:
        self._keep(forward.targets)
        said = ", ".join(map(_written, forward.targets)) or ("none" if forward.verdict == "text" else forward.verdict)
        self.say(f".forward: {said}" + (f", {forward.reason}" if forward.reason else ""))

    def _keep(self, targets: Iterable[language.Target]) -> None:
        for target in targets:
            if isinstance(target, language.Command | language.File):
                self._commands[language.digest(target)] = _written(target)

    def named(self, node: Node, new: bool) -> None:
        if not new:
            self.say(f"{node}: already processed")
            return
        step = self._steps[id(node)] = Step(str(node))
        self._now.parts.append(step)

    def recipient(self, recipient: Recipient, new: bool) -> None:
        self.say(f"= {self._outcome(recipient)}" + ("" if new else ", as before"))

    def _outcome(self, to: Recipient) -> str:
        if to.duty is Duty.DISCARD:
            return "discarded"
        if to.kind is Kind.MTA:
            sender = f", from {to.sender}" if to.sender else ""
            return f'relayed to {to.destination} by action "{to.action}"{sender}'
        extension = f" (sub-address {to.extension})" if to.extension else ""
        if to.duty is not Duty.DELIVER:
            target = self._commands[to.digest]
            return f"{target}, {'run' if target.startswith('|') else 'written'} as {to.user}{extension}"
        action = self._actions[to.action]
        what = f"{action.method}, as {action.user}" if action.user else str(action.method)
        home = f", at home in {to.home}," if to.home else ""
        return f'delivered to {to.user}{extension}{home} by action "{to.action}" ({what})'

    def ended(self, outcome: Expanded | Refusal) -> str:
        if isinstance(outcome, Expanded):
            count = len(outcome.recipients)
            return f"accepted: {count} envelope{'s' * (count != 1)}"
        reason = f" ({outcome.reason})" if outcome.reason else ""
        reply = f"{outcome.code} {outcome.enhanced} {outcome.text}"
        self.say(f"= refused: {reply}{reason}")
        return f"refused: {reply}"


def _written(target: language.Target) -> str:
    """A target as in an alias or a .forward, without its quotes."""
    match target:
        case language.User(name):
            return name
        case language.Address():
            return str(target)
        case language.Command(line):
            return f"|{line}"
        case language.File(path):
            return path
        case language.Include(path):
            return f":include:{path}"
        case language.ErrorReply(code, text):
            return f"error:{code} {text}"


class ExpansionDriver:
    """Runs an expansion, and answers its questions at once."""

    def __init__(self, told: ExplainTrace, read_forward: ReadFile):
        self._told = told
        self._read_forward = read_forward
        self._includes = IncludeFiles()

    def drive(self, steps: ExpansionSteps) -> Expanded | Refusal:
        answer = None
        while True:
            try:
                answer = self._answer(steps.send(answer))
            except StopIteration as end:
                return end.value

    def _answer(self, question: ExpansionQuestion | PendingAnswer) -> object:
        match question:
            case UserQuestion(name):
                verdict = find_user(name)
                self._told.say(f"user of the system: {VERDICTS[verdict]}")
                return verdict
            case ForwardQuestion(user, ""):
                return to_forward_answer(ForwardRead(0, *self._read_forward(user)))
            case ForwardQuestion():
                return ForwardAnswer("none", reason="not read here for users of a userbase")
            case ServerQuestion(action):
                self._told.say(f"an address is not ASCII: only the running daemon asks the server of action {action}")
                return ServerAnswer("utf8")
            case IncludeQuestion(path):
                members = self._includes.read(path)
                self._told.say(f"{path}: {', '.join(map(_written, members)) or 'nobody'}")
                return members
            case PendingAnswer():
                return TableUnavailable(PROGRAM_NOT_ASKED)


def find_user(name: str) -> str:
    """The verdict about a user, as the daemon running as root would give it."""
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return "unknown"
    if found.pw_name != name:
        return "unknown"
    if found.pw_uid == 0:
        return "root"
    is_of_the_system = is_system_account(found.pw_uid, found.pw_gid) or name.startswith(OUR_PREFIX)
    return "daemon" if is_of_the_system else "user"
