"""Tables of passwords: what they hold, and whether they keep it to themselves.

    amy    $argon2id$v=19$...          a hash: PLAIN and LOGIN
    bob    SCRAM-SHA-256$15000:...     a verifier: SCRAM as well
    eve    sesame                      neither; it lets nobody in

A client that is offered SCRAM tries nothing else, so it must be good for all who can log in.  What a database or a
program holds is not seen here.

Nothing of a value is ever part of a warning.
"""

from collections.abc import Iterator

from smtpd.config.build.table_operand import BACKENDS_WITH_PATH
from smtpd.config.check.table_files import TableEntry, TableFileError, TableFiles
from smtpd.config.errors import Report, SourcePosition, printable, quoted
from smtpd.config.host import Host
from smtpd.config.model import Table
from smtpd.config.parser import Parsed
from smtpd.tables import credential, scram

READABLE_BACKENDS = ("", "file", "passwd")  # backends whose entries are known at the start


class PasswordTables:
    """Each table is looked through once, however many listeners ask it."""

    def __init__(self, parsed: Parsed, host: Host, texts: TableFiles, report: Report) -> None:
        self._parsed = parsed
        self._host = host
        self._texts = texts
        self._report = report
        self._scram: dict[str, bool] = {}
        self._hashed: dict[str, TableEntry] = {}  # the first one of each table that is good for no SCRAM

    def are_verifiers(self, name: str) -> bool:
        """All that let somebody in.  A user's entry that is wrong becomes a warning: it stops that
        user's logins only."""
        if name not in self._scram:
            table = next(table for table in self._parsed.config.tables if table.name == name)
            self._scram[name] = table.backend in READABLE_BACKENDS and self._look(table)
            self._warn_of_readers(table)
        return self._scram[name]

    def warn_of_hashes(self, name: str) -> None:
        """Of a table whose listener has said that there are none."""
        if entry := self._hashed.get(name):
            text = f'user {quoted(entry.key)} has a hash, which is no good for "scram"; smtpctl encrypt --scram makes'
            self._report.warn(entry.place, f"{text} what is")

    def _look(self, table: Table) -> bool:
        found: set[type[credential.Credential]] = set()
        try:
            for entry in self._entries(table):
                if kind := self._maybe_kind(entry):
                    found.add(kind)
                    if kind is not scram.Verifier:
                        self._hashed.setdefault(table.name, entry)
        except TableFileError:
            pass  # told of elsewhere
        return found == {scram.Verifier}

    def _entries(self, table: Table) -> Iterator[TableEntry]:
        """Raises Unreadable."""
        if table.backend != "passwd":
            yield from self._texts.entries(table)
            return
        path = table.path or ""
        for account in self._texts.accounts(path):
            yield TableEntry(SourcePosition(path, account.line, 1), account.name, account.password)

    def _maybe_kind(self, entry: TableEntry) -> type[credential.Credential] | None:
        try:
            return type(credential.parse_credential(entry.value))
        except credential.CredentialError as malformed:
            reason = f"{printable(str(malformed))}; smtpctl encrypt makes one that is"
            self._report.warn(entry.place, f"user {quoted(entry.key)} has no password that could fit: {reason}")
        except credential.CredentialLocked:
            pass
        return None

    def _warn_of_readers(self, table: Table) -> None:
        path = self._path(table)
        if path and self._host.is_public(path):
            text = f"{quoted(path)} holds passwords and can be read by everybody: chgrp _smtpl, chmod 640"
            self._report.warn(self._parsed.names.table_positions[table.name], text)

    def _path(self, table: Table) -> str | None:
        """Of the file that they are in."""
        if table.backend not in BACKENDS_WITH_PATH or table.path is None:
            return None
        if table.backend != "sqlite":
            return table.path
        settings = self._texts.settings(table.path)
        return settings.dbpath if settings else None
