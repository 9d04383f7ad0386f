"""A copy of a database of an earlier schema, before it is brought up to this one: for the way back.

    queue.db, of schema 7  --->  queue.db.schema7      and then the tables of queue.db change

There is one copy, of the last upgrade; it has no part in anything, and may be removed.  An earlier version of this
program takes it as queue.db; what came in since is not in it.
"""

import os
import re
import sqlite3
import time

from smtpd.ipc.log import log

_COPY = re.compile(r"queue\.db\.schema[0-9]+(?:\.new)?", re.ASCII)
LONG = 1.0  # seconds after which it is said that it was the copy that took so long


def version_of(connection: sqlite3.Connection) -> int:
    """0: it has no tables yet."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def keep_copy(connection: sqlite3.Connection, directory: str, version: int) -> None:
    """Durably, and alone.  Raises sqlite3.Error and OSError."""
    name, began = f"queue.db.schema{version}", time.monotonic()
    log.info(f"queue.db is of schema {version} and is brought up to date; a copy stays as {name}")
    for other in os.listdir(directory):
        if _COPY.fullmatch(other):
            os.unlink(f"{directory}/{other}")
    copy = sqlite3.connect(f"{directory}/{name}.new", isolation_level=None)
    try:
        copy.execute("PRAGMA journal_mode = OFF")  # nobody reads it before it has its name
        connection.backup(copy)
    finally:
        copy.close()
    for path in (f"{directory}/{name}.new", directory):
        _sync(path)
    os.rename(f"{directory}/{name}.new", f"{directory}/{name}")
    _sync(directory)
    if (took := time.monotonic() - began) > LONG:
        log.info(f"the copy {name} took {took:.0f} s")


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
