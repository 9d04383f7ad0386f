"""Reading ~/.forward, as the user whose file it is: the bytes, or why not.

    none      there is no such file, or no home
    text      the file
    refused   it is not the user's own, or others may write it, or it is no plain file
    malformed it is too long to be one; the user may mend it
    later     the home is sticky (the classic way to stop delivery), or the world is in trouble

The checks are made on what is open, so nothing can be exchanged between check and use.  Above the home nothing is
checked: whoever can put another directory in its place cannot make a file in it that belongs to the user.

Does not understand what it reads; lookup does.  A lease or a hung file system stops this process, and queue's deadline
is what answers then.
"""

import errno
import os
import stat
from contextlib import suppress

from smtpd.agent.hand import Answer, Errand, Taken
from smtpd.ipc.errand import FORWARD_MAX, ForwardText, ReadForward

_HOME = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a FIFO does not wait for a writer, a leased file not for its holder.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_OTHERS_MAY_WRITE = stat.S_IWGRP | stat.S_IWOTH
_REFUSING = (errno.ELOOP, errno.EACCES, errno.EPERM, errno.ENXIO, errno.ENODEV, errno.EISDIR, errno.ENOTDIR)


class Refused(Exception):
    """The file is there and must not be used."""


class Later(Exception):
    """Not now."""


class TooLong(Exception):
    """Not a .forward."""


class Reader:
    """The trade of the agent that reads one user's .forward."""

    ERRAND: type[Errand] = ReadForward
    HANDS = 1
    BATCH = 1
    BATCH_BYTES = 1
    GATHER = 0

    def __init__(self, home: str):
        self.home = home
        self.over = False
        self.places: list[tuple[str, str]] = []
        self._seen: os.stat_result | None = None
        try:
            self._seen = os.stat(home)
            self.places = [(home, "r")]
        except OSError:
            pass

    def work(self, *_: object) -> "Reader":
        return self

    def do(self, batch: list[Taken]) -> list[Answer]:
        return [ForwardText(errand.request, *self._read()) for errand, _ in batch if isinstance(errand, ReadForward)]

    def _read(self) -> tuple[str, bytes]:
        """A home that was mounted or put there after the sandbox was entered can be seen by the next agent only."""
        with suppress(OSError):
            now = os.stat(self.home)
            if self._seen is None or not os.path.samestat(self._seen, now):
                self.over = True
                return "later", b"home directory has just come"
        return read(self.home, os.getuid())


def read(home: str, uid: int) -> tuple[str, bytes]:
    """The verdict, and the file's bytes or the reason."""
    try:
        return "text", _read_in(home, uid)
    except FileNotFoundError:
        return "none", b""
    except Refused as refused:
        return "refused", str(refused).encode()
    except Later as later:
        return "later", str(later).encode()
    except TooLong:
        return "malformed", f".forward is longer than {FORWARD_MAX} bytes".encode()
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
        return "refused" if error.errno in _REFUSING else "later", reason.encode(errors="replace")


def _read_in(home: str, uid: int) -> bytes:
    directory = os.open(home, _HOME)
    try:
        _check_home(os.fstat(directory), uid)
        file = os.open(".forward", _FILE, dir_fd=directory)
    finally:
        os.close(directory)
    try:
        _check_file(os.fstat(file), uid)
        return _content(file)
    finally:
        os.close(file)


def _check_home(status: os.stat_result, uid: int) -> None:
    if status.st_mode & stat.S_ISVTX:
        raise Later("home directory is sticky")
    if status.st_uid not in (0, uid):
        raise Refused("home directory belongs to somebody else")
    if status.st_mode & _OTHERS_MAY_WRITE:
        raise Refused("home directory can be written by others")


def _check_file(status: os.stat_result, uid: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise Refused(".forward is not a regular file")
    if status.st_uid != uid:  # a hard link to a file of somebody else's
        raise Refused(".forward belongs to somebody else")
    if status.st_mode & _OTHERS_MAY_WRITE:
        raise Refused(".forward can be written by others")
    if status.st_size > FORWARD_MAX:
        raise TooLong


def _content(file: int) -> bytes:
    content = b""
    while len(content) <= FORWARD_MAX:  # it may have grown since
        piece = os.read(file, FORWARD_MAX + 1 - len(content))
        if not piece:
            return content
        content += piece
    raise TooLong
