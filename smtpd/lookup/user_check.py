"""Whether a user exists and may receive mail; refusals because of its .forward.

system users            UserQuestion, which the parent answers
an action's userbase    a table: uid:gid:home
"""

from collections.abc import Generator
from typing import Any

from smtpd.lookup.expansion_config import ExpansionConfig
from smtpd.lookup.node import ExpansionQuestion, ForwardAnswer, ForwardQuestion, UserQuestion
from smtpd.lookup.refusal import (
    RecipientError,
    disabled_recipient,
    expansion_deferred,
    expansion_failed,
    invalid_recipient,
    temporary_failure,
)
from smtpd.slice import USER_NAME, ExpansionSlice, Service, is_system_account
from smtpd.tables.table import PendingAnswer, TableUnavailable
from smtpd.tables.userinfo import UserInfoError, parse_userinfo

USER_NAME_MAX = 32  # of useradd(8); no system has longer user names
USER_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_.-")

Check = Generator[ExpansionQuestion | PendingAnswer, Any, str]


def check_user(config: ExpansionConfig, name: str, action: ExpansionSlice) -> Check:
    """Check a user.  Returns the home from a userbase if the action names its own user, else "".  Raises
    RecipientError."""
    if action.userbase:
        return (yield from _check_userbase(config, name, action))
    return (yield from _check_system(name))


def _check_system(name: str) -> Check:
    if not is_user_name(name):
        raise invalid_recipient("5.1.1")
    verdict = yield UserQuestion(name)
    if verdict == "unknown":
        raise invalid_recipient("5.1.1")
    if verdict in ("root", "daemon"):
        raise disabled_recipient(name)
    if verdict != "user":
        raise temporary_failure(f"user {name} cannot be looked up now")
    return ""


def _check_userbase(config: ExpansionConfig, name: str, action: ExpansionSlice) -> Check:
    if not name or not action.user and not USER_NAME.fullmatch(name):
        raise invalid_recipient("5.1.1")
    value = yield from config.find(action.userbase, Service.USERINFO, name)
    if isinstance(value, TableUnavailable):
        raise temporary_failure(value.reason)
    if value is None:
        raise invalid_recipient("5.1.1")
    try:
        info = parse_userinfo(value)
    except UserInfoError as error:
        raise temporary_failure(f"user {name} in table {action.userbase}: {error}") from None
    if action.user:
        return info.home
    if info.uid is None or info.gid is None:
        raise temporary_failure(f"user {name} in table {action.userbase} has no uid or no gid")
    if is_system_account(info.uid, info.gid, config.reserved_uids):
        raise disabled_recipient(name)
    return ""


def forward_question(name: str, action: ExpansionSlice) -> ForwardQuestion:
    """The question for a user's .forward; for a user of a userbase it names the action."""
    return ForwardQuestion(name, action.name if action.userbase else "")


def forward_error(user: str, forward: ForwardAnswer) -> RecipientError:
    reason = f".forward of {user}: {forward.reason}"
    if forward.verdict == "refused":
        return expansion_failed("Recipient's forwarding is not acceptable", reason)
    if forward.verdict == "unsafe":
        return expansion_deferred("Recipient's forwarding is not acceptable", reason)
    if forward.verdict == "malformed":
        return expansion_deferred("Recipient's forwarding is not understood", reason)
    return temporary_failure(reason)


def is_user_name(name: str) -> bool:
    """Whether the text is a POSIX user name (3.436) in lower case; anything else is refused without a lookup."""
    return 0 < len(name) <= USER_NAME_MAX and USER_NAME_CHARACTERS.issuperset(name) and name[0] not in "-."
