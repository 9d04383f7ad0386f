"""What only a store on a disk has to stand: rows and pages that are damaged, a full disk, a kill at any moment."""

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smtpd.envelope import Notify
from smtpd.next_hop import StsRow, TlsHost
from smtpd.queue.store import schema, sqlite
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import (
    Compound,
    Hold,
    Postpone,
    Quarantine,
    RememberTls,
    Remove,
    Replace,
    StoreBroken,
    StoreFull,
    UnreadableRow,
    recipient_key,
)
from tests.queue.conftest import ODD_TERMS, ORIGIN, add, command, envelope, recipient
from tests.queue.test_sqlite_errors import error_of
from tests.recorder import recorded

TOP = Path(__file__).parent.parent.parent


def no_lane(*_columns):
    return 0, 0


EVERYTHING = (0, 2**63 - 1, 1000)
ODD = envelope(
    1,
    recipient=recipient(notify=Notify.NEVER, original="rfc822;bob@there.test", sender="SRS0@here.test"),
    origin=msgspec.structs.replace(ORIGIN, user="amy", tls=True),
    terms=ODD_TERMS,
)


@pytest.fixture
def store(tmp_path):
    made = SQLiteStore(str(tmp_path))
    yield made
    made.close()


def tamper(store, sql, *values):
    with sqlite3.connect(store.path) as connection:
        connection.execute(sql, values)
    connection.close()


def test_each_field_of_an_envelope_has_its_column(store):
    for table in ("envelope", "quarantine"):
        with sqlite3.connect(store.path) as connection:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        connection.close()
        assert columns[-len(schema.COLUMNS) :] == [*schema.COLUMNS]
    row = dict(zip(schema.COLUMNS, schema.row_of(ODD), strict=True))
    parts = (ODD, ODD.origin, ODD.recipient, ODD.terms)
    fields = {name: value for part in parts for name, value in msgspec.structs.asdict(part).items()}
    fields["login"] = ODD.origin.user
    fields["sender"], fields["relay_sender"] = ODD.origin.sender, ODD.recipient.sender
    assert row == {name: fields[name] for name in row}
    assert {"origin", "terms"} == fields.keys() - row.keys()


def test_a_commit_is_synced_and_no_checkpoint_is_made_by_accident(store):
    asked = {
        "journal_mode": "wal",
        "synchronous": 2,
        "wal_autocheckpoint": 0,
        "auto_vacuum": 2,
        "temp_store": 2,
        "user_version": schema.SCHEMA,
    }
    for pragma, value in asked.items():
        assert store._writer.execute(f"PRAGMA {pragma}").fetchone() == (value,)
    assert store._reader.execute("PRAGMA query_only").fetchone() == (1,)


def test_what_stands_in_the_schema_of_the_file_is_not_trusted(store):
    """A view or a default value in a file that was tampered with calls no function that does anything."""
    store.repair([])
    for connection in (store._writer, store._reader):
        assert connection.execute("PRAGMA trusted_schema").fetchone() == (0,)


def test_something_else_than_a_database_is_refused(tmp_path):
    (tmp_path / "queue.db").write_bytes(b"From amy@there.test\n" * 1000)
    with pytest.raises(StoreBroken):
        SQLiteStore(str(tmp_path))


def test_each_start_is_another_run(tmp_path):
    runs = []
    for _ in range(3):
        store = SQLiteStore(str(tmp_path))
        runs.append(store.run)
        store.close()
    assert runs == [1, 2, 3]


# -- rows that make no sense ------------------------------------------------------

NONSENSE = [
    "UPDATE envelope SET sender = CAST(x'C0AF' AS TEXT) WHERE id = ?",
    "UPDATE envelope SET kind = 9 WHERE id = ?",
    "UPDATE envelope SET error = 'a' || char(10) || 'b' WHERE id = ?",
    "UPDATE envelope SET next_try = -1 WHERE id = ?",
    "UPDATE envelope SET held = 7 WHERE id = ?",
    "UPDATE envelope SET recipient = printf('%.2000c', 'x') WHERE id = ?",
]


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_row_that_makes_no_sense_does_not_hide_the_others(store, nonsense):
    store.apply([add(n) for n in range(1, 6)])
    ids = [n << 32 | 1 for n in range(1, 6)]
    tamper(store, nonsense, ids[2])
    for rows in (store.load(ids), store.envelopes(*EVERYTHING)):
        assert [row.id for row in rows] == ids
        assert [isinstance(row, UnreadableRow) for row in rows] == [False, False, True, False, False]


@pytest.mark.parametrize("nonsense", [NONSENSE[1], NONSENSE[3], NONSENSE[4]])
def test_a_row_that_makes_no_sense_does_not_stop_the_scan(store, nonsense):
    store.apply([add(n, run=0) for n in range(1, 6)])
    tamper(store, nonsense, 3 << 32 | 1)
    rows = store.schedules(0, 10, no_lane)
    assert [isinstance(row, UnreadableRow) for row in rows] == [False, False, True, False, False]
    assert len(store.schedules(2 << 32 | 1, 10, no_lane)) == 3


def test_ids_that_are_taken_are_told_from_the_first_to_the_last(store):
    store.apply([add(n) for n in (4, 5, 6, 7, 8)])
    assert store.messages(5, 7) == {5, 6, 7}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_what_is_set_aside_is_kept_as_it_was(store, nonsense):
    id = 1 << 32 | 1
    store.apply([add(1)])
    tamper(store, nonsense, id)
    whole = "SELECT * FROM envelope"
    store._reader.text_factory = bytes
    (before,) = store._reader.execute(whole).fetchall()
    store.apply([Quarantine(id, 5, "odd")])
    (after,) = store._reader.execute("SELECT * FROM quarantine").fetchall()
    assert after[4:] == before


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(["sender", "tag", "user", "error"]), st.binary(max_size=40))
def test_any_bytes_in_a_text_column_read_or_are_unreadable(store, column, junk):
    store.apply([add(1)])
    tamper(store, f"UPDATE envelope SET {column} = CAST(? AS TEXT)", junk)
    (row,) = store.load([1 << 32 | 1])
    assert isinstance(row, UnreadableRow) or junk.decode() in repr(row) or not junk.isascii() or b"\\" in junk
    store.apply([Remove(1 << 32 | 1)])


def damage_a_leaf(store):
    """Overwrite one page in the midst of the envelopes; the ids that stood on it."""
    store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection = sqlite3.connect(store.path)
    size = connection.execute("PRAGMA page_size").fetchone()[0]
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.close()
    data = Path(store.path).read_bytes()
    leaves = [
        n for n in range(pages) if data[n * size] == 0x0D and b"amy@there.test" in data[n * size : n * size + size]
    ]
    with open(store.path, "r+b") as file:
        file.seek(leaves[len(leaves) // 2] * size)
        file.write(b"\xff" * size)


def test_a_damaged_page_hides_only_what_stands_on_it(tmp_path):
    store = SQLiteStore(str(tmp_path))
    store.apply([add(n, run=0) for n in range(1, 401)])
    damage_a_leaf(store)
    store.close()
    store = SQLiteStore(str(tmp_path))
    found, after = [], 0
    while page := store.schedules(after, 50, no_lane):
        found += page
        after = page[-1].envelope if not isinstance(page[-1], UnreadableRow) else page[-1].id
    readable = [row.envelope >> 32 for row in found if not isinstance(row, UnreadableRow)]
    assert 350 < len(set(readable)) < 400
    assert {1, 2, 399, 400} <= set(readable)
    assert any(isinstance(row, UnreadableRow) and "malformed" in row.reason for row in found)
    lost = next(row.id for row in found if isinstance(row, UnreadableRow))
    for _ in range(2):
        store.apply([Quarantine(lost, 5, "damaged")])
    assert [row[0] for row in store.quarantine(5)] == [lost]
    store.close()


# -- space ------------------------------------------------------


def test_a_drained_queue_gives_its_space_back(store, monkeypatch):
    monkeypatch.setattr(sqlite, "FREE_KEPT_BYTES", 256 * 1024)
    messages = [add(n, content=os.urandom(16000)) for n in range(1, 301)]
    store.apply(messages)
    store.apply([Remove(message.envelopes[0].id) for message in messages])
    while store.shrink():
        pass
    store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert os.stat(store.path).st_size < 1024 * 1024


def test_one_step_of_giving_back_is_short(store, monkeypatch):
    monkeypatch.setattr(sqlite, "FREE_KEPT_BYTES", 0)
    monkeypatch.setattr(sqlite, "SHRINK_STEP_TIME", 0)
    messages = [add(n, content=os.urandom(16000)) for n in range(1, 101)]
    store.apply(messages)
    store.apply([Remove(message.envelopes[0].id) for message in messages])
    unused = store._number("PRAGMA freelist_count")
    assert store.shrink()
    assert unused - store._number("PRAGMA freelist_count") <= sqlite.SHRINK_STEP_PAGES


def test_giving_space_back_makes_no_long_log(store, monkeypatch):
    """All that is left stands at the end of the file and has to be moved to the front."""
    messages = [add(n, content=os.urandom(16000)) for n in range(1, 201)]
    store.apply(messages)
    store.apply([Remove(message.envelopes[0].id) for message in messages[:100]])
    store.settle()
    store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    store._in_log = 0
    monkeypatch.setattr(sqlite, "FREE_KEPT_BYTES", 0)
    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 400_000)
    monkeypatch.setattr(sqlite, "SHRINK_STEP_PAGES", 16)
    seconds = itertools.count()
    monkeypatch.setattr(sqlite, "SHRINK_STEP_TIME", 1.5)  # one time round the loop
    monkeypatch.setattr(sqlite, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    sizes = set()
    while store.shrink():
        sizes.add(os.stat(f"{store.path}-wal").st_size)
    assert 200_000 < max(sizes) < 800_000  # and not all of it


def test_the_log_is_copied_back_and_begins_anew(store):
    for round in range(25):
        messages = [add(round * 100 + n, content=os.urandom(10000)) for n in range(1, 101)]
        store.apply(messages)
        store.settle()
        store.apply([Remove(message.envelopes[0].id) for message in messages])
        store.settle()
    assert os.stat(store.path + "-wal").st_size < 3 * sqlite.CHECKPOINT_BYTES


def test_the_log_is_copied_back_when_content_and_rows_have_made_it_long(store, monkeypatch):
    content = bytes(50_000)
    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 2 * (sqlite.CHANGE_BYTES + sqlite.ENVELOPE_BYTES + len(content)))
    store.apply([add(1, content=content)])
    assert not store.unsettled
    store.apply([add(2, content=content)])
    assert store.unsettled
    store.settle()
    assert not store.unsettled
    (_, pages, copied) = store._writer.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    assert pages == copied


def test_changes_without_content_make_the_log_long_too(store, monkeypatch):
    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 3 * sqlite.CHANGE_BYTES)
    store.apply([Postpone(1 << 32 | 1, 1, 1, "", False, 0)] * 2)
    assert not store.unsettled
    store.apply([Remove(1 << 32 | 1)])
    assert store.unsettled


def test_a_quiet_store_has_nothing_left_in_its_log(tmp_path):
    with recorded(tmp_path) as recorder:
        store = SQLiteStore(str(tmp_path))
        store.apply([add(1)])
        assert not store.shrink()
        assert recorder.happened("checkpoint PASSIVE") == 1
        assert not store.shrink()
        assert recorder.happened("checkpoint PASSIVE") == 1
        store.close()


def test_unused_space_is_kept_for_the_next_mails(store, monkeypatch):
    monkeypatch.setattr(sqlite, "FREE_KEPT_BYTES", 1024 * 1024)
    messages = [add(n, content=bytes(16000)) for n in range(1, 11)]
    store.apply(messages)
    store.apply([Remove(message.envelopes[0].id) for message in messages])
    unused = store._number("PRAGMA freelist_count")
    assert unused > 10
    assert not store.shrink()
    assert store._number("PRAGMA freelist_count") == unused


def test_no_more_space_is_given_back_than_is_not_kept(store, monkeypatch):
    """Also when the last step takes exactly what is left: SQLite would take a step of 0 pages for all of them."""
    messages = [add(n, content=bytes(16000)) for n in range(1, 41)]
    store.apply(messages)
    store.apply([Remove(message.envelopes[0].id) for message in messages])
    unused, page = store._number("PRAGMA freelist_count"), store._number("PRAGMA page_size")
    monkeypatch.setattr(sqlite, "SHRINK_STEP_PAGES", 8)
    monkeypatch.setattr(sqlite, "SHRINK_STEP_TIME", 10.0)
    monkeypatch.setattr(sqlite, "FREE_KEPT_BYTES", (unused - 16) * page)
    assert store.shrink()
    assert store._number("PRAGMA freelist_count") == unused - 16


def test_a_disk_that_fails_while_space_is_given_back_is_a_failing_disk(store, monkeypatch):
    def fail(_sql):
        raise error_of(sqlite3.SQLITE_IOERR_FSYNC)

    monkeypatch.setattr(store, "_number", fail)
    with pytest.raises(StoreBroken):
        store.shrink()


def test_a_disk_that_fails_while_the_log_is_copied_back_is_a_failing_disk(store, monkeypatch):
    class Failing:
        def execute(self, _sql):
            raise error_of(sqlite3.SQLITE_IOERR_FSYNC)

    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 1)
    store.apply([add(1)])
    monkeypatch.setattr(store, "_writer", Failing())
    with pytest.raises(StoreBroken):
        store.settle()


def test_many_rows_of_one_change_make_the_log_long_too(store, monkeypatch):
    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", 100 * sqlite.CHANGE_BYTES)
    policies = [StsRow(f"{n}.test", "1", "none", "", 1, 1) for n in range(40)]
    store.apply([RememberTls(1, [TlsHost(f"{n}.test:25", 1) for n in range(58)], policies)])
    assert not store.unsettled
    store.apply([RememberTls(1, [], [])])
    assert store.unsettled


def test_the_log_of_mails_to_many_recipients_is_about_as_long_as_is_counted(store):
    mails = [add(number, envelopes=1000) for number in range(1, 6)]
    new = [Replace(n << 32 | 1, b"", "bob", [envelope(n, k) for k in range(1001, 1501)]) for n in range(1, 6)]
    for changes in (mails, new):
        store._writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        store._in_log = 0
        for change in changes:
            store.apply([change])
        length = os.stat(f"{store.path}-wal").st_size
        assert length / 2 < store._in_log < length * 2


def test_content_that_is_part_of_a_larger_change_makes_the_log_long_too():
    (one,) = add(1).envelopes
    notice = add(2, content=bytes(10_000))
    assert sqlite._bytes_of(Compound(one.id, (Remove(one.id), notice))) == 10_000 + (
        2 * sqlite.CHANGE_BYTES + sqlite.ENVELOPE_BYTES
    )


def test_a_store_that_was_closed_leaves_no_log(tmp_path):
    store = SQLiteStore(str(tmp_path))
    store.apply([add(1)])
    store.close()
    assert not (tmp_path / "queue.db-wal").exists()


def test_the_writer_is_closed_last_as_the_last_connection_copies_the_log_back(tmp_path):
    with recorded(tmp_path) as recorder:
        store = SQLiteStore(str(tmp_path))
        store.apply([add(1)])
        store.close()
        recorder.in_order("close reader", "close database")


@pytest.mark.parametrize("how", ["repair", "close"])
def test_a_store_is_not_read_while_it_is_repaired_or_closed(store, how):
    store.apply([add(1)])
    repair = (
        threading.Thread(target=store.close) if how == "close" else threading.Thread(target=store.repair, args=([],))
    )
    with store._read() as read:
        repair.start()
        repair.join(0.05)
        assert repair.is_alive()
        assert read("SELECT id FROM message", ()) == [(1,)]
    repair.join()


def test_a_row_to_be_set_aside_hides_no_error_of_what_goes_with_it(store):
    """A mail that was not stored must not be answered as if it were."""
    store.apply([add(1)])
    with pytest.raises(sqlite3.IntegrityError):
        store.apply([Quarantine(2 << 32 | 1, 5, "odd"), add(1), add(3)])
    assert store.messages(1, 9) == {1}
    assert store.quarantine(5) == []


def test_a_disk_that_fails_while_a_damaged_row_is_set_aside_is_a_failing_disk(store, monkeypatch):
    def damaged(_changes):
        raise error_of(sqlite3.SQLITE_CORRUPT)

    def fail(_changes):
        raise error_of(sqlite3.SQLITE_IOERR_FSYNC)

    monkeypatch.setattr(store, "_apply", damaged)
    monkeypatch.setattr(store, "_note_damage", fail)
    with pytest.raises(StoreBroken):
        store.apply([Quarantine(1 << 32 | 1, 9, "odd")])
    assert not store._writer.in_transaction


def expanded(store):
    return store._writer.execute("SELECT count(*) FROM expanded").fetchone()[0]


@pytest.mark.parametrize("restarts", [False, True])
def test_what_was_expanded_goes_with_its_message(tmp_path, restarts):
    store = SQLiteStore(str(tmp_path))
    store.apply([add(1, recipient=command())])
    assert expanded(store) == 1
    if restarts:
        store.close()
        store = SQLiteStore(str(tmp_path))
    store.apply([Remove(1 << 32 | 1)])
    assert expanded(store) == 0
    store.close()


def test_what_replaces_an_envelope_of_an_earlier_schema_goes_with_its_message(store):
    old, new = command(text="old"), envelope(1, 5, recipient=command(text="new"))
    store.apply([add(1)])
    store.apply([Replace(1 << 32 | 1, recipient_key(old), "bob", [new])])
    assert expanded(store) == 1
    store.apply([Remove(new.id)])
    assert expanded(store) == 0


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("needs root: mounts a small tmpfs")
    path = tmp_path / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(path)], check=True)
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def fill_with_mail(store, first):
    """Store until there is no room any more; how many there are then."""
    with pytest.raises(StoreFull):
        while True:
            store.apply([add(first, content=os.urandom(16000))])
            first += 1
    return first - 1


def test_after_a_full_disk_the_log_is_copied_back(store):
    """Then it has room for the end of deliveries, which make more."""
    store.apply([add(1)])
    store.settle()
    pages = store._number("PRAGMA page_count")
    store._writer.execute(f"PRAGMA max_page_count = {pages}")
    assert not store.unsettled
    with pytest.raises(StoreFull):
        store.apply([add(2, content=os.urandom(16000))])
    assert store.unsettled
    store.settle()
    store.apply([Remove(1 << 32 | 1)])


def test_a_full_disk_is_full_and_not_broken_and_goes_on_by_itself(small_disk):
    filler = small_disk / "filler"
    filler.write_bytes(bytes(1024 * 1024))
    store = SQLiteStore(str(small_disk))
    stored = 0
    for _ in range(4):
        stored = fill_with_mail(store, stored + 1)
    assert {row.id >> 32 for row in store.envelopes(*EVERYTHING)} == {*range(1, stored + 1)}
    filler.unlink()
    store.settle()
    store.apply([Remove(1 << 32 | 1)])
    store.apply([add(9999)])
    assert {row.id >> 32 for row in store.envelopes(*EVERYTHING)} == {*range(2, stored + 1), 9999}
    store.close()


# -- a kill at any moment ------------------------------------------------------

WRITER = """
import sys
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import Remove
from tests.queue.conftest import add
store, first = SQLiteStore(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
for message in range(first, first + 100000, 20):
    group = range(message, message + 20)
    store.apply([add(n, content=bytes(3000)) for n in group])
    print("stored", *group, flush=True)
    store.apply([Remove(n << 32 | 1) for n in group if n % 3])
    print("removed", *(n for n in group if n % 3), flush=True)
    if message % 200 == 1:
        store.settle(), store.shrink()
"""


def test_a_kill_at_any_moment_loses_nothing_that_was_promised(tmp_path):
    expected, first = set(), 1
    for round in range(4):
        doing = [sys.executable, "-c", WRITER, str(tmp_path), str(first)]
        with subprocess.Popen(doing, stdout=subprocess.PIPE, text=True, cwd=TOP) as child:
            said = [child.stdout.readline() for _ in range(4 + 11 * round)]
            child.send_signal(signal.SIGKILL)
            said += child.stdout.readlines()
        stored, removed, doubtful = set(), set(), set()
        for line in said[1:]:
            word, *numbers = line.split()
            (stored if word == "stored" else removed).update(map(int, numbers))
        group = set(range(max(stored) - 19, max(stored) + 21))  # what it was at when it was killed
        doubtful = group if not group & removed else {*range(max(stored) + 1, max(stored) + 21)}
        expected |= stored - removed
        store = SQLiteStore(str(tmp_path))
        there = {row.id >> 32 for row in all_rows(store)}
        assert expected - doubtful <= there <= expected | doubtful
        assert all(len(store.find_message(id).content) == 3000 for id in there)
        assert store._writer.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        store.close()
        expected, first = there, first + 1_000_000


def all_rows(store):
    after, rows = 0, []
    while page := store.envelopes(after + 1, 2**63 - 1, 1000):
        rows += page
        after = page[-1].id
    return rows


# -- after the disk failed ------------------------------------------------------


def test_a_repaired_store_goes_on_where_it_was(store):
    store.apply([add(1), add(2)])
    store.repair([2])
    store.apply([add(3), Hold(1 << 32 | 1, 5, "held", False)])
    assert [row.id >> 32 for row in store.envelopes(*EVERYTHING)] == [1, 3]
    store.apply([Postpone(1 << 32 | 1, 1, 1, "", False, 0)])


def test_the_log_of_a_repaired_store_is_empty(store, monkeypatch):
    monkeypatch.setattr(sqlite, "CHECKPOINT_BYTES", sqlite.CHANGE_BYTES)
    store.apply([add(1)])
    assert store.unsettled
    store.repair([])
    assert not store.unsettled


def test_a_store_that_is_damaged_is_not_repaired(store):
    store.apply([add(n, run=0) for n in range(1, 401)])
    damage_a_leaf(store)
    with pytest.raises(StoreBroken, match=r"queue\.db: (?!in use)"):
        store.repair([])


FAILING = """
import resource, sys
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import Remove, StoreBroken
from tests.queue.conftest import add
store = SQLiteStore(sys.argv[1])
stored = 0
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
try:
    while True:
        store.apply([add(stored + 1, content=bytes(16000))])
        stored += 1
except StoreBroken as error:
    assert "disk I/O error" in str(error), error
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
store.repair([stored + 1])
assert store.messages(1, 1000) == {*range(1, stored + 1)}, stored
store.apply([add(stored + 1), Remove(1 << 32 | 1)])
assert stored > 5 and store.messages(1, 1000) == {*range(2, stored + 2)}
store.close()
"""


def test_a_write_that_fails_is_a_broken_disk_and_can_be_mended(tmp_path):
    """The kernel refuses to write, for once with an error that is not a full disk."""
    subprocess.run([sys.executable, "-c", FAILING, str(tmp_path)], check=True, cwd=TOP)
