"""Spool files and the lock: what a crash leaves, what a descriptor that somebody kept can do."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from smtpd.envelope import MESSAGE_ID_MAX
from smtpd.queue.store import spool as spool_room
from smtpd.queue.store.spool import Spool, SpoolLocked, lock, store_error
from smtpd.queue.store.store import ContentDamaged, Remove, StoreBroken, StoreFull
from tests.queue.conftest import add
from tests.queue.ram_store import RAMStore

TOP = Path(__file__).parent.parent.parent
CONTENT = b"x" * 100_000


@pytest.fixture
def spool(tmp_path):
    made = Spool(str(tmp_path))
    yield made
    os.close(made._directory)


def write(spool, message, content=CONTENT):
    """Create and write; returns both descriptors."""
    theirs, own = spool.create(message)
    os.write(theirs, content)
    return theirs, own


@pytest.fixture
def sealed(spool):
    theirs, own = write(spool, 1)
    digest = spool.seal(1, own, len(CONTENT))
    yield theirs, digest
    os.close(theirs)
    os.close(own)


def read(descriptor):
    with open(descriptor, "rb") as file:
        return file.read()


def test_what_was_sealed_is_read_again(spool, sealed):
    assert sealed[1] == hashlib.sha256(CONTENT).digest()
    for _ in range(2):
        assert read(spool.open(1, len(CONTENT), sealed[1])) == CONTENT


def test_each_descriptor_has_a_place_of_its_own_and_reads_only(spool, sealed):
    one, other = (spool.open(1, len(CONTENT), sealed[1]) for _ in range(2))
    assert os.read(one, 10) == os.read(other, 10) == b"x" * 10
    for descriptor in (one, other):
        with pytest.raises(OSError):
            os.write(descriptor, b"y")
        os.close(descriptor)


def test_the_writer_cannot_read(spool, sealed):
    with pytest.raises(OSError):
        os.read(sealed[0], 1)


def test_a_second_file_of_one_message_is_not_made(spool, sealed):
    with pytest.raises(FileExistsError):
        spool.create(1)


def test_a_mail_changed_after_the_250_is_found_out(spool, sealed):
    theirs, digest = sealed
    os.pwrite(theirs, b"y", 50_000)
    with pytest.raises(ContentDamaged):
        spool.open(1, len(CONTENT), digest)


def test_a_mail_changed_between_two_deliveries_is_found_out(spool, sealed):
    theirs, digest = sealed
    os.close(spool.open(1, len(CONTENT), digest))
    os.ftruncate(theirs, 0)
    os.write(theirs, b"y" * len(CONTENT))
    os.utime(theirs, (1, 1))
    with pytest.raises(ContentDamaged):
        spool.open(1, len(CONTENT), digest)


def test_a_time_of_change_that_was_set_back_hides_nothing(spool, sealed, tmp_path):
    theirs, digest = sealed
    os.close(spool.open(1, len(CONTENT), digest))
    before = os.fstat(theirs).st_mtime_ns
    time.sleep(0.01)
    os.pwrite(theirs, b"y", 0)
    os.utime(theirs, ns=(before, before))
    with pytest.raises(ContentDamaged):
        spool.open(1, len(CONTENT), digest)


def test_another_start_reads_the_file_before_it_believes_it(spool, sealed, tmp_path):
    other = Spool(str(tmp_path))
    os.close(other.open(1, len(CONTENT), sealed[1]))
    os.close(other._directory)


@pytest.mark.parametrize("size, digest", [(len(CONTENT) - 1, None), (len(CONTENT), bytes(32))])
def test_a_file_that_is_not_what_the_row_says_is_damage(spool, sealed, tmp_path, size, digest):
    other = Spool(str(tmp_path))
    with pytest.raises(ContentDamaged):
        other.open(1, size, digest or sealed[1])
    os.close(other._directory)


@pytest.mark.parametrize("announced", [0, len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_length_that_was_not_announced_is_refused(spool, announced):
    theirs, own = write(spool, 2)
    with pytest.raises(ContentDamaged):
        spool.seal(2, own, announced)
    os.close(theirs)
    os.close(own)


def test_a_missing_file_is_damage(spool):
    with pytest.raises(ContentDamaged):
        spool.open(3, 5, bytes(32))


def test_a_link_in_the_place_of_a_file_is_not_followed(spool, sealed, tmp_path):
    (tmp_path / "secret").write_bytes(CONTENT)
    (tmp_path / "content" / "00000001").unlink()
    (tmp_path / "content" / "00000001").symlink_to(tmp_path / "secret")
    with pytest.raises(OSError):
        spool.open(1, len(CONTENT), sealed[1])


def test_files_without_a_row_are_removed_and_others_are_not(spool, tmp_path):
    store = RAMStore()
    store.apply([add(n, content=None) for n in (1, 2, 3)])
    store.apply([add(4)])
    for number in (1, 3, 4, 5, 6):
        for descriptor in spool.create(number):
            os.close(descriptor)
    foreign = ["README", "00000007.tmp", "AABBCCDD", "000000008", "ffffffff"]
    for name in foreign:
        (tmp_path / "content" / name).touch()
    said = []
    spool.remove_orphans(store, said.append)
    left = {path.name for path in (tmp_path / "content").iterdir()}
    assert left == {"00000001", "00000003", *foreign}
    assert said == [
        "message 00000002: the spool file is missing",
        "removed 3 spool files of messages that were never accepted",
    ]
    store.apply([Remove(1 << 32 | 1)])


def test_of_a_start_that_removes_nothing_nothing_is_said(spool):
    said = []
    spool.remove_orphans(RAMStore(), said.append)
    assert not said


def test_files_of_many_pages_of_rows_are_all_kept(spool, tmp_path, monkeypatch):
    """Ids that follow each other at the end of a page: one that was skipped would lose its mail."""
    monkeypatch.setattr(spool_room, "PAGE", 2)
    store = RAMStore()
    store.apply([add(n, content=None) for n in range(1, 8)])
    for number in range(1, 10):
        for descriptor in spool.create(number):
            os.close(descriptor)
    said = []
    spool.remove_orphans(store, said.append)
    assert sorted(os.listdir(tmp_path / "content")) == [f"{n:08x}" for n in range(1, 8)]
    assert said == ["removed 2 spool files of messages that were never accepted"]


def test_the_last_id_that_there_can_be_is_one_of_ours_and_none_is_not(spool, tmp_path):
    for name in (f"{MESSAGE_ID_MAX:08x}", "00000000", f"{MESSAGE_ID_MAX + 1:08x}"):
        (tmp_path / "content" / name).touch()
    spool.remove_orphans(RAMStore(), lambda _text: None)
    assert sorted(os.listdir(tmp_path / "content")) == ["00000000", f"{MESSAGE_ID_MAX + 1:08x}"]


def test_spool_files_are_private(spool, tmp_path):
    before = os.umask(0)
    try:
        for descriptor in spool.create(1):
            os.close(descriptor)
        other = tmp_path / "other"
        other.mkdir()
        os.close(Spool(str(other))._directory)
    finally:
        os.umask(before)
    assert (tmp_path / "content/00000001").stat().st_mode & 0o777 == 0o600
    assert (other / "content").stat().st_mode & 0o777 == 0o700


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def test_a_file_that_cannot_be_opened_twice_leaves_nothing(spool, tmp_path, monkeypatch):
    def no_more(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    before = descriptors()
    monkeypatch.setattr(spool, "_open", no_more)
    with pytest.raises(OSError):
        spool.create(1)
    assert descriptors() == before
    assert os.listdir(tmp_path / "content") == []


def test_damage_leaves_no_descriptor(spool, sealed, tmp_path):
    other = Spool(str(tmp_path))
    before = descriptors()
    for _ in range(3):
        with pytest.raises(ContentDamaged):
            other.open(1, len(CONTENT), bytes(32))
    assert descriptors() == before
    os.close(other._directory)


def test_what_is_written_while_it_is_sealed_is_found_out(spool, monkeypatch):
    theirs, own = write(spool, 1)
    plain = os.pread

    def pread(descriptor, size, at):
        piece = plain(descriptor, size, at)
        if not piece:  # the hash is made
            monkeypatch.undo()
            os.utime(theirs, (1, 1))
            os.pwrite(theirs, b"y", 0)
        return piece

    monkeypatch.setattr(os, "pread", pread)
    time.sleep(0.01)  # longer than the clock of a file system ticks
    digest = spool.seal(1, own, len(CONTENT))
    with pytest.raises(ContentDamaged):
        spool.open(1, len(CONTENT), digest)
    os.close(theirs)
    os.close(own)


def test_what_is_remembered_of_files_is_bounded(spool, monkeypatch):
    monkeypatch.setattr(spool_room, "SEALED_KEPT", 3)
    for number in range(1, 9):
        theirs, own = write(spool, number, b"x")
        digest = spool.seal(number, own, 1)
        os.close(theirs)
        os.close(own)
        assert len(spool._sealed) == (number - 1) % 3 + 1
    os.close(spool.open(1, 1, digest))


def test_one_file_is_not_forgotten_for_another(spool, monkeypatch):
    digests = []
    for number in (1, 2):
        theirs, own = write(spool, number)
        digests.append(spool.seal(number, own, len(CONTENT)))
        os.close(theirs)
        os.close(own)
    monkeypatch.setattr(spool_room, "_hash", lambda _descriptor: pytest.fail("it is read again"))
    for number, digest in enumerate(digests, 1):
        os.close(spool.open(number, len(CONTENT), digest))


def test_a_file_that_is_gone_already_is_no_trouble(spool):
    spool.remove([1, 2, 3])


def test_nothing_is_remembered_of_a_file_that_was_removed(spool, sealed):
    spool.remove([1])
    assert not spool._sealed


def test_a_file_that_was_checked_is_read_again_only_when_it_has_changed(spool, sealed, tmp_path, monkeypatch):
    """Of a message to a thousand recipients each one would hash the whole content."""
    theirs, digest = sealed
    hashed, plain = [], spool_room._hash
    monkeypatch.setattr(spool_room, "_hash", lambda descriptor: (hashed.append(1), plain(descriptor))[1])
    for _ in range(3):
        os.close(spool.open(1, len(CONTENT), digest))
    assert not hashed
    time.sleep(0.01)  # longer than the clock of a file system ticks
    os.pwrite(theirs, b"x", 0)
    for _ in range(3):
        os.close(spool.open(1, len(CONTENT), digest))
    assert hashed == [1]


@pytest.mark.parametrize("instead", ["file", "link"])
def test_something_else_in_the_place_of_the_directory_is_refused(tmp_path, instead):
    if instead == "file":
        (tmp_path / "content").write_bytes(b"")
    else:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "content").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        Spool(str(tmp_path))


def test_a_spool_keeps_one_descriptor(tmp_path):
    before = len(os.listdir("/dev/fd"))
    made = Spool(str(tmp_path))
    assert len(os.listdir("/dev/fd")) == before + 1
    os.close(made._directory)


def test_a_lock_that_is_refused_leaves_no_descriptor(tmp_path):
    """It is another holder also within one process."""
    held = lock(str(tmp_path))
    before = len(os.listdir("/dev/fd"))
    with pytest.raises(SpoolLocked):
        lock(str(tmp_path), patience=0)
    assert len(os.listdir("/dev/fd")) == before
    os.ftruncate(held, 0)
    with pytest.raises(SpoolLocked, match="process unknown$"):
        lock(str(tmp_path), patience=0)
    os.close(held)


def test_errors_of_the_disk_have_two_kinds():
    assert isinstance(store_error(OSError(errno.ENOSPC, "")), StoreFull)
    assert isinstance(store_error(OSError(errno.EDQUOT, "")), StoreFull)
    assert isinstance(store_error(OSError(errno.EFBIG, "")), StoreFull)
    assert isinstance(store_error(OSError(errno.EIO, "")), StoreBroken)


# -- the lock -----------------------------------------------------------------------


HOLD = (
    "import sys; from smtpd.queue.store.spool import lock; lock(sys.argv[1]); "
    "print('held', flush=True); sys.stdin.read()"
)


def test_a_second_daemon_is_refused_by_the_name_of_the_first(tmp_path):
    holding = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=TOP,
    )
    with holding:
        assert holding.stdout.readline() == "held\n"
        with pytest.raises(SpoolLocked, match=f"process {holding.pid}$"):
            lock(str(tmp_path), patience=0)
        holding.send_signal(signal.SIGKILL)
        os.close(lock(str(tmp_path), patience=5))


def test_the_lock_goes_with_its_holder_and_is_no_file_to_be_removed(tmp_path):
    (tmp_path / "lock").write_text("4194304\n4194304\n")  # longer than any that comes
    for _ in range(3):
        os.close(lock(str(tmp_path), patience=0))
    assert (tmp_path / "lock").read_text() == f"{os.getpid()}\n"


def test_a_link_in_the_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError):
        lock(str(tmp_path), patience=0)
    assert not (tmp_path / "elsewhere").exists()
