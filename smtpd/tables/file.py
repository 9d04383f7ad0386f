"""Tables in text files.

    # a comment; so is what follows a # behind a blank, outside of double quotes
    postmaster: root                  the key ends at the first blank or colon,
    root        amy, "|do # this"     and the value is the rest of the line: a mapping
    [::1]: a.example                  brackets keep the colons in them

    # @list                           before the first entry: lines are entries, whatever stands in them
    192.0.2.0/24                      no value on the first line: a list; its entries are whole lines

The first entry decides whether it is a list or a mapping.  A mapping's line without a value is an error, and so is a
NUL; a key that comes again replaces the earlier one.  An empty file is an empty mapping.  No line continues another.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from smtpd.tables.inline import ListTable, MappingTable
from smtpd.tables.table import LoadedTable, Service, Unavailable

# A bracket without its other half is an ordinary character: "[abc" is a key that ends like any other.
_KEY = re.compile(r"((?:\[[^\]\s]*\]|[^\s:])++)\s*:?\s*")
_COMMENT = re.compile(r'(?:"[^"]*"|"[^"]*$|[^"#]|(?<!\s)#)*+')
LIST = "#"  # no entry is that
_LIST = re.compile(r"#\s*@list")


class Malformed(ValueError):
    """`line` counts from 1."""

    def __init__(self, line: int, reason: str):
        super().__init__(f"line {line}: {reason}")
        self.line = line
        self.reason = reason


@dataclass(frozen=True)
class Content:
    """`pairs` is None for a list."""

    entries: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] | None = None


def parse(text: str) -> Content:
    """Raises Malformed."""
    entries = list(_entries(text))
    if not entries:
        return Content(pairs=())
    given = [(number, entry) for number, entry in entries if entry != LIST]
    if entries[0][1] == LIST or not _split(given[0][1])[1]:
        return Content(entries=tuple(entry for _, entry in given))
    return Content(pairs=tuple(pair(number, entry) for number, entry in given))


def entries(text: str) -> Iterator[tuple[int, str]]:
    """Lines that are neither empty nor a comment, with their numbers.  Raises Malformed."""
    return ((number, entry) for number, entry in _entries(text) if entry != LIST)


def _entries(text: str) -> Iterator[tuple[int, str]]:
    lines = enumerate(text.split("\n"), 1)
    return ((number, entry) for number, line in lines if (entry := _entry(number, line)))


def _entry(number: int, line: str) -> str:
    """The line without its comment and the blanks around; LIST for the comment that makes a list."""
    line = line.strip()
    if "\0" in line:
        raise Malformed(number, "a NUL character")
    if line.startswith("#"):
        return LIST if _LIST.fullmatch(line) else ""
    if "#" in line:
        found = _COMMENT.match(line)
        return found[0].rstrip() if found else line
    return line


def pair(number: int, entry: str) -> tuple[str, str]:
    """The key and the value of one entry.  Raises Malformed."""
    key, value = _split(entry)
    if not key or not value:
        raise Malformed(number, "a value is expected behind the key")
    return key, value


def _split(entry: str) -> tuple[str, str]:
    found = _KEY.match(entry)
    return (found[1], entry[found.end() :]) if found else ("", "")


def understand(name: str, text: str, delimiter: str) -> ListTable | MappingTable:
    """Raises Malformed."""
    content = parse(text)
    if content.pairs is None:
        return ListTable(name, content.entries, delimiter)
    return MappingTable(name, content.pairs, delimiter)


class FileTable:
    """Serves what its file said when it was last read and understood.  `understand` makes a table of a text, or raises
    ValueError."""

    def __init__(
        self,
        name: str,
        path: str,
        delimiter: str = "+",
        understand: Callable[[str, str, str], LoadedTable] = understand,
    ):
        self.name = name
        self.path = path
        self._delimiter = delimiter
        self._understand = understand
        self._table: LoadedTable | Unavailable = Unavailable(f"table {name}: not read yet")

    def update(self) -> Unavailable | None:
        try:
            self._table = self._understand(self.name, read_text(self.path), self._delimiter)
        except (OSError, ValueError) as error:
            trouble = cannot_read(self.name, self.path, error)
            if isinstance(self._table, Unavailable):
                self._table = trouble
            return trouble
        return None

    def check(self, service: Service, key: str) -> bool | Unavailable:
        return self._table if isinstance(self._table, Unavailable) else self._table.check(service, key)

    def find(self, service: Service, key: str) -> str | None | Unavailable:
        return self._table if isinstance(self._table, Unavailable) else self._table.find(service, key)


def read_text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def cannot_read(name: str, path: str, error: Exception) -> Unavailable:
    return Unavailable(f"table {name}: {path}: {getattr(error, 'strerror', None) or error}")
