"""Which users there are, and which of them may receive mail.

    verdict    user
    user       may receive
    root       uid 0, by whatever name
    daemon     a uid below 100, the last two of 16 bits (nobody), our own users
    unknown    no such user; not our own, when we are not root
    later      the user database does not answer now

    check_entry              a user of the system, by what NSS says of the name
    check_ids                a user of a userbase, by the uid and gid that the configuration has
    find_service_account     one of our own users, for the service that this user is there for

NSS is asked through the C library directly: Python's pwd takes a directory server that is down for a user that is not
there.
"""

import ctypes
import errno
import os
import pwd
import sys
from collections.abc import Collection
from typing import NamedTuple

from smtpd.sandbox import Ids
from smtpd.slice import OUR_PREFIX, is_system_account

VERDICTS = frozenset(("user", "root", "daemon", "unknown", "later"))
_BUFFER_MAX = 1024 * 1024  # bytes of one entry with all its text
_NOT_FOUND = (0, errno.ENOENT, errno.ESRCH)  # getpwnam(3), ERRORS


class UserDatabaseError(Exception):
    """The user database does not answer: there may be such a user or not."""


class Account(NamedTuple):
    """One entry of the user database."""

    name: str
    uid: int
    gid: int
    home: str

    @property
    def ids(self) -> Ids:
        return Ids(self.uid, self.gid)


def check_entry(name: str, found: Account | None, me: int, reserved_uids: Collection[int] = ()) -> str:
    """The verdict about the entry `found` for `name`, when our own uid is `me`; `reserved_uids`: those of our users."""
    if found is None or found.name != name:
        return "unknown"  # a database that folds case would make one user out of two names
    verdict = check_ids(found, me, reserved_uids)
    return "daemon" if verdict == "user" and me == 0 and name.startswith(OUR_PREFIX) else verdict


def check_ids(account: Account, me: int, reserved_uids: Collection[int] = ()) -> str:
    """The verdict by ids alone."""
    if account.uid == 0:
        return "root"
    if me != 0:
        return "user" if account.uid == me else "unknown"
    return "daemon" if is_system_account(account.uid, account.gid, reserved_uids) else "user"


def find_service_account(name: str, me: int) -> Account | None:
    """The user of ours called `name`.  Not started as root there are no other
    users, and it is our own.  Raises UserDatabaseError."""
    if me != 0:
        return Account(name, me, os.getegid(), "/")
    found = find_account(name)
    return found if found is not None and found.name == name and found.uid and found.gid else None


def find_with_verdict(
    name: str, me: int, reserved_uids: Collection[int] = (), *, service_account: str = ""
) -> tuple[str, Account | None]:
    """A user of the system, or the `service_account`: the one of our own users that is there for this.  Raises
    UserDatabaseError."""
    if name == service_account:
        found = find_service_account(name, me)
        return "unknown" if found is None else "user", found
    found = find_account(name)
    return check_entry(name, found, me, reserved_uids), found


class _Entry(ctypes.Structure):
    """struct passwd of glibc and musl."""

    _fields_ = [
        ("name", ctypes.c_char_p),
        ("password", ctypes.c_char_p),
        ("uid", ctypes.c_uint32),
        ("gid", ctypes.c_uint32),
        ("gecos", ctypes.c_char_p),
        ("home", ctypes.c_char_p),
        ("shell", ctypes.c_char_p),
    ]


_libc = ctypes.CDLL(None)


def find_account(name: str) -> Account | None:
    """What NSS says of `name`: may take long, and loads modules.  Raises UserDatabaseError."""
    if sys.platform != "linux":
        return _find_by_pwd(name)
    size = 4096
    while size <= _BUFFER_MAX:
        entry, found, buffer = _Entry(), ctypes.POINTER(_Entry)(), ctypes.create_string_buffer(size)
        status = _libc.getpwnam_r(
            name.encode(), ctypes.byref(entry), buffer, ctypes.c_size_t(size), ctypes.byref(found)
        )
        if found:
            return Account(os.fsdecode(entry.name), entry.uid, entry.gid, os.fsdecode(entry.home or b"/"))
        if status in _NOT_FOUND:
            return None
        if status != errno.ERANGE:
            raise UserDatabaseError(os.strerror(status))
        size *= 4
    raise UserDatabaseError("an entry without end")


def _find_by_pwd(name: str) -> Account | None:
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        return None
    return Account(found.pw_name, found.pw_uid, found.pw_gid, found.pw_dir)
