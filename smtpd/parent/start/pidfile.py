"""The pid file: its lock says that a daemon lives, its content which one.

The lock goes with the process, so a file that a crash left behind stops nobody.
"""

import contextlib
import fcntl
import os


class AlreadyRunning(Exception):
    """Another daemon holds the lock."""


class PidFile:
    def __init__(self, path: str):
        """Raises Running or OSError.  `left_behind`: there was one, of a daemon that did not stop in order."""
        self.path = path
        self._descriptor = _open(path)
        while not _is(self._descriptor, path):  # its holder has removed it since it was opened
            os.close(self._descriptor)
            self._descriptor = _open(path)
        self.left_behind = os.fstat(self._descriptor).st_size > 0
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def remove(self) -> None:
        """Unless it is another daemon's, which was started after our file had been removed."""
        with contextlib.suppress(OSError):
            if _is(self._descriptor, self.path):
                os.unlink(self.path)
        os.close(self._descriptor)


def _open(path: str) -> int:
    """What stands there, locked.  Raises Running or OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
        os.close(descriptor)
        raise AlreadyRunning(f"another smtpd is running, pid {holder or 'not yet written'} ({path})") from None
    return descriptor


def _is(descriptor: int, path: str) -> bool:
    """Whether the file that is open is the one that stands there."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False
