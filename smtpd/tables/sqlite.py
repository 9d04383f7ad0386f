"""Tables in an SQLite database that somebody else keeps, described by a file in the words of table-sqlite(5).

    dbpath             /etc/mail/users.db
    query_alias        SELECT target FROM aliases WHERE name = ?         each row one more target
    query_userinfo     SELECT uid, gid, home FROM users WHERE name = ?
    query_credentials  SELECT name, hash FROM users WHERE name = ?
    query_domain       SELECT name FROM domains WHERE name = ?           and so for the other services: one column

The key, in lower case, is bound to the `?` and never part of the query; a domain that is not ASCII as it is, and if
there is no row as DNS has it (xn--).  A query gets WORK_MAX steps of SQLite's machine (about 20 ms), ROWS_MAX rows and
a bounded heap: a user who may write the database can stop the lookups in it and nothing else.

SECURITY
    Whoever has the database reads it as SQLite's own readers do, under a shared lock on its lock bytes, but through a
    connection that is `immutable`.  SQLite opens nothing else then: a connection that is merely read-only would open
    the write-ahead log for writing as soon as somebody switched the database to it, which is death under the promises
    of a process that reads only.  Needed: rpath, flock.

Hence not readable: a database with a write-ahead log (until PRAGMA journal_mode=DELETE), one in which a change was cut
off (until its writer has been there again), and one with two names, as the journal is beside one of them only.  Links
are followed once, and lock, journal and connection are those of the file that they lead to, as SQLite has it.  The
lists of `fetch_source` are not asked for yet.
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
    """Not a database that can be read now."""


def parse_settings(text: str) -> Settings:
    """Raises Malformed."""
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
    """`path` is that of the description."""

    def __init__(self, name: str, path: str):
        self.name = name
        self.path = path
        self._settings: Settings | None = None
        self._trouble = TableUnavailable(f"table {name}: not read yet")

    def update(self) -> TableUnavailable | None:
        """A first description is kept even when its database cannot be read now."""
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
    raise ValueError("gives something else than text and whole numbers")


# -- reading ----------------------------------------------------------------------------------


def ask(path: str, query: str, key: str, columns: int) -> list[tuple]:
    """The rows.  Raises what is in READ_ERRORS."""
    real = os.path.realpath(path)
    with _locked(real) as file, closing(connect(real)) as connection:
        if not os.path.samestat(os.stat(real), os.fstat(file)):
            raise DatabaseError(FILE_REPLACED)
        _limit_work(connection)
        cursor = connection.execute(query, (key,))
        if len(cursor.description or ()) != columns:
            raise DatabaseError(f"the query has to give {columns} column{'s' if columns > 1 else ''}: {query}")
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
    """A descriptor of the file, which nobody writes in the meantime.  A lock of this kind goes when the process closes
    any descriptor of the file, so the connection has to be made and closed within.  `path` is no link."""
    file = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        _check_kind(os.fstat(file))
        for attempt in range(LOCK_ATTEMPTS):
            if attempt:
                time.sleep(LOCK_PAUSE)
            if _lock(file) and not _is_changing(path):
                break
        else:
            raise DatabaseError("it is being changed, or a change was cut off")
        header = os.pread(file, 100, 0)
        if not header.startswith(HEADER):
            raise DatabaseError("not an SQLite database")
        if WAL in header[VERSIONS]:
            raise DatabaseError("it has a write-ahead log: PRAGMA journal_mode=DELETE is needed to read it from here")
        yield file
    finally:
        os.close(file)


def _check_kind(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise DatabaseError("not a regular file")
    if status.st_nlink > 1:
        raise DatabaseError("it has another name (a hard link), and a change under way may show beside that one only")


def _lock(descriptor: int) -> bool:
    """As all readers do: past a writer who waits, to a share of the lock."""
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
    """Whether a journal says how to undo what has been begun; one that is kept begins with zeros."""
    try:
        with open(f"{path}-journal", "rb") as file:
            return file.read(1) not in (b"", b"\0")
    except FileNotFoundError:
        return False
