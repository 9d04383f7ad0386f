"""The rules: which action is meant for this destination, asked of the match lines in their order.

    tag -> from -> for -> helo -> auth -> tls -> mail-from -> rcpt-to
                         the first condition that does not hold ends the line
    all hold:            that line's action, or its refusal
    a table is silent:   no answer at all, whatever the lines behind it say

`from` sees the client's address, or with `rdns` its verified name; "local" for a mail that a program on this host
brought, and for an address that came out of an expansion: what a user writes into a .forward is that user's mail,
whoever sent the first one.  `for` and `rcpt-to` see the destination as it is after expansion.  The others speak of the
session, and hold for expanded addresses as they did for the first one.  Who is here already, a program on this host,
has authenticated, as nobody in particular.

A `!` turns a condition round, but not the silence of a table.  `from socket` means what came from a program here, and
`from rdns` without a table what came from a host with a name, so they do not hold for an expanded address, turned round
or not; nor does `from rdns` with a table for a client without a name.  A table that somebody else answers for is waited
for.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from smtpd.domain_name import spellings
from smtpd.envelope import UNKNOWN_NAME, Origin
from smtpd.lookup.trace import NO_TRACE, Trace
from smtpd.slice import Condition, For, From, Match, Operand, Service
from smtpd.tables.table import Answer, PendingAnswer, Table, TableUnavailable, first_found

LOCAL = "local"  # the address of this host's own programs
SRC_LOCAL = Condition(From.SRC, operand=Operand("localhost"))  # tables that every configuration has
FOR_LOCAL = Condition(For.DOMAIN, operand=Operand("localnames"))
# `from auth` and `from mail-from` are `from any` with a condition that is asked for in its own place, as is
# `for rcpt-to`.
EVALUATION_ORDER: dict[str, int] = {"helo": 1, From.AUTH: 2, "tls": 3, From.MAIL_FROM: 4, For.RCPT_TO: 5}


@dataclass(frozen=True)
class RuleInput:
    """What a rule decides about."""

    origin: Origin
    destination: str  # user@domain
    domain: str
    internal: bool  # it came out of an expansion

    @property
    def address(self) -> str:
        return LOCAL if self.internal else self.origin.address

    @property
    def client(self) -> str:
        return LOCAL if self.internal else self.origin.client

    @property
    def sender(self) -> str:
        return self.origin.sender or "@"  # the null sender, as address tables know it


Verdict = bool | TableUnavailable
AskTable = Callable[[RuleInput], Answer | PendingAnswer]


@dataclass(frozen=True)
class Clause:
    """A condition as it is written, and how its table is asked."""

    condition: Condition
    ask: AskTable

    def judge(self, case: RuleInput, answer: Answer) -> Verdict:
        if isinstance(answer, TableUnavailable):
            return answer
        return not self._beside_the_point(case) and bool(answer) is not self.condition.negated

    def _beside_the_point(self, case: RuleInput) -> bool:
        """Neither it nor its contrary can be said."""
        if self.condition.kind == From.RDNS and self.condition.operand is not None:
            return case.client == UNKNOWN_NAME
        return case.internal and self.condition.kind in (From.SOCKET, From.RDNS)


@dataclass(frozen=True)
class Rule:
    match: Match
    clauses: tuple[Clause, ...]


@dataclass(frozen=True)
class Rejected:
    """No line matches, or one that says reject."""


class Rules:
    """Raises KeyError for a table that is not there."""

    def __init__(self, matches: Sequence[Match], tables: Mapping[str, Table]):
        self._tables = tables
        self._rules = [Rule(match, tuple(self._clauses(match))) for match in matches]

    def decide(
        self, case: RuleInput, trace: Trace = NO_TRACE
    ) -> Generator[PendingAnswer, Answer, str | Rejected | TableUnavailable]:
        """The name of the action.  Yields what has to be waited for, and is sent the answer to it."""
        for rule in self._rules:
            failed: Condition | None = None
            verdict: Verdict = True
            for clause in rule.clauses:
                answer = clause.ask(case)
                verdict = clause.judge(case, (yield answer) if isinstance(answer, PendingAnswer) else answer)
                if verdict is not True:
                    failed = clause.condition
                    break
            trace.rule(rule.match, failed, verdict)
            if isinstance(verdict, TableUnavailable):
                return verdict
            if verdict:
                return Rejected() if rule.match.action is None else rule.match.action
        return Rejected()

    def _clauses(self, match: Match) -> list[Clause]:
        """In the order of evaluation.  What is always true is left out."""
        given = [
            (match.tag, None),
            (match.source, SRC_LOCAL),
            (match.destination, FOR_LOCAL),
            (match.helo, None),
            (match.auth, None),
            (match.tls, None),
            (match.mail_from, None),
            (match.rcpt_to, None),
        ]
        clauses = [
            Clause(condition, self._ask(local if local and condition.kind == LOCAL else condition))
            for condition, local in given
            if condition is not None and condition != Condition("any")
        ]
        return sorted(clauses, key=lambda clause: EVALUATION_ORDER.get(clause.condition.kind, 0))

    def _ask(self, condition: Condition) -> AskTable:
        match condition.kind:
            case "any":
                return lambda case: True
            case From.SOCKET:
                return lambda case: case.origin.address == LOCAL
            case From.RDNS if condition.operand is None:
                return lambda case: case.client != UNKNOWN_NAME
            case From.AUTH:
                return self._ask_user(condition)
            case "tls":
                return lambda case: case.origin.tls
            case "tag":
                return self._look(condition, Service.STRING, lambda case: case.origin.tag)
            case "helo":
                return self._look(condition, Service.DOMAIN, lambda case: case.origin.helo)
            case From.RDNS:
                return self._look(condition, Service.DOMAIN, lambda case: case.client)
            case From.SRC:
                return self._look(condition, Service.NETADDR, lambda case: case.address)
            case For.DOMAIN:
                return self._look(condition, Service.DOMAIN, lambda case: case.domain)
            case From.MAIL_FROM:
                return self._look(condition, Service.MAILADDR, lambda case: case.sender)
            case For.RCPT_TO:
                return self._look(condition, Service.MAILADDR, lambda case: case.destination)
        raise ValueError(f"{condition.kind} is no condition")

    def _ask_user(self, condition: Condition) -> AskTable:
        """Of a user with a domain the table may name the domain alone."""
        if condition.operand is None:
            return lambda case: case.origin.user != "" or case.origin.address == LOCAL
        name = self._look(condition, Service.STRING, lambda case: case.origin.user)
        address = self._look(condition, Service.MAILADDR, lambda case: case.origin.user)

        def ask(case: RuleInput) -> Answer | PendingAnswer:
            user = case.origin.user
            return user != "" and (address if "@" in user else name)(case)

        return ask

    def _look(self, condition: Condition, service: Service, key: Callable[[RuleInput], str]) -> AskTable:
        if condition.operand is None:
            raise ValueError(f"{condition.kind} without a table")
        table = self._tables[condition.operand.table]
        if not condition.operand.regex:
            return lambda case: table.check(service, key(case))
        return lambda case: first_found(partial(table.check, Service.REGEX), _texts(service, key(case)))


def _texts(service: Service, key: str) -> tuple[str, ...]:
    """What an expression is tried with: the key as it is, then the other spellings of its domain.  Case counts."""
    if service is Service.DOMAIN:
        return tuple(dict.fromkeys((key, *spellings(key))))
    if service is not Service.MAILADDR:
        return (key,)
    local, at, domain = key.rpartition("@")
    return tuple(dict.fromkeys((key, *(f"{local}{at}{spelling}" for spelling in spellings(domain)))))
