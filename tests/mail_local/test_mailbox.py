"""Mailboxes: found and made, attacked, and shared with others who lock."""

import ctypes
import errno
import fcntl
import mailbox as standard_library
import os
import socket
import stat
import subprocess
import sys
import time
from contextlib import ExitStack
from itertools import chain, islice
from pathlib import Path

import pytest

from mail_local import mailbox, openat2
from mail_local.mailbox import MailboxError, locked, maybe_lock, open_directory

UID, GID = os.getuid(), os.getgid()


@pytest.fixture
def directory(tmp_path):
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield descriptor
    os.close(descriptor)


def bob(directory, **more):
    return locked(directory, "bob", UID, GID, **{"lock_timeout": 0.0, **more})


def write(directory, content, **more):
    """Append to bob's mailbox as whoever locks does."""
    with bob(directory, **more) as descriptor:
        os.pwrite(descriptor, content, os.fstat(descriptor).st_size)


# What is no mailbox


def make_link(path):
    (path.parent / "elsewhere").write_bytes(b"")
    path.symlink_to("elsewhere")


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


@pytest.mark.parametrize(
    "make, reason",
    [
        (make_link, "symbolic link"),
        (lambda path: path.symlink_to("nowhere"), "symbolic link"),
        (os.mkfifo, "not a regular file"),
        (make_socket, "not a regular file"),
        (Path.mkdir, "not a regular file"),
    ],
    ids=["link", "dangling link", "fifo", "socket", "directory"],
)
def test_what_is_no_mailbox_is_refused(directory, tmp_path, make, reason):
    make(tmp_path / "bob")
    before = {path.name: path.lstat().st_size for path in tmp_path.iterdir()}
    with pytest.raises(MailboxError, match=reason):
        write(directory, b"x\n")
    assert {path.name: path.lstat().st_size for path in tmp_path.iterdir()} == before


def test_a_second_hard_link_defers_and_does_not_bounce(directory, tmp_path):
    (tmp_path / "elsewhere").write_bytes(b"")
    (tmp_path / "bob").hardlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="second hard link"):
        write(directory, b"x\n")
    assert (tmp_path / "elsewhere").read_bytes() == b""


@pytest.mark.skipif(UID != 0, reason="needs root: mounts")
def test_a_file_system_mounted_over_a_mailbox_is_never_used(directory, tmp_path):
    write(directory, b"old\n")
    (tmp_path / "other").write_bytes(b"")
    if subprocess.run(["mount", "--bind", tmp_path / "other", tmp_path / "bob"], check=False).returncode:
        pytest.skip("may not mount")
    try:
        with pytest.raises(OSError, match="mounted"):
            write(directory, b"x\n")
        with pytest.raises(OSError, match="mounted"):  # a look would ask its server too
            openat2.stat("bob", dir_fd=directory)
    finally:
        subprocess.run(["umount", tmp_path / "bob"], check=True)
    assert ((tmp_path / "other").read_bytes(), (tmp_path / "bob").read_bytes()) == (b"", b"old\n")


def test_a_reader_that_removes_an_empty_mailbox_between_look_and_use_costs_nothing(directory, tmp_path, monkeypatch):
    write(directory, b"")
    plain = openat2.open

    def removed(name, flags, *rest, **more):
        descriptor = plain(name, flags, *rest, **more)
        if name == "bob" and not flags & os.O_PATH:
            monkeypatch.undo()
            (tmp_path / "bob").unlink()
        return descriptor

    monkeypatch.setattr(openat2, "open", removed)
    write(directory, b"new\n", lock_timeout=10.0)
    assert (tmp_path / "bob").read_bytes() == b"new\n"


def test_a_missing_file_is_named_as_what_it_is(directory):
    with pytest.raises(FileNotFoundError, match="No such file or directory: 'bob'"):
        openat2.open("bob", os.O_RDONLY, dir_fd=directory)


def test_a_nul_in_a_name_does_not_end_it(directory):
    with pytest.raises(ValueError):
        openat2.open("bob\0x", os.O_RDWR | os.O_CREAT, 0o600, dir_fd=directory)


class OldKernel:
    """Knows no openat2."""

    def syscall(self, *_arguments):
        ctypes.set_errno(errno.ENOSYS)
        return -1


@pytest.mark.parametrize("system", ["an old kernel", "another system"])
def test_without_openat2_a_mailbox_is_found_in_its_directory(directory, tmp_path, monkeypatch, system):
    if system == "an old kernel":
        monkeypatch.setattr(openat2, "_libc", OldKernel())
    else:
        monkeypatch.setattr(sys, "platform", "another")
        monkeypatch.setattr(openat2, "_libc", None)  # has other system calls
        monkeypatch.delattr(os, "O_PATH")
    write(directory, b"one\n")
    write(directory, b"two\n")
    assert (tmp_path / "bob").read_bytes() == b"one\ntwo\n"
    assert (tmp_path / "bob").stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to("bob")
    assert stat.S_ISLNK(openat2.stat("link", dir_fd=directory).st_mode)


def test_only_root_creates_a_mailbox_for_another_user(directory, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    with pytest.raises(MailboxError, match="only root can create one"):
        write(directory, b"x\n")
    assert os.listdir(tmp_path) == []


def refuse_to_make(monkeypatch, module, error, times=1):
    """The next `times` that a file is to be made by `module`, that fails."""
    plain, left = module.open, [error] * times

    def open(name, flags, *arguments, **named):
        if flags & os.O_CREAT and left:
            raise left.pop()
        return plain(name, flags, *arguments, **named)

    monkeypatch.setattr(module, "open", open)


def test_a_mailbox_that_cannot_be_created_is_refused(directory, monkeypatch):
    refuse_to_make(monkeypatch, openat2, PermissionError(errno.EACCES, "Permission denied", "bob"))
    with pytest.raises(MailboxError, match=f"it cannot be created: permission denied for uid {UID}$"):
        write(directory, b"x\n")


def test_a_mailbox_that_another_makes_in_the_same_moment_is_used(directory, tmp_path, monkeypatch):
    refuse_to_make(monkeypatch, openat2, FileExistsError())
    write(directory, b"x\n", lock_timeout=10.0)
    assert (tmp_path / "bob").read_bytes() == b"x\n"


def test_a_dot_lock_that_cannot_be_created_names_the_uid(directory, monkeypatch):
    refuse_to_make(monkeypatch, os, PermissionError(errno.EACCES, "Permission denied", "bob.lock"))
    with pytest.raises(PermissionError, match=f"uid {UID} cannot create the dot-lock: Permission denied") as raised:
        write(directory, b"x\n")
    assert raised.value.filename == "bob.lock"


def test_a_stale_dot_lock_that_another_replaces_in_the_same_moment_is_waited_for(directory, tmp_path, monkeypatch):
    (tmp_path / "bob.lock").touch()
    os.utime(tmp_path / "bob.lock", (1, 1))
    refuse_to_make(monkeypatch, os, FileExistsError(), times=2)
    write(directory, b"x\n", lock_timeout=10.0)
    assert os.listdir(tmp_path) == ["bob"]


def test_a_dot_lock_that_is_removed_in_the_same_moment_is_made(directory, tmp_path, monkeypatch):
    refuse_to_make(monkeypatch, os, FileExistsError())
    write(directory, b"x\n")
    assert os.listdir(tmp_path) == ["bob"]


def test_our_dot_lock_may_be_gone_when_we_remove_it(directory, tmp_path):
    with bob(directory):
        (tmp_path / "bob.lock").unlink()
    assert os.listdir(tmp_path) == ["bob"]


def test_a_dot_lock_that_cannot_be_removed_does_not_make_a_stored_mail_fail(directory, tmp_path, monkeypatch):
    """It would be delivered again.  The lock is stale after a while."""

    def refuse(*_arguments, **_named):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "unlink", refuse)
    write(directory, b"x\n")
    assert (tmp_path / "bob").read_bytes() == b"x\n"


def test_a_mailbox_that_is_removed_while_it_is_locked_is_made_again(directory, tmp_path, monkeypatch):
    write(directory, b"old\n")
    plain = mailbox.lock

    def removed(descriptor):
        monkeypatch.undo()
        (tmp_path / "bob").unlink()
        return plain(descriptor)

    monkeypatch.setattr(mailbox, "lock", removed)
    write(directory, b"new\n", lock_timeout=10.0)
    assert (tmp_path / "bob").read_bytes() == b"new\n"


def test_a_mailbox_of_another_user_is_refused(directory, tmp_path):
    (tmp_path / "bob").write_bytes(b"\n\n")
    with (
        pytest.raises(MailboxError, match=f"belongs to uid {UID}, expected uid {UID + 1}"),
        locked(directory, "bob", UID + 1, GID, lock_timeout=0.0),
    ):
        pass


@pytest.mark.skipif(UID != 0, reason="needs root: gives files away")
def test_root_makes_a_mailbox_for_its_user(directory, tmp_path):
    with locked(directory, "bob", 54321, 54322, lock_timeout=0.0):
        status = (tmp_path / "bob").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (54321, 54322, 0o600)


def test_a_mailbox_that_is_there_keeps_its_owner_and_group(directory, tmp_path, monkeypatch):
    """The group may be that of all mailboxes, by which mail readers come in."""
    write(directory, b"old\n")
    monkeypatch.setattr(os, "fchown", lambda *_: pytest.fail("it is given away"))
    write(directory, b"new\n")
    assert (tmp_path / "bob").read_bytes() == b"old\nnew\n"


@pytest.mark.skipif(UID != 0, reason="needs root: gives files away")
def test_an_empty_mailbox_that_root_left_behind_is_given_to_its_user(directory, tmp_path):
    (tmp_path / "bob").touch(0o600)
    with locked(directory, "bob", 54321, 54322, lock_timeout=0.0):
        assert (tmp_path / "bob").stat().st_uid == 54321


@pytest.mark.parametrize("name", ["", ".", "..", ".bob", "../bob", "a/b", "/etc/passwd", "bob.lock", "bob\0x"])
def test_a_name_that_is_a_path_is_refused(directory, tmp_path, name):
    with pytest.raises(MailboxError, match="invalid name"), locked(directory, name, UID, GID):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("mode", [0o777, 0o1777])
def test_a_world_writable_directory_is_refused(tmp_path, mode):
    tmp_path.chmod(mode)
    before = os.listdir("/proc/self/fd")
    with pytest.raises(PermissionError, match="everybody"):
        open_directory(str(tmp_path))
    assert os.listdir("/proc/self/fd") == before


@pytest.mark.skipif(UID != 0, reason="needs root: gives a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path):
    os.chown(tmp_path, 54321, 0)
    with pytest.raises(PermissionError, match="belongs to uid 54321, expected uid 0 or root"):
        open_directory(str(tmp_path))


@pytest.mark.parametrize("mode", [0o2775, 0o755], ids=["Debian", "OpenBSD"])
def test_a_directory_as_systems_have_it_will_do(tmp_path, mode):
    tmp_path.chmod(mode)
    os.close(open_directory(str(tmp_path)))


def test_a_link_that_is_put_there_between_look_and_open_is_not_followed(directory, tmp_path, monkeypatch):
    write(directory, b"old\n")
    (tmp_path / "victim").write_bytes(b"")
    plain = openat2.open

    def replaced(name, flags, *rest, **more):
        if name == "bob" and not flags & os.O_PATH:
            (tmp_path / "bob").unlink()
            (tmp_path / "bob").symlink_to("victim")
        return plain(name, flags, *rest, **more)

    with monkeypatch.context() as race:
        race.setattr(openat2, "open", replaced)
        with pytest.raises(OSError):
            write(directory, b"x\n")
    assert (tmp_path / "victim").read_bytes() == b""


@pytest.mark.skipif(not hasattr(fcntl, "F_SETLEASE"), reason="leases are of Linux")
def test_a_lease_on_the_mailbox_is_not_waited_for(directory, tmp_path):
    write(directory, b"old\n")
    holder = subprocess.Popen(
        [sys.executable, "-c", LEASE, str(tmp_path / "bob")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(BlockingIOError):
        write(directory, b"x\n")
    holder.communicate()
    write(directory, b"x\n")


LEASE = """
import fcntl, os, signal, sys
signal.signal(signal.SIGIO, signal.SIG_IGN)
fcntl.fcntl(os.open(sys.argv[1], os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_WRLCK)
print("held", flush=True)
sys.stdin.read()
"""


# Locks


def test_a_dot_lock_is_waited_for_and_then_is_the_reason(directory, tmp_path):
    (tmp_path / "bob.lock").touch()
    with pytest.raises(BlockingIOError, match="locked by another program"):
        write(directory, b"x\n")
    assert sorted(os.listdir(tmp_path)) == ["bob", "bob.lock"]
    write(directory, b"x\n", dot=False)


@pytest.mark.parametrize("age", [mailbox.STALE_LOCK_AGE + 1, -mailbox.STALE_LOCK_AGE - 10, -1e9])
def test_a_stale_dot_lock_is_removed_after_its_time(directory, tmp_path, age):
    """One from the future is as stale: it was made before the clock was set back."""
    (tmp_path / "bob.lock").touch()
    os.utime(tmp_path / "bob.lock", (time.time() - age,) * 2)
    write(directory, b"x\n")
    assert os.listdir(tmp_path) == ["bob"]


@pytest.mark.parametrize("age", [mailbox.STALE_LOCK_AGE - 30, -mailbox.STALE_LOCK_AGE + 30])
def test_a_dot_lock_of_a_clock_that_differs_a_little_counts(directory, tmp_path, age):
    (tmp_path / "bob.lock").touch()
    os.utime(tmp_path / "bob.lock", (time.time() - age,) * 2)
    with pytest.raises(BlockingIOError):
        write(directory, b"x\n")


def test_a_dot_lock_that_is_a_link_is_not_followed(directory, tmp_path):
    (tmp_path / "bob.lock").symlink_to("victim")
    with pytest.raises(BlockingIOError):
        write(directory, b"x\n")
    os.utime(tmp_path / "bob.lock", (1, 1), follow_symlinks=False)
    write(directory, b"x\n")
    assert os.listdir(tmp_path) == ["bob"]


def test_a_directory_as_dot_lock_is_a_temporary_failure(directory, tmp_path):
    (tmp_path / "bob.lock").mkdir()
    os.utime(tmp_path / "bob.lock", (1, 1))
    with pytest.raises(OSError):
        write(directory, b"x\n")
    assert (tmp_path / "bob").read_bytes() == b""


def test_a_dot_lock_of_another_program_is_never_removed(directory, tmp_path):
    with bob(directory):
        (tmp_path / "bob.lock").rename(tmp_path / "ours")
        (tmp_path / "bob.lock").touch()
    assert (tmp_path / "bob.lock").exists()


def test_a_reader_cannot_lock_while_mail_is_written(directory, tmp_path):
    for dot in (True, False):
        with bob(directory, dot=dot):
            reader = standard_library.mbox(tmp_path / "bob")
            with pytest.raises(standard_library.ExternalClashError):
                reader.lock()
            reader.close()


def test_mail_is_not_written_while_a_reader_has_locked(directory, tmp_path):
    reader = subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path / "bob")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert reader.stdout.readline() == b"locked\n"
    for dot in (True, False):
        with pytest.raises(BlockingIOError, match="locked by another program"):
            write(directory, b"x\n", dot=dot)
    reader.communicate()
    write(directory, b"x\n")


READER = """
import mailbox, sys
box = mailbox.mbox(sys.argv[1])
box.lock()
print("locked", flush=True)
sys.stdin.read()
box.unlock()
"""


@pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="locks belong to the process")
def test_the_lock_goes_with_the_descriptor_until_it_is_released(directory, tmp_path):
    with ExitStack() as elsewhere, ExitStack() as held:
        passed = os.dup(maybe_lock(directory, "bob", UID, GID, held, dot=False))
        elsewhere.callback(os.close, passed)
        os.close(os.open(tmp_path / "bob", os.O_RDONLY))  # would lose a lock that belongs to the process
        with pytest.raises(BlockingIOError):
            write(directory, b"x\n")
        os.write(passed, b"by the descriptor\n")
        held.close()
        write(directory, b"x\n")
    assert (tmp_path / "bob").read_bytes() == b"by the descriptor\nx\n"


@pytest.mark.parametrize("dot", [True, False])
def test_a_try_that_finds_it_locked_leaves_nothing_behind(directory, tmp_path, dot):
    with ExitStack() as first, ExitStack() as second:
        assert maybe_lock(directory, "bob", UID, GID, first, dot=False) is not None
        assert maybe_lock(directory, "bob", UID, GID, second, dot=dot) is None
    assert os.listdir(tmp_path) == ["bob"]
    (tmp_path / "bob.lock").touch()
    with ExitStack() as third:
        assert maybe_lock(directory, "bob", UID, GID, third) is None
    write(directory, b"x\n", dot=False)
    assert sorted(os.listdir(tmp_path)) == ["bob", "bob.lock"]


def test_two_waiting_programs_do_not_try_at_the_same_moments():
    pauses = [list(islice(mailbox.pauses(), 12)) for _ in range(2)]
    assert pauses[0] != pauses[1]
    assert all(0.005 <= pause <= 0.25 for pause in chain(*pauses))


def test_the_pauses_between_two_tries_grow(monkeypatch):
    monkeypatch.setattr("random.uniform", lambda _shortest, longest: longest)
    assert [*islice(mailbox.pauses(), 7)] == [0.01, 0.02, 0.04, 0.08, 0.16, 0.25, 0.25]


def test_a_lock_is_waited_for_without_work(directory, tmp_path, monkeypatch):
    (tmp_path / "bob.lock").touch()
    sleeps, sleep = [], time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleeps.append(seconds) or sleep(seconds))
    with pytest.raises(BlockingIOError):
        write(directory, b"x\n", lock_timeout=0.05)
    assert 0 < len(sleeps) < 20 and max(sleeps) <= 0.05


def test_a_mailbox_that_a_reader_replaced_is_opened_again(directory, tmp_path, monkeypatch):
    write(directory, b"old\n")
    (tmp_path / "rewritten").write_bytes(b"")
    plain = mailbox.lock

    def lock(descriptor):
        if (tmp_path / "rewritten").exists():
            (tmp_path / "rewritten").rename(tmp_path / "bob")
        return plain(descriptor)

    monkeypatch.setattr(mailbox, "lock", lock)
    write(directory, b"new\n", lock_timeout=10.0)
    assert (tmp_path / "bob").read_bytes() == b"new\n"
