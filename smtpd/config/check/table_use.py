"""Whether the file or database of a table can serve what the table is used for.

    match from any for domain <t>      sqlite: its description has a query_domain
    match … mail-from regex <t>        a text file: each entry is a regular expression
    match from src <t>                 a text file, or a list: each entry is an address or a network
    action … alias <t>                 a text file: a mapping, each of whose entries has a value

Otherwise all mail that reaches that line would be deferred.  Tables in the configuration itself are checked by
build/names.py, except their networks.
"""

from smtpd.config.build.names import TableUse
from smtpd.config.check.table_files import TableFiles
from smtpd.config.errors import Report, escaped, quoted
from smtpd.config.model import Table
from smtpd.config.parser import Parsed
from smtpd.slice import Service
from smtpd.tables import sqlite
from smtpd.tables.matching import entry_fault


def check_tables(parsed: Parsed, texts: TableFiles, report: Report) -> None:
    tables = {table.name: table for table in parsed.config.tables}
    for table in tables.values():
        texts.check(table, services_of(table, parsed))
    for use in parsed.names.table_uses:
        if use.table not in tables:
            continue
        table = tables[use.table]
        if use.service is Service.NETADDR:
            _check_networks(table, parsed, report)
        if table.backend == "sqlite":
            _check_queries(use, table, texts, report)


def services_of(table: Table, parsed: Parsed) -> tuple[Service, ...]:
    """The services that a table is asked for."""
    return tuple(sorted({use.service for use in parsed.names.table_uses if use.table == table.name}))


def _check_queries(use: TableUse, table: Table, texts: TableFiles, report: Report) -> None:
    settings = texts.settings(table.path or "")
    if settings is None or use.service in settings.queries:
        return
    missing = f"query_{use.service}" if use.service in sqlite.COLUMNS else use.wanted.value
    report.add(use.position, f"table {quoted(table.name)} needs {missing} here, which is not in {table.path}")


def _check_networks(table: Table, parsed: Parsed, report: Report) -> None:
    for entry, position in zip(table.entries, parsed.names.entry_positions.get(table.name, ()), strict=False):
        if wrong := entry_fault(Service.NETADDR, entry):
            report.add(position, escaped(wrong))
