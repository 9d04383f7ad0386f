"""The names that a configuration declares and uses: unknown and duplicate ones, and tables of the wrong kind.

Uses are checked when all files have been read, so that a name may be used before it is declared.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import chain

from smtpd.config.errors import Report, SourcePosition, escaped, quoted, suggestion
from smtpd.config.host import is_host_name, numeric
from smtpd.config.model import Table
from smtpd.domain_name import ascii_form
from smtpd.slice import Service
from smtpd.tables import alias_syntax
from smtpd.tables.matching import entry_fault

BUILTIN_LISTS = ("anyhost", "anydestination", "localhost", "localnames")
SYSTEM_USERS = "getpwnam"
BUILTIN_TABLES = (*BUILTIN_LISTS, SYSTEM_USERS)


class TableContent(Enum):
    """What a table has to contain where it is used."""

    LIST = "a list"
    PATTERNS = "a list of regular expressions"
    KEYS = "a list, or the keys of a mapping"
    ALIASES = "a mapping"
    USERS = "a mapping of users"
    PASSWORDS = "a mapping of users to hashes of passwords"
    SENDERS = "a mapping of users to addresses"
    HOST_NAMES = "a mapping of addresses to host names"
    HOSTS = "a list of hosts"
    DOMAIN_HOSTS = "a mapping of domains to hosts"
    HOST_PASSWORDS = "a mapping of labels to user:password"
    SOURCES = "a list of addresses"


LIST_CONTENTS = (TableContent.LIST, TableContent.PATTERNS, TableContent.KEYS, TableContent.HOSTS, TableContent.SOURCES)
# What no built-in table has.
OWN_CONTENTS = (TableContent.HOSTS, TableContent.SOURCES)
ACCOUNT_CONTENTS = (TableContent.USERS, TableContent.PASSWORDS)


@dataclass(frozen=True)
class TableUse:
    """One use of a table: at `position`, as `wanted`, to be asked for `service`."""

    position: SourcePosition
    table: str
    wanted: TableContent
    service: Service


class Names:
    def __init__(self, report: Report) -> None:
        self.table_positions: dict[str, SourcePosition] = {}  # inline tables, too
        self.entry_positions: dict[str, list[SourcePosition]] = {}  # of a list or a mapping in the configuration
        self.userbase_positions: dict[str, SourcePosition] = {}  # by action
        self.wrapper_positions: dict[str, SourcePosition] = {}
        self.user_positions: dict[str, SourcePosition] = {}  # of system users: their first use
        self.file_positions: dict[tuple[str, str], SourcePosition] = {}  # by the name of a pki or a ca, and the path
        self.queue_positions: list[SourcePosition] = []  # of `queue compression` and `queue encryption`
        self.relay_positions: dict[str, SourcePosition] = {}  # by action
        self.srs_positions: list[SourcePosition] = []  # of actions' `srs`
        # (smtp or mta, domain of `mta limit for domain` or nothing, field) -> where its value is last set
        self.limit_positions: dict[tuple[str, str, str], SourcePosition] = {}
        self.domain_limit_positions: dict[str, SourcePosition] = {}  # by domain: its first `mta limit`
        self.table_uses: list[TableUse] = []
        self.used: set[tuple[str, str]] = set()  # (kind, name) of all but tables
        self.declarations: Counter[tuple[str, str]] = Counter()  # (kind, name) -> number of sentences
        self._report = report
        self._declared: dict[str, dict[str, SourcePosition]] = {
            "table": self.table_positions,
            "action": {},
            "wrapper": self.wrapper_positions,
            "pki": {},
            "ca": {},
        }
        self._uses: list[tuple[str, str, SourcePosition]] = []  # not checked yet
        self._checked = 0  # number of table_uses that have been checked

    def declare(self, kind: str, name: str, position: SourcePosition) -> None:
        """`kind` is table, action, wrapper, pki or ca."""
        if kind == "table" and name in BUILTIN_TABLES:
            self._report.add(position, f"table name {quoted(name)} is reserved for a built-in table")
        elif kind == "table" and ("<" in name or ">" in name):
            self._report.add(position, f'invalid table name {quoted(name)}: "<" and ">" are not allowed')
        self.declarations[kind, name] += 1
        first = self._declared[kind].setdefault(name, position)
        if first != position and kind != "pki":  # a pki may be declared in several sentences
            self._report.add(position, f"duplicate {kind} {quoted(name)}, first in {first.seen_from(position)}")

    def note_table(self, name: str, position: SourcePosition) -> None:
        self.table_positions.setdefault(name, position)

    def note_entries(self, table: str, positions: list[SourcePosition]) -> None:
        self.entry_positions.setdefault(table, positions)

    def note_userbase(self, action: str, position: SourcePosition) -> None:
        self.userbase_positions.setdefault(action, position)

    def note_user(self, name: str, position: SourcePosition) -> None:
        self.user_positions.setdefault(name, position)

    def note_file(self, owner: str, path: str, position: SourcePosition) -> None:
        self.file_positions.setdefault((owner, path), position)

    def note_relay(self, action: str, position: SourcePosition) -> None:
        self.relay_positions.setdefault(action, position)

    def note_srs(self, position: SourcePosition) -> None:
        self.srs_positions.append(position)

    def use(self, kind: str, name: str, position: SourcePosition) -> None:
        """Note a use of anything but a table."""
        self.used.add((kind, name))
        self._uses.append((kind, name, position))

    def use_table(self, use: TableUse) -> None:
        self.table_uses.append(use)

    def check(self, tables: Mapping[str, Table]) -> None:
        """Check the uses since the last check.  Tables whose declaration had an error are missing from `tables`; no
        further error is reported about them."""
        for kind, name, position in self._uses:
            if name not in self._declared[kind]:
                self._unknown(position, kind, name, self._declared[kind])
        self._uses.clear()
        unchecked, self._checked = self.table_uses[self._checked :], len(self.table_uses)
        for use in unchecked:
            if use.table in tables:
                self._check_use(use, tables[use.table])
            elif use.table in BUILTIN_TABLES:
                self._check_builtin(use)
            elif use.table not in self._declared["table"]:
                declared = (name for name in self._declared["table"] if not name.startswith("<"))
                self._unknown(use.position, "table", use.table, chain(BUILTIN_TABLES, declared))

    def _unknown(self, position: SourcePosition, kind: str, name: str, known: Iterable[str]) -> None:
        self._report.add(position, f"unknown {kind} {quoted(name)}" + suggestion(name, known))

    def _check_builtin(self, use: TableUse) -> None:
        if use.table == SYSTEM_USERS and use.wanted is not TableContent.USERS:
            self._report_content(use, "holds the users of the system")
        elif use.table != SYSTEM_USERS and use.wanted in OWN_CONTENTS:
            self._report_content(use, "is built in")
        elif use.table != SYSTEM_USERS and use.wanted not in LIST_CONTENTS:
            self._report_content(use, "is a list")

    def _check_use(self, use: TableUse, table: Table) -> None:
        """The content of files and databases is not known here, except that passwd tables hold users."""
        mapping = table.pairs is not None
        if table.backend:
            if table.backend == "passwd" and use.wanted not in ACCOUNT_CONTENTS:
                self._report_content(use, "holds users")
        elif use.wanted is not TableContent.KEYS and mapping != (use.wanted not in LIST_CONTENTS):
            self._report_content(use, "is a mapping" if mapping else "is a list")
        elif use.wanted in (TableContent.PATTERNS, *OWN_CONTENTS):
            self._check_entries(table, use.service)
        elif use.wanted is TableContent.DOMAIN_HOSTS:
            self._check_values(table, use.service)
        elif use.wanted is TableContent.ALIASES:
            self._check_aliases(table)
        elif use.wanted is TableContent.HOST_NAMES:
            self._check_host_names(table)

    def _report_content(self, use: TableUse, what: str) -> None:
        which = "this" if use.table.startswith("<") else f"table {quoted(use.table)}"
        self._report.add(use.position, f"{which} {what}, expected {use.wanted.value}")

    def _check_entries(self, table: Table, service: Service) -> None:
        for entry, position in zip(table.entries, self.entry_positions.get(table.name, ()), strict=True):
            if wrong := entry_fault(service, entry):
                self._report.add(position, escaped(wrong))

    def _check_values(self, table: Table, service: Service) -> None:
        for (_, value), position in zip(table.pairs or (), self.entry_positions.get(table.name, ()), strict=True):
            if wrong := entry_fault(service, value):
                self._report.add(position, escaped(wrong))

    def _check_aliases(self, table: Table) -> None:
        for (key, value), position in zip(table.pairs or (), self.entry_positions.get(table.name, ()), strict=True):
            try:
                alias_syntax.parse_value(value)
            except alias_syntax.AliasSyntaxError as malformed:
                self._report.add(position, f"alias {quoted(key)}: {malformed}")

    def _check_host_names(self, table: Table) -> None:
        for (key, value), position in zip(table.pairs or (), self.entry_positions.get(table.name, ()), strict=True):
            if numeric(key) is None:
                self._report.add(position, f"invalid address {quoted(key)}")
            elif not is_host_name(ascii_form(value)):
                self._report.add(position, f"invalid host name {quoted(value)}")
