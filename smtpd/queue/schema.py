"""The tables of the database, and a row as what it stands for.

    table        key           holds
    message      message id    size, SHA-256, content (NULL: in a spool file)
    envelope     envelope id   one typed column for each field of Envelope
    quarantine   its own       envelope rows that could not be read, as they were, with when and why
    life         1             how often the store was opened

A database of an earlier schema is brought up to this one where it stands, in one transaction; one of a later schema is
refused.  Knows nothing of when rows change.
"""

import sqlite3
from typing import Any

import msgspec

from smtpd.envelope import Duty, Kind, Origin, Recipient, Schedule
from smtpd.queue.store import Broken, Envelope, LaneOf

SCHEMA = 2
APPLICATION = 0x534D5451  # "SMTQ"

_STATE = tuple(Envelope.__struct_fields__[:-2])  # what is not of the origin or the recipient
COLUMNS = (*_STATE, *Origin.__struct_fields__, *Recipient.__struct_fields__)

_TABLES = (
    """CREATE TABLE envelope (
        id INTEGER PRIMARY KEY, run INTEGER NOT NULL,
        created INTEGER NOT NULL, expires INTEGER NOT NULL, next_try INTEGER NOT NULL, last_try INTEGER NOT NULL,
        retries INTEGER NOT NULL, troubles INTEGER NOT NULL, perhaps_delivered INTEGER NOT NULL,
        held INTEGER NOT NULL, suspended INTEGER NOT NULL, error TEXT NOT NULL,
        sender TEXT NOT NULL, address TEXT NOT NULL, client TEXT NOT NULL, helo TEXT NOT NULL,
        hostname TEXT NOT NULL, tag TEXT NOT NULL, esmtp INTEGER NOT NULL,
        recipient TEXT NOT NULL, destination TEXT NOT NULL, action TEXT NOT NULL, kind INTEGER NOT NULL,
        user TEXT NOT NULL, extension TEXT NOT NULL,
        duty INTEGER NOT NULL, digest TEXT NOT NULL, home TEXT NOT NULL
    ) STRICT""",
    "CREATE TABLE message (id INTEGER PRIMARY KEY, size INTEGER NOT NULL, digest BLOB NOT NULL, content BLOB) STRICT",
    # Columns without types: whatever is wrong with a row, it can be moved here.
    f"CREATE TABLE quarantine (number INTEGER PRIMARY KEY, envelope, at, reason, {', '.join(COLUMNS)})",
    "CREATE INDEX quarantined ON quarantine (envelope)",
    "CREATE TABLE life (number INTEGER PRIMARY KEY, opened INTEGER NOT NULL) STRICT",
    "INSERT INTO life VALUES (1, 0)",
)

# What makes the next schema of each one.  Columns are only ever added behind the others, as rows are read by position.
_MIGRATIONS = {
    1: (
        f"ALTER TABLE envelope ADD COLUMN duty INTEGER NOT NULL DEFAULT {Duty.DELIVER}",
        "ALTER TABLE envelope ADD COLUMN digest TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE envelope ADD COLUMN home TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE quarantine ADD COLUMN duty",
        "ALTER TABLE quarantine ADD COLUMN digest",
        "ALTER TABLE quarantine ADD COLUMN home",
    ),
}

SCHEDULE = "id, kind, created, expires, next_try, retries, held, suspended, action, user, duty, destination"
_KINDS = frozenset(Kind)


def establish(connection: sqlite3.Connection, path: str) -> None:
    """Make the tables, or bring those of an earlier schema up to this one, in the transaction of the caller."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        _execute(connection, _TABLES)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
    elif not 0 < version <= SCHEMA:
        raise Broken(f"{path} is of schema {version}, this program knows schema {SCHEMA}")
    else:
        for earlier in range(version, SCHEMA):
            _execute(connection, _MIGRATIONS[earlier])
    if version != SCHEMA:
        connection.execute(f"PRAGMA user_version = {SCHEMA}")


def _execute(connection: sqlite3.Connection, statements: tuple[str, ...]) -> None:
    for statement in statements:
        connection.execute(statement)


def row_of(envelope: Envelope) -> tuple[Any, ...]:
    *state, origin, recipient = msgspec.structs.astuple(envelope)
    return (*state, *msgspec.structs.astuple(origin), *msgspec.structs.astuple(recipient))


def envelope_of(row: tuple[Any, ...]) -> Envelope:
    """Raises ValidationError.  SQLite has no booleans: hence not strict."""
    origin = len(_STATE)
    recipient = origin + len(Origin.__struct_fields__)
    return msgspec.convert((*row[:origin], row[origin:recipient], row[recipient:]), Envelope, strict=False)


def schedule_of(lane_of: LaneOf, row: tuple[Any, ...]) -> Schedule:
    """Raises ValidationError."""
    *columns, action, user, duty, destination = row
    kind = Kind(columns[1]) if columns[1] in _KINDS else Kind.MDA  # otherwise refused below
    return msgspec.convert((*columns, lane_of(kind, action, user, duty, destination)), Schedule, strict=False)
