"""Reading ~/.forward, as the user whose file it is: the bytes, or why not.

    none      there is no such file, or no home
    text      the file
    unsafe    somebody else may have written it, or it is no plain file; the reason says what would mend it
    malformed it is too long to be one; the user may mend it
    later     the home is sticky (the classic way to stop delivery), or it cannot be read now

The file is opened first: what is not there needs no guard, so the home may be whatever it is when there is no .forward
in it.  The checks are made on what is open, home and file, so nothing can be exchanged between check and use; to open
it costs nothing, whatever another user has put there: a link is not followed, a FIFO or a lease is not waited for.
Above the home nothing is checked: whoever can put another directory in its place cannot make a file in it that belongs
to the user.  Whoever can write to the home could, by another file of the user's; so that is checked.

Does not understand what it reads; lookup does.  A lease or a hung file system stops this process, and queue's deadline
is what answers then.
"""

import errno
import os
import shlex
import stat
from contextlib import suppress

from smtpd.agent.worker import Answer, TakenRequest
from smtpd.config.file_permission import IsPrivate, Where, has_private_group, others_who_write
from smtpd.errand import FORWARD_MAX, ForwardText, ReadForward, Request

NAME = ".forward"
# A home that the user may search and not read is none the worse: O_PATH asks for no right to read it.
_HOME = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a FIFO does not wait for a writer, a leased file not for its holder.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_WRITERS = {"g": "its group", "o": "everybody", "go": "everybody"}


class UnsafeForward(Exception):
    """The file is there and must not be used."""


class ForwardDeferred(Exception):
    """Not now."""


class ForwardTooLong(Exception):
    """Not a .forward."""


class UnknownGroup(Exception):
    """A group that the name service was not asked about."""


class ForwardAgent:
    """The trade of the agent that reads one user's .forward."""

    REQUESTS: tuple[type[Request], ...] = (ReadForward,)
    WORKERS_MAX = 1
    BATCH = 1
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
            return  # of a home without the file only the sticky bit matters
        self._ask_about(home, self._seen)
        self._ask_about(path, file)

    def _ask_about(self, path: str, status: os.stat_result) -> None:
        """Before the sandbox, in which nobody knows who is in a group."""
        if status.st_mode & stat.S_IWGRP and not stat.S_ISLNK(status.st_mode):
            self._private[_identity(status)] = has_private_group(path, status)

    def _is_private(self, _where: Where, status: os.stat_result) -> bool:
        try:
            return self._private[_identity(status)]
        except KeyError:
            raise UnknownGroup from None

    def work(self, *_: object) -> "ForwardAgent":
        return self

    def do(self, batch: list[TakenRequest]) -> list[Answer]:
        return [ForwardText(errand.request, *self._read()) for errand, _ in batch if isinstance(errand, ReadForward)]

    def _read(self) -> tuple[str, bytes]:
        """What has changed since the sandbox was entered, so that this process cannot judge it, the next one can."""
        with suppress(OSError):
            now = os.stat(self.home)
            if self._seen is None or not os.path.samestat(self._seen, now):
                self.draining = True
                return "later", b"home directory has just come"
        try:
            return read(self.home, os.getuid(), self._is_private)
        except UnknownGroup:
            self.draining = True
            return "later", b"its permissions have just changed"


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_mode, status.st_uid, status.st_gid


def read(home: str, uid: int, is_private: IsPrivate = has_private_group) -> tuple[str, bytes]:
    """The verdict, and the file's bytes or the reason."""
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
        return "later", _reason(f"{home}/{NAME}: {error.strerror or error}")


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
    """Of a home without a .forward only whether it asks for mail to wait."""
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
    if status.st_uid != uid:  # it may be a hard link to a file of somebody else's: no chown would be good advice
        raise UnsafeForward(f"{path} belongs to uid {status.st_uid}, expected a file of uid {uid}: make it anew")
    _check_writers(others_who_write(file, status, is_private), "", path)
    if status.st_size > FORWARD_MAX:
        raise ForwardTooLong


def _check_writers(who: str, what: str, path: str) -> None:
    if who:
        raise UnsafeForward(f"{what}{path} is writable by {_WRITERS[who]}: chmod {who}-w {shlex.quote(path)}")


def _content(file: int) -> bytes:
    content = b""
    while len(content) <= FORWARD_MAX:  # it may have grown since
        piece = os.read(file, FORWARD_MAX + 1 - len(content))
        if not piece:
            return content
        content += piece
    raise ForwardTooLong
