"""The value of a userbase: `uid:gid:home`.

    1001:1001:/home/bob        UserInfo(1001, 1001, "/home/bob")
    ::/home/bob                UserInfo(None, None, "/home/bob"), for an action that names the user

Which uids may receive mail is not known here.
"""

import re
from dataclasses import dataclass

ID_MAX = 2**32 - 2  # the one above means "leave it as it is" to the kernel
HOME_MAX = 1024

_VALUE = re.compile(r"([0-9]{0,10}):([0-9]{0,10}):(/[^\x00-\x1f\x7f]*)")


class UserInfoError(ValueError):
    """Not such a value.  The argument does not repeat what was read."""


@dataclass(frozen=True)
class UserInfo:
    """`home` is absolute, and without . and .. in it."""

    uid: int | None
    gid: int | None
    home: str


def parse_userinfo(value: str) -> UserInfo:
    """Raises Malformed."""
    found = _VALUE.fullmatch(value)
    if found is None:
        raise UserInfoError("not uid:gid:/home")
    (uid, gid), home = (int(digits) if digits else None for digits in found.groups()[:2]), found[3]
    if max(uid or 0, gid or 0) > ID_MAX:
        raise UserInfoError("the uid or gid is too large")
    if len(home) > HOME_MAX:
        raise UserInfoError("the home directory's name is too long")
    if {".", ".."} & set(home.split("/")):
        raise UserInfoError("a . or .. in the home directory's name")
    return UserInfo(uid, gid, home)
