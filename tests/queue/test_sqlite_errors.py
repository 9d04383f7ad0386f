"""What an error of SQLite means for those who wait: a full disk, a failing one, or a matter of one row."""

import sqlite3
from types import SimpleNamespace

import pytest

from smtpd.queue.store import salvage, sqlite_errors
from smtpd.queue.store.sqlite_errors import translated
from smtpd.queue.store.store import StoreBroken, StoreFull

NOTHING, EVERYTHING = 0, 1 << 62  # bytes free below which a disk is nearly full


def error_of(code):
    error = sqlite3.OperationalError("disk I/O error")
    if code is not None:
        error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    "code, nearly_full, becomes",
    [
        (sqlite3.SQLITE_FULL, NOTHING, StoreFull),
        (sqlite3.SQLITE_IOERR_SHMSIZE, EVERYTHING, StoreFull),
        (sqlite3.SQLITE_IOERR_SHMSIZE, NOTHING, StoreBroken),
        (sqlite3.SQLITE_IOERR_FSYNC, EVERYTHING, StoreBroken),
        (sqlite3.SQLITE_CANTOPEN, EVERYTHING, StoreBroken),
        (sqlite3.SQLITE_READONLY_DBMOVED, NOTHING, StoreBroken),
        (sqlite3.SQLITE_CORRUPT, EVERYTHING, sqlite3.OperationalError),
        (sqlite3.SQLITE_CONSTRAINT, NOTHING, sqlite3.OperationalError),
        (None, NOTHING, sqlite3.OperationalError),
    ],
)
def test_a_full_disk_a_failing_one_and_what_is_neither(tmp_path, monkeypatch, code, nearly_full, becomes):
    """A full disk may show as an I/O error; one of fsync is never that."""
    monkeypatch.setattr(sqlite_errors, "NEARLY_FULL_BYTES", nearly_full)
    with pytest.raises(becomes), translated(str(tmp_path)):
        raise error_of(code)


@pytest.mark.parametrize("blocks, becomes", [(255, StoreFull), (256, StoreBroken)])
def test_a_disk_is_nearly_full_below_one_mebibyte(monkeypatch, blocks, becomes):
    monkeypatch.setattr(sqlite_errors.os, "statvfs", lambda _: SimpleNamespace(f_bavail=blocks, f_frsize=4096))
    with pytest.raises(becomes), translated("/"):
        raise error_of(sqlite3.SQLITE_IOERR_SHMSIZE)


def test_a_directory_that_cannot_be_asked_for_its_space_is_not_full(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite_errors, "NEARLY_FULL_BYTES", EVERYTHING)
    with pytest.raises(StoreBroken), translated(str(tmp_path / "missing")):
        raise error_of(sqlite3.SQLITE_IOERR_SHMSIZE)


@pytest.mark.parametrize(
    "error",
    [
        error_of(sqlite3.SQLITE_BUSY),
        error_of(sqlite3.SQLITE_ERROR),
        sqlite3.ProgrammingError("Cannot operate on a closed database."),
        MemoryError(),
        OSError(),
    ],
    ids=repr,
)
def test_what_is_not_the_fault_of_a_row_is_raised_again(error):
    with pytest.raises(type(error)):
        salvage.raise_unless_of_a_row(error)


@pytest.mark.parametrize(
    "error",
    [error_of(sqlite3.SQLITE_CORRUPT_INDEX), error_of(None), ValueError(), UnicodeDecodeError("utf-8", b"", 0, 1, "")],
)
def test_the_fault_of_a_row_is_not_raised_again(error):
    salvage.raise_unless_of_a_row(error)
