"""What senders are to be told and have not been told yet, in the database: one row for each recipient and action.

    end of an envelope: Remove + Owe, one transaction        notice: StoreNotice, one transaction, takes the rows

A row holds all that a notice says of its recipient, as the envelope is gone by then.  The message stays as long as it
has rows: a notice returns the header of it, or all.  Does not know when something is owed (delivery/notify.py), nor
what a notice looks like (header/report.py).
"""

import sqlite3
from collections.abc import Iterable
from enum import IntEnum
from typing import Any, Literal

import msgspec

from smtpd.envelope import COUNTER_MAX, EnvelopeId, Notify, Path, Seconds, Text, Word


class ReportAction(IntEnum):
    """RFC 3464 2.3.3.  The numbers stand in the database."""

    FAILED = 1
    DELAYED = 2
    DELIVERED = 3
    RELAYED = 4
    EXPANDED = 5


class RecipientStatus(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """A row."""

    envelope: EnvelopeId
    action: ReportAction
    created: Seconds  # when the message arrived
    last_try: Seconds  # 0: never
    expires: Seconds
    sender: Path  # who is told
    envid: Word
    ret: Literal["", "FULL", "HDRS"]
    require_tls: bool  # a notice may go over verified TLS only, and returns no body (RFC 8689 5)
    recipient: Path  # as the client named it
    original: Path  # as in envelope.Recipient
    status: Word  # RFC 3463; empty: what `reason` and `action` say
    reason: Text
    remote: Word  # the host that has replied; empty: none has
    diagnostic: Text  # its reply, with the code; empty: none


COLUMNS = RecipientStatus.__struct_fields__
TABLE = """CREATE TABLE recipient_status (
        envelope INTEGER NOT NULL, action INTEGER NOT NULL,
        created INTEGER NOT NULL, last_try INTEGER NOT NULL, expires INTEGER NOT NULL,
        sender TEXT NOT NULL, envid TEXT NOT NULL, ret TEXT NOT NULL, require_tls INTEGER NOT NULL,
        recipient TEXT NOT NULL, original TEXT NOT NULL, status TEXT NOT NULL, reason TEXT NOT NULL,
        remote TEXT NOT NULL, diagnostic TEXT NOT NULL, PRIMARY KEY (envelope, action)
    ) STRICT, WITHOUT ROWID"""

# Of mail that was held before there were notices, what an administrator has to mend before anything else.
_OUR_FAULTS = (
    "internal error: %",
    "a try was begun and never ended%",
    "the configuration has no %",
    'the action "%',
    "commands of alias files are not enabled%",
    "the alias file does not name this any more",
    "the content %",
    "the size was changed %",
    "the spool file %",
)
_HELD = (
    "held = 1 AND sender <> ''"
    f" AND (notify = 0 OR notify & {Notify.FAILURE:d})"
    f" AND NOT ({' OR '.join(f"error LIKE '{text}'" for text in _OUR_FAULTS)})"
)
# Mail that was held as its sender could not be told becomes mail whose sender is to be told.
TELL_HELD = (
    "INSERT INTO recipient_status SELECT id, 1, created, last_try, expires, sender, envid, ret, require_tls, recipient,"
    f" original, '', error, '', '' FROM envelope WHERE {_HELD}",
    f"DELETE FROM envelope WHERE {_HELD}",
)

_OF_MESSAGE = f"envelope BETWEEN message.id << 32 AND (message.id << 32) + {COUNTER_MAX}"
IS_OWED = f"EXISTS (SELECT 1 FROM recipient_status WHERE {_OF_MESSAGE})"  # of a row of `message`


def write(connection: sqlite3.Connection, statuses: Iterable[RecipientStatus]) -> None:
    marks = ",".join("?" * len(COLUMNS))
    sql = f"INSERT OR REPLACE INTO recipient_status VALUES ({marks})"
    connection.executemany(sql, map(msgspec.structs.astuple, statuses))


def take(connection: sqlite3.Connection, keys: Iterable[tuple[int, int]]) -> bool:
    """Remove these rows.  False when none of them was there."""
    sql = "DELETE FROM recipient_status WHERE envelope = ? AND action = ?"
    return connection.executemany(sql, keys).rowcount > 0


def status_of(row: tuple[Any, ...]) -> RecipientStatus:
    """Raises msgspec.ValidationError."""
    return msgspec.convert(row, RecipientStatus, strict=False)
