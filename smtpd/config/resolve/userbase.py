"""userbase <t> in an action without `user` -> its accounts: uid, gid and home.

The parent acts on these as root, so they are read once, at the start, from what root wrote.  Databases and programs
never decide whom root becomes: with those the action has to name the user.
"""

from smtpd.config.build.action import EXCLUDED
from smtpd.config.build.names import SYSTEM_USERS
from smtpd.config.check.table_files import READABLE_BACKENDS, TableEntry, TableFileError, TableFiles
from smtpd.config.errors import Report, quoted
from smtpd.config.model import Action, Table
from smtpd.config.parser import Parsed
from smtpd.slice import LOWEST_ID, NOBODY, USER_NAME, Account
from smtpd.tables.userinfo import UserInfo, UserInfoError, parse_userinfo

USERBASE_MAX = 100_000


def userbase_users(action: Action, parsed: Parsed, texts: TableFiles, report: Report) -> dict[str, Account] | None:
    """The accounts by name, in lower case; None if mail is delivered as system users or as the action's `user`."""
    if action.userbase in (None, SYSTEM_USERS) or action.user is not None:
        return None
    table = next(table for table in parsed.config.tables if table.name == action.userbase)
    position = parsed.names.userbase_positions[action.name]
    if table.backend and table.backend not in READABLE_BACKENDS:
        report.add(position, _dynamic(action, table))
        return None
    try:
        entries = texts.entries(table)
    except TableFileError as unreadable:
        report.add(parsed.names.table_positions[table.name], str(unreadable))
        return None
    if len(entries) > USERBASE_MAX:
        report.add(position, f"table {quoted(table.name)} has more than {USERBASE_MAX} users")
        return None
    if table.backend == "passwd":
        entries = [entry for entry in entries if not _is_of_the_system(entry)]
    return {entry.key.lower(): person for entry in entries if (person := _person(entry, report))}


def _dynamic(action: Action, table: Table) -> str:
    wrong = f"table {quoted(table.name)} ({table.backend}) cannot name the uid that delivers"
    files = "a table in the configuration, a text file or a passwd file"
    if "user" in EXCLUDED.get(action.method, {}):
        return f"{wrong}, expected {files}"
    return f"{wrong}: add the user to the action, as in: user vmail; or take {files}"


def _person(entry: TableEntry, report: Report) -> Account | None:
    try:
        info = parse_userinfo(entry.value)
        return _checked(entry.key, info)
    except UserInfoError as malformed:
        report.add(entry.position, f"user {quoted(entry.key)}: {malformed}")
        return None


def _checked(name: str, info: UserInfo) -> Account:
    """The account, checked as the nursery will check it.  Raises UserInfoError."""
    if info.uid is None or info.gid is None:
        raise UserInfoError("no uid or no gid: add them, or add the user to the action, as in: user vmail")
    if info.uid < LOWEST_ID:
        raise UserInfoError(f"uid {info.uid}, expected {LOWEST_ID} or more")
    if info.uid in NOBODY:
        raise UserInfoError(f"uid {info.uid} is nobody")
    if info.gid == 0:
        raise UserInfoError("gid 0 is the group of root")
    if not USER_NAME.fullmatch(name):
        raise UserInfoError("invalid user name")
    return Account(info.uid, info.gid, info.home)


def _is_of_the_system(entry: TableEntry) -> bool:
    """Whether the uid is a system user's or nobody's, as in a copy of /etc/passwd: those receive no mail, which is no
    error."""
    uid = entry.value.partition(":")[0]
    return uid.isdecimal() and (int(uid[:10]) < LOWEST_ID or int(uid[:10]) in NOBODY)
