"""The tables of the database, and a row as what it stands for.

    table        key           holds
    message      message id    size, SHA-256 of what is stored, content (NULL: in a spool file), coding
    envelope     envelope id   one typed column for each field of Envelope
    quarantine   its own       envelope rows that could not be read, as they were, with when and why
    expanded     message id,   of messages with recipients out of a .forward: the user it belongs to, see store.py
                 recipient
    recipient_   envelope id,  what senders are to be told: recipient_status.py
      status     action
    life         1             how often the store was opened
    tls_host     its own       other hosts whose TLS has worked: kept_tls.py
    sts_policy   its own       MTA-STS policies of domains: kept_tls.py

A database of an earlier schema is brought up to this one where it stands, in one transaction; one of a later schema is
refused.  Knows nothing of when rows change.
"""

import sqlite3
from typing import Any

import msgspec

from smtpd.envelope import Body, Duty, Kind, MailParameters, Origin, Recipient, Schedule
from smtpd.queue.store import kept_tls, recipient_status
from smtpd.queue.store.store import Envelope, LaneOf, StoreBroken

SCHEMA = 8
_NOTICES = 8  # the first one of a program that sends notices
APPLICATION = 0x534D5451  # "SMTQ"

# Where one part of an Envelope ends and the next begins in a row: state, origin, recipient, and behind them what was
# added later, of the origin, of the recipient, the terms, of the recipient again, and of the envelope itself.
_STATE = Envelope.__struct_fields__.index("origin")
_ADDED_STATE = _STATE + 3  # fields of an Envelope
_EARLY_ORIGIN, _EARLY_RECIPIENT = 7, 9  # fields that stand in front
_LATE_RECIPIENT = 11  # and those that do not stand behind everything else
_RECIPIENT = _STATE + _EARLY_ORIGIN
_ADDED = _RECIPIENT + _EARLY_RECIPIENT
_ADDED_RECIPIENT = _ADDED + len(Origin.__struct_fields__) - _EARLY_ORIGIN
_TERMS = _ADDED_RECIPIENT + _LATE_RECIPIENT - _EARLY_RECIPIENT
_LATEST = _TERMS + len(MailParameters.__struct_fields__)
_END = _LATEST + len(Recipient.__struct_fields__) - _LATE_RECIPIENT

COLUMNS = (
    *Envelope.__struct_fields__[:_STATE],
    *Origin.__struct_fields__[:_EARLY_ORIGIN],
    *Recipient.__struct_fields__[:_EARLY_RECIPIENT],
    "tls",
    "login",  # the origin's user; the recipient's has that name already
    *Recipient.__struct_fields__[_EARLY_RECIPIENT:_LATE_RECIPIENT],
    *MailParameters.__struct_fields__,
    "relay_sender",  # the recipient's sender; the origin's has that name already
    *Envelope.__struct_fields__[_ADDED_STATE:],
)

_EXPANDED = """CREATE TABLE expanded (
        message INTEGER NOT NULL, recipient BLOB NOT NULL, renewer TEXT NOT NULL, PRIMARY KEY (message, recipient)
    ) STRICT, WITHOUT ROWID"""

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
        duty INTEGER NOT NULL, digest TEXT NOT NULL, home TEXT NOT NULL,
        tls INTEGER NOT NULL, login TEXT NOT NULL, notify INTEGER NOT NULL, original TEXT NOT NULL,
        body INTEGER NOT NULL, utf8 INTEGER NOT NULL, require_tls INTEGER NOT NULL, ret TEXT NOT NULL,
        envid TEXT NOT NULL, submitter TEXT NOT NULL, release INTEGER NOT NULL, deliver_by INTEGER NOT NULL,
        by_mode TEXT NOT NULL, by_trace INTEGER NOT NULL, priority INTEGER NOT NULL,
        relay_sender TEXT NOT NULL, is_notice INTEGER NOT NULL
    ) STRICT""",
    """CREATE TABLE message (
        id INTEGER PRIMARY KEY, size INTEGER NOT NULL, digest BLOB NOT NULL, content BLOB, coding INTEGER NOT NULL
    ) STRICT""",
    # Columns without types: whatever is wrong with a row, it can be moved here.
    f"CREATE TABLE quarantine (number INTEGER PRIMARY KEY, envelope, at, reason, {', '.join(COLUMNS)})",
    "CREATE INDEX quarantined ON quarantine (envelope)",
    _EXPANDED,
    "CREATE TABLE life (number INTEGER PRIMARY KEY, opened INTEGER NOT NULL) STRICT",
    "INSERT INTO life VALUES (1, 0)",
    *kept_tls.TABLES,
    recipient_status.TABLE,
)

# Columns that the third schema has more than the second.
_THIRD = {
    "tls": "INTEGER NOT NULL DEFAULT 0",
    "login": "TEXT NOT NULL DEFAULT ''",
    "notify": "INTEGER NOT NULL DEFAULT 0",
    "original": "TEXT NOT NULL DEFAULT ''",
    "body": f"INTEGER NOT NULL DEFAULT {Body.EIGHT_BIT}",  # clients had not said
    "utf8": "INTEGER NOT NULL DEFAULT 0",
    "require_tls": "INTEGER NOT NULL DEFAULT 0",
    "ret": "TEXT NOT NULL DEFAULT ''",
    "envid": "TEXT NOT NULL DEFAULT ''",
    "submitter": "TEXT NOT NULL DEFAULT ''",
    "release": "INTEGER NOT NULL DEFAULT 0",
    "deliver_by": "INTEGER NOT NULL DEFAULT 0",
    "by_mode": "TEXT NOT NULL DEFAULT ''",
    "by_trace": "INTEGER NOT NULL DEFAULT 0",
    "priority": "INTEGER NOT NULL DEFAULT 0",
}

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
    2: (
        *(f"ALTER TABLE envelope ADD COLUMN {name} {kind}" for name, kind in _THIRD.items()),
        *(f"ALTER TABLE quarantine ADD COLUMN {name}" for name in _THIRD),
    ),
    3: (_EXPANDED,),  # what is in the queue is not in it: it would be expanded anew as a whole
    4: (
        "ALTER TABLE envelope ADD COLUMN relay_sender TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE quarantine ADD COLUMN relay_sender",
    ),
    5: kept_tls.TABLES,
    6: ("ALTER TABLE message ADD COLUMN coding INTEGER NOT NULL DEFAULT 0",),
    7: (
        "ALTER TABLE envelope ADD COLUMN is_notice INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE quarantine ADD COLUMN is_notice",
        recipient_status.TABLE,
    ),
}

SCHEDULE = (
    "id, kind, created, expires, next_try, retries, held, suspended, priority, release,"
    " action, user, duty, destination, sender, login"
)
_KINDS = frozenset(Kind)


def establish(connection: sqlite3.Connection, path: str, *, tell_held: bool) -> None:
    """Make the tables, or bring those of an earlier schema up to this one, in the transaction of the caller.

    `tell_held`: what was held as there were no notices goes, and its senders are told."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version == 0:
        _execute(connection, _TABLES)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
    elif not 0 < version <= SCHEMA:
        raise StoreBroken(
            f"{path} is of schema {version}, and this version of smtpd knows schema {SCHEMA} and earlier ones: it needs"
            " the version that has written it, or a later one"
        )
    else:
        for earlier in range(version, SCHEMA):
            _execute(connection, _MIGRATIONS[earlier])
        if version < _NOTICES and tell_held:
            _execute(connection, recipient_status.TELL_HELD)
    if version != SCHEMA:
        connection.execute(f"PRAGMA user_version = {SCHEMA}")


def _execute(connection: sqlite3.Connection, statements: tuple[str, ...]) -> None:
    for statement in statements:
        connection.execute(statement)


def row_of(envelope: Envelope) -> tuple[Any, ...]:
    values = msgspec.structs.astuple(envelope)
    origin, recipient, terms = values[_STATE:_ADDED_STATE]
    origin, recipient = msgspec.structs.astuple(origin), msgspec.structs.astuple(recipient)
    return (
        *values[:_STATE],
        *origin[:_EARLY_ORIGIN],
        *recipient[:_EARLY_RECIPIENT],
        *origin[_EARLY_ORIGIN:],
        *recipient[_EARLY_RECIPIENT:_LATE_RECIPIENT],
        *msgspec.structs.astuple(terms),
        *recipient[_LATE_RECIPIENT:],
        *values[_ADDED_STATE:],
    )


def envelope_of(row: tuple[Any, ...]) -> Envelope:
    """Raises msgspec.ValidationError.  SQLite has no booleans: hence not strict."""
    origin = row[_STATE:_RECIPIENT] + row[_ADDED:_ADDED_RECIPIENT]
    recipient = row[_RECIPIENT:_ADDED] + row[_ADDED_RECIPIENT:_TERMS] + row[_LATEST:_END]
    return msgspec.convert((*row[:_STATE], origin, recipient, row[_TERMS:_LATEST], *row[_END:]), Envelope, strict=False)


def schedule_of(lane_of: LaneOf, row: tuple[Any, ...]) -> Schedule:
    """Raises msgspec.ValidationError."""
    *columns, priority, release, action, user, duty, destination, sender, login = row
    kind = Kind(columns[1]) if columns[1] in _KINDS else Kind.MDA  # otherwise refused below
    lane, number = lane_of(kind, action, user, duty, destination, login or sender)
    return msgspec.convert((*columns, lane, priority, release, number), Schedule, strict=False)
