"""Errors of SQLite, in the store's words.

a full disk                          StoreFull
a disk that fails, no database       StoreBroken
anything else, a damaged page too    raised as it is: the caller's matter
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from smtpd.queue.store.store import StoreBroken, StoreFull

NEARLY_FULL_BYTES = 1024 * 1024  # bytes free below which an I/O error means a full disk

_BROKEN = {
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_PROTOCOL,
}


@contextmanager
def translated(directory: str) -> Iterator[None]:
    """StoreFull and StoreBroken for errors that concern all of `directory`."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_FULL:
            raise StoreFull(str(error)) from error
        if code & 0xFF not in _BROKEN:
            raise
        # The log's index grows with ftruncate and pages that are touched; a full disk is an I/O error there.
        if code & 0xFF == sqlite3.SQLITE_IOERR and code != sqlite3.SQLITE_IOERR_FSYNC and _nearly_full(directory):
            raise StoreFull(str(error)) from error
        raise StoreBroken(f"{error} ({getattr(error, 'sqlite_errorname', '')})") from error


def _nearly_full(directory: str) -> bool:
    try:
        space = os.statvfs(directory)
    except OSError:
        return False
    return space.f_bavail * space.f_frsize < NEARLY_FULL_BYTES
