"""Tables of passwords: hashes or SCRAM verifiers, and who can read the file.

    amy    $argon2id$v=19$...          a hash: PLAIN and LOGIN
    bob    SCRAM-SHA-256$15000:...     a verifier: SCRAM as well
    eve    sesame                      neither: that user cannot log in

A client that is offered SCRAM tries no other mechanism, so SCRAM is offered only if all users that can log in have a
verifier.  The content of databases and programs is not known here.

No warning repeats any part of a value.
"""

from collections.abc import Iterator

from smtpd.config.build.table_operand import BACKENDS_WITH_PATH
from smtpd.config.check.table_files import READABLE_BACKENDS, TableEntry, TableFileError, TableFiles
from smtpd.config.errors import Report, SourcePosition, escaped, quoted
from smtpd.config.host import Host
from smtpd.config.model import Table
from smtpd.config.parser import Parsed
from smtpd.tables import credential, scram

KNOWN_BACKENDS = ("", *READABLE_BACKENDS)  # whose entries are known at the start


class PasswordTables:
    """Reads each table once, however many listeners use it."""

    def __init__(self, parsed: Parsed, host: Host, texts: TableFiles, report: Report) -> None:
        self._parsed = parsed
        self._host = host
        self._texts = texts
        self._report = report
        self._scram: dict[str, bool] = {}
        self._hashed: dict[str, TableEntry] = {}  # the first entry of each table that is no verifier

    def are_verifiers(self, name: str) -> bool:
        """Whether all valid entries of the table are SCRAM verifiers.  An invalid entry is a warning: it stops only the
        logins of that user."""
        if name not in self._scram:
            table = next(table for table in self._parsed.config.tables if table.name == name)
            self._scram[name] = table.backend in KNOWN_BACKENDS and self._look(table)
            warn_of_readers(table, self._parsed, self._host, self._texts, self._report)
        return self._scram[name]

    def warn_of_hashes(self, name: str) -> None:
        """Warn of the first hash in a table whose listener says `scram`."""
        if entry := self._hashed.get(name):
            text = f'user {quoted(entry.key)} has a hash, which "scram" cannot use; smtpctl encrypt --scram makes'
            self._report.warn(entry.position, f"{text} one that it can")

    def _look(self, table: Table) -> bool:
        found: set[type[credential.Credential]] = set()
        try:
            for entry in self._entries(table):
                if kind := self._maybe_kind(entry):
                    found.add(kind)
                    if kind is not scram.Verifier:
                        self._hashed.setdefault(table.name, entry)
        except TableFileError:
            pass  # reported elsewhere
        return found == {scram.Verifier}

    def _entries(self, table: Table) -> Iterator[TableEntry]:
        """Raises TableFileError."""
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
            reason = f"{escaped(str(malformed))}; smtpctl encrypt makes a valid one"
            self._report.warn(entry.position, f"invalid password of user {quoted(entry.key)}: {reason}")
        except credential.CredentialLocked:
            pass
        return None


def warn_of_readers(table: Table, parsed: Parsed, host: Host, texts: TableFiles, report: Report) -> None:
    """Warn of a file with passwords that everybody may read."""
    path = _file_of(table, texts)
    if path and host.is_public(path):
        text = f"{quoted(path)} holds passwords and can be read by everybody: chgrp _smtpl, chmod 640"
        report.warn(parsed.names.table_positions[table.name], text)


def _file_of(table: Table, texts: TableFiles) -> str | None:
    """The file that holds the passwords; None if a program does."""
    if table.backend not in BACKENDS_WITH_PATH or table.path is None:
        return None
    if table.backend != "sqlite":
        return table.path
    settings = texts.settings(table.path)
    return settings.dbpath if settings else None
