"""The rules: which action is meant for this destination, asked of the match lines in their order.

    tag -> from -> for -> mail-from -> rcpt-to           the first condition that does not hold ends the line
    all hold:            that line's action, or its refusal
    a table is silent:   no answer at all, whatever the lines behind it say

`from` sees the client's address; "local" for a mail that a program on this host brought, and for an address that came
out of an expansion: what a user writes into a .forward is that user's mail, whoever sent the first one.  `for` and
`rcpt-to` see the destination as it is after expansion.

A `!` turns a condition round, but not the silence of a table.  `from socket` means what came from a program here, so it
does not hold for an expanded address, turned round or not.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from smtpd.config.model import Condition, For, From, Match, Operand
from smtpd.envelope import Origin
from smtpd.tables.table import Service, Table, Unavailable

LOCAL = "local"  # the address of this host's own programs
SRC_LOCAL = Condition(From.SRC, operand=Operand("localhost"))  # tables that every configuration has
FOR_LOCAL = Condition(For.DOMAIN, operand=Operand("localnames"))
LATER: dict[str, int] = {From.MAIL_FROM: 1, For.RCPT_TO: 2}


@dataclass(frozen=True)
class Case:
    """What a rule decides about."""

    origin: Origin
    destination: str  # user@domain
    domain: str
    internal: bool  # it came out of an expansion

    @property
    def address(self) -> str:
        return LOCAL if self.internal else self.origin.address

    @property
    def sender(self) -> str:
        return self.origin.sender or "@"  # the null sender, as address tables know it


Verdict = bool | Unavailable
Test = Callable[[Case], Verdict]


@dataclass(frozen=True)
class Rule:
    tests: tuple[Test, ...]
    action: str | None  # None: refuse

    def holds(self, case: Case) -> Verdict:
        for test in self.tests:
            verdict = test(case)
            if verdict is not True:
                return verdict
        return True


@dataclass(frozen=True)
class Refused:
    """No line matches, or one that says reject."""


class Rules:
    """Raises KeyError for a table that is not there."""

    def __init__(self, matches: Sequence[Match], tables: Mapping[str, Table]):
        self._tables = tables
        self._rules = [Rule(tuple(self._tests(match)), match.action) for match in matches]

    def decide(self, case: Case) -> str | Refused | Unavailable:
        """The name of the action."""
        for rule in self._rules:
            verdict = rule.holds(case)
            if isinstance(verdict, Unavailable):
                return verdict
            if verdict:
                return Refused() if rule.action is None else rule.action
        return Refused()

    def _tests(self, match: Match) -> list[Test]:
        """In the order of evaluation.  What is always true is left out."""
        source, destination = _local(match.source, SRC_LOCAL), _local(match.destination, FOR_LOCAL)
        given = [c for c in (match.tag, source, destination, match.mail_from, match.rcpt_to) if c is not None]
        # `from mail-from` is `from any` with a sender, which is asked for behind `for`; and so for `for rcpt-to`.
        given.sort(key=lambda condition: LATER.get(condition.kind, 0))
        return [self._test(condition) for condition in given if condition != Condition("any")]

    def _test(self, condition: Condition) -> Test:
        test = self._positive(condition)
        if not condition.negated:
            return test
        if condition.kind == From.SOCKET:
            return lambda case: not case.internal and not test(case)
        return lambda case: verdict if isinstance(verdict := test(case), Unavailable) else not verdict

    def _positive(self, condition: Condition) -> Test:
        match condition.kind:
            case "any":
                return lambda case: True
            case From.SOCKET:
                return lambda case: not case.internal and case.origin.address == LOCAL
            case "tag":
                return self._ask(condition, Service.STRING, lambda case: case.origin.tag)
            case From.SRC:
                return self._ask(condition, Service.NETADDR, lambda case: case.address)
            case For.DOMAIN:
                return self._ask(condition, Service.DOMAIN, lambda case: case.domain)
            case From.MAIL_FROM:
                return self._ask(condition, Service.MAILADDR, lambda case: case.sender)
            case For.RCPT_TO:
                return self._ask(condition, Service.MAILADDR, lambda case: case.destination)
        raise ValueError(f"{condition.kind} is no condition")

    def _ask(self, condition: Condition, service: Service, key: Callable[[Case], str]) -> Test:
        if condition.operand is None:
            raise ValueError(f"{condition.kind} without a table")
        table = self._tables[condition.operand.table]
        if condition.operand.regex:
            service = Service.REGEX
        return lambda case: table.check(service, key(case))


def _local(condition: Condition, meant: Condition) -> Condition:
    """`local`, as the condition on a table that it stands for."""
    return replace(meant, negated=condition.negated) if condition.kind == LOCAL else condition
