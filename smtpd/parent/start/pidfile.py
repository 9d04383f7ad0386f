"""The pid file: its lock says that a daemon lives, its content which one.

The lock goes with the process, so a file that a crash left behind stops no later start.
"""

import fcntl
import os

from smtpd.parent.cleanup import PidFile, is_at


class AlreadyRunning(Exception):
    """Another daemon holds the lock."""


def lock_pid_file(path: str) -> PidFile:
    """Raises AlreadyRunning or OSError."""
    descriptor = _open(path)
    while not is_at(descriptor, path):  # its holder has removed it since it was opened
        os.close(descriptor)
        descriptor = _open(path)
    left_behind = os.fstat(descriptor).st_size > 0
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return PidFile(path, descriptor, left_behind)


def _open(path: str) -> int:
    """The file at `path`, made if there is none, and locked.  Raises AlreadyRunning or OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise AlreadyRunning(f"another smtpd is running, pid {holder or 'not yet written'} ({path})") from None
    return descriptor
