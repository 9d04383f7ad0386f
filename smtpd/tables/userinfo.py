"""The value of a userbase: `uid:gid:home`.

    1001:1001:/home/bob        UserInfo(1001, 1001, "/home/bob")
    ::/home/bob                UserInfo(None, None, "/home/bob"), for an action that names the user

Whether a uid may receive mail is decided elsewhere.
"""

import re
from dataclasses import dataclass

ID_MAX = 2**32 - 2  # the next one means "unchanged" to chown(2) and setuid(2)
HOME_MAX = 1024

_VALUE = re.compile(r"([0-9]{0,10}):([0-9]{0,10}):(/[^\x00-\x1f\x7f\ud800-\udfff]*)")


class UserInfoError(ValueError):
    """Not uid:gid:home.  The text does not repeat the value."""


@dataclass(frozen=True)
class UserInfo:
    """A uid and gid, None where the value has none; `home` is absolute, without . and .. components."""

    uid: int | None
    gid: int | None
    home: str


def parse_userinfo(value: str) -> UserInfo:
    """The fields of the value.  Raises UserInfoError."""
    found = _VALUE.fullmatch(value)
    if found is None:
        raise UserInfoError("not uid:gid:/home")
    (uid, gid), home = (int(digits) if digits else None for digits in found.groups()[:2]), found[3]
    if max(uid or 0, gid or 0) > ID_MAX:
        raise UserInfoError("the uid or gid is too large")
    if len(home) > HOME_MAX:
        raise UserInfoError("the home directory is too long")
    if {".", ".."} & set(home.split("/")):
        raise UserInfoError("a . or .. in the home directory")
    return UserInfo(uid, gid, home)
