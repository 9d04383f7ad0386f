"""Reads on where a row, or a page of rows, is damaged.

text that is not text, a value out of its range,     that row is an UnreadableRow
whatever our own code makes of the row
a damaged page of the database                       what stands on it is skipped, and said to be
anything else of the database, no memory             not a matter of rows: raised again
"""

import sqlite3
from collections.abc import Callable
from typing import Any

from smtpd.queue.store.store import UnreadableRow

ID_MAX = 2**63 - 1

Read = Callable[[str, tuple[Any, ...]], list[Any]]
ROW_ERRORS = Exception


def raise_unless_of_a_row(error: Exception) -> None:
    """Raise `error` again unless it is the fault of a row."""
    code = getattr(error, "sqlite_errorcode", None)
    text_that_is_none = isinstance(error, sqlite3.OperationalError) and code is None
    damaged_page = code is not None and code & 0xFF == sqlite3.SQLITE_CORRUPT
    of_the_database = isinstance(error, sqlite3.Error) and not (text_that_is_none or damaged_page)
    if of_the_database or isinstance(error, MemoryError | OSError):
        raise error


def read_row(read: Read, columns: str, envelope: int, make: Callable[[tuple[Any, ...]], Any]) -> Any:
    try:
        rows = read(f"SELECT {columns} FROM envelope WHERE id = ?", (envelope,))
        return make(rows[0]) if rows else None
    except ROW_ERRORS as error:
        raise_unless_of_a_row(error)
        return UnreadableRow(envelope, str(error))


def read_rows(
    read: Read, columns: str, first: int, last: int, limit: int, make: Callable[[tuple[Any, ...]], Any]
) -> list[Any]:
    found: list[Any] = []
    while len(found) < limit and first <= last:
        try:
            rows = read("SELECT id FROM envelope WHERE id >= ? ORDER BY id LIMIT 1", (first,))
        except sqlite3.Error as error:
            raise_unless_of_a_row(error)
            behind = leap(read, "id", "envelope", first)
            found.append(UnreadableRow(first, f"{error}: skipped everything below {behind:016x}"))
            first = behind
            continue
        if not rows or rows[0][0] > last:
            break
        found.append(read_row(read, columns, rows[0][0], make))
        first = rows[0][0] + 1
    return found


def leap(read: Read, id: str, table: str, first: int) -> int:
    """The lowest `id` of `table`, or nearly so, from which on reading works again: by doubling, then by halving."""

    def readable(at: int) -> bool:
        try:
            read(f"SELECT {id} FROM {table} WHERE {id} >= ? ORDER BY {id} LIMIT 1", (at,))
        except sqlite3.Error as error:
            raise_unless_of_a_row(error)
            return False
        return True

    low, high = first, first + 1
    while high < ID_MAX and not readable(high):
        low, high = high, min(ID_MAX, first + 2 * (high - first))
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if readable(middle) else (middle, high)
    return high
