"""The pid file: its lock says that a daemon lives, its content which one.

The lock goes with the process, so a file that a crash left behind stops nobody.
"""

import contextlib
import fcntl
import os


class Running(Exception):
    """Another daemon holds the lock."""


class PidFile:
    def __init__(self, path: str):
        """Raises Running or OSError.  `left_behind`: there was one, of a daemon that did not stop in order."""
        self.path = path
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o644)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
            os.close(self._descriptor)
            raise Running(f"another smtpd is running, pid {holder or 'not yet written'} ({path})") from None
        self.left_behind = os.fstat(self._descriptor).st_size > 0
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self.path)
        os.close(self._descriptor)
