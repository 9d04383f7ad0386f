"""Files of tables, as far as their content has to be known at the start of the daemon.

    texts.entries(table)       the usable entries; every other line is an error at that line
    texts.check(table, ...)    report what would keep the table from serving its uses

lookup reads the content for itself, and again at `smtpctl update table`.  Needed here: which files lookup will open,
whether it can use them, which uids count (resolve/userbase.py), which commands aliases name (alias_tables.py).
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from smtpd.config.build.table_operand import BACKENDS_WITH_PATH
from smtpd.config.errors import Report, SourcePosition, escaped, quoted
from smtpd.config.model import Table
from smtpd.config.parser import Parsed
from smtpd.ipc.os_error import error_text
from smtpd.slice import Service
from smtpd.tables import db, file, passwd, sqlite
from smtpd.tables.sqlite import Settings
from smtpd.tables.text_file import LineFault, TextFileError

READABLE_BACKENDS = ("file", "passwd")  # backends whose entries are known at the start


class TableFileError(ValueError):
    """A table file cannot be read; the text is the reason.  `missing`: there is no such file."""

    def __init__(self, text: str, *, missing: bool) -> None:
        super().__init__(text)
        self.missing = missing


@dataclass(frozen=True)
class TableEntry:
    """A key and its value, and their position."""

    position: SourcePosition
    key: str
    value: str


class TableFiles:
    """The files of all tables; each is read once."""

    def __init__(self, parsed: Parsed, read: Callable[[str], str], report: Report) -> None:
        self._parsed = parsed
        self._read = read
        self._report = report
        self._texts: dict[str, str | TableFileError] = {}

    def paths(self) -> Iterator[str]:
        """The paths of all files that lookup reads for tables; programs open their own."""
        for table in self._parsed.config.tables:
            if table.path is None or table.backend not in BACKENDS_WITH_PATH:
                continue
            yield table.path
            if table.backend == "sqlite" and (settings := self.settings(table.path)):
                yield settings.dbpath

    def settings(self, path: str) -> Settings | None:
        """The description of an SQLite database.  None if it is invalid, which check() reports."""
        try:
            return sqlite.parse_settings(self.text(path))
        except (TableFileError, TextFileError):
            return None

    def text(self, path: str) -> str:
        """Raises TableFileError."""
        if path not in self._texts:
            self._texts[path] = self._read_once(path)
        found = self._texts[path]
        if isinstance(found, TableFileError):
            raise found
        return found

    def _read_once(self, path: str) -> str | TableFileError:
        try:
            return self._read(path)
        except (OSError, ValueError) as error:
            missing = isinstance(error, FileNotFoundError)
            return TableFileError(f"cannot read {quoted(path)}: {escaped(error_text(error))}", missing=missing)

    # -- content ----------------------------------------------------------------------

    def entries(self, table: Table) -> list[TableEntry]:
        """The entries of a mapping: in the configuration, a text file, or a passwd file (accounts with a home).  Raises
        TableFileError."""
        if not table.backend:
            positions = self._parsed.names.entry_positions.get(table.name, [])
            return [TableEntry(position, *pair) for position, pair in zip(positions, table.pairs or (), strict=True)]
        assert table.path is not None
        if table.backend == "passwd":
            accounts = self.accounts(table.path)
            return [_entry(table.path, a.line, a.name, a.userinfo) for a in accounts if a.userinfo]
        content = self._content(table.path)
        return [] if content.is_list else [_entry(table.path, e.line, e.key, e.value) for e in content.entries]

    def list_entries(self, table: Table) -> list[tuple[SourcePosition, str]]:
        """The entries of a list in the configuration or in a text file.  Raises TableFileError."""
        if not table.backend:
            positions = self._parsed.names.entry_positions.get(table.name, [])
            return list(zip(positions, table.entries, strict=True)) if table.pairs is None else []
        assert table.path is not None
        content = self._content(table.path)
        return [(SourcePosition(table.path, e.line, 1), e.key) for e in content.entries] if content.is_list else []

    def is_list(self, path: str) -> bool | None:
        """Whether a text file is a list; None if it is empty.  Raises TableFileError."""
        content = self._content(path)
        return content.is_list if content.entries else None

    def accounts(self, path: str) -> list[passwd.Account]:
        """The accounts of a passwd file, without duplicates.  Raises TableFileError."""
        accounts, faults = passwd.read(self.text(path))
        self._add(path, faults)
        return list(passwd.by_name(accounts).values())

    def _content(self, path: str) -> file.Content:
        content = file.read(self.text(path))
        self._add(path, content.faults)
        return content

    def _add(self, path: str, faults: Collection[LineFault]) -> None:
        for line, reason in faults:
            self._report.add(SourcePosition(path, line, 1), escaped(reason))

    # -- checks -----------------------------------------------------------------

    def check(self, table: Table, services: Collection[Service]) -> None:
        """A missing file is reported elsewhere, except the description of a database."""
        path = table.path
        if path is None or table.backend not in BACKENDS_WITH_PATH:
            return
        if table.backend == "db":
            if trouble := db.fault_at_start(path, services):
                self._report.add(self._position(table), f"cannot read {quoted(path)}: {escaped(trouble)}")
            return
        try:
            self._check_text(table.backend, path, services)
        except TableFileError as unreadable:
            if not unreadable.missing or table.backend == "sqlite":
                self._report.add(self._position(table), str(unreadable))

    def _check_text(self, backend: str, path: str, services: Collection[Service]) -> None:
        """Raises TableFileError."""
        if backend == "sqlite":
            try:
                sqlite.parse_settings(self.text(path))
            except TextFileError as malformed:
                self._add(path, malformed.faults)
        elif backend == "passwd":
            self.accounts(path)
        else:
            self._add(path, file.service_faults(self._content(path), services))

    def _position(self, table: Table) -> SourcePosition:
        return self._parsed.names.table_positions[table.name]


def _entry(path: str, line: int, key: str, value: str) -> TableEntry:
    return TableEntry(SourcePosition(path, line, 1), key, value)
