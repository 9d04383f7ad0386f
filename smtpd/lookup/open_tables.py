"""From what the configuration says of a table to the table."""

from collections.abc import Callable

from smtpd.slice import TableSlice
from smtpd.tables import passwd
from smtpd.tables.db import DbTable
from smtpd.tables.file import FileTable
from smtpd.tables.inline import ListTable, MappingTable
from smtpd.tables.program import ProgramTable
from smtpd.tables.sqlite import SqliteTable
from smtpd.tables.table import Table


def open_table(described: TableSlice, delimiter: str, warn: Callable[[str], None] = lambda text: None) -> Table:
    """A file is not read here but by its first update(); a program is not asked before connect().  `warn` is told of
    what goes wrong when nobody has asked for an update."""
    name, path, services = described.name, described.path, described.services
    match described.backend:
        case "":
            if described.pairs is not None:
                return MappingTable(name, described.pairs, delimiter)
            return ListTable(name, described.entries, delimiter)
        case "file" if path is not None:
            return FileTable(name, path, delimiter, services)
        case "passwd" if path is not None:
            return FileTable(name, path, delimiter, services, passwd.make_table)
        case "db" if path is not None:
            return DbTable(name, path, delimiter, services, warn)
        case "sqlite" if path is not None:
            return SqliteTable(name, path)
        case "file" | "passwd" | "db" | "sqlite":
            raise ValueError(f"table {name} has no path")
    return ProgramTable(name)
