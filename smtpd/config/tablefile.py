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
from smtpd.tables import file


class Unreadable(ValueError):
    """The text says which file, and why."""


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
        """Of all files that the tables are in; lookup opens them, programs open their own."""
        for table in self._parsed.config.tables:
            if table.path is not None and table.backend in WITH_PATH:
                yield table.path

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
        """Of a mapping in the configuration or in a text file.  Raises Unreadable."""
        if not table.backend:
            places = self._parsed.names.entry_places.get(table.name, [])
            pairs = table.pairs or ()
            return [Entry(place, *pair) for place, pair in zip(places, pairs, strict=True)]
        assert table.backend == "file" and table.path is not None
        return _entries(table.path, self.text(table.path))


def _entries(path: str, text: str) -> list[Entry]:
    """Each line is parsed once more by itself, as a table does not keep the numbers of its lines."""
    try:
        if file.parse(text).pairs is None:
            raise Unreadable(f"{quoted(path)} is a list, expected a mapping")
    except file.Malformed as malformed:
        raise Unreadable(f"{quoted(path)}, {malformed}") from None
    lines = enumerate(text.split("\n"), 1)
    return [Entry(Place(path, number, 1), *pair) for number, line in lines for pair in file.parse(line).pairs or ()]
