"""A mailbox before it is written to: found, or made, and locked.  One file of a user in a directory of many users.

    fcntl(2)     on the mailbox.  On Linux it belongs to the open file and not to the process: it goes with the
                 descriptor to whoever that is passed to, and is lost only when all copies are closed.
    NAME.lock    beside the mailbox, for programs that know nothing else.  It is stale after STALE_LOCK_AGE, and
                 so was one from the future.

    Taken in this order, given up together when either is not to be had, and tried again: no two programs wait for each
    other whatever their order is.  Holding both, the mailbox must still be the file that its name leads to.

`locked` waits, with the caller's rights.  `maybe_lock` tries once: nothing in it waits for anybody but the disk.

The directory is held open: nothing here looks at a path again.  Root does this for a user, so whatever that user may
have put in the place of the mailbox, a link, a fifo, a device, somebody else's file, a file system, is refused and not
touched.  A second name is a reason to try later: another user may have given it, where links are not protected.
Understands nothing of what stands in a mailbox.
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
LOCK_TIMEOUT = 60.0  # seconds that a lock of somebody else is waited for
STALE_LOCK_AGE = 300.0  # seconds after which a dot-lock is nobody's, as liblockfile has it
LOCKED_REASON = "locked by another program"

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC  # no fifo and no lease keeps us waiting
_NEW_LOCK = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25  # seconds between two tries

_OFD_SETLK = getattr(fcntl, "F_OFD_SETLK", None)
_WHOLE_FILE, _UNLOCKED = (  # struct flock of Linux
    struct.pack("hhqqi0q", kind, os.SEEK_SET, 0, 0, 0) for kind in (fcntl.F_WRLCK, fcntl.F_UNLCK)
)


class MailboxError(Exception):
    """What is to be the mailbox is none, and stays so until somebody mends it.  The argument names no path."""


class MailboxNameError(MailboxError):
    """Nothing of that name will ever be a mailbox."""


def open_directory(path: str) -> int:
    """The directory of the mailboxes; it may be reached by a symbolic link.

    Raises OSError when anybody may write there, sticky or not: mailboxes and locks could be put in a user's way.  A
    group may, which on some systems all programs are in that deliver.
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
    """True when a mailbox may have it: one path component, not hidden, and no other mailbox's lock."""
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
    """The mailbox of a user, made when there is none, locked, with and without a dot-lock: its descriptor.  `any_name`:
    its name is the user's choice, and not the user's name.

    Raises Refused when it is nothing to write to, OSError for all that may be better the next time; that names the
    mailbox or its lock, and not the directory.
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
    """One try: None when somebody else has locked it.  All is given up when `held` is closed, whatever this returned or
    raised, also when the descriptor has been passed to somebody.  Raises as `locked`."""
    if not any_name and not check_name(name):
        raise MailboxNameError(f"no name for a mailbox: {name!r}")
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


def pauses() -> Iterator[float]:
    """Seconds between two tries, without end.  By chance, or those who met once would meet every time."""
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
    """The mailbox, made with mode 0600 when there is none; None when it was replaced or removed in this very moment."""
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
    if os.geteuid() not in (0, uid):  # it would be ours, and the user's never
        raise MailboxError("there is no mailbox, and only root can make one for somebody else")
    try:
        descriptor = openat2.open(name, _OPEN | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=directory)
    except FileExistsError:
        return None
    except PermissionError as error:
        reason = describe_error(PermissionError(error.errno, error.strerror))  # without the name
        raise MailboxError(f"there is no mailbox, and no right to make one: {reason}") from error
    try:
        _finish(descriptor, directory, os.fstat(descriptor), uid, gid)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _finish(descriptor: int, directory: int, status: os.stat_result, uid: int, gid: int) -> None:
    """What whoever made the mailbox may not have come to: its owner, and its name on the disk."""
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
        raise OSError(errno.EMLINK, "the mailbox has a second name")


def _is_unfinished(status: os.stat_result) -> bool:
    """Made by root, who had no time to give it to its user."""
    return status.st_uid == 0 == os.geteuid() and status.st_size == 0


def lock(descriptor: int) -> bool:
    """Lock it as mail readers do, for as long as it is open; False when somebody else has."""
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
    """Unlock it first: it may have been passed on, and the lock would stay with the other copy."""
    with suppress(OSError):
        if _OFD_SETLK is not None:
            fcntl.fcntl(descriptor, _OFD_SETLK, _UNLOCKED)
        else:
            fcntl.lockf(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@dataclass(frozen=True)
class DotLock:
    """The file NAME.lock, made by us.  It is empty: a process id in it would mean nothing to another host."""

    directory: int
    name: str
    status: os.stat_result

    @classmethod
    def maybe_make(cls, directory: int, mailbox: str) -> "DotLock | None":
        """None when somebody else holds it.  The mailbox is locked already, so of our kind nobody else is here."""
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
            reason = f"uid {os.geteuid()} has no right to make the dot-lock: {error.strerror}"
            raise PermissionError(error.errno, reason, name) from error

    @classmethod
    def _make(cls, directory: int, name: str) -> "DotLock":
        descriptor = os.open(name, _NEW_LOCK, 0o600, dir_fd=directory)
        try:
            return cls(directory, name, os.fstat(descriptor))
        finally:
            os.close(descriptor)

    def remove(self) -> None:
        """Unless it is somebody else's by now, who took ours for stale."""
        with suppress(OSError):
            if _leads_to(self.directory, self.name, self.status):
                os.unlink(self.name, dir_fd=self.directory)


def _remove_stale(directory: int, name: str) -> bool:
    try:
        age = time.time() - os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime
        if abs(age) < STALE_LOCK_AGE:  # one from further in the future was made before the clock was set back
            return False
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:  # its owner is done
        pass
    return True


def _leads_to(directory: int, name: str, status: os.stat_result) -> bool:
    try:
        return os.path.samestat(openat2.stat(name, dir_fd=directory), status)
    except FileNotFoundError:
        return False
