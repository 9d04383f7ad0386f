"""Tables in files made by makemap(8): SQLite databases that never change.

    CREATE TABLE map (key TEXT PRIMARY KEY, written TEXT, value TEXT)
        key        in its normal form (domain_name.py), for lookups
        written    as in the source, for services with comparisons of their own: domains, addresses, networks, regex
        value      NULL in a set, which has only keys

makemap makes a new file and renames it, so a file is opened as `immutable`, which needs no lock and no right to write
(sandbox promises: rpath), and reopened when another file is at the path; if that fails, the old one stays in use.

Keys are found by the index, except by services with comparisons of their own: for those all keys are read, at most
KEYS_MAX.

SQLite, because it is part of Python; there is no maintained binding for Berkeley DB.
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
HEAP_MAX = 128 * 1024 * 1024  # bytes of SQLite's heap in this process, for all connections
VALUE_MAX = 1024 * 1024  # bytes of a row
ROW_OVERHEAD = 64  # bytes of a row that are neither key nor value, at most
OPEN_ATTEMPTS = 5  # attempts to open a file that is replaced meanwhile
MATCHED_SERVICES = (Service.DOMAIN, Service.NETADDR, Service.MAILADDR, Service.REGEX)

FileStamp = tuple[int, int, int, int]
READ_ERRORS = (sqlite3.Error, OSError, ValueError, MemoryError)  # errors that reading a file can raise


class DbFileError(ValueError):
    """The file was not made by makemap, or cannot serve what the table is used for."""


def connect(path: str) -> sqlite3.Connection:
    """A read-only connection that does not trust the content of the file.  Raises sqlite3.Error."""
    connection = sqlite3.connect(f"file:{quote(path)}?mode=ro&immutable=1", uri=True, isolation_level=None)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, VALUE_MAX)
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    try:
        connection.execute("PRAGMA temp_store=MEMORY")  # the sandbox allows no temporary files
        connection.execute(f"PRAGMA hard_heap_limit={HEAP_MAX}")
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
    except BaseException:
        connection.close()
        raise
    return connection


def encode(entries: Iterable[tuple[str, str | None]]) -> bytes:
    """The content of a file with these keys and values.  Raises sqlite3.IntegrityError for a duplicate key."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute(SCHEMA)
        connection.execute("BEGIN")
        rows = ((normal_address(key), key, value) for key, value in entries)
        connection.executemany("INSERT INTO map VALUES (?, ?, ?)", rows)
        connection.execute("COMMIT")
        return connection.serialize()


def read(path: str) -> Iterator[tuple[str, str | None]]:
    """All keys, as in the source, and their values.  Raises READ_ERRORS."""
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
        raise DbFileError("incomplete")  # a truncated copy: SQLite would read zeros there
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
    """A connection to a file that can serve all of these.  Raises READ_ERRORS."""
    connection = _open(path)
    try:
        _check(connection, services)
    except BaseException:
        connection.close()
        raise
    return connection


def _open_now(path: str, services: Collection[Service]) -> tuple[FileStamp, sqlite3.Connection]:
    """The same, with the stamp of the file, which is checked again after opening: the file or a link to it may have
    been replaced since its header was read."""
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
    raise DbFileError("it is being replaced all the time")


def _check(connection: sqlite3.Connection, services: Collection[Service]) -> None:
    """Raises DbFileError for an entry that a service cannot use."""
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
    """Whether a row is larger than `connect` accepts: it has the key in both forms, the value, and a few numbers."""
    return sum(len(text.encode()) for text in (normal_address(key), key, value or "")) > VALUE_MAX - ROW_OVERHEAD


def fault_at_start(path: str, services: Collection[Service]) -> str:
    """Why the file cannot serve these services; empty if it can, or does not exist."""
    try:
        _open_for(path, services).close()
    except FileNotFoundError:
        return ""
    except READ_ERRORS as error:
        return error_text(error)
    return ""


class DbTable:
    """A table in a file of makemap.  `warn` is called when a new file at the path cannot be used."""

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
        self._keys: ListTable | None = None  # read when first needed

    def __del__(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def update(self) -> TableUnavailable | None:
        try:
            self._stamp = _stamp(self.path)  # also of a file that cannot be opened, so that it is tried once
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

    def entries(self) -> tuple[str, ...] | TableUnavailable:
        """The keys, in the order of the file: makemap sorts them."""
        keys = self._all_keys()
        return keys if isinstance(keys, TableUnavailable) else keys.entries()

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
        """The rows of the first spelling with any: older files have keys in other spellings."""
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
        """Open the file at the path if it is not the open one; a file that cannot be opened is tried once."""
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
    """Identifies a file and its content."""
    status = os.stat(path)
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
