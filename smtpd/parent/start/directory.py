"""The directories that others chroot into: made once, never changed, looked at before each start.

Root makes them by descriptor, one step and no more, and never changes the owner of what it did not make in this moment.
"""

import os
import stat

from smtpd.config.file_permission import others_who_write
from smtpd.ipc.log import log
from smtpd.sandbox import Ids

_OPEN = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class DirectoryError(Exception):
    """It is there, and not as it has to be."""


def make_directory(path: str, owner: Ids, mode: int) -> None:
    """Make the directory `path` if there is none; one that is there must be its owner's and writable by no other user.
    Raises DirectoryError or OSError."""
    above, name = os.path.split(path)
    parent = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        made = _make(parent, name)
        descriptor = os.open(name, _OPEN, dir_fd=parent)
    finally:
        os.close(parent)
    try:
        if made:
            os.fchown(descriptor, owner.uid, owner.gid)
            os.fchmod(descriptor, mode)
        _check(path, descriptor, owner)
    finally:
        os.close(descriptor)


SHARED_MODE = 0o1733  # any user may make files; only their owners and root may remove them, and only root may list them


def open_shared_directory(path: str, owner: Ids) -> int:
    """The directory `path`, made if there is none, where all users may leave files: only that of another user, or one
    without the sticky bit, is refused.  Not started as root it is the user's own.  Raises DirectoryError or OSError."""
    above, name = os.path.split(path)
    parent = os.open(above, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        made = _make(parent, name)
        descriptor = os.open(name, _OPEN, dir_fd=parent)
    finally:
        os.close(parent)
    wanted = SHARED_MODE if owner.uid == 0 else 0o700
    if made:
        os.fchown(descriptor, owner.uid, owner.gid)
        os.fchmod(descriptor, wanted)
    status = os.fstat(descriptor)
    mode = stat.S_IMODE(status.st_mode)
    if status.st_uid != owner.uid:
        raise DirectoryError(f"{path} belongs to uid {status.st_uid} and should belong to uid {owner.uid}")
    if mode & (stat.S_IWGRP | stat.S_IWOTH) and not mode & stat.S_ISVTX:
        raise DirectoryError(f"{path} has mode {mode:04o}, and users could remove each other's mail: chmod 1733 {path}")
    if owner.uid == 0 and mode & SHARED_MODE != SHARED_MODE:
        log.warn(f"{path} has mode {mode:04o}: sendmail keeps no mail while smtpd does not run: chmod 1733 {path}")
    return descriptor


def _make(parent: int, name: str) -> bool:
    try:
        os.mkdir(name, 0o700, dir_fd=parent)
    except FileExistsError:
        return False
    return True


def _check(path: str, descriptor: int, owner: Ids) -> None:
    status = os.fstat(descriptor)
    if status.st_uid != owner.uid:
        raise DirectoryError(f"{path} belongs to uid {status.st_uid} and should belong to uid {owner.uid}")
    if others := others_who_write(descriptor, status):
        mode = stat.S_IMODE(status.st_mode)
        raise DirectoryError(f"{path} is writable by others than its owner (mode {mode:04o}): chmod {others}-w {path}")


def check_empty(path: str) -> None:
    """Raises DirectoryError: what lies in there could be opened by a process that was taken over."""
    found = os.listdir(path)
    if found:
        raise DirectoryError(f'{path} is not empty: it holds "{found[0]}"')
