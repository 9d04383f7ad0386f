"""A mailbox in the mail directory: opened, or created, and locked, before a mail is appended.

    fcntl(2)     on the mailbox.  On Linux the lock belongs to the open file description, not to the process: it goes
                 with the descriptor to the process that this is passed to, and ends when all copies are closed.
    NAME.lock    beside the mailbox, for programs that know no other lock.  It is stale after STALE_LOCK_AGE, and so is
                 one from the future.

The locks are taken in this order; if one of them is held both are released, and tried again.  So no two programs can
wait for each other, whatever their order is.  When both are held, the name must still lead to the same file.

`locked` waits, with the caller's rights.  `maybe_lock` tries once, and waits for nothing but the disk.

The directory is held open and no path is looked up again.  Root does this for a user, so whatever the user may have put
in the place of the mailbox (a symbolic link, a FIFO, a device, another user's file, a file system) is refused and not
touched.  A second hard link is a reason to try later: where links are not protected, another user may have made it.
Knows nothing of the mails in the mailbox.
"""

import errno
import fcntl
import os
import random
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from mail_local import openat2
from smtpd.ipc.os_error import describe_error

MAIL_DIRECTORY = "/var/mail"
LOCK_TIMEOUT = 60.0  # seconds to wait for a lock that another program holds
STALE_LOCK_AGE = 300.0  # seconds after which a dot-lock is taken for abandoned, as by liblockfile
LOCKED_REASON = "locked by another program"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # waits for no FIFO and no lease
_NEW_LOCK = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25  # seconds between two tries

_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", None)
_WHOLE_FILE, _UNLOCKED = (  # struct flock of Linux
    struct.pack("hhqqi0q", kind, os.SEEK_SET, 0, 0, 0) for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK)
)


class MailboxError(Exception):
    """The file cannot be used as a mailbox until an administrator repairs it.  The text names no path."""


class MailboxNameError(MailboxError):
    """The name can never be the name of a mailbox."""


def open_directory(path: str) -> int:
    """Open the mail directory; the path may be a symbolic link.

    Raises OSError if everybody may write there, even if it is sticky: another user could create mailboxes and locks.
    A group may: on some systems all delivery programs are in it.
    """
    descriptor = os.open(path, _DIRECTORY)
    status = os.fstat(descriptor)
    if status.st_mode & stat.S_IWOTH or status.st_uid not in (0, os.geteuid()):
        os.close(descriptor)
        reason = f"the directory belongs to uid {status.st_uid}, expected uid {os.geteuid()} or root"
        if status.st_mode & stat.S_IWOTH:
            reason = f"everybody can write to the directory: chmod o-w {path}"
        raise PermissionError(errno.EPERM, reason, path)
    return descriptor


def check_name(name: str) -> bool:
    """True if a mailbox may have this name: one path component, not hidden, and not the name of a dot-lock."""
    return bool(name) and not set(name) & {"/", "\0"} and not name.startswith(".") and not name.endswith(".lock")


@contextmanager
def locked(
    directory: int,
    name: str,
    uid: int,
    gid: int,
    *,
    dot: bool = True,
    any_name: bool = False,
    lock_timeout: float = LOCK_TIMEOUT,
) -> Iterator[int]:
    """The descriptor of a user's mailbox, which is locked, and created if missing.  `dot`: take a dot-lock too.
    `any_name`: the user has chosen the name; it need not be the user's name.

    Raises MailboxError if it cannot be used as a mailbox, OSError for what may be different the next time; the error
    names the mailbox or its lock, and not the directory.
    """
    for _ in _tries(lock_timeout):
        with ExitStack() as held:
            descriptor = maybe_lock(directory, name, uid, gid, held, dot=dot, any_name=any_name)
            if descriptor is not None:
                yield descriptor
                return
    raise BlockingIOError(errno.EAGAIN, LOCKED_REASON, name)


def maybe_lock(
    directory: int, name: str, uid: int, gid: int, held: ExitStack, *, dot: bool = True, any_name: bool = False
) -> int | None:
    """Try once: None if another program has locked it.  Closing `held` releases everything, whatever this returned or
    raised, also when the descriptor has been passed to another process.  Raises as `locked`."""
    if not any_name and not check_name(name):
        raise MailboxNameError(f"invalid name for a mailbox: {name!r}")
    with _error_names(name):
        descriptor = _maybe_open(directory, name, uid, gid)
        if descriptor is None:
            return None
        held.callback(_close, descriptor)
        if not lock(descriptor):
            return None
        if dot:
            dot_lock = DotLock.maybe_make(directory, name)
            if dot_lock is None:
                return None
            held.callback(dot_lock.remove)
        return descriptor if _leads_to(directory, name, os.fstat(descriptor)) else None


@contextmanager
def _error_names(name: str) -> Iterator[None]:
    """An OSError that is raised in here names at least this file: what is done by a descriptor fails without a name."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or name
        raise


def pauses() -> Iterator[float]:
    """Seconds between two attempts, without end.  Random, or two programs that met once would meet every time."""
    pause = _FIRST_PAUSE
    while True:
        yield random.uniform(pause / 2, pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _tries(lock_timeout: float) -> Iterator[None]:
    end = time.monotonic() + lock_timeout
    yield
    for pause in pauses():
        left = end - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(left, pause))
        yield


def _maybe_open(directory: int, name: str, uid: int, gid: int) -> int | None:
    """The open mailbox, created with mode 0600 if missing; None if it was replaced or removed during this call."""
    try:
        seen = openat2.stat(name, dir_fd=directory)
    except FileNotFoundError:
        return _maybe_create(directory, name, uid, gid)
    _refuse_unsuited(seen, uid)  # before the open: opening a device may already do something
    descriptor = openat2.open(name, _OPEN, dir_fd=directory)
    try:
        opened = os.fstat(descriptor)
        if os.path.samestat(seen, opened) and opened.st_nlink:
            _refuse_unsuited(opened, uid)
            _finish(descriptor, directory, opened, uid, gid)
            return descriptor
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def _maybe_create(directory: int, name: str, uid: int, gid: int) -> int | None:
    if os.geteuid() not in (0, uid):  # the new file would belong to the caller
        raise MailboxError("there is no mailbox, and only root can create one for another user")
    try:
        descriptor = openat2.open(name, _OPEN | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
    except FileExistsError:
        return None
    except PermissionError as error:
        reason = describe_error(PermissionError(error.errno, error.strerror))  # without the name
        raise MailboxError(f"there is no mailbox, and it cannot be created: {reason}") from error
    try:
        _finish(descriptor, directory, os.fstat(descriptor), uid, gid)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _finish(descriptor: int, directory: int, status: os.stat_result, uid: int, gid: int) -> None:
    """Complete the creation of the mailbox, also of one that a crash left half made: its owner, its directory entry."""
    if status.st_uid != uid:
        os.fchown(descriptor, uid, gid)
    if status.st_size == 0:
        os.fsync(directory)


def _refuse_unsuited(status: os.stat_result, uid: int) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise MailboxError("the mailbox is a symbolic link")
    if not stat.S_ISREG(status.st_mode):
        raise MailboxError("the mailbox is not a regular file")
    if status.st_uid != uid and not _is_unfinished(status):
        raise MailboxError(f"the mailbox belongs to uid {status.st_uid}, expected uid {uid}")
    if status.st_nlink > 1:
        raise OSError(errno.EMLINK, "the mailbox has a second hard link")


def _is_unfinished(status: os.stat_result) -> bool:
    """Created by root, which crashed before it gave it to the user."""
    return status.st_uid == 0 == os.geteuid() and status.st_size == 0


def lock(descriptor: int) -> bool:
    """Take the fcntl lock, as mail readers do, for as long as the file is open; False if another program has it."""
    try:
        if _OFD_SETLK is not None:
            fcntl.fcntl(descriptor, _OFD_SETLK, _WHOLE_FILE)
        else:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        return False
    return True


def _close(descriptor: int) -> None:
    """Unlock before the close: another process may have a copy of the descriptor, which would keep the lock."""
    with suppress(OSError):
        if _OFD_SETLK is not None:
            fcntl.fcntl(descriptor, _OFD_SETLK, _UNLOCKED)
        else:
            fcntl.lockf(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@dataclass(frozen=True)
class DotLock:
    """The file NAME.lock, created by this process.  It is empty: a process id would mean nothing on another host."""

    directory: int
    name: str
    status: os.stat_result

    @classmethod
    def maybe_make(cls, directory: int, mailbox: str) -> "DotLock | None":
        """None if another program holds it.  The mailbox is locked already, so no other process of ours is here."""
        name = f"{mailbox}.lock"
        try:
            try:
                return cls._make(directory, name)
            except FileExistsError:
                if not _remove_stale(directory, name):
                    return None
                return cls._make(directory, name)
        except FileExistsError:
            return None
        except PermissionError as error:
            reason = f"uid {os.geteuid()} cannot create the dot-lock: {error.strerror}"
            raise PermissionError(error.errno, reason, name) from error

    @classmethod
    def _make(cls, directory: int, name: str) -> "DotLock":
        descriptor = os.open(name, _NEW_LOCK, 0o600, dir_fd=directory)
        try:
            return cls(directory, name, os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Remove it, unless another program took it for stale and has replaced it."""
        with suppress(OSError):
            if _leads_to(self.directory, self.name, self.status):
                os.unlink(self.name, dir_fd=self.directory)


def _remove_stale(directory: int, name: str) -> bool:
    try:
        age = time.time() - os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime
        if abs(age) < STALE_LOCK_AGE:  # further in the future: made before the clock was set back
            return False
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:  # its holder has removed it
        pass
    return True


def _leads_to(directory: int, name: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(openat2.stat(name, dir_fd=directory), status)
    except FileNotFoundError:
        return False
