"""What dispatchers know of other hosts' TLS, in the database: hosts whose TLS has worked, and MTA-STS policies.

    tls_host      number, service UNIQUE, worked                        TLS_HOSTS_MAX rows
    sts_policy    number, domain UNIQUE, id, mode, mx, max_age, fetched    STS_POLICIES_MAX rows

A dispatcher may be in the hands of an attacker: rows have a bounded size by their types (next_hop.py), their number is
bounded here, no time is later than that of the clock, and an older row never replaces a newer one, except one that is
later than the clock, which has been set back since.  Such rows, rows that are over, and beyond the number those that
are oldest, are removed with the first row that is written in a life of the daemon, and after each TRIM_INTERVAL rows:
with full tables that takes 45 ms, by which the start is not to be longer.

A row that makes no sense or cannot be read is passed over: what it says is found out anew.
"""

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from smtpd.ipc.log import log
from smtpd.next_hop import StsRow, TlsHost
from smtpd.queue.store.salvage import ID_MAX, Read, leap, raise_unless_of_a_row
from smtpd.queue.store.store import RememberTls

TLS_HOSTS_MAX = 50_000
STS_POLICIES_MAX = 10_000
TLS_HOST_LIFETIME = 30 * 86_400  # seconds
TRIM_INTERVAL = 1000  # rows

TABLES = (
    "CREATE TABLE tls_host (number INTEGER PRIMARY KEY, service TEXT NOT NULL UNIQUE, worked INTEGER NOT NULL) STRICT",
    """CREATE TABLE sts_policy (
        number INTEGER PRIMARY KEY, domain TEXT NOT NULL UNIQUE, id TEXT NOT NULL, mode TEXT NOT NULL,
        mx TEXT NOT NULL, max_age INTEGER NOT NULL, fetched INTEGER NOT NULL
    ) STRICT""",
)

_WRITE_HOST = (
    "INSERT INTO tls_host (service, worked) VALUES (?1, ?2)"
    " ON CONFLICT (service) DO UPDATE SET worked = excluded.worked"
    " WHERE excluded.worked >= tls_host.worked OR tls_host.worked > ?3"
)
_WRITE_POLICY = (
    "INSERT INTO sts_policy (domain, id, mode, mx, max_age, fetched) VALUES (?1, ?2, ?3, ?4, ?5, ?6)"
    " ON CONFLICT (domain) DO UPDATE SET id = excluded.id, mode = excluded.mode, mx = excluded.mx,"
    " max_age = excluded.max_age, fetched = excluded.fetched"
    " WHERE excluded.fetched >= sts_policy.fetched OR sts_policy.fetched > ?7"
)
_TRIM = (
    ("DELETE FROM tls_host WHERE worked <= ?1 - ?2 OR worked > ?1", TLS_HOST_LIFETIME),
    ("DELETE FROM sts_policy WHERE fetched + max_age <= ?1 + ?2 OR fetched > ?1", 0),
)
_OLDEST = (
    ("tls_host", "worked", TLS_HOSTS_MAX),
    ("sts_policy", "fetched", STS_POLICIES_MAX),
)


class KeptTls:
    """Writes, in the transaction of the caller."""

    def __init__(self) -> None:
        self._written = TRIM_INTERVAL  # rows since they were trimmed last
        self._trimmed = False  # in this transaction

    def begin(self) -> None:
        """A transaction begins; the one before may have been rolled back."""
        self._trimmed = False

    def committed(self) -> None:
        """What was written and removed since `begin` is durable."""
        if self._trimmed:
            self._written, self._trimmed = 0, False

    def write(self, connection: sqlite3.Connection, change: RememberTls) -> None:
        now = change.when
        connection.executemany(_WRITE_HOST, [(host.service, min(host.worked, now), now) for host in change.hosts])
        connection.executemany(
            _WRITE_POLICY,
            [(p.domain, p.id, p.mode, p.mx, p.max_age, min(p.fetched, now), now) for p in change.policies],
        )
        self._written += len(change.hosts) + len(change.policies)
        if self._written >= TRIM_INTERVAL and not self._trimmed:
            self._trim(connection, now)

    def _trim(self, connection: sqlite3.Connection, now: int) -> None:
        self._trimmed = True
        for sql, seconds in _TRIM:
            connection.execute(sql, (now, seconds))
        for table, time, most in _OLDEST:
            connection.execute(
                f"DELETE FROM {table} WHERE number IN"
                f" (SELECT number FROM {table} ORDER BY {time} DESC, number DESC LIMIT -1 OFFSET {most})"
            )


def read_hosts(read: Read, after: int, limit: int) -> tuple[list[TlsHost], int]:
    """Rows above the number `after`, and the number of the last one; 0: there are no more."""
    return _rows(read, "CAST(service AS BLOB), worked", "tls_host", after, limit, TlsHost)


def read_policies(read: Read, after: int, limit: int) -> tuple[list[StsRow], int]:
    columns = "CAST(domain AS BLOB), CAST(id AS BLOB), CAST(mode AS BLOB), CAST(mx AS BLOB), max_age, fetched"
    return _rows(read, columns, "sts_policy", after, limit, StsRow)


def _rows[Row](read: Read, columns: str, table: str, after: int, limit: int, kind: type[Row]) -> tuple[list[Row], int]:
    sql = f"SELECT number, {columns} FROM {table}"
    try:
        rows = read(f"{sql} WHERE number > ? ORDER BY number LIMIT ?", (after, limit))
        last = rows[-1][0] if len(rows) == limit else 0
    except sqlite3.Error as error:
        raise_unless_of_a_row(error)
        log.warn(f"{table}: {error}: what cannot be read is passed over")
        rows, last = _readable_rows(read, sql, table, after, limit)
    return [row for _, *values in rows if (row := _maybe_row(values, kind)) is not None], last


def _readable_rows(read: Read, sql: str, table: str, after: int, limit: int) -> tuple[list[Any], int]:
    """Row by row, at most `limit` of them with those that cannot be read."""
    found: list[Any] = []
    for _ in range(limit):
        if after >= ID_MAX:
            return found, 0
        try:
            numbers = read(f"SELECT number FROM {table} WHERE number > ? ORDER BY number LIMIT 1", (after,))
        except sqlite3.Error as error:
            raise_unless_of_a_row(error)
            after = leap(read, "number", table, after + 1) - 1
            if after + 1 >= ID_MAX:
                return found, 0
            continue
        if not numbers:
            return found, 0
        after = numbers[0][0]
        try:
            found += read(f"{sql} WHERE number = ?", (after,))
        except sqlite3.Error as error:
            raise_unless_of_a_row(error)
    return found, after


def _maybe_row[Row](columns: Sequence[Any], kind: type[Row]) -> Row | None:
    try:
        return msgspec.convert([c.decode() if isinstance(c, bytes) else c for c in columns], kind)
    except (msgspec.ValidationError, UnicodeDecodeError):
        return None
