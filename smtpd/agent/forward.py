"""Reads ~/.forward as its owner, and checks its permissions: a verdict, and the content or the reason.

    none       there is no .forward, or no home directory
    text       the content of the file
    unsafe     another user may have written it, or it is not a regular file; the reason says how to repair that
    malformed  it is longer than a .forward may be
    later      the home directory is sticky (the traditional way to stop delivery), or the file cannot be read now

The file is opened before anything is checked: where there is no .forward, owner and mode of the home directory do not
matter.  The checks use the open descriptors of home directory and file, so neither can be exchanged between check and
use.  Opening is harmless whatever another user has put there: a symbolic link is not followed, and neither a FIFO nor a
lease is waited for.

Directories above the home directory are not checked: a user who can replace the home directory cannot create a file in
it that belongs to its owner.  A user who can write to the home directory can, by a hard link to another file of the
owner's; so that is checked.

The content is parsed by lookup, not here.  A lease or a hung file system stops this process; then queue's timeout
gives the answer.
"""

import errno
import os
import shlex
import stat
from contextlib import suppress

from smtpd.agent.worker import Answer, TakenRequest
from smtpd.config.file_permission import IsPrivate, Where, has_private_group, others_who_write
from smtpd.errand import FORWARD_MAX, ForwardText, ReadForward, Request
from smtpd.ipc.os_error import error_text

NAME = ".forward"
# O_PATH: a home directory that its user may search but not read is good enough.
_HOME = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: the open waits neither for the writer of a FIFO nor for the holder of a lease.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WRITERS = {"g": "its group", "o": "everybody", "go": "everybody"}


class UnsafeForward(Exception):
    """The file exists and must not be used."""


class ForwardDeferred(Exception):
    """The file cannot be used now."""


class ForwardTooLong(Exception):
    """The file is longer than FORWARD_MAX."""


class UnknownGroup(Exception):
    """The members of this group were not looked up before the sandbox was entered."""


class ForwardAgent:
    """Agent kind that reads the .forward of one user."""

    REQUESTS: tuple[type[Request], ...] = (ReadForward,)
    WORKERS_MAX = 1
    BATCH_MAX = 1
    BATCH_BYTES = 1
    GATHER_TIME = 0
    SAME_MESSAGE = False
    SPARE_WORKER = False

    def __init__(self, home: str):
        self.home = home
        self.draining = False
        self.visible_paths: list[tuple[str, str]] = []
        self._seen: os.stat_result | None = None
        self._private: dict[tuple[int, ...], bool] = {}
        try:
            self._seen = os.stat(home)
            self.visible_paths = [(home, "r")]
            path = f"{home}/{NAME}"
            file = os.lstat(path)
        except OSError:
            return  # without the file only the sticky bit of the home directory matters
        self._look_up_group(home, self._seen)
        self._look_up_group(path, file)

    def _look_up_group(self, path: str, status: os.stat_result) -> None:
        """Before the sandbox is entered: the name service cannot be reached in it."""
        if status.st_mode & stat.S_IWGRP and not stat.S_ISLNK(status.st_mode):
            self._private[_identity(status)] = has_private_group(path, status)

    def _is_private(self, _where: Where, status: os.stat_result) -> bool:
        try:
            return self._private[_identity(status)]
        except KeyError:
            raise UnknownGroup from None

    def make_executor(self, *_: object) -> "ForwardAgent":
        return self

    def execute(self, batch: list[TakenRequest]) -> list[Answer]:
        return [ForwardText(errand.request, *self._read()) for errand, _ in batch if isinstance(errand, ReadForward)]

    def _read(self) -> tuple[str, bytes]:
        """What has changed since the sandbox was entered is answered "later": the next agent can judge it."""
        with suppress(OSError):
            now = os.stat(self.home)
            if self._seen is None or not os.path.samestat(self._seen, now):
                self.draining = True
                return "later", b"the home directory has just been created"
        try:
            return read(self.home, os.getuid(), self._is_private)
        except UnknownGroup:
            self.draining = True
            return "later", b"the permissions of .forward have just changed"


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid


def read(home: str, uid: int, is_private: IsPrivate = has_private_group) -> tuple[str, bytes]:
    """The verdict, and the content of the file or the reason."""
    try:
        return "text", _read_in(home, uid, is_private)
    except (FileNotFoundError, NotADirectoryError):
        return "none", b""
    except UnsafeForward as unsafe:
        return "unsafe", _reason(str(unsafe))
    except ForwardDeferred as later:
        return "later", _reason(str(later))
    except ForwardTooLong:
        return "malformed", _reason(f"{home}/{NAME} is longer than {FORWARD_MAX} bytes")
    except PermissionError:
        return "later", _reason(f"{home}/{NAME}: permission denied for uid {uid}")
    except OSError as error:
        return "later", _reason(f"{home}/{NAME}: {error_text(error)}")


def _reason(text: str) -> bytes:
    return text.encode(errors="replace")[:FORWARD_MAX]


def _read_in(home: str, uid: int, is_private: IsPrivate) -> bytes:
    directory = os.open(home, _HOME)
    try:
        file = _maybe_open(directory, home)
        try:
            _check_home(os.fstat(directory), home, uid, is_private, there=file is not None)
            if file is None:
                raise FileNotFoundError
            _check_file(file, f"{home}/{NAME}", uid, is_private)
            return _content(file)
        finally:
            if file is not None:
                os.close(file)
    finally:
        os.close(directory)


def _maybe_open(directory: int, home: str) -> int | None:
    """None when there is no such file."""
    try:
        return os.open(NAME, _FILE, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise UnsafeForward(f"{home}/{NAME} is a symbolic link, expected a file") from None
        if error.errno in (errno.ENXIO, errno.ENODEV):
            raise UnsafeForward(f"{home}/{NAME} is not a regular file") from None
        raise


def _check_home(status: os.stat_result, home: str, uid: int, is_private: IsPrivate, *, there: bool) -> None:
    """Without a .forward only the sticky bit is checked."""
    if status.st_mode & stat.S_ISVTX:
        raise ForwardDeferred(f"home directory {home} is sticky, which stops delivery: chmod -t {shlex.quote(home)}")
    if not there:
        return
    if status.st_uid not in (0, uid):
        owner = f"belongs to uid {status.st_uid}, expected uid {uid} or root"
        raise UnsafeForward(f"home directory {home} {owner}: chown it, or remove {NAME}")
    _check_writers(others_who_write(home, status, is_private), "home directory ", home)


def _check_file(file: int, path: str, uid: int, is_private: IsPrivate) -> None:
    status = os.fstat(file)
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeForward(f"{path} is not a regular file")
    if status.st_uid != uid:  # perhaps a hard link to another user's file, so the advice must not be chown
        raise UnsafeForward(f"{path} belongs to uid {status.st_uid}, expected a file of uid {uid}: create it again")
    _check_writers(others_who_write(file, status, is_private), "", path)


def _check_writers(classes: str, what: str, path: str) -> None:
    """`classes` of chmod(1) that can write to it besides the owner."""
    if classes:
        raise UnsafeForward(f"{what}{path} is writable by {_WRITERS[classes]}: chmod {classes}-w {shlex.quote(path)}")


def _content(file: int) -> bytes:
    content = b""
    while len(content) <= FORWARD_MAX:
        piece = os.read(file, FORWARD_MAX + 1 - len(content))
        if not piece:
            return content
        content += piece
    raise ForwardTooLong
