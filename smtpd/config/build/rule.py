"""match CRITERIA (action NAME | reject) -> a rule of the model."""

from lark import Tree

from smtpd.config.build.diagnostics import Diagnostics, word
from smtpd.config.build.names import Names, TableContent, TableUse
from smtpd.config.build.table_operand import TableBuilder
from smtpd.slice import Condition, Match, Operand, Service

# Criterion of a match -> the field of Match.  Conditions are built in this order, which is the printer's, so that the
# numbers of inline tables do not depend on the order in the file.
FIELDS = {"from": "source", "for": "destination"}
FIELDS |= {field: field for field in ("tag", "helo", "tls", "auth", "mail_from", "rcpt_to")}
SERVICES = {
    "src": Service.NETADDR,
    "rdns": Service.DOMAIN,
    "domain": Service.DOMAIN,
    "tag": Service.STRING,
    "helo": Service.DOMAIN,
    "auth": Service.STRING,
    "mail_from": Service.MAILADDR,
    "rcpt_to": Service.MAILADDR,
}
KEY_CRITERIA = ("auth", "mail_from", "rcpt_to")  # criteria that take the keys of a mapping, too


class RuleBuilder:
    def __init__(self, diagnostics: Diagnostics, names: Names, tables: TableBuilder) -> None:
        self._diagnostics = diagnostics
        self._names = names
        self._tables = tables

    def build(self, *children: Tree) -> Match:
        *criteria, decision = children
        given: dict[str, tuple[bool, Tree]] = {}
        for criterion in criteria:
            self._criterion(given, *criterion.children)
        for field, (_, kind) in list(given.items()):
            if field in ("source", "destination") and kind.data in given:
                self._diagnostics.duplicate(given[kind.data][1], kind)
        conditions = {field: self._condition(*given[field]) for field in FIELDS.values() if field in given}
        action = None
        if decision.data == "deliver":
            action = str(decision.children[0])
            self._names.use("action", action, self._diagnostics.position(decision.children[0]))
        return Match(action, **conditions)

    def _criterion(self, given: dict[str, tuple[bool, Tree]], *children: Tree) -> None:
        criterion, negated = children[-1], len(children) == 2
        kind = criterion.children[0] if criterion.data in ("from", "for") else criterion
        field = FIELDS[criterion.data]
        if field in given:
            self._diagnostics.duplicate(criterion, criterion)
        else:
            given[field] = negated, kind

    def _condition(self, negated: bool, kind: Tree) -> Condition:
        *regex, table = kind.children or [None]
        if table is None:
            return Condition(word(kind.data), negated)
        operand = Operand(self._tables.operand(table), bool(regex))
        service = Service.REGEX if regex else SERVICES[kind.data]
        wanted = (
            TableContent.PATTERNS if regex else TableContent.KEYS if kind.data in KEY_CRITERIA else TableContent.LIST
        )
        self._names.use_table(TableUse(self._diagnostics.position(table), operand.table, wanted, service))
        return Condition(word(kind.data), negated, operand)
