"""Which names are declared, and whether what they name can be used as it is used.

Looked at when all is read, so that a name may be used before it is declared.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import chain

from smtpd.config.error import Place, Report, printable, quoted, suggestion
from smtpd.config.host import is_host_name, numeric
from smtpd.config.model import Table
from smtpd.tables import expansion
from smtpd.tables.domain import ascii_form
from smtpd.tables.matching import entry_fault
from smtpd.tables.table import Service

LISTS = ("anyhost", "anydestination", "localhost", "localnames")
SYSTEM_USERS = "getpwnam"
BUILTIN_TABLES = (*LISTS, SYSTEM_USERS)


class Wanted(Enum):
    """What somebody looks for in a table."""

    LIST = "a list"
    PATTERNS = "a list of regular expressions"
    KEYS = "a list, or the keys of a mapping"
    ALIASES = "a mapping"
    USERS = "a mapping of users"
    PASSWORDS = "a mapping of users to hashes of passwords"
    SENDERS = "a mapping of users to addresses"
    HOST_NAMES = "a mapping of addresses to host names"


LISTED = (Wanted.LIST, Wanted.PATTERNS, Wanted.KEYS)
OF_ACCOUNTS = (Wanted.USERS, Wanted.PASSWORDS)


@dataclass(frozen=True)
class Use:
    """A table that something is looked up in."""

    place: Place
    table: str
    wanted: Wanted
    service: Service


class Names:
    def __init__(self, report: Report) -> None:
        self.table_places: dict[str, Place] = {}  # of those that are inline, too
        self.entry_places: dict[str, list[Place]] = {}  # of a list or a mapping in the configuration
        self.userbase_places: dict[str, Place] = {}  # by action
        self.wrapper_places: dict[str, Place] = {}
        self.user_places: dict[str, Place] = {}  # of users of the system, where they are named first
        self.file_places: dict[tuple[str, str], Place] = {}  # by the name of a pki or a ca, and the path
        self.table_uses: list[Use] = []
        self.used: set[tuple[str, str]] = set()  # a kind and a name, but for tables
        self.declarations: Counter[tuple[str, str]] = Counter()  # of a kind and a name: how many sentences
        self._report = report
        self._declared: dict[str, dict[str, Place]] = {
            "table": self.table_places,
            "action": {},
            "wrapper": self.wrapper_places,
            "pki": {},
            "ca": {},
        }
        self._uses: list[tuple[str, str, Place]] = []  # not checked yet
        self._checked = 0  # so many of table_uses are

    def declare(self, kind: str, name: str, place: Place) -> None:
        """`kind` is table, action, wrapper, pki or ca."""
        if kind == "table" and name in BUILTIN_TABLES:
            self._report.add(place, f"table {quoted(name)} is built in, expected another name")
        elif kind == "table" and ("<" in name or ">" in name):
            self._report.add(place, f'{quoted(name)} cannot name a table, expected a name without "<" and ">"')
        self.declarations[kind, name] += 1
        first = self._declared[kind].setdefault(name, place)
        if first != place and kind != "pki":  # one that is said in parts
            self._report.add(place, f"duplicate {kind} {quoted(name)}, first in {first.seen_from(place)}")

    def place_table(self, name: str, place: Place) -> None:
        self.table_places.setdefault(name, place)

    def place_entries(self, table: str, places: list[Place]) -> None:
        self.entry_places.setdefault(table, places)

    def place_userbase(self, action: str, place: Place) -> None:
        self.userbase_places.setdefault(action, place)

    def place_user(self, name: str, place: Place) -> None:
        self.user_places.setdefault(name, place)

    def place_file(self, owner: str, path: str, place: Place) -> None:
        self.file_places.setdefault((owner, path), place)

    def use(self, kind: str, name: str, place: Place) -> None:
        """Anything but a table."""
        self.used.add((kind, name))
        self._uses.append((kind, name, place))

    def use_table(self, use: Use) -> None:
        self.table_uses.append(use)

    def check(self, tables: Mapping[str, Table]) -> None:
        """What was used since the last check.  `tables` lacks those whose declaration was wrong; nothing more is said
        about them."""
        for kind, name, place in self._uses:
            if name not in self._declared[kind]:
                self._unknown(place, kind, name, self._declared[kind])
        self._uses.clear()
        unchecked, self._checked = self.table_uses[self._checked :], len(self.table_uses)
        for use in unchecked:
            if use.table in tables:
                self._check_use(use, tables[use.table])
            elif use.table in BUILTIN_TABLES:
                self._check_builtin(use)
            elif use.table not in self._declared["table"]:
                declared = (name for name in self._declared["table"] if not name.startswith("<"))
                self._unknown(use.place, "table", use.table, chain(BUILTIN_TABLES, declared))

    def _unknown(self, place: Place, kind: str, name: str, known: Iterable[str]) -> None:
        self._report.add(place, f"{kind} {quoted(name)} is not declared" + suggestion(name, known))

    def _check_builtin(self, use: Use) -> None:
        if use.table == SYSTEM_USERS and use.wanted is not Wanted.USERS:
            self._wrong(use, "has the users of the system")
        elif use.table != SYSTEM_USERS and use.wanted not in LISTED:
            self._wrong(use, "is a list")

    def _check_use(self, use: Use, table: Table) -> None:
        """What stands in files and databases is not known here, but of those that have users."""
        mapping = table.pairs is not None
        if table.backend:
            if table.backend == "passwd" and use.wanted not in OF_ACCOUNTS:
                self._wrong(use, "has users")
        elif use.wanted is not Wanted.KEYS and mapping != (use.wanted not in LISTED):
            self._wrong(use, "is a mapping" if mapping else "is a list")
        elif use.wanted is Wanted.PATTERNS:
            self._check_patterns(table)
        elif use.wanted is Wanted.ALIASES:
            self._check_aliases(table)
        elif use.wanted is Wanted.HOST_NAMES:
            self._check_host_names(table)

    def _wrong(self, use: Use, what: str) -> None:
        which = "this" if use.table.startswith("<") else f"table {quoted(use.table)}"
        self._report.add(use.place, f"{which} {what}, expected {use.wanted.value}")

    def _check_patterns(self, table: Table) -> None:
        for entry, place in zip(table.entries, self.entry_places.get(table.name, ()), strict=True):
            if wrong := entry_fault(Service.REGEX, entry):
                self._report.add(place, printable(wrong))

    def _check_aliases(self, table: Table) -> None:
        for (key, value), place in zip(table.pairs or (), self.entry_places.get(table.name, ()), strict=True):
            try:
                expansion.parse_value(value)
            except expansion.Malformed as malformed:
                self._report.add(place, f"alias {quoted(key)}: {malformed}")

    def _check_host_names(self, table: Table) -> None:
        for (key, value), place in zip(table.pairs or (), self.entry_places.get(table.name, ()), strict=True):
            if numeric(key) is None:
                self._report.add(place, f"{quoted(key)} is no address")
            elif not is_host_name(ascii_form(value)):
                self._report.add(place, f"{quoted(value)} cannot be a host name")
