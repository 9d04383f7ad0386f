"""From what the configuration says of a table to the table."""

from smtpd.config.slice import TableSlice
from smtpd.tables.file import FileTable
from smtpd.tables.inline import ListTable, MappingTable
from smtpd.tables.program import ProgramTable
from smtpd.tables.table import Table


def open_table(described: TableSlice, delimiter: str) -> Table:
    """A file is not read here but by its first update(); a program is not asked before connect()."""
    if described.backend not in ("", "file"):
        return ProgramTable(described.name)
    if described.path is not None:
        return FileTable(described.name, described.path, delimiter)
    if described.pairs is not None:
        return MappingTable(described.name, described.pairs, delimiter)
    return ListTable(described.name, described.entries, delimiter)
