"""What the configuration says of recipients, for as long as the process lives: rules, actions, tables."""

from collections.abc import Generator, Mapping
from dataclasses import dataclass

from smtpd.config.slice import ExpansionSlice, LookupSlice
from smtpd.lookup.rule import Rules
from smtpd.tables.table import Awaited, Service, Table, Unavailable


@dataclass(frozen=True)
class Plan:
    rules: Rules
    actions: Mapping[str, ExpansionSlice]
    tables: Mapping[str, Table]
    texts: frozenset[str]  # the tables that are text files: only those may name commands
    delimiter: str  # of sub-addresses
    server_name: str
    alias_commands: str  # who runs what aliases name; empty: nobody

    def find(
        self, table: str, service: Service, key: str
    ) -> Generator[Awaited, str | Unavailable | None, str | Unavailable | None]:
        """The value, waited for where it has to be."""
        found = self.tables[table].find(service, key)
        return (yield found) if isinstance(found, Awaited) else found


def make_plan(configuration: LookupSlice, tables: Mapping[str, Table]) -> Plan:
    return Plan(
        rules=Rules(configuration.matches, tables),
        actions={action.name: action for action in configuration.actions},
        tables=tables,
        texts=frozenset(table.name for table in configuration.tables if table.backend == "file"),
        delimiter=configuration.sub_addr_delim,
        server_name=configuration.server_name,
        alias_commands=configuration.alias_commands,
    )
