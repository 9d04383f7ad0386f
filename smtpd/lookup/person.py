"""Is there such a user, may it receive, and what if its .forward is no good?

users of the system     FindUser, which the parent answers
an action's userbase    a table: uid:gid:home
"""

from collections.abc import Generator
from typing import Any

from smtpd.config.slice import LOWEST_ID, USER_NAME, ExpansionSlice
from smtpd.lookup.node import FindUser, Forward, Question, ReadForward
from smtpd.lookup.plan import Plan
from smtpd.lookup.refusal import Refuse, deferred, disabled, failed, invalid, later
from smtpd.tables.table import Awaited, Service, Unavailable
from smtpd.tables.userinfo import Malformed, parse_userinfo

NAME_MAX = 32  # of useradd(8); what is longer is no user of any system
NAME = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")

Check = Generator[Question | Awaited, Any, str]


def check_person(plan: Plan, name: str, action: ExpansionSlice) -> Check:
    """The home, where it counts: of a userbase, under an action that says itself whom to run as.  Raises Refuse."""
    if action.userbase:
        return (yield from _check_userbase(plan, name, action))
    return (yield from _check_system(name))


def _check_system(name: str) -> Check:
    if not is_user_name(name):
        raise invalid("5.1.1")
    verdict = yield FindUser(name)
    if verdict == "unknown":
        raise invalid("5.1.1")
    if verdict in ("root", "daemon"):
        raise disabled(name)
    if verdict != "user":
        raise later(f"user {name} cannot be looked up now")
    return ""


def _check_userbase(plan: Plan, name: str, action: ExpansionSlice) -> Check:
    if not name or not action.user and not USER_NAME.fullmatch(name):
        raise invalid("5.1.1")
    value = yield from plan.find(action.userbase, Service.USERINFO, name)
    if isinstance(value, Unavailable):
        raise later(value.reason)
    if value is None:
        raise invalid("5.1.1")
    try:
        info = parse_userinfo(value)
    except Malformed as error:
        raise later(f"user {name} in table {action.userbase}: {error}") from None
    if action.user:
        return info.home
    if info.uid is None or info.gid is None:
        raise later(f"user {name} in table {action.userbase} has no uid or no gid")
    if info.uid < LOWEST_ID or info.gid == 0:
        raise disabled(name)
    return ""


def whose_forward(name: str, action: ExpansionSlice) -> ReadForward:
    """A user of a userbase is known under the name of the action only."""
    return ReadForward(name, action.name if action.userbase else "")


def forward_trouble(user: str, forward: Forward) -> Refuse:
    reason = f".forward of {user}: {forward.reason}"
    if forward.verdict == "refused":
        return failed("Recipient's forwarding is not acceptable", reason)
    if forward.verdict == "unsafe":
        return deferred("Recipient's forwarding is not acceptable", reason)
    if forward.verdict == "malformed":
        return deferred("Recipient's forwarding is not understood", reason)
    return later(reason)


def is_user_name(name: str) -> bool:
    """POSIX 3.436 user names, in lower case.  Nobody is asked whether anything else is a user."""
    return 0 < len(name) <= NAME_MAX and NAME.issuperset(name) and name[0] not in "-."
