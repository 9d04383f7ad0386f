"""Opens the tables that the configuration describes."""

from collections.abc import Callable

from smtpd.ipc.log import log
from smtpd.slice import LookupSlice, TableSlice
from smtpd.tables import passwd
from smtpd.tables.db import DbTable
from smtpd.tables.file import FileTable
from smtpd.tables.inline import ListTable, MappingTable
from smtpd.tables.program import ProgramTable
from smtpd.tables.sqlite import SqliteTable
from smtpd.tables.table import Table, TableUnavailable


def open_tables(configuration: LookupSlice) -> dict[str, Table]:
    """All tables by name.  One that cannot be read is logged, and stays unavailable; programs are not started yet."""
    tables: dict[str, Table] = {}
    for described in configuration.tables:
        table = tables[described.name] = open_table(described, configuration.sub_addr_delim, log.warn)
        trouble = None if isinstance(table, ProgramTable) else table.update()
        if isinstance(trouble, TableUnavailable):
            log.warn(trouble.reason)
    return tables


def open_table(described: TableSlice, delimiter: str, warn: Callable[[str], None] = lambda text: None) -> Table:
    """A table, not read yet: a file is read by its first update(), a program asked after connect().  `warn` gets errors
    that occur without a call of update()."""
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
