"""Files of tables, as far as the daemon has to know at its start what stands in them.

What lookup looks up in a table is lookup's affair, and changes by `smtpctl update table`.  What is looked for here:
which files lookup will open, whose uids count (people.py), which commands aliases name (alias.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from smtpd.config.error import Place, Report, printable, quoted
from smtpd.config.model import Table
from smtpd.config.operand import WITH_PATH
from smtpd.config.parser import Parsed
from smtpd.tables import file, passwd, sqlite
from smtpd.tables.file import Malformed


class Unreadable(ValueError):
    """The text says why; `place` is in the file, if one line of it is to blame."""

    def __init__(self, text: str, place: Place | None = None) -> None:
        super().__init__(text)
        self.place = place


@dataclass(frozen=True)
class Entry:
    """A key and its value, and where they stand."""

    place: Place
    key: str
    value: str


class TableFiles:
    """Each file is read once."""

    def __init__(self, parsed: Parsed, read: Callable[[str], str], report: Report) -> None:
        self._parsed = parsed
        self._read = read
        self._report = report
        self._texts: dict[str, str | Unreadable] = {}

    def paths(self) -> Iterator[str]:
        """Of all files that lookup reads tables from; programs open their own."""
        for table in self._parsed.config.tables:
            if table.path is None or table.backend not in WITH_PATH:
                continue
            yield table.path
            if table.backend == "sqlite":
                yield from self._databases(table.name, table.path)

    def _databases(self, table: str, path: str) -> Iterator[str]:
        """The one that the description names; without it nothing is a path."""
        try:
            yield sqlite.parse_settings(self.text(path)).dbpath
        except Unreadable as unreadable:
            self._report.add(self._parsed.names.table_places[table], str(unreadable))
        except Malformed as malformed:
            self._report.add(Place(path, malformed.line, 1), malformed.reason)

    def text(self, path: str) -> str:
        """Raises Unreadable."""
        if path not in self._texts:
            self._texts[path] = self._read_once(path)
        found = self._texts[path]
        if isinstance(found, Unreadable):
            raise found
        return found

    def _read_once(self, path: str) -> str | Unreadable:
        try:
            return self._read(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return Unreadable(f"cannot read {quoted(path)}: {printable(reason)}")

    def entries(self, table: Table) -> list[Entry]:
        """Of a mapping in the configuration, in a text file or a passwd file.  Raises Unreadable."""
        if not table.backend:
            places = self._parsed.names.entry_places.get(table.name, [])
            return [Entry(place, *pair) for place, pair in zip(places, table.pairs or (), strict=True)]
        assert table.path is not None
        parse = PARSERS[table.backend]
        try:
            found = list(parse(self.text(table.path)))
        except Malformed as malformed:
            raise Unreadable(malformed.reason, Place(table.path, malformed.line, 1)) from None
        return [Entry(Place(table.path, number, 1), key, value) for number, key, value in found]


def _file(text: str) -> Iterator[tuple[int, str, str]]:
    if file.parse(text).pairs is None:
        raise Malformed(1, "this file is a list, expected a mapping")
    return ((number, *file.pair(number, entry)) for number, entry in file.entries(text))


def _passwd(text: str) -> Iterator[tuple[int, str, str]]:
    """The lines that count, without those of whom only the password is known."""
    accounts = passwd.by_name(passwd.parse(text))
    return ((account.line, name, account.userinfo) for name, account in accounts.items() if account.userinfo)


PARSERS = {"file": _file, "passwd": _passwd}
