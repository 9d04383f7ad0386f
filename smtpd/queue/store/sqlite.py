"""The store in SQLite: one connection that writes and checkpoints, one that only reads.

    changes --> writer: one transaction, one fsync          reads --> reader: pages

WAL with synchronous=FULL: a commit is one fsync.  Only the writer ever checkpoints: releases before 3.51.3 can
lose a commit when two do.  Rows go in with as few statements as possible, each a power of two of them: between two
statements the interpreter gives other threads their turn, and gets its own back late.

What the tables are stands in schema.py.  Does not understand mail, and keeps no open read behind: each read is a page.
"""

import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, groupby
from typing import Any

import msgspec

from smtpd.envelope import COUNTER_MAX, Schedule, message_of
from smtpd.ipc.log import log
from smtpd.next_hop import StsRow, TlsHost
from smtpd.queue.store import earlier_database, kept_tls, recipient_status, salvage, selected_rows
from smtpd.queue.store.content_codec import PLAIN, Codec
from smtpd.queue.store.recipient_status import RecipientStatus
from smtpd.queue.store.salvage import Read
from smtpd.queue.store.schema import COLUMNS, SCHEDULE, SCHEMA, envelope_of, establish, row_of, schedule_of
from smtpd.queue.store.sqlite_errors import translated
from smtpd.queue.store.store import (
    AS_IT_CAME,
    Add,
    Change,
    Compound,
    ContentDamaged,
    CountAttempt,
    Envelope,
    Hold,
    LaneOf,
    Message,
    OneChange,
    Owe,
    Postpone,
    Quarantine,
    Recode,
    RememberTls,
    Remove,
    Replace,
    Reschedule,
    StoreBroken,
    StoreFull,
    StoreNotice,
    Suspend,
    Uncount,
    UnreadableRow,
    expanded_keys,
    recipient_key,
    successors,
)
from smtpd.selection import Selection

INSERT_ROWS_MAX = 64  # of one INSERT at the most
CHECKPOINT_BYTES = 8 * 1024 * 1024  # bytes of log after which it is copied back
CHANGE_BYTES = 4096  # bytes that a change takes in the log, about, beside content and envelopes that it makes
ENVELOPE_BYTES = 256  # bytes that each of these takes: they stand beside each other
LOG_KEPT_BYTES = 32 * 1024 * 1024  # bytes of log that are left on the disk for the next commits
FREE_KEPT_BYTES = 32 * 1024 * 1024  # bytes of unused pages that are left in the database for the next mails
SHRINK_STEP_TIME = 0.005  # seconds of one step of giving the others back
SHRINK_STEP_PAGES = 64
BUSY_TIMEOUT = 5.0  # seconds that a lock of another connection is waited for

_ENVELOPES_OF = f"BETWEEN message.id << 32 AND (message.id << 32) + {COUNTER_MAX}"
_LISTED = "(SELECT value FROM json_each(?))"
_FORGET_RECIPIENT = "DELETE FROM expanded WHERE message = ? AND recipient = ?"


class SQLiteStore:
    """The database `queue.db` in `directory`, made when it is not there.  Raises StoreBroken and StoreFull.

    `tell_held`: what an earlier program has held, as it had no notices, goes, and its senders are to be told."""

    def __init__(self, directory: str, codec: Codec = PLAIN, *, tell_held: bool = True):
        self.directory, self._codec, self._tell_held = directory, codec, tell_held
        self.path = os.path.join(directory, "queue.db")
        self._reading = threading.Lock()
        self._in_log = 0  # bytes, about, that commits have left in the log
        self._kept_tls = kept_tls.KeptTls()
        self._has_expanded = False  # the table `expanded` may hold something
        self.run = 0
        self._connections: list[sqlite3.Connection] = []
        try:
            with translated(self.directory):
                self._open()
                self.run = self._begin_life()
        except sqlite3.Error as error:
            self._disconnect()
            raise StoreBroken(f"{self.path}: {error}") from error
        except BaseException:
            self._disconnect()
            raise
        log.debug(f"SQLite {sqlite3.sqlite_version}")

    # -- open, close, mend ------------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._writer = self._connect(
            "auto_vacuum = INCREMENTAL",  # has an effect only before the first table
            "journal_mode = WAL",
            "synchronous = FULL",
            f"journal_size_limit = {LOG_KEPT_BYTES}",
            "wal_autocheckpoint = 0",
            "secure_delete = OFF",
        )
        version = earlier_database.version_of(self._writer)
        if 0 < version < SCHEMA:
            earlier_database.keep_copy(self._writer, self.directory, version)
        with self._transaction():
            establish(self._writer, self.path, tell_held=self._tell_held)
            self._has_expanded = bool(self._number("SELECT EXISTS (SELECT 1 FROM expanded)"))
        self._reader = self._connect("query_only = ON")

    def _connect(self, *pragmas: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=BUSY_TIMEOUT
        )
        self._connections.append(connection)
        for pragma in ("temp_store = MEMORY", "trusted_schema = OFF", *pragmas):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection

    def _disconnect(self) -> None:
        """The reader first: the last connection to close copies the log back and removes it."""
        while self._connections:
            try:
                self._connections.pop().close()
            except sqlite3.Error as error:
                log.warn(f"{self.path}: {error}")

    def _number(self, sql: str) -> int:
        (number,) = self._writer.execute(sql).fetchone()
        return number

    def _begin_life(self) -> int:
        with self._transaction():
            self._writer.execute("UPDATE life SET opened = opened + 1")
            return self._number("SELECT opened FROM life")

    def close(self) -> None:
        with self._reading:
            self._disconnect()

    def repair(self, doubtful: Sequence[int]) -> None:
        with self._reading, translated(self.directory):
            self._disconnect()
            self._open()
            # What a failed fsync left in the log may be in memory and not on the disk: nothing may be appended to it.
            # A copied log starts anew, and the copy is fsynced.
            busy, *_ = self._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            damage = self._writer.execute("PRAGMA quick_check(1)").fetchall()
            if busy or damage != [("ok",)]:
                raise StoreBroken(f"{self.path}: {'in use' if busy else damage[0][0]}")
        self._in_log = 0
        envelopes = [row[0] for message in doubtful for row in self._envelopes_of(message)]
        self.apply([Remove(envelope) for envelope in envelopes])

    def _envelopes_of(self, message: int) -> list[tuple[int]]:
        sql = f"SELECT envelope.id FROM message, envelope WHERE message.id = ? AND envelope.id {_ENVELOPES_OF}"
        return self._writer.execute(sql, (message,)).fetchall()

    # -- changes ------------------------------------------------------------------------------------------------------

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._writer.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._writer.execute("COMMIT")
        except BaseException:
            if self._writer.in_transaction:  # some errors have rolled back already
                self._writer.execute("ROLLBACK")
            raise

    def apply(self, changes: Sequence[Change]) -> list[int]:
        try:
            with translated(self.directory), self._transaction():
                gone = self._apply(changes)
        except StoreFull:
            self._in_log = CHECKPOINT_BYTES  # copied back, the log has room for the next ones
            raise
        except sqlite3.DatabaseError:
            if not all(isinstance(change, Quarantine) for change in changes):
                raise
            with translated(self.directory), self._transaction():
                self._note_damage(changes)
            return []
        self._in_log += sum(map(_bytes_of, changes))
        self._kept_tls.committed()
        return gone

    def _apply(self, changes: Sequence[Change]) -> list[int]:
        """Many of a kind with few statements; what may concern one envelope more than once stays in its order."""
        adds: list[Add] = []
        removes: list[Remove] = []
        others: list[OneChange] = []
        owed: list[RecipientStatus] = []
        notices: list[StoreNotice] = []
        removed: set[int] = set()  # a change behind the removal of its envelope does nothing
        moved: set[int] = set()  # replaced or set aside
        self._kept_tls.begin()
        for change in changes:
            if isinstance(change, RememberTls):
                self._kept_tls.write(self._writer, change)
                continue
            if isinstance(change, Recode):
                self._recode(change)
                continue
            if isinstance(change, StoreNotice):
                notices.append(change)
                continue
            for part in self._parts(change, removed | moved) if isinstance(change, Compound) else (change,):
                if isinstance(part, Add):
                    adds.append(part)
                elif isinstance(part, Remove):
                    removes.append(part)
                    removed.add(part.envelope)
                elif isinstance(part, Owe):
                    owed.append(part.status)
                elif part.envelope not in removed:
                    others.append(part)
                    if isinstance(part, Replace | Quarantine):
                        moved.add(part.envelope)
        if adds:
            self._add(adds)
        for kind, same in groupby(others, type):
            _STEPS[kind](self, list(same))
        if owed:
            recipient_status.write(self._writer, owed)
        told = self._store_notices(notices)
        return self._remove(removes, told) if removes or told else []

    def _parts(self, compound: Compound, gone: set[int]) -> Sequence[OneChange]:
        """Its changes, or none where they have happened already, or the envelope is `gone`."""
        if compound.envelope in gone or not self._has("envelope", compound.envelope):
            return ()
        if any(isinstance(part, Add) and self._has("message", part.message.id) for part in compound.changes):
            return ()
        return compound.changes

    def _store_notices(self, changes: list[StoreNotice]) -> set[int]:
        """Returns the messages that they tell of."""
        new = [change for change in changes if not self._has("message", change.add.message.id)]
        new = [change for change in new if recipient_status.take(self._writer, change.told)]
        if new:
            self._add([change.add for change in new])
        return {message_of(change.envelope) for change in new}

    def _has(self, table: str, id: int) -> bool:
        return bool(self._number(f"SELECT count(*) FROM {table} WHERE id = {id}"))

    def _add(self, adds: list[Add]) -> None:
        messages = [add.message for add in adds]
        if self._codec.is_active:
            messages = [self._stored(message) for message in messages]
        self._insert("message", 5, [(m.id, m.size, m.digest, m.content, m.coding) for m in messages])
        self._insert("envelope", len(COLUMNS), [row_of(envelope) for add in adds for envelope in add.envelopes])
        if expanded := [(add.message.id, key, "") for add in adds for key in expanded_keys(add)]:
            self._insert("expanded", 3, expanded)
            self._has_expanded = True

    def _stored(self, message: Message) -> Message:
        """As its row has it."""
        if message.content is None:
            return message
        coding, content = self._codec.encode(message.id, message.content)
        return Message(message.id, message.size, hashlib.sha256(content).digest(), content, coding)

    def _recode(self, change: Recode) -> None:
        """What stood there is not left in pages that become free; SQLite may have moved it before, and left a copy."""
        coding, content, digest = change.coding, None, change.digest
        if change.content is not None:
            coding, content = self._codec.encode(change.message, change.content)
            digest = hashlib.sha256(content).digest()
        self._writer.execute("PRAGMA secure_delete = ON").fetchall()
        try:
            self._writer.execute(
                "UPDATE message SET content = ?, digest = ?, coding = ? WHERE id = ? AND coding = ?",
                (content, digest, coding, change.message, change.before),
            )
        finally:
            self._writer.execute("PRAGMA secure_delete = OFF").fetchall()

    def _insert(self, table: str, width: int, rows: list[tuple[Any, ...]]) -> None:
        row = f"({','.join('?' * width)})"
        at = 0
        while at < len(rows):
            count = min(INSERT_ROWS_MAX, 1 << (len(rows) - at).bit_length() - 1)
            values = tuple(chain.from_iterable(rows[at : at + count]))
            self._writer.execute(f"INSERT INTO {table} VALUES {','.join([row] * count)}", values)
            at += count

    def _postpone(self, changes: list[Postpone]) -> None:
        self._writer.executemany(
            "UPDATE envelope SET next_try = ?, last_try = ?, error = ?, perhaps_delivered = ?, troubles = ?, run = ?,"
            " retries = retries + 1, held = 0 WHERE id = ?",
            [(c.next_try, c.last_try, c.error, c.perhaps_delivered, c.troubles, self.run, c.envelope) for c in changes],
        )

    def _reschedule(self, changes: list[Reschedule]) -> None:
        sql = "UPDATE envelope SET next_try = ?, held = 0 WHERE id = ?"
        self._writer.executemany(sql, [(c.next_try, c.envelope) for c in changes])

    def _hold(self, changes: list[Hold]) -> None:
        tried = [(c.error, c.last_try, c.perhaps_delivered, self.run, c.envelope) for c in changes if c.last_try]
        self._writer.executemany(
            "UPDATE envelope SET held = 1, error = ?, last_try = ?, perhaps_delivered = ?, run = ?, troubles = 0,"
            " retries = retries + 1 WHERE id = ?",
            tried,
        )
        untried = [(c.error, c.envelope) for c in changes if not c.last_try]
        self._writer.executemany("UPDATE envelope SET held = 1, troubles = 0, error = ? WHERE id = ?", untried)

    def _begin(self, changes: list[CountAttempt]) -> None:
        sql = f"UPDATE envelope SET troubles = troubles + 1 WHERE id IN {_LISTED}"
        self._writer.execute(sql, (_json(c.envelope for c in changes),))

    def _uncount(self, changes: list[Uncount]) -> None:
        self._writer.executemany(
            "UPDATE envelope SET troubles = max(0, troubles - 1), perhaps_delivered = perhaps_delivered OR run <> ?1,"
            " run = ?1 WHERE id = ?2",
            [(self.run, c.envelope) for c in changes],
        )

    def _replace(self, changes: list[Replace]) -> None:
        for change in changes:
            sql = "SELECT suspended FROM envelope WHERE id = ?"
            before = self._writer.execute(sql, (change.envelope,)).fetchall()
            if not before:
                continue
            self._writer.execute("DELETE FROM envelope WHERE id = ?", (change.envelope,))
            message = message_of(change.envelope)
            made = successors(change, suspended=bool(before[0][0]))
            self._insert("envelope", len(COLUMNS), [row_of(envelope) for envelope in made])
            self._writer.execute(_FORGET_RECIPIENT, (message, change.undelivered))
            self._writer.executemany(
                "INSERT OR REPLACE INTO expanded VALUES (?, ?, ?)",
                [(message, recipient_key(new.recipient), change.renewer) for new in change.envelopes],
            )
            self._has_expanded = True

    def _suspend(self, changes: list[Suspend]) -> None:
        sql = "UPDATE envelope SET suspended = ? WHERE id = ?"
        self._writer.executemany(sql, [(c.suspended, c.envelope) for c in changes])

    def _set_aside(self, changes: list[Quarantine]) -> None:
        self._writer.executemany(
            "INSERT INTO quarantine SELECT NULL, ?1, ?2, ?3, * FROM envelope WHERE id = ?1",
            [(c.envelope, c.when, c.reason) for c in changes],
        )
        sql = f"DELETE FROM envelope WHERE id IN {_LISTED}"
        self._writer.execute(sql, (_json(c.envelope for c in changes),))

    def _note_damage(self, changes: Sequence[Change]) -> None:
        """The page that the row stands on is damaged: there it stays."""
        self._writer.executemany(
            "INSERT INTO quarantine (envelope, at, reason) SELECT ?1, ?2, ?3"
            " WHERE NOT EXISTS (SELECT 1 FROM quarantine WHERE envelope = ?1)",
            [(c.envelope, c.when, c.reason) for c in changes if isinstance(c, Quarantine)],
        )

    def _remove(self, removes: list[Remove], told: set[int]) -> list[int]:
        """Returns the messages that went with their last envelopes and leave a spool file.  `told`: of these some row
        has gone of what is owed."""
        messages = _json({message_of(remove.envelope) for remove in removes} | told)
        sql = f"SELECT id FROM message WHERE id IN {_LISTED} AND content IS NULL"
        spooled = [row[0] for row in self._writer.execute(sql, (messages,))]
        plain = _json(remove.envelope for remove in removes if not remove.undelivered)
        self._writer.execute(f"DELETE FROM envelope WHERE id IN {_LISTED}", (plain,))
        for remove in removes:
            if remove.undelivered:
                self._remove_undelivered(remove)
        self._writer.execute(
            f"DELETE FROM message WHERE id IN {_LISTED}"
            f" AND NOT EXISTS (SELECT 1 FROM envelope WHERE envelope.id {_ENVELOPES_OF})"
            f" AND NOT EXISTS (SELECT 1 FROM quarantine WHERE quarantine.envelope {_ENVELOPES_OF})"
            f" AND NOT {recipient_status.IS_OWED}",
            (messages,),
        )
        if self._has_expanded:
            self._writer.execute(
                f"DELETE FROM expanded WHERE message IN {_LISTED}"
                " AND NOT EXISTS (SELECT 1 FROM message WHERE id = expanded.message)",
                (messages,),
            )
        if not spooled:
            return []
        sql = f"SELECT id FROM message WHERE id IN {_LISTED}"
        left = {row[0] for row in self._writer.execute(sql, (_json(spooled),))}
        return [message for message in spooled if message not in left]

    def _remove_undelivered(self, remove: Remove) -> None:
        if self._writer.execute("DELETE FROM envelope WHERE id = ?", (remove.envelope,)).rowcount:
            self._writer.execute(_FORGET_RECIPIENT, (message_of(remove.envelope), remove.undelivered))

    # -- housekeeping -------------------------------------------------------------------------------------------------

    @property
    def unsettled(self) -> bool:
        return self._in_log >= CHECKPOINT_BYTES

    def settle(self) -> None:
        if self.unsettled:
            self._checkpoint()

    def _checkpoint(self) -> None:
        self._in_log = 0
        with translated(self.directory):
            self._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def shrink(self) -> bool:
        with translated(self.directory):
            page = self._number("PRAGMA page_size")
            unused = self._number("PRAGMA freelist_count") - FREE_KEPT_BYTES // page
            if unused <= 0:
                if self._in_log:
                    self._checkpoint()
                return False
            end = time.monotonic() + SHRINK_STEP_TIME
            with self._transaction():
                while unused > 0 and time.monotonic() < end:
                    self._writer.execute(f"PRAGMA incremental_vacuum({min(unused, SHRINK_STEP_PAGES)})").fetchall()
                    unused -= SHRINK_STEP_PAGES
                    self._in_log += SHRINK_STEP_PAGES * page  # if all had to be moved to the front
        self.settle()
        return True

    # -- reads --------------------------------------------------------------------------------------------------------

    def load(self, envelopes: Sequence[int]) -> list[Envelope | UnreadableRow]:
        sql = f"SELECT * FROM envelope WHERE id IN {_LISTED}"
        with self._read() as read:
            try:
                return [envelope_of(row) for row in read(sql, (_json(envelopes),))]
            except salvage.ROW_ERRORS as error:
                salvage.raise_unless_of_a_row(error)
                return [
                    row for row in (salvage.read_row(read, "*", id, envelope_of) for id in envelopes) if row is not None
                ]

    def envelopes(self, first: int, last: int, limit: int) -> list[Envelope | UnreadableRow]:
        sql = "SELECT * FROM envelope WHERE id BETWEEN ? AND ? ORDER BY id LIMIT ?"
        with self._read() as read:
            try:
                return [envelope_of(row) for row in read(sql, (first, last, limit))]
            except salvage.ROW_ERRORS as error:
                salvage.raise_unless_of_a_row(error)
                return salvage.read_rows(read, "*", first, last, limit, envelope_of)

    def select(self, selection: Selection, first: int, last: int, limit: int) -> tuple[list[int], int]:
        condition, values = selected_rows.condition(selection)
        sql = f"SELECT id FROM envelope WHERE id BETWEEN ? AND ? AND {condition} ORDER BY id LIMIT ?"
        with self._read() as read:
            behind = read(
                "SELECT id FROM envelope WHERE id BETWEEN ? AND ? ORDER BY id LIMIT 1 OFFSET ?",
                (first, last, selected_rows.ROWS_MAX),
            )
            end = behind[0][0] - 1 if behind else last
            ids = [id for (id,) in read(sql, (first, end, *values, limit))]
        if len(ids) == limit:
            return ids, ids[-1] + 1 if ids[-1] < last else 0
        return ids, behind[0][0] if behind else 0

    def schedules(self, after: int, limit: int, lane_of: LaneOf) -> list[Schedule | UnreadableRow]:
        schedule = partial(schedule_of, lane_of)
        sql = f"SELECT {SCHEDULE} FROM envelope WHERE id > ? AND run <> ? ORDER BY id LIMIT ?"
        with self._read() as read:
            try:
                return [schedule(row) for row in read(sql, (after, self.run, limit))]
            except salvage.ROW_ERRORS as error:
                salvage.raise_unless_of_a_row(error)
                return salvage.read_rows(read, SCHEDULE, after + 1, salvage.ID_MAX, limit, schedule)

    def find_message(self, message: int) -> Message | None:
        with self._read() as read:
            rows = read("SELECT id, size, digest, content, coding FROM message WHERE id = ?", (message,))
        if not rows:
            return None
        found = Message(*rows[0])
        return found if found.coding == AS_IT_CAME or found.content is None else self._decoded(found)

    def _decoded(self, stored: Message) -> Message:
        id, size, digest, content, coding = msgspec.structs.astuple(stored)
        if hashlib.sha256(content).digest() != digest:
            raise ContentDamaged("the content was changed after it was stored")
        return Message(id, size, digest, self._codec.decode(id, coding, content, size), coding)

    def expanded(self, message: int) -> dict[bytes, str]:
        with self._read() as read:
            return dict(read("SELECT recipient, renewer FROM expanded WHERE message = ?", (message,)))

    def sizes(self, messages: Iterable[int]) -> dict[int, int]:
        with self._read() as read:
            return dict(read(f"SELECT id, size FROM message WHERE id IN {_LISTED}", (_json(messages),)))

    def messages(self, first: int, last: int) -> set[int]:
        with self._read() as read:
            return {row[0] for row in read("SELECT id FROM message WHERE id BETWEEN ? AND ?", (first, last))}

    def spooled(self, after: int, limit: int) -> list[tuple[int, int]]:
        sql = "SELECT id, coding FROM message WHERE id > ? AND content IS NULL ORDER BY id LIMIT ?"
        with self._read() as read:
            return read(sql, (after, limit))

    def codings(self, after: int, limit: int) -> list[tuple[int, int]]:
        with self._read() as read:
            return read("SELECT id, coding FROM message WHERE id > ? ORDER BY id LIMIT ?", (after, limit))

    def owed(self, after: int, limit: int) -> list[int]:
        sql = "SELECT DISTINCT envelope >> 32 FROM recipient_status WHERE envelope > ? ORDER BY envelope LIMIT ?"
        with self._read() as read:
            return [row[0] for row in read(sql, (after << 32 | COUNTER_MAX, limit))]

    def statuses(self, message: int, limit: int) -> list[RecipientStatus | UnreadableRow]:
        sql = "SELECT * FROM recipient_status WHERE envelope BETWEEN ? AND ? ORDER BY envelope, action LIMIT ?"
        with self._read() as read:
            rows = read(sql, (message << 32, message << 32 | COUNTER_MAX, limit))
        return [_status_or_unreadable(row) for row in rows]

    def tls_hosts(self, after: int, limit: int) -> tuple[list[TlsHost], int]:
        with self._read() as read:
            return kept_tls.read_hosts(read, after, limit)

    def sts_policies(self, after: int, limit: int) -> tuple[list[StsRow], int]:
        with self._read() as read:
            return kept_tls.read_policies(read, after, limit)

    def quarantine(self, limit: int) -> list[tuple[int, int, str]]:
        with self._read() as read:
            return read("SELECT envelope, at, reason FROM quarantine ORDER BY number DESC LIMIT ?", (limit,))

    @contextmanager
    def _read(self) -> Iterator[Read]:
        with self._reading, translated(self.directory):
            yield lambda sql, values: self._reader.execute(sql, values).fetchall()


_STEPS: dict[type, Callable[[SQLiteStore, list[Any]], None]] = {
    CountAttempt: SQLiteStore._begin,
    Uncount: SQLiteStore._uncount,
    Postpone: SQLiteStore._postpone,
    Reschedule: SQLiteStore._reschedule,
    Hold: SQLiteStore._hold,
    Replace: SQLiteStore._replace,
    Suspend: SQLiteStore._suspend,
    Quarantine: SQLiteStore._set_aside,
}


def _bytes_of(change: Change) -> int:
    """What it takes in the log, about."""
    if isinstance(change, Compound):
        return sum(map(_bytes_of, change.changes))
    if isinstance(change, StoreNotice):
        return CHANGE_BYTES * len(change.told) + _bytes_of(change.add)
    if isinstance(change, RememberTls):
        return CHANGE_BYTES * (1 + len(change.hosts) + len(change.policies))
    if isinstance(change, Recode):
        return CHANGE_BYTES + 2 * len(change.content or b"")
    if isinstance(change, Add):
        return CHANGE_BYTES + ENVELOPE_BYTES * len(change.envelopes) + len(change.message.content or b"")
    return CHANGE_BYTES + ENVELOPE_BYTES * len(change.envelopes) if isinstance(change, Replace) else CHANGE_BYTES


def _status_or_unreadable(row: tuple[Any, ...]) -> RecipientStatus | UnreadableRow:
    try:
        return recipient_status.status_of(row)
    except msgspec.ValidationError as error:
        return UnreadableRow(row[0], str(error))


def _json(numbers: Iterable[int]) -> str:
    """For json_each, which wants text."""
    return msgspec.json.encode(list(numbers)).decode()
