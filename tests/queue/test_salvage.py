"""Reading on where rows and pages are damaged: what is left out, what is said, and that it comes to an end."""

import sqlite3

import pytest

from smtpd.queue.store import salvage
from smtpd.queue.store.salvage import ID_MAX, read_row, read_rows
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import Remove, UnreadableRow
from tests.queue.conftest import add
from tests.queue.test_sqlite_errors import error_of

READS_MAX = 1000  # of one page of rows, far more than any needs


@pytest.fixture
def store(tmp_path):
    made = SQLiteStore(str(tmp_path))
    yield made
    made.close()


def make_unreadable(store, *envelopes):
    for envelope in envelopes:
        store._writer.execute("UPDATE envelope SET kind = 77 WHERE id = ?", (envelope,))


def test_of_what_is_not_there_nothing_is_said_beside_a_row_that_makes_no_sense(store):
    store.apply([add(1), add(2)])
    make_unreadable(store, 1 << 32 | 1)
    found = store.load([1 << 32 | 1, 2 << 32 | 1, 3 << 32 | 1])
    assert [(type(row) is UnreadableRow, row.id) for row in found] == [(True, 1 << 32 | 1), (False, 2 << 32 | 1)]


def test_a_page_with_rows_that_make_no_sense_is_no_longer_than_any_other(store):
    store.apply([add(1, 5)])
    make_unreadable(store, 1 << 32 | 2)
    assert [row.id & 7 for row in store.envelopes(0, ID_MAX, 3)] == [1, 2, 3]


def test_the_last_id_that_there_can_be_is_no_end_of_the_scan(store):
    last = add(2**31 - 1, run=0)
    last.envelopes[0] = last.envelopes[0].__class__(
        ID_MAX, *[getattr(last.envelopes[0], name) for name in last.envelopes[0].__struct_fields__[1:]]
    )
    store.apply([last])
    make_unreadable(store, ID_MAX)
    assert [row.id for row in store.schedules(0, 10, lambda *_: (0, 0))] == [ID_MAX]


def test_a_page_that_ends_with_a_row_that_makes_no_sense_has_none_behind_its_end(store):
    store.apply([add(1, 4)])
    store.apply([Remove(1 << 32 | 3)])
    make_unreadable(store, 1 << 32 | 2)
    assert [row.id & 7 for row in store.envelopes(1 << 32 | 1, 1 << 32 | 3, 10)] == [1, 2]


@pytest.mark.parametrize("first, behind", [(100, 101), (100, 1000), (1, 2**40 + 1), (2**62, 2**62 + 3)])
def test_no_more_is_skipped_than_cannot_be_read(first, behind):
    """Rows behind it would wait for the next start."""

    def read(_sql, values):
        if first <= values[0] < behind:
            raise error_of(sqlite3.SQLITE_CORRUPT)
        return []

    assert salvage.leap(read, "id", "envelope", first) == behind


def test_a_database_of_which_nothing_can_be_read_is_given_up():
    reads = []

    def read(_sql, _values):
        reads.append(1)
        assert len(reads) < READS_MAX
        raise error_of(sqlite3.SQLITE_CORRUPT)

    found = read_rows(read, "*", 1, ID_MAX, 10, lambda row: row)
    assert found and all(isinstance(row, UnreadableRow) for row in found)


def test_an_error_of_the_disk_that_passes_is_no_damage_either():
    """Rows that can be read a moment later would be set aside."""
    errors = [error_of(sqlite3.SQLITE_IOERR)]

    def read(_sql, _values):
        if errors:
            raise errors.pop()
        return []

    with pytest.raises(sqlite3.OperationalError):
        read_rows(read, "*", 1, ID_MAX, 10, lambda row: row)


def test_a_scan_of_one_id_reads_that_row(store):
    store.apply([add(1, 3)])
    make_unreadable(store, 1 << 32 | 2)
    assert [row.id & 7 for row in store.envelopes(1 << 32 | 2, 1 << 32 | 2, 10)] == [2]


def test_an_error_of_the_disk_is_not_taken_for_a_row_that_makes_no_sense():
    def read(_sql, _values):
        raise error_of(sqlite3.SQLITE_IOERR)

    with pytest.raises(sqlite3.OperationalError):
        read_row(read, "*", 1, lambda row: row)
    with pytest.raises(sqlite3.OperationalError):
        read_rows(read, "*", 1, ID_MAX, 10, lambda row: row)
    with pytest.raises(sqlite3.OperationalError):
        salvage.leap(read, "id", "envelope", 1)
