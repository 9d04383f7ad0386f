"""Who besides its owner may write a file: the check of modes for everything that does not belong to root.

    mode   owner:group
    0644   bob:users       nobody else
    0664   bob:bob         nobody else, when that group is bob's own
    0664   bob:users       the group: chmod g-w
    0666   bob:bob         everybody: chmod o-w

Many systems give each user a group of the user's own, with the same name and nobody else in it, and a umask of 0002
with it.  Nobody gains a right by such a group's.  Root's own files have to be root's alone whatever their group is:
trust.py.

Who is in a group, only the name service knows.  It may take its time and cannot be asked in a sandbox, so it is asked
about no file that it does not matter for.  Accounts that it knows but does not list are not seen.
"""

import errno
import grp
import os
import pwd
import stat
from collections.abc import Callable

Where = str | int  # a path, or the descriptor of what is open
IsPrivate = Callable[[Where, os.stat_result], bool]

_ACCESS_LIST = "system.posix_acl_access"


def others_who_write(where: Where, status: os.stat_result, is_private: IsPrivate | None = None) -> str:
    """The classes of chmod(1) that may write and are somebody else than the owner: "", "g", "o" or "go"."""
    group = status.st_mode & stat.S_IWGRP and not (is_private or has_private_group)(where, status)
    return "g" * bool(group) + "o" * bool(status.st_mode & stat.S_IWOTH)


def has_private_group(where: Where, status: os.stat_result) -> bool:
    """True when nobody but its owner has the rights of its group."""
    return is_private_group(status.st_uid, status.st_gid) and not _has_access_list(where)


def _has_access_list(where: Where) -> bool:
    """Then the mode of the group stands for all whom the list names: acl(5)."""
    try:
        return bool(os.getxattr(where, _ACCESS_LIST))
    except AttributeError:  # a system without these lists
        return False
    except OSError as error:
        return error.errno not in (errno.ENODATA, errno.ENOTSUP)


def is_private_group(uid: int, gid: int) -> bool:
    """True when the group is that user's own: of the same name, the user's primary group, without other members, and
    no other user's primary group."""
    if uid == 0 or gid == 0:
        return False
    try:
        account, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    if (account.pw_gid, account.pw_name) != (gid, group.gr_name):
        return False
    accounts = [account, *pwd.getpwall()]  # a directory may know some that it does not list
    names = {entry.pw_name for entry in accounts if entry.pw_uid == uid}
    members = {name for entry in (group, *grp.getgrall()) if entry.gr_gid == gid for name in entry.gr_mem}
    return members <= names and all(entry.pw_uid == uid for entry in accounts if entry.pw_gid == gid)
