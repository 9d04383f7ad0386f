"""Spool files: the content of large messages, one file each; and the lock that makes the spool ours.

    create   a new file: a descriptor to write, for the dispatcher, once
    seal     it is complete: length, SHA-256, fsync of file and directory
    open     a fresh descriptor to read, each time, if the file is still what was sealed

The blocking halves of these run in threads.  The file is fsynced through a descriptor that is as old as the file: one
that was opened later would not hear of a write error that another descriptor has reported already.  A dispatcher keeps
its descriptor for as long as it likes, so what it wrote after the 250 has to be found out: a file whose length and time
of change are those of the last check is believed, any other is read and hashed again.
"""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable

from smtpd.envelope import MESSAGE_ID_MAX, message_text
from smtpd.ipc.os_error import describe_error
from smtpd.queue.store.store import PAGE, Store, StoreBroken, StoreFull

DIRECTORY = "content"
LOCK = "lock"
LOCK_TIMEOUT = 10.0  # seconds that a start waits for the lock
PIECE = 256 * 1024
SEALED_KEPT = 4096  # files whose last check is remembered

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class SpoolLocked(Exception):
    """Another process has the spool."""


class ContentDamaged(Exception):
    """The file is not there, or not what was stored."""


def lock(directory: str, patience: float = LOCK_TIMEOUT) -> int:
    """The exclusive lock on the spool, until the descriptor is closed.  Raises SpoolLocked, which names the holder."""
    descriptor = os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= end:
                holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
                os.close(descriptor)
                raise SpoolLocked(f"the spool is in use by process {holder or 'unknown'}") from None
            time.sleep(0.1)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor


class Spool:
    """The files below `directory`.  Its methods block; those of one message are called one after the other."""

    def __init__(self, directory: str):
        self.path = os.path.join(directory, DIRECTORY)
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            pass
        _sync_directory(directory)  # each time: a crash may have come between the two
        self._directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._sealed: dict[int, tuple[int, int]] = {}  # message -> length and time of change when it was right

    def create(self, message: int) -> tuple[int, int]:
        """A new, empty file: a descriptor to write to it, and ours.  Raises OSError."""
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        own = os.open(message_text(message), flags | os.O_RDWR, 0o600, dir_fd=self._directory)
        try:
            return self._open(message, os.O_WRONLY), own
        except OSError:
            os.close(own)
            self.remove([message])
            raise

    def _open(self, message: int, flags: int) -> int:
        return os.open(message_text(message), flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)

    def seal(self, message: int, own: int, size: int) -> bytes:
        """Make the finished file durable.  Returns its SHA-256.  Raises ContentDamaged, StoreFull, StoreBroken."""
        try:
            found = os.fstat(own)  # before the hash: what is written after it shows in the time of change
            if found.st_size != size:
                raise ContentDamaged(f"{found.st_size} bytes where {size} were announced")
            digest = _hash(own)
            os.fsync(own)
            os.fsync(self._directory)
        except OSError as error:
            raise store_error(error) from error
        self._remember(message, found)
        return digest

    def open(self, message: int, size: int, digest: bytes) -> int:
        """A fresh descriptor to read what was sealed.  Raises ContentDamaged, and OSError for what may pass."""
        try:
            descriptor = self._open(message, os.O_RDONLY)
        except FileNotFoundError:
            raise ContentDamaged("the spool file is missing") from None
        try:
            found = os.fstat(descriptor)
            if self._sealed.get(message) != (found.st_size, found.st_ctime_ns):
                if found.st_size != size or _hash(descriptor) != digest:
                    raise ContentDamaged("the spool file was changed after it was stored")
                self._remember(message, found)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _remember(self, message: int, found: os.stat_result) -> None:
        if len(self._sealed) >= SEALED_KEPT:
            self._sealed.clear()
        self._sealed[message] = found.st_size, found.st_ctime_ns

    def remove(self, messages: Iterable[int]) -> None:
        """A file that stays behind is found at the next start."""
        for message in messages:
            self._sealed.pop(message, None)
            try:
                os.unlink(message_text(message), dir_fd=self._directory)
            except OSError:
                pass

    def remove_orphans(self, store: Store, say: Callable[[str], None]) -> None:
        """Remove what has no row: a crash left it behind.  Before anybody can begin a new file."""
        names = {int(name, 16): name for name in os.listdir(self.path) if _is_ours(name)}
        after = 0
        while page := store.spooled(after, PAGE):
            for message in page:
                if names.pop(message, None) is None:
                    say(f"message {message_text(message)}: the spool file is missing")
            after = page[-1]
        self.remove(names)
        if names:
            say(f"removed {len(names)} spool files of messages that were never accepted")


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_ours(name: str) -> bool:
    try:
        number = int(name, 16)
    except ValueError:
        return False
    return 1 <= number <= MESSAGE_ID_MAX and name == message_text(number)


def _hash(descriptor: int) -> bytes:
    digest = hashlib.sha256()
    at = 0
    while piece := os.pread(descriptor, PIECE, at):
        digest.update(piece)
        at += len(piece)
    return digest.digest()


def store_error(error: OSError) -> StoreFull | StoreBroken:
    """An error of the disk in the store's words."""
    return StoreFull(describe_error(error)) if error.errno in _NO_SPACE else StoreBroken(describe_error(error))
