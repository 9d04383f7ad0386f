"""What root may read or run: only what nobody but root could have put there.

Each directory on the way and the thing itself must belong to root and be writable by nobody else.  A directory that is
writable by all and sticky may be on the way, as long as the next step belongs to root.  Symbolic links are followed one
by one, and what they lead through is checked like the rest.
"""

import os
import stat
from collections.abc import Iterable

from smtpd.tables.text_file import FILE_SIZE_MAX, decode

LINKS_MAX = 40
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Untrusted(ValueError):
    """Somebody other than root could have changed it."""


def check_path(path: str, *, sticky: bool = False) -> str:
    """The real name of `path`, when it and all that leads there is root's alone.  `sticky`: it may itself be a
    directory that is writable by all and sticky.  Raises Untrusted or OSError."""
    remaining = _steps(os.path.join(os.getcwd(), path))
    at = "/"
    links = 0
    _check_step(at, os.lstat(at), last=not remaining and not sticky)
    while remaining:
        name = remaining.pop()
        if name == "..":
            at = os.path.dirname(at)  # right because `at` has no link in it any more
            continue
        step = os.path.join(at, name)
        status = os.lstat(step)
        _check_step(step, status, last=not remaining and not sticky)
        if not stat.S_ISLNK(status.st_mode):
            at = step
            continue
        links += 1
        if links > LINKS_MAX:
            raise Untrusted(f"{path}: too many symbolic links")
        target = os.readlink(step)
        remaining += _steps(target)
        at = "/" if target.startswith("/") else at
    _check_step(at, os.lstat(at), last=not sticky)  # "directory/.." has not been looked at as the last step
    return at


def check_named(files: Iterable[str], programs: Iterable[str]) -> None:
    """The files that a configuration names, and the programs with theirs.  One that is not there has been told of, and
    starts nothing; but nobody else than root may put it there.  Raises Untrusted or OSError."""
    for path in files:
        try:
            check_path(path)
        except FileNotFoundError as missing:
            check_path(os.path.dirname(missing.filename))
    for path in programs:
        check_path(path)


def check_own_directory(path: str) -> None:
    """A directory that root has made or is about to make.  Where it is missing, another user may be quicker in a sticky
    directory: whoever makes it has to look at its owner.  Raises Untrusted or OSError."""
    if os.path.lexists(path):
        check_path(path)
    else:
        check_path(os.path.dirname(path), sticky=True)


def _steps(path: str) -> list[str]:
    """The names in a path, the first one last."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _check_step(path: str, status: os.stat_result, *, last: bool) -> None:
    if status.st_uid != 0:
        raise Untrusted(f"{path} belongs to uid {status.st_uid}, not to root")
    if stat.S_ISLNK(status.st_mode) or not status.st_mode & OTHERS_WRITE:
        return
    if last or not (stat.S_ISDIR(status.st_mode) and status.st_mode & stat.S_ISVTX):
        who = "g" * bool(status.st_mode & stat.S_IWGRP) + "o" * bool(status.st_mode & stat.S_IWOTH)
        mode = stat.S_IMODE(status.st_mode)
        raise Untrusted(f"{path} is writable by others than root (mode {mode:04o}): chmod {who}-w {path}")


def check_tree(directory: str) -> None:
    """As check_path, for everything below `directory` too."""
    top = check_path(directory)
    for folder, folders, files in os.walk(top, onerror=_raise):
        for name in (*folders, *files):
            path = os.path.join(folder, name)
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                check_path(path)
            else:
                _check_step(path, status, last=True)


def _raise(error: OSError) -> None:
    raise error


def read_text(path: str) -> str:
    """The text of a regular file that is root's alone.  Raises Untrusted, OSError."""
    real = check_path(path)
    descriptor = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        _check_step(real, status, last=True)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(f"{path} is not a regular file")
        if status.st_size > FILE_SIZE_MAX:
            raise OSError(f"{path} is too large")
        return decode(file.read())
