"""The configuration of expansions: rules, actions, tables, and how senders are rewritten."""

import time
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass

from smtpd.lookup.rule import Rules
from smtpd.slice import ExpansionSlice, LookupSlice, Service
from smtpd.smtp.srs import Rewriter
from smtpd.tables.table import PendingAnswer, Table, TableUnavailable


@dataclass(frozen=True)
class ExpansionConfig:
    rules: Rules
    actions: Mapping[str, ExpansionSlice]
    tables: Mapping[str, Table]
    texts: frozenset[str]  # tables in text files: only those may name commands
    delimiter: str  # of sub-addresses
    server_name: str
    alias_commands: str  # the user who runs commands of aliases; empty: they are refused
    reserved_uids: Collection[int]  # of our own users: a user of a userbase with one of these receives nothing
    srs: Rewriter | None = None  # reverses rewritten senders
    now: Callable[[], float] = time.time  # seconds since 1970, for `srs`
    srs_actions: Collection[str] = ()  # relay actions that rewrite the sender of forwarded mail

    def find(
        self, table: str, service: Service, key: str
    ) -> Generator[PendingAnswer, str | TableUnavailable | None, str | TableUnavailable | None]:
        """The value of a key; yields a PendingAnswer if a program gives it."""
        found = self.tables[table].find(service, key)
        return (yield found) if isinstance(found, PendingAnswer) else found


def make_expansion_config(
    configuration: LookupSlice, tables: Mapping[str, Table], reserved_uids: Collection[int]
) -> ExpansionConfig:
    srs = configuration.srs
    return ExpansionConfig(
        rules=Rules(configuration.matches, tables),
        actions={action.name: action for action in configuration.actions},
        tables=tables,
        texts=frozenset(table.name for table in configuration.tables if table.backend == "file"),
        delimiter=configuration.sub_addr_delim,
        server_name=configuration.server_name,
        alias_commands=configuration.alias_commands,
        reserved_uids=reserved_uids,
        srs=Rewriter(srs.key, srs.backup, srs.ttl) if srs else None,
        srs_actions=frozenset(route.name for route in configuration.routes if route.srs),
    )
