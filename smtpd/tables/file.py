"""Tables in text files.

    # a comment; so is text after a # that follows a blank, outside double quotes
    postmaster: root                  the key ends at the first blank or colon,
    root        amy, "|do # this"     the value is the rest of the line: a mapping
    [::1]: a.example                  colons within brackets belong to the key
    staff:                            a line that begins with a blank continues the entry above it if that has no
        amy, bob,                     value yet or ends in a comma, or if the line itself begins with a comma;
        eve                           otherwise the blank is ignored

    # @list                           before the first entry: each line is an entry of a list
    192.0.2.0/24                      no value in the first entry: a list, whose entries are whole lines; so it is with
                                      2001:db8::/32 and smtps://mail.example.org, in spite of their colons

The first entry decides whether the file is a list or a mapping.  An entry of a mapping without a value is a fault, and
so are a NUL and bytes that are not UTF-8, outside comments.  Of duplicate keys the last one counts.  An empty file is
an empty mapping.

A file with a fault is not used: the previous content stays in force.
"""

import re
from collections.abc import Callable, Collection, Iterator
from socket import AF_INET6, inet_pton

from msgspec import Struct

from smtpd.ipc.os_error import error_text
from smtpd.slice import Service
from smtpd.tables.inline import ListTable, MappingTable
from smtpd.tables.matching import entry_fault
from smtpd.tables.table import VALUE_SERVICES, LoadedTable, TableUnavailable
from smtpd.tables.text_file import LineFault, line_fault, lines, raise_faults, read_file

# An unclosed bracket is an ordinary character: "[abc" is a key that ends like any other.  The closing one is looked for
# up to the next bracket only, so that matching stays linear.
_KEY = re.compile(r"((?:\[[^\[\]\s]*+\]|[^\s:])++)\s*:?\s*")
_COMMENT = re.compile(r'(?:"[^"]*"|"[^"]*$|[^"#]|(?<!\s)#)*+')
_URL = re.compile(r"[A-Za-z+]+://\S+")  # of a smarthost, likewise
_LIST = re.compile(r"#\s*@list")
NO_VALUE = "key without a value"
NO_MAPPING = "the file is a list, expected a mapping"


class FileEntry(Struct, frozen=True):
    """An entry; `line` is its first line.  In a list `value` is empty."""

    line: int
    key: str
    value: str = ""


class Content(Struct, frozen=True):
    """The valid entries of a file, and the faults of the others."""

    is_list: bool
    entries: tuple[FileEntry, ...] = ()
    faults: tuple[LineFault, ...] = ()

    def pairs(self) -> Iterator[tuple[str, str]]:
        return ((entry.key, entry.value) for entry in self.entries)


class _Line(Struct, frozen=True):
    number: int
    text: str  # stripped, without its comment
    indented: bool


def read(text: str, *, is_list: bool | None = None) -> Content:
    """The content of a file.  `is_list` overrides its first entry.  Raises nothing: see `faults`."""
    found, marked = _lines(text)
    if is_list is None:
        is_list = marked or (bool(found) and _begins_list(found[0].text))
    faults = [(line.number, fault) for line in found if (fault := line_fault(line.text))]
    damaged = {number for number, _ in faults}
    found = [line for line in found if line.number not in damaged]
    if is_list:
        return Content(True, tuple(FileEntry(line.number, line.text) for line in found), tuple(faults))
    entries = _joined(found)
    faults += [(entry.line, NO_VALUE) for entry in entries if not entry.key or not entry.value]
    return Content(False, tuple(entry for entry in entries if entry.key and entry.value), tuple(sorted(faults)))


def parse(text: str, *, is_list: bool | None = None) -> Content:
    """The content of a file without faults.  Raises text_file.TextFileError."""
    content = read(text, is_list=is_list)
    raise_faults(content.faults)
    return content


def _lines(text: str) -> tuple[list[_Line], bool]:
    """The lines that are neither empty nor a comment, and whether `# @list` comes before them."""
    found: list[_Line] = []
    marked = False
    for number, line in lines(text):
        bare = line.strip()
        if bare.startswith("#"):
            marked = marked or not found and _LIST.fullmatch(bare) is not None
        elif kept := _without_comment(bare):
            found.append(_Line(number, kept, line[0].isspace()))
    return found, marked


def _without_comment(line: str) -> str:
    if "#" not in line:
        return line
    found = _COMMENT.match(line)
    return found[0].rstrip() if found else line


def _begins_list(first: str) -> bool:
    """Whether the first entry has no value; `word:` alone is a key whose value may follow in the next line."""
    key, value = _split(first)
    return not value and first != f"{key}:" or _URL.fullmatch(first) is not None or _is_ipv6(first)


def _is_ipv6(first: str) -> bool:
    """Whether all of the entry is an address or a network: its colons separate no key from a value."""
    try:
        inet_pton(AF_INET6, first.partition("/")[0])
    except (OSError, ValueError):  # ValueError: a NUL
        return False
    return True


def _joined(found: list[_Line]) -> list[FileEntry]:
    """The entries of a mapping, also those without a key or a value."""
    joined: list[tuple[int, str, list[str]]] = []  # (first line, key, parts of the value)
    for line in found:
        if joined and line.indented and _continues(joined[-1][2], line.text):
            joined[-1][2].append(line.text)
        else:
            key, value = _split(line.text)
            joined.append((line.number, key, [value] if value else []))
    return [FileEntry(number, key, " ".join(pieces)) for number, key, pieces in joined]


def _continues(pieces: list[str], text: str) -> bool:
    return not pieces or pieces[-1].endswith(",") or text.startswith(",")


def _split(entry: str) -> tuple[str, str]:
    found = _KEY.match(entry)
    return (found[1], entry[found.end() :]) if found else ("", "")


def service_faults(content: Content, services: Collection[Service]) -> list[LineFault]:
    """The faults that keep the file from serving these services."""
    if content.is_list and VALUE_SERVICES & set(services):
        return [(content.entries[0].line if content.entries else 1, NO_MAPPING)]
    return [
        (entry.line, fault)
        for entry in content.entries
        for service in services
        if (fault := entry_fault(service, entry.key if content.is_list else checked_half(service, entry)))
    ]


def checked_half(service: Service, entry: FileEntry) -> str:
    """What of an entry of a mapping a service is particular about."""
    return entry.value if service is Service.RELAYHOST else entry.key


def make_table(name: str, text: str, delimiter: str, services: Collection[Service] = ()) -> ListTable | MappingTable:
    """The table in the text of a file.  Raises text_file.TextFileError."""
    content = parse(text)
    raise_faults(service_faults(content, services))
    if content.is_list:
        return ListTable(name, (entry.key for entry in content.entries), delimiter)
    return MappingTable(name, content.pairs(), delimiter)


class FileTable:
    """A table in a file, as last read without faults.  `make_table` parses the text, or raises ValueError;
    `services` are those it will be asked for."""

    def __init__(
        self,
        name: str,
        path: str,
        delimiter: str = "+",
        services: Collection[Service] = (),
        make_table: Callable[[str, str, str, Collection[Service]], LoadedTable] = make_table,
    ):
        self.name = name
        self.path = path
        self._delimiter = delimiter
        self._services = services
        self._make_table = make_table
        self._table: LoadedTable | TableUnavailable = TableUnavailable(f"table {name}: not read yet")

    def update(self) -> TableUnavailable | None:
        try:
            self._table = self._make_table(self.name, read_file(self.path), self._delimiter, self._services)
        except (OSError, ValueError) as error:
            trouble = cannot_read(self.name, self.path, error)
            if isinstance(self._table, TableUnavailable):
                self._table = trouble
            return trouble
        return None

    def check(self, service: Service, key: str) -> bool | TableUnavailable:
        return self._table if isinstance(self._table, TableUnavailable) else self._table.check(service, key)

    def find(self, service: Service, key: str) -> str | None | TableUnavailable:
        return self._table if isinstance(self._table, TableUnavailable) else self._table.find(service, key)

    def entries(self) -> tuple[str, ...] | TableUnavailable:
        return self._table if isinstance(self._table, TableUnavailable) else self._table.entries()


def cannot_read(name: str, path: str, error: Exception) -> TableUnavailable:
    return TableUnavailable(f"table {name}: {path}: {error_text(error)}")
