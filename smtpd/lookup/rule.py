"""The rules: evaluates the match lines in their order, to find the action of a recipient.

    tag -> from -> for -> helo -> auth -> tls -> mail-from -> rcpt-to
                         the first condition that does not hold ends the line
    all hold:            that line's action, or its refusal
    a table is unavailable: temporary failure, later lines are not evaluated

`from` compares the client's address, or with `rdns` its verified name; "local" for mail of a program of this host, and
for an address from an expansion: mail to a target of a .forward is local mail of its user, whatever its sender.
`for` and `rcpt-to` compare the destination after expansion.  The other conditions are about the session, and apply to
expanded addresses as to the first one.  A program of this host counts as authenticated, without a user name.

A `!` negates a condition, but not an unavailable table.  `from socket` is about programs of this host, and `from rdns`
without a table about remote hosts, so neither matches an expanded address, negated or not; nor does `from rdns` with a
table match a client without a name, negated or not.  For a table program's answer the evaluation waits.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial

from msgspec import Struct

from smtpd.domain_name import spellings
from smtpd.envelope import LOCAL_CLIENT, UNKNOWN_NAME, Origin
from smtpd.lookup.trace import NO_TRACE, Trace
from smtpd.slice import Condition, For, From, Match, Operand, Service
from smtpd.tables.table import Answer, PendingAnswer, Table, TableUnavailable, first_found

SRC_LOCAL = Condition(From.SRC, operand=Operand("localhost"))  # built-in tables
FOR_LOCAL = Condition(For.DOMAIN, operand=Operand("localnames"))
# `from auth`, `from mail-from` and `for rcpt-to` are evaluated in the order of `auth`, `mail-from` and `rcpt-to`.
EVALUATION_ORDER: dict[str, int] = {"helo": 1, From.AUTH: 2, "tls": 3, From.MAIL_FROM: 4, For.RCPT_TO: 5}


class RuleInput(Struct, frozen=True):
    """What a rule is evaluated for."""

    origin: Origin
    destination: str  # user@domain
    domain: str
    internal: bool  # named by an expansion, not by the client

    @property
    def address(self) -> str:
        return LOCAL_CLIENT if self.internal else self.origin.address

    @property
    def client(self) -> str:
        return LOCAL_CLIENT if self.internal else self.origin.client

    @property
    def sender(self) -> str:
        return self.origin.sender or "@"  # the null sender, as in address tables


Verdict = bool | TableUnavailable
AskTable = Callable[[RuleInput], Answer | PendingAnswer]


class Clause(Struct, frozen=True):
    """A condition of a rule, and the lookup that evaluates it."""

    condition: Condition
    ask: AskTable

    def judge(self, case: RuleInput, answer: Answer) -> Verdict:
        if isinstance(answer, TableUnavailable):
            return answer
        return not self._does_not_apply(case) and bool(answer) is not self.condition.negated

    def _does_not_apply(self, case: RuleInput) -> bool:
        """Whether the condition does not apply, negated or not."""
        if self.condition.kind == From.RDNS and self.condition.operand is not None:
            return case.client == UNKNOWN_NAME
        return case.internal and self.condition.kind in (From.SOCKET, From.RDNS)


class Rule(Struct, frozen=True):
    match: Match
    clauses: tuple[Clause, ...]


class Rejected(Struct, frozen=True):
    """No rule matches, or the rule says reject."""


class Rules:
    """All rules.  Raises KeyError for an unknown table."""

    def __init__(self, matches: Sequence[Match], tables: Mapping[str, Table]):
        self._tables = tables
        self._rules = [Rule(match, tuple(self._clauses(match))) for match in matches]

    def decide(
        self, case: RuleInput, trace: Trace = NO_TRACE
    ) -> Generator[PendingAnswer, Answer, str | Rejected | TableUnavailable]:
        """The name of the action.  Yields a PendingAnswer where it has to wait, and is sent the answer."""
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
        """The conditions in the order of evaluation, without those that are always true."""
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
            Clause(condition, self._ask(local if local and condition.kind == LOCAL_CLIENT else condition))
            for condition, local in given
            if condition is not None and condition != Condition("any")
        ]
        return sorted(clauses, key=lambda clause: EVALUATION_ORDER.get(clause.condition.kind, 0))

    def _ask(self, condition: Condition) -> AskTable:
        match condition.kind:
            case "any":
                return lambda case: True
            case From.SOCKET:
                return lambda case: case.origin.address == LOCAL_CLIENT
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
        """For user@domain the table may also have @domain."""
        if condition.operand is None:
            return lambda case: case.origin.user != "" or case.origin.address == LOCAL_CLIENT
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
    """The texts that a regular expression is searched in: the key, then other spellings of its domain."""
    if service is Service.DOMAIN:
        return tuple(dict.fromkeys((key, *spellings(key))))
    if service is not Service.MAILADDR:
        return (key,)
    local, at, domain = key.rpartition("@")
    return tuple(dict.fromkeys((key, *(f"{local}{at}{spelling}" for spelling in spellings(domain)))))
