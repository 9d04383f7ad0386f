"""Which names are declared, and whether what they name can be used as it is used.

Looked at when all is read, so that a name may be used before it is declared.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from smtpd.config.error import Place, Report, printable, quoted, suggestion
from smtpd.config.model import Table
from smtpd.tables.regex import Pattern

BUILTIN_TABLES = ("anyhost", "anydestination", "localhost", "localnames")
LATER_TABLES = ("getpwnam",)


@dataclass(frozen=True)
class Use:
    """A table that something is looked up in."""

    place: Place
    table: str
    regex: bool
    may_be_mapping: bool


class Names:
    def __init__(self, report: Report) -> None:
        self._report = report
        self._declared: dict[str, dict[str, Place]] = {"table": {}, "action": {}}
        self._entry_places: dict[str, list[Place]] = {}
        self._table_uses: list[Use] = []
        self._action_uses: list[tuple[str, Place]] = []

    def declare(self, kind: str, name: str, place: Place) -> None:
        """`kind` is table or action."""
        if kind == "table" and name in (*BUILTIN_TABLES, *LATER_TABLES):
            self._report.add(place, f"table {quoted(name)} is built in, expected another name")
        elif kind == "table" and ("<" in name or ">" in name):
            self._report.add(place, f'{quoted(name)} cannot name a table, expected a name without "<" and ">"')
        first = self._declared[kind].setdefault(name, place)
        if first != place:
            where = f"in line {first.line}" + ("" if first.file == place.file else f" of {quoted(first.file)}")
            self._report.add(place, f"{kind} {quoted(name)} is declared twice, first {where}")

    def place_entries(self, table: str, places: list[Place]) -> None:
        """Where each entry of an inline list stands."""
        self._entry_places.setdefault(table, places)

    def use_action(self, name: str, place: Place) -> None:
        self._action_uses.append((name, place))

    def use_table(self, use: Use) -> None:
        self._table_uses.append(use)

    def check(self, tables: Mapping[str, Table]) -> None:
        """`tables` lacks those whose declaration was wrong; nothing more is said about them."""
        for name, place in self._action_uses:
            if name not in self._declared["action"]:
                self._unknown(place, "action", name, list(self._declared["action"]))
        for use in self._table_uses:
            if use.table in tables:
                self._check_use(use, tables[use.table])
            elif use.table in LATER_TABLES:
                self._report.add(use.place, f"table <{use.table}> is not available yet")
            elif use.table not in self._declared["table"] and use.table not in BUILTIN_TABLES:
                self._unknown(use.place, "table", use.table, [*self._declared["table"], *BUILTIN_TABLES])

    def _unknown(self, place: Place, kind: str, name: str, known: list[str]) -> None:
        self._report.add(place, f"{kind} {quoted(name)} is not declared" + suggestion(name, known))

    def _check_use(self, use: Use, table: Table) -> None:
        if table.pairs is not None and (use.regex or not use.may_be_mapping):
            which = "this" if table.name.startswith("<") else f"table {quoted(table.name)}"
            self._report.add(use.place, f"{which} is a mapping, expected a list")
        elif use.regex:
            for entry, place in zip(table.entries, self._entry_places.get(table.name, ()), strict=False):
                try:
                    Pattern(entry)
                except ValueError as malformed:  # Malformed, and numbers that int() finds too long
                    self._report.add(place, f"{quoted(entry)} is not a regular expression: {printable(str(malformed))}")
