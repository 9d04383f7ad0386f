"""Tables that makemap(8) made: SQLite files.

    CREATE TABLE map (key TEXT PRIMARY KEY, written TEXT, value TEXT)
        key        in its normal form (domain.py), as keys are looked up
        written    as it was written, for what compares otherwise: domains, addresses, networks, expressions
        value      NULL in a set, which has keys only

Such a file never changes: makemap makes another one and renames it.  So it is opened as `immutable`, which needs no
lock and no right to write (sandbox promises: rpath), and opened again when another one stands in its place; when that
cannot be done, what was open is served on.

Keys are found by the index, except by the services that match; for these all keys are read, KEYS_MAX at most.

Not Berkeley DB, which no wheel worth trusting brings; SQLite is part of Python.
"""

import os
import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing
from urllib.parse import quote

from smtpd.domain_name import address_spellings, normal_address
from smtpd.ipc.os_error import error_text
from smtpd.slice import Service
from smtpd.tables.file import cannot_read
from smtpd.tables.inline import ListTable
from smtpd.tables.matching import entry_fault
from smtpd.tables.table import VALUE_SERVICES, TableUnavailable

APPLICATION_ID = 0x534D4D50  # "SMMP", in the header of the file
SCHEMA = "CREATE TABLE map (key TEXT NOT NULL PRIMARY KEY, written TEXT NOT NULL, value TEXT) WITHOUT ROWID"
HEADER = b"SQLite format 3\0"  # sqlite.org/fileformat2.html 1.3
KEYS_MAX = 100_000
HEAP_MAX = 128 * 1024 * 1024  # bytes that SQLite may use in this process, all its connections together
VALUE_MAX = 1024 * 1024  # bytes of a row
ROW_OVERHEAD = 64  # bytes of it, at the most, that are neither key nor value
OPEN_ATTEMPTS = 5  # to open a file that others are put in the place of
MATCHED_SERVICES = (Service.DOMAIN, Service.NETADDR, Service.MAILADDR, Service.REGEX)

FileStamp = tuple[int, int, int, int]
READ_ERRORS = (sqlite3.Error, OSError, ValueError, MemoryError)  # what a file may do to who reads it


class DbFileError(ValueError):
    """Not made by makemap."""


def connect(path: str) -> sqlite3.Connection:
    """A connection that cannot write, and that takes nothing in the file for granted.  Raises sqlite3.Error."""
    connection = sqlite3.connect(f"file:{quote(path)}?mode=ro&immutable=1", uri=True, isolation_level=None)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_MAX)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    try:
        connection.execute("PRAGMA temp_store=MEMORY")  # there is nowhere to write to
        connection.execute(f"PRAGMA hard_heap_limit={HEAP_MAX}")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def encode(entries: Iterable[tuple[str, str | None]]) -> bytes:
    """The file for these keys and values.  Raises sqlite3.IntegrityError for a key that comes twice."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(SCHEMA)
        connection.execute("BEGIN")
        rows = ((normal_address(key), key, value) for key, value in entries)
        connection.executemany("INSERT INTO map VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT")
        return connection.serialize()


def read(path: str) -> Iterator[tuple[str, str | None]]:
    """Keys as they were written, and their values.  Raises what is in READ_ERRORS."""
    with closing(_open(path)) as connection:
        yield from connection.execute("SELECT written, value FROM map ORDER BY key")


def _open(path: str) -> sqlite3.Connection:
    with open(path, "rb") as file:
        header = file.read(100)
        size = os.fstat(file.fileno()).st_size
    if not header.startswith(HEADER):
        raise DbFileError("not made by makemap")
    page, pages = int.from_bytes(header[16:18]), int.from_bytes(header[28:32])
    if size < pages * (65536 if page == 1 else page):
        raise DbFileError("incomplete")  # a copy that was cut off: SQLite would read zeros there
    connection = connect(path)
    try:
        if connection.execute("PRAGMA application_id").fetchone() != (APPLICATION_ID,):
            raise DbFileError("not made by makemap")
        connection.execute("SELECT key, written, value FROM map LIMIT 1").fetchall()
    except BaseException:
        connection.close()
        raise
    return connection


def _open_for(path: str, services: Collection[Service]) -> sqlite3.Connection:
    """A connection to a file that can serve all of these.  Raises what is in READ_ERRORS."""
    connection = _open(path)
    try:
        _check(connection, services)
    except BaseException:
        connection.close()
        raise
    return connection


def _open_now(path: str, services: Collection[Service]) -> tuple[FileStamp, sqlite3.Connection]:
    """Likewise, and which file it is: looked at again behind the opening, as another one may have taken its place, or a
    link been bent, since its header was read."""
    for _ in range(OPEN_ATTEMPTS):
        stamp = _stamp(path)
        connection = _open_for(os.path.realpath(path), services)
        try:
            if _stamp(path) == stamp:
                return stamp, connection
        except OSError:
            connection.close()
            raise
        connection.close()
    raise DbFileError("other files take its place all the time")


def _check(connection: sqlite3.Connection, services: Collection[Service]) -> None:
    """Raises Malformed for an entry that would make a service useless."""
    if (
        VALUE_SERVICES & set(services)
        and connection.execute("SELECT 1 FROM map WHERE value IS NULL LIMIT 1").fetchone()
    ):
        raise DbFileError("a set has no values")
    compared = [service for service in services if service in (Service.NETADDR, Service.REGEX)]
    if not compared:
        return
    for (written,) in connection.execute("SELECT written FROM map LIMIT ?", (KEYS_MAX,)):
        for service in compared:
            if fault := entry_fault(service, written):
                raise DbFileError(fault)


def is_too_large(key: str, value: str | None) -> bool:
    """More than whoever looks it up takes (connect): a row has the key in both forms, the value, and a few numbers."""
    return sum(len(text.encode()) for text in (normal_address(key), key, value or "")) > VALUE_MAX - ROW_OVERHEAD


def fault_at_start(path: str, services: Collection[Service]) -> str:
    """Why the file cannot serve these; empty if it can, or is not there."""
    try:
        _open_for(path, services).close()
    except FileNotFoundError:
        return ""
    except READ_ERRORS as error:
        return error_text(error)
    return ""


class DbTable:
    """`warn` is told of a file that takes the place of the one that is served, and cannot be used."""

    def __init__(
        self,
        name: str,
        path: str,
        delimiter: str = "+",
        services: Collection[Service] = (),
        warn: Callable[[str], None] = lambda text: None,
    ):
        self.name = name
        self.path = path
        self._delimiter = delimiter
        self._services = services
        self._warn = warn
        self._connection: sqlite3.Connection | None = None
        self._stamp: FileStamp | None = None
        self._trouble = TableUnavailable(f"table {name}: not opened yet")
        self._keys: ListTable | None = None  # read when they are first needed

    def __del__(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def update(self) -> TableUnavailable | None:
        try:
            self._stamp = _stamp(self.path)  # of one that cannot be opened, too: it is tried once
            self._stamp, connection = _open_now(self.path, self._services)
        except READ_ERRORS as error:
            self._trouble = cannot_read(self.name, self.path, error)
            return self._trouble
        if self._connection is not None:
            self._connection.close()
        self._connection = connection
        self._keys = None
        return None

    def check(self, service: Service, key: str) -> bool | TableUnavailable:
        if service in MATCHED_SERVICES:
            keys = self._all_keys()
            return keys if isinstance(keys, TableUnavailable) else keys.check(service, key)
        rows = self._rows_of("SELECT 1 FROM map WHERE key = ?", key)
        return rows if isinstance(rows, TableUnavailable) else bool(rows)

    def find(self, service: Service, key: str) -> str | None | TableUnavailable:
        rows = self._rows_of("SELECT value FROM map WHERE key = ?", key)
        if isinstance(rows, TableUnavailable):
            return rows
        if not rows:
            return None
        (value,) = rows[0]
        return value if isinstance(value, str) else TableUnavailable(f"table {self.name}: a set has no values")

    def _all_keys(self) -> ListTable | TableUnavailable:
        self._follow()
        if self._keys is None:
            rows = self._rows("SELECT written FROM map LIMIT ?", KEYS_MAX + 1)
            if isinstance(rows, TableUnavailable):
                return rows
            if len(rows) > KEYS_MAX:
                return TableUnavailable(f"table {self.name}: more than {KEYS_MAX} keys to compare with")
            self._keys = ListTable(self.name, [written for (written,) in rows], self._delimiter)
        return self._keys

    def _rows_of(self, query: str, key: str) -> list[tuple] | TableUnavailable:
        """Under the first spelling that has any: files that were made before keys had a normal form have others."""
        for spelling in address_spellings(key):
            if rows := self._rows(query, spelling):
                return rows
        return []

    def _rows(self, query: str, value: str | int) -> list[tuple] | TableUnavailable:
        self._follow()
        if self._connection is None:
            return self._trouble
        try:
            return self._connection.execute(query, (value,)).fetchall()
        except READ_ERRORS as error:
            return cannot_read(self.name, self.path, error)

    def _follow(self) -> None:
        """Open what stands there now, when it is not what is open; once, if it cannot be opened."""
        try:
            stamp = _stamp(self.path)
        except OSError as error:
            if self._connection is not None and self._stamp is not None:
                self._stamp = None
                self._warn(f"{cannot_read(self.name, self.path, error).reason}: the table stays as it was")
            return
        if stamp != self._stamp and (trouble := self.update()) is not None and self._connection is not None:
            self._warn(f"{trouble.reason}: the table stays as it was")


def _stamp(path: str) -> FileStamp:
    """Another one for another file, and for another content."""
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
