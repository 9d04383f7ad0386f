"""A database of an earlier schema becomes one of this schema where it stands, with all that is in it."""

import errno
import os
import sqlite3
from pathlib import Path

import pytest
from msgspec.structs import replace

from smtpd.envelope import Body, Duty, MailParameters, Notify
from smtpd.queue.store import earlier_database
from smtpd.queue.store.recipient_status import RecipientStatus, ReportAction
from smtpd.queue.store.schema import SCHEMA
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import AS_IT_CAME, Hold, Quarantine, Remove, StoreBroken, UnreadableRow, recipient_key
from tests.queue.conftest import CONTENT, ODD_TERMS, ORIGIN, add, command, envelope, recipient
from tests.recorder import recorded

SCHEMA_1 = """
    PRAGMA auto_vacuum = INCREMENTAL;
    CREATE TABLE envelope (
        id INTEGER PRIMARY KEY, run INTEGER NOT NULL,
        created INTEGER NOT NULL, expires INTEGER NOT NULL, next_try INTEGER NOT NULL, last_try INTEGER NOT NULL,
        retries INTEGER NOT NULL, troubles INTEGER NOT NULL, perhaps_delivered INTEGER NOT NULL,
        held INTEGER NOT NULL, suspended INTEGER NOT NULL, error TEXT NOT NULL,
        sender TEXT NOT NULL, address TEXT NOT NULL, client TEXT NOT NULL, helo TEXT NOT NULL,
        hostname TEXT NOT NULL, tag TEXT NOT NULL, esmtp INTEGER NOT NULL,
        recipient TEXT NOT NULL, destination TEXT NOT NULL, action TEXT NOT NULL, kind INTEGER NOT NULL,
        user TEXT NOT NULL, extension TEXT NOT NULL
    ) STRICT;
    CREATE TABLE message (id INTEGER PRIMARY KEY, size INTEGER NOT NULL, digest BLOB NOT NULL, content BLOB) STRICT;
    CREATE TABLE quarantine (number INTEGER PRIMARY KEY, envelope, at, reason, id, run, created, expires, next_try,
        last_try, retries, troubles, perhaps_delivered, held, suspended, error, sender, address, client, helo, hostname,
        tag, esmtp, recipient, destination, action, kind, user, extension);
    CREATE INDEX quarantined ON quarantine (envelope);
    CREATE TABLE life (number INTEGER PRIMARY KEY, opened INTEGER NOT NULL) STRICT;
    INSERT INTO life VALUES (1, 41);
    INSERT INTO message VALUES (1, 50, x'00', x'41'), (2, 99999, x'00', NULL);
    INSERT INTO envelope VALUES
        (4294967297, 41, 1000000, 1400000, 5, 4, 3, 2, 1, 0, 1, 'later', 'amy@there.test', '127.0.0.1', 'client.test',
         'client.test', 'mx.here.test', '', 1, 'bob@here.test', 'bob@here.test', 'local', 1, 'bob', 'lists'),
        (8589934593, 41, 1000000, 1400000, 0, 0, 0, 0, 0, 1, 0, '', '', 'local', '<unknown>',
         '', 'mx.here.test', 'tag', 0, 'bob@here.test', 'amy@here.test', 'gone', 1, 'amy', '');
    INSERT INTO quarantine (envelope, at, reason, id, kind) VALUES (12884901889, 77, 'odd', 12884901889, 9);
    PRAGMA application_id = 1397576785;
    PRAGMA user_version = 1;
"""
SCHEMA_2 = f"""
    {SCHEMA_1}
    ALTER TABLE envelope ADD COLUMN duty INTEGER NOT NULL DEFAULT 1;
    ALTER TABLE envelope ADD COLUMN digest TEXT NOT NULL DEFAULT '';
    ALTER TABLE envelope ADD COLUMN home TEXT NOT NULL DEFAULT '';
    ALTER TABLE quarantine ADD COLUMN duty;
    ALTER TABLE quarantine ADD COLUMN digest;
    ALTER TABLE quarantine ADD COLUMN home;
    PRAGMA user_version = 2;
"""
EVERYTHING = (0, 2**63 - 1, 1000)


@pytest.fixture(params=[SCHEMA_1, SCHEMA_2], ids=["1", "2"])
def old(request, tmp_path):
    """The directory of a database of an earlier schema."""
    with sqlite3.connect(tmp_path / "queue.db") as connection:
        connection.executescript(request.param)
    connection.close()
    return str(tmp_path)


def version(directory):
    with sqlite3.connect(f"{directory}/queue.db") as connection:
        (found,) = connection.execute("PRAGMA user_version").fetchone()
    connection.close()
    return found


def test_envelopes_of_an_earlier_schema_are_delivered_as_their_actions_say(old):
    store = SQLiteStore(old)
    one, two = store.envelopes(*EVERYTHING)
    assert (one.recipient.user, one.recipient.extension, one.retries, one.suspended) == ("bob", "lists", 3, True)
    assert (two.recipient.destination, two.held, two.origin.tag) == ("amy@here.test", True, "tag")
    for row in (one, two):
        assert (row.recipient.duty, row.recipient.digest, row.recipient.home) == (Duty.DELIVER, "", "")
        assert (row.recipient.notify, row.recipient.original) == (0, "")
        assert (row.origin.tls, row.origin.user) == (False, "")
        assert row.terms == MailParameters(Body.EIGHT_BIT)
    assert store.quarantine(5) == [(3 << 32 | 1, 77, "odd")]
    assert (store.run, version(old)) == (42, SCHEMA)
    store.close()


def test_a_new_database_says_whose_it_is(tmp_path):
    """For file(1), and for an administrator who opens it."""
    store = SQLiteStore(str(tmp_path))
    assert store._number("PRAGMA application_id") == int.from_bytes(b"SMTQ")
    store.close()


def test_an_upgraded_database_takes_what_a_new_one_takes(old):
    store = SQLiteStore(old)
    added = add(9, recipient=command(), terms=ODD_TERMS)
    store.apply([added, Hold(1 << 32 | 1, 600, "no", False), Quarantine(2 << 32 | 1, 5, "odd")])
    assert [row.id >> 32 for row in store.envelopes(*EVERYTHING)] == [1, 9]
    assert store.load([9 << 32 | 1]) == added.envelopes
    assert store.find_message(9).content == CONTENT
    assert store.expanded(9) == {recipient_key(command()): ""}
    store.apply([Remove(9 << 32 | 1)])
    assert store.expanded(9) == {}
    store.close()


def test_an_upgraded_database_is_opened_again_as_it_is(old):
    SQLiteStore(old).close()
    store = SQLiteStore(old)
    assert [row.id >> 32 for row in store.envelopes(*EVERYTHING)] == [1, 2]
    store.close()


def test_an_upgrade_keeps_a_copy_of_what_was_there_and_no_other(old):
    before = version(old)
    for other in ("queue.db.schema1.new", "queue.db.schema0"):
        Path(old, other).write_text("of an upgrade before")
    SQLiteStore(old).close()
    copy = f"queue.db.schema{before}"
    assert sorted(os.listdir(old)) == ["queue.db", copy]
    with sqlite3.connect(f"{old}/{copy}") as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (before,)
        assert connection.execute("SELECT id, error FROM envelope").fetchall() == [
            (4294967297, "later"),
            (8589934593, ""),
        ]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    SQLiteStore(old).close()
    assert sorted(os.listdir(old)) == ["queue.db", copy]


def test_the_copy_is_on_the_disk_before_the_first_change(old):
    copy = f"queue.db.schema{version(old)}"
    with recorded(old) as recorder:
        SQLiteStore(old).close()
    recorder.in_order(f"sync {copy}.new", f"move {copy}.new to {copy}", "begin")


def test_an_upgrade_without_room_for_its_copy_leaves_all_as_it_was(old, monkeypatch):
    before = version(old)

    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(earlier_database, "_sync", full)
    with pytest.raises(OSError, match="No space left"):
        SQLiteStore(old)
    assert version(old) == before
    monkeypatch.undo()
    SQLiteStore(old).close()
    assert version(old) == SCHEMA and f"queue.db.schema{before}" in os.listdir(old)


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(old):
    with sqlite3.connect(f"{old}/queue.db") as connection:
        before = connection.execute("PRAGMA user_version").fetchone()
        connection.execute("ALTER TABLE quarantine ADD COLUMN priority")  # what the last statement wants to add
    connection.close()
    with pytest.raises(StoreBroken, match="duplicate column"):
        SQLiteStore(old)
    assert (version(old),) == before
    with sqlite3.connect(f"{old}/queue.db") as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(envelope)")]
    connection.close()
    assert ("duty" in columns, "tls" in columns) == (before == (2,), False)


@pytest.mark.parametrize("number", [99, -1, SCHEMA + 1])
def test_a_database_of_another_schema_is_refused_and_left_alone(tmp_path, number):
    SQLiteStore(str(tmp_path)).close()
    with sqlite3.connect(tmp_path / "queue.db") as connection:
        connection.execute(f"PRAGMA user_version = {number}")
    connection.close()
    with pytest.raises(StoreBroken, match=f"schema {number}"):
        SQLiteStore(str(tmp_path))
    assert version(tmp_path) == number


def test_a_duty_that_there_is_not_makes_its_row_unreadable(tmp_path):
    store = SQLiteStore(str(tmp_path))
    store.apply([add(1), add(2)])
    store._writer.execute("UPDATE envelope SET duty = 77 WHERE id = ?", (1 << 32 | 1,))
    bad, good = store.load([1 << 32 | 1, 2 << 32 | 1])
    assert isinstance(bad, UnreadableRow) and good.id == 2 << 32 | 1
    store.close()


@pytest.mark.parametrize("column, value", [("priority", 10), ("body", 3), ("by_mode", "R\n"), ("tls", 2)])
def test_terms_that_there_are_not_make_their_row_unreadable(tmp_path, column, value):
    store = SQLiteStore(str(tmp_path))
    store.apply([add(1), add(2)])
    store._writer.execute(f"UPDATE envelope SET {column} = ? WHERE id = ?", (value, 1 << 32 | 1))
    bad, good = store.load([1 << 32 | 1, 2 << 32 | 1])
    assert isinstance(bad, UnreadableRow) and good.id == 2 << 32 | 1
    store.close()


def test_a_database_without_expanded_recipients_gets_room_for_them(tmp_path):
    """Of the third schema."""
    store = SQLiteStore(str(tmp_path))
    store.apply([add(1, recipient=command())])
    store.close()
    with sqlite3.connect(tmp_path / "queue.db") as connection:
        connection.executescript(
            "DROP TABLE expanded; DROP TABLE tls_host; DROP TABLE sts_policy; DROP TABLE recipient_status;"
            "ALTER TABLE envelope DROP COLUMN is_notice; ALTER TABLE quarantine DROP COLUMN is_notice;"
            "PRAGMA user_version = 3;"
            "ALTER TABLE envelope DROP COLUMN relay_sender; ALTER TABLE quarantine DROP COLUMN relay_sender;"
            "ALTER TABLE message DROP COLUMN coding"
        )
    connection.close()
    store = SQLiteStore(str(tmp_path))
    assert version(tmp_path) == SCHEMA
    assert store.expanded(1) == {}
    store.apply([add(2, recipient=command())])
    assert store.expanded(2) == {recipient_key(command()): ""}
    store.close()


def test_content_of_an_earlier_schema_is_as_it_came(tmp_path):
    """Of the sixth."""
    store = SQLiteStore(str(tmp_path))
    store.apply([add(1)])
    store.close()
    with sqlite3.connect(tmp_path / "queue.db") as connection:
        connection.executescript(
            "DROP TABLE recipient_status; ALTER TABLE envelope DROP COLUMN is_notice;"
            "ALTER TABLE quarantine DROP COLUMN is_notice;"
            "ALTER TABLE message DROP COLUMN coding; PRAGMA user_version = 6"
        )
    connection.close()
    store = SQLiteStore(str(tmp_path))
    found = store.find_message(1)
    assert found.content == CONTENT and found.coding == AS_IT_CAME
    store.close()


def earlier(tmp_path, *envelopes):
    """A database of the seventh schema, of a program without notices, with these."""
    store = SQLiteStore(str(tmp_path))
    store.apply([replace(add(one.id >> 32), envelopes=[one]) for one in envelopes])
    store.close()
    with sqlite3.connect(tmp_path / "queue.db") as connection:
        connection.executescript(
            "DROP TABLE recipient_status; ALTER TABLE envelope DROP COLUMN is_notice;"
            "ALTER TABLE quarantine DROP COLUMN is_notice; PRAGMA user_version = 7;"
        )
    connection.close()


@pytest.mark.parametrize("tell_held", [True, False])
def test_the_senders_of_what_was_held_for_want_of_notices_are_told_once(tmp_path, tell_held):
    terms = MailParameters(envid="QQ314159", ret="FULL", require_tls=True)
    to = recipient(notify=Notify.FAILURE, original="rfc822;Bob@here.test")
    held = {"held": True, "last_try": 77}
    told = envelope(1, **held, error="550 5.1.1 no such user", terms=terms, recipient=to)
    stay = [
        envelope(2, **held, error="internal error: KeyError"),
        envelope(3, **held, error="the content was changed after it was stored"),
        envelope(4, **held, error="no", origin=replace(ORIGIN, sender="")),
        envelope(5, **held, error="no", recipient=recipient(notify=Notify.NEVER)),
        envelope(6, **held, error='the configuration has no action "x"'),
        envelope(7, error="later"),
    ]
    earlier(tmp_path, told, *stay)
    store = SQLiteStore(str(tmp_path), tell_held=tell_held)
    assert [row.id >> 32 for row in store.envelopes(*EVERYTHING)] == ([] if tell_held else [1]) + [2, 3, 4, 5, 6, 7]
    assert store.owed(0, 10) == ([1] if tell_held else [])
    assert store.find_message(1).content == CONTENT
    if tell_held:
        (status,) = store.statuses(1, 10)
        assert status == RecipientStatus(
            told.id,
            ReportAction.FAILED,
            told.created,
            77,
            told.expires,
            ORIGIN.sender,
            "QQ314159",
            "FULL",
            True,
            to.recipient,
            to.original,
            "",
            told.error,
            "",
            "",
        )
    store.close()
    again = SQLiteStore(str(tmp_path))
    assert again.owed(0, 10) == ([1] if tell_held else [])
    again.close()


def test_what_is_held_later_is_not_taken_for_what_was_held_for_want_of_notices(tmp_path):
    store = SQLiteStore(str(tmp_path))
    store.apply([add(1, held=True, error="no")])
    store.close()
    again = SQLiteStore(str(tmp_path))
    assert again.owed(0, 10) == []
    again.close()
