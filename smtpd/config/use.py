"""Can what stands in the file of a table serve what the table is used for?

    match from any for domain <t>      sqlite: its description has a query_domain
    match … mail-from regex <t>        a text file: each entry is a regular expression
    match from src <t>                 a text file, or a list: each entry is an address or a network

Otherwise all mail that gets to that line would wait.  What stands in the configuration itself names.py has looked at,
but for networks.
"""

from collections.abc import Iterator

from smtpd.config.entry import fault
from smtpd.config.error import Place, Report, quoted
from smtpd.config.model import Table
from smtpd.config.names import Use
from smtpd.config.parser import Parsed
from smtpd.config.tablefile import TableFiles, Unreadable
from smtpd.tables import file, sqlite
from smtpd.tables.file import Malformed
from smtpd.tables.table import Service


def check_uses(parsed: Parsed, texts: TableFiles, report: Report) -> None:
    """What cannot be read, or understood as a whole, is left to who says that anyway."""
    tables = {table.name: table for table in parsed.config.tables}
    for use in parsed.names.table_uses:
        table = tables.get(use.table)
        if table is None:
            continue
        if use.service is Service.NETADDR:
            _check_networks(table, parsed, report)
        if table.path is None:
            continue
        try:
            if table.backend == "sqlite":
                _check_queries(use, table, texts.text(table.path), report)
            elif table.backend == "file" and use.service in (Service.NETADDR, Service.REGEX):
                _check_entries(use, table.path, texts.text(table.path), report)
        except (Unreadable, Malformed):
            continue


def _check_queries(use: Use, table: Table, text: str, report: Report) -> None:
    if use.service in sqlite.parse_settings(text).queries:
        return
    missing = f"query_{use.service}" if use.service in sqlite.COLUMNS else use.wanted.value
    report.add(use.place, f"table {quoted(table.name)} is asked for {missing} here, which is not in {table.path}")


def _check_networks(table: Table, parsed: Parsed, report: Report) -> None:
    for entry, place in zip(table.entries, parsed.names.entry_places.get(table.name, ()), strict=False):
        if wrong := fault(Service.NETADDR, entry):
            report.add(place, wrong)


def _check_entries(use: Use, path: str, text: str, report: Report) -> None:
    for number, entry in _keys(text):
        if wrong := fault(use.service, entry):
            report.add(Place(path, number, 1), wrong)


def _keys(text: str) -> Iterator[tuple[int, str]]:
    is_list = file.parse(text).pairs is None
    for number, entry in file.entries(text):
        yield number, entry if is_list else file.pair(number, entry)[0]
