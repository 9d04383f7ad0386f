"""Who other than its owner may write a file: the check of modes of files that do not belong to root.

    mode   owner:group
    0644   bob:users       no other user
    0664   bob:bob         no other user, if that group is bob's own
    0664   bob:users       the group: chmod g-w
    0666   bob:bob         everybody: chmod o-w

Many systems give each user a private group of the same name without other members, and a umask of 0002.  Write
permission of such a group gives no other user any right.  Root's own files have to be writable by root alone, whatever
their group: trust.py.

The members of a group are known to the name service only.  It may be slow and cannot be asked in a sandbox, so it is
asked only where the answer matters.  Accounts that it knows but does not list are not seen.
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
    """The chmod(1) classes other than the owner that may write: "", "g", "o" or "go"."""
    group = status.st_mode & stat.S_IWGRP and not (is_private or has_private_group)(where, status)
    return "g" * bool(group) + "o" * bool(status.st_mode & stat.S_IWOTH)


def fault_of_secret(status: os.stat_result, uid: int) -> str:
    """Why a file is none that only root, or `uid`, can read; empty if it is one."""
    if status.st_uid not in (0, uid):
        return f"belongs to uid {status.st_uid}"
    mode = stat.S_IMODE(status.st_mode)
    return f"can be read by others (mode {mode:04o}): chmod go= it" if mode & 0o077 else ""


def has_private_group(where: Where, status: os.stat_result) -> bool:
    """Whether the file's group is its owner's private group, and no ACL gives others its rights."""
    return is_private_group(status.st_uid, status.st_gid) and not _has_access_list(where)


def _has_access_list(where: Where) -> bool:
    """Whether the file has an ACL; its group mode is then the mask of all ACL entries: acl(5)."""
    try:
        return bool(os.getxattr(where, _ACCESS_LIST))
    except AttributeError:  # a system without ACLs
        return False
    except OSError as error:
        return error.errno not in (errno.ENODATA, errno.ENOTSUP)


def is_private_group(uid: int, gid: int) -> bool:
    """Whether the group is that user's private one: of the same name, the user's primary group, without other members,
    and not the primary group of another user."""
    if uid == 0 or gid == 0:
        return False
    try:
        account, group = pwd.getpwuid(uid), grp.getgrgid(gid)
    except KeyError:
        return False
    if (account.pw_gid, account.pw_name) != (gid, group.gr_name):
        return False
    accounts = [account, *pwd.getpwall()]  # LDAP and the like may know accounts that they do not list
    names = {entry.pw_name for entry in accounts if entry.pw_uid == uid}
    members = {name for entry in (group, *grp.getgrall()) if entry.gr_gid == gid for name in entry.gr_mem}
    return members <= names and all(entry.pw_uid == uid for entry in accounts if entry.pw_gid == gid)
