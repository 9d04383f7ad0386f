"""Tables in an SQLite database of another program, described by a file as in table-sqlite(5).

    dbpath             /etc/mail/users.db
    query_alias        SELECT target FROM aliases WHERE name = ?         each row is a target
    query_userinfo     SELECT uid, gid, home FROM users WHERE name = ?
    query_credentials  SELECT name, hash FROM users WHERE name = ?
    query_domain       SELECT name FROM domains WHERE name = ?           other services likewise: one column

The key, in lower case, is bound to the `?` and never part of the query; a domain beyond ASCII in its normal form, and
if there is no row as in DNS (xn--).  A query gets WORK_MAX steps of SQLite's virtual machine (about 20 ms), ROWS_MAX
rows and a bounded heap: a user who can write the database can stop the lookups in it and nothing else.

SECURITY
    The database is read under a shared lock on its lock bytes, as by SQLite's own readers, but through an `immutable`
    connection, for which SQLite opens no other file.  A connection that is merely read-only would open the write-ahead
    log for writing as soon as another program switched the database to it, and seccomp would kill this process, which
    has promised to read only.  Needed: rpath, flock.

Hence not readable: a database with a write-ahead log (until PRAGMA journal_mode=DELETE), one with an interrupted change
(until its writer has opened it again), and one with two names, as the journal is beside one of them only.  Links are
followed once, and lock, journal and connection are those of the file they lead to, as in SQLite.  The lists of
`fetch_source` are not used yet.
"""

import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from smtpd.envelope import Path
from smtpd.ipc import text_limit
from smtpd.slice import Service
from smtpd.tables.db import HEADER, READ_ERRORS, connect
from smtpd.tables.file import cannot_read
from smtpd.tables.table import TableUnavailable, key_spellings
from smtpd.tables.text_file import LineFault, TextFileError, line_fault, lines, raise_faults, read_file

COLUMNS: dict[Service, int] = {service: 1 for service in Service if service not in (Service.AUTH, Service.REGEX)}
COLUMNS |= {Service.CREDENTIALS: 2, Service.USERINFO: 3}
SEVERAL_ROWS = (Service.ALIAS, Service.MAILADDRMAP)
QUERIES = {f"query_{service}": service for service in COLUMNS}
UNUSED_QUERIES = ("fetch_source", "fetch_source_expire", "fetch_source_refresh", "fetch_relayhost")

WORK_MAX = 2_000_000
WORK_STEP = 10_000
ROWS_MAX = 1_000
LOCK_ATTEMPTS, LOCK_PAUSE = 10, 0.005  # seconds
FILE_REPLACED = "another file has taken its place while it was opened"

# sqlite.org/fileformat2.html 1.3, and the bytes that all who use a database lock (os.h of SQLite)
VERSIONS, WAL = slice(18, 20), 2
PENDING_BYTE = 0x40000000
SHARED_FIRST, SHARED_SIZE = PENDING_BYTE + 2, 510


@dataclass(frozen=True)
class Settings:
    dbpath: str
    queries: dict[Service, str] = field(default_factory=dict)


class DatabaseError(ValueError):
    """The database cannot be read now."""


def parse_settings(text: str) -> Settings:
    """Raises TextFileError."""
    said: dict[str, str] = {}
    faults: list[LineFault] = []
    number = 0
    for number, line in lines(text):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        try:
            word, value = _setting(number, line)
        except TextFileError as malformed:
            faults += malformed.faults
            continue
        if word in said:
            faults.append((number, f"duplicate {word}"))
        said[word] = value
    if "dbpath" not in said and not faults:
        faults.append((number, "no dbpath"))
    raise_faults(faults)
    return Settings(said["dbpath"], {QUERIES[word]: value for word, value in said.items() if word in QUERIES})


def _setting(number: int, line: str) -> tuple[str, str]:
    word, *rest = line.split(None, 1)
    word, value = word.removesuffix(":"), "".join(rest)
    if word not in ("dbpath", *QUERIES, *UNUSED_QUERIES):
        raise TextFileError(number, "expected dbpath or query_ and the name of a service")
    if fault := line_fault(value) or ("" if value else f"{word} without a value"):
        raise TextFileError(number, fault)
    if word == "dbpath" and not value.startswith("/"):
        raise TextFileError(number, "dbpath is not absolute")
    if word == "dbpath" and (wrong := text_limit.text_error(Path, value)):
        raise TextFileError(number, f"dbpath has {wrong}")
    return word, value


class SqliteTable:
    """A table in an SQLite database.  `path`: of the description."""

    def __init__(self, name: str, path: str):
        self.name = name
        self.path = path
        self._settings: Settings | None = None
        self._trouble = TableUnavailable(f"table {name}: not read yet")

    def update(self) -> TableUnavailable | None:
        """Read the description again, and try its queries.  The first description is kept even if its database cannot
        be read now."""
        try:
            settings = parse_settings(read_file(self.path))
        except (OSError, ValueError) as error:
            self._trouble = cannot_read(self.name, self.path, error)
            return self._trouble
        trouble = self._trouble_with(settings)
        if trouble is None or self._settings is None:
            self._settings = settings
        return trouble

    def _trouble_with(self, settings: Settings) -> TableUnavailable | None:
        try:
            for service, query in settings.queries.items():
                ask(settings.dbpath, query, "", COLUMNS[service])
        except READ_ERRORS as error:
            return cannot_read(self.name, settings.dbpath, error)
        return None

    def check(self, service: Service, key: str) -> bool | TableUnavailable:
        rows = self._rows(service, key)
        return rows if isinstance(rows, TableUnavailable) else bool(rows)

    def find(self, service: Service, key: str) -> str | None | TableUnavailable:
        rows = self._rows(service, key)
        if isinstance(rows, TableUnavailable):
            return rows
        if not rows:
            return None
        try:
            values = [":".join(map(_text, row)) for row in rows]
        except ValueError as error:
            return TableUnavailable(f"table {self.name}: query_{service}: {error}")
        return ", ".join(values) if service in SEVERAL_ROWS else values[0]

    def entries(self) -> TableUnavailable:
        return TableUnavailable(f"table {self.name}: a database has no lists")

    def _rows(self, service: Service, key: str) -> list[tuple] | TableUnavailable:
        if self._settings is None:
            return self._trouble
        query = self._settings.queries.get(service)
        if query is None:
            return TableUnavailable(f"table {self.name}: no query_{service} in {self.path}")
        try:
            for spelling in key_spellings(service, key):
                if rows := ask(self._settings.dbpath, query, spelling, COLUMNS[service]):
                    return rows
        except READ_ERRORS as error:
            return cannot_read(self.name, self._settings.dbpath, error)
        return []


def _text(value: object) -> str:
    if isinstance(value, int | str):
        return str(value)
    raise ValueError("the result is neither text nor an integer")


# -- reading ----------------------------------------------------------------------------------


def ask(path: str, query: str, key: str, columns: int) -> list[tuple]:
    """The rows of a query, each of `columns` columns.  Raises READ_ERRORS."""
    real = os.path.realpath(path)
    with _locked(real) as file, closing(connect(real)) as connection:
        if not os.path.samestat(os.stat(real), os.fstat(file)):
            raise DatabaseError(FILE_REPLACED)
        _limit_work(connection)
        cursor = connection.execute(query, (key,))
        if len(cursor.description or ()) != columns:
            raise DatabaseError(f"the query has to return {columns} column{'s' if columns > 1 else ''}: {query}")
        rows = cursor.fetchmany(ROWS_MAX + 1)
    if len(rows) > ROWS_MAX:
        raise DatabaseError(f"more than {ROWS_MAX} rows")
    return rows


def _limit_work(connection: sqlite3.Connection) -> None:
    left = WORK_MAX // WORK_STEP

    def go_on() -> bool:
        nonlocal left
        left -= 1
        return left < 0

    connection.set_progress_handler(go_on, WORK_STEP)


@contextmanager
def _locked(path: str) -> Iterator[int]:
    """A descriptor of the database, locked against writers.  A POSIX lock is lost when the process closes any
    descriptor of the file, so the connection has to be opened and closed within.  `path` is no link."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check_kind(os.fstat(file))
        for attempt in range(LOCK_ATTEMPTS):
            if attempt:
                time.sleep(LOCK_PAUSE)
            if _lock(file) and not _is_changing(path):
                break
        else:
            raise DatabaseError("database is locked, or a change was interrupted")
        header = os.pread(file, 100, 0)
        if not header.startswith(HEADER):
            raise DatabaseError("not an SQLite database")
        if WAL in header[VERSIONS]:
            raise DatabaseError("it has a write-ahead log, which cannot be read: use PRAGMA journal_mode=DELETE")
        yield file
    finally:
        os.close(file)


def _check_kind(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise DatabaseError("not a regular file")
    if status.st_nlink > 1:
        raise DatabaseError("it has another name (a hard link), so its journal may be elsewhere")


def _lock(descriptor: int) -> bool:
    """Take SQLite's shared lock: by way of the PENDING byte, which a waiting writer holds."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, PENDING_BYTE)
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB, SHARED_SIZE, SHARED_FIRST)
        finally:
            fcntl.lockf(descriptor, fcntl.LOCK_UN, 1, PENDING_BYTE)
    except BlockingIOError:
        return False
    return True


def _is_changing(path: str) -> bool:
    """Whether there is a hot journal, which says how to undo a change; a journal that is merely kept begins with
    zeros."""
    try:
        with open(f"{path}-journal", "rb") as file:
            return file.read(1) not in (b"", b"\0")
    except FileNotFoundError:
        return False
