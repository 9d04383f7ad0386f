"""Trusted paths: root reads and runs only files that nobody but root can have written.

The file and each directory above it must belong to root and be writable by nobody else.  A sticky directory that all
may write to is accepted above it if the next component belongs to root.  Symbolic links are followed one by one, and
checked like the rest of the path.
"""

import os
import stat
from collections.abc import Iterable

from smtpd.tables.text_file import FILE_SIZE_MAX, decode

LINKS_MAX = 40
OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Untrusted(ValueError):
    """A user other than root could have changed the file."""


def check_path(path: str, *, sticky: bool = False) -> str:
    """The real name of `path`, if only root can write it and the directories above it.  `sticky`: `path` itself may be
    a sticky directory that all may write to.  Raises Untrusted or OSError."""
    remaining = _steps(os.path.join(os.getcwd(), path))
    at = "/"
    links = 0
    _check_step(at, os.lstat(at), last=not remaining and not sticky)
    while remaining:
        name = remaining.pop()
        if name == "..":
            at = os.path.dirname(at)  # correct, as the links in `at` have been resolved
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
    _check_step(at, os.lstat(at), last=not sticky)  # "directory/.." has not been checked as the last step
    return at


def check_named(files: Iterable[str], programs: Iterable[str]) -> None:
    """Check the files that a configuration names, and its programs with their arguments.  Missing files have been
    reported before; nobody but root may be able to create them.  Raises Untrusted or OSError."""
    for path in files:
        try:
            check_path(path)
        except FileNotFoundError as missing:
            check_path(os.path.dirname(missing.filename))
    for path in programs:
        check_path(path)


def check_own_directory(path: str) -> None:
    """Check a directory that root has made or is about to make.  In a sticky directory another user may make a missing
    one first: the caller has to check its owner after making it.  Raises Untrusted or OSError."""
    if os.path.lexists(path):
        check_path(path)
    else:
        check_path(os.path.dirname(path), sticky=True)


def _steps(path: str) -> list[str]:
    """The components of a path in reverse order."""
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
    """As check_path, for `directory` and everything below it."""
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
    """The text of a regular file that only root can write.  Raises Untrusted, OSError."""
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
