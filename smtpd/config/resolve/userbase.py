"""userbase <t> in an action without `user` -> the people in it: whose uid, which home.

The parent acts on what is found here, as root; so it is read once, at the start, from what root wrote.  Tables that
answer anew each time (databases, programs) have no say in whom root becomes: there the action names the user.
"""

from smtpd.config.build.action import EXCLUDED
from smtpd.config.build.names import SYSTEM_USERS
from smtpd.config.check.table_files import READABLE_BACKENDS, TableEntry, TableFileError, TableFiles
from smtpd.config.errors import Report, quoted
from smtpd.config.model import Action, Table
from smtpd.config.parser import Parsed
from smtpd.slice import LOWEST_ID, USER_NAME, Account
from smtpd.tables.userinfo import UserInfo, UserInfoError, parse_userinfo

USERBASE_MAX = 100_000


def userbase_users(action: Action, parsed: Parsed, texts: TableFiles, report: Report) -> dict[str, Account] | None:
    """None where no uid of the table counts."""
    if action.userbase in (None, SYSTEM_USERS) or action.user is not None:
        return None
    table = next(table for table in parsed.config.tables if table.name == action.userbase)
    place = parsed.names.userbase_positions[action.name]
    if table.backend and table.backend not in READABLE_BACKENDS:
        report.add(place, _dynamic(action, table))
        return None
    try:
        entries = texts.entries(table)
    except TableFileError as unreadable:
        report.add(parsed.names.table_positions[table.name], str(unreadable))
        return None
    if len(entries) > USERBASE_MAX:
        report.add(place, f"table {quoted(table.name)} has more than {USERBASE_MAX} users")
        return None
    if table.backend == "passwd":
        entries = [entry for entry in entries if not _is_of_the_system(entry)]
    return {entry.key.lower(): person for entry in entries if (person := _person(entry, report))}


def _dynamic(action: Action, table: Table) -> str:
    wrong = f"table {quoted(table.name)} ({table.backend}) does not decide whom mail is stored as"
    files = "a table in the configuration, a text file or a passwd file"
    if "user" in EXCLUDED.get(action.method, {}):
        return f"{wrong}, expected {files}"
    return f"{wrong}: add the user to the action, as in: user vmail; or take {files}"


def _person(entry: TableEntry, report: Report) -> Account | None:
    try:
        info = parse_userinfo(entry.value)
        return _checked(entry.key, info)
    except UserInfoError as malformed:
        report.add(entry.place, f"user {quoted(entry.key)}: {malformed}")
        return None


def _checked(name: str, info: UserInfo) -> Account:
    """As the nursery will, which would refuse each mail to them.  Raises Malformed."""
    if info.uid is None or info.gid is None:
        raise UserInfoError("no uid or no gid: add them, or add the user to the action, as in: user vmail")
    if info.uid < LOWEST_ID:
        raise UserInfoError(f"uid {info.uid}, expected {LOWEST_ID} or more")
    if info.gid == 0:
        raise UserInfoError("gid 0 is the group of root")
    if not USER_NAME.fullmatch(name):
        raise UserInfoError("not the name of a user")
    return Account(info.uid, info.gid, info.home)


def _is_of_the_system(entry: TableEntry) -> bool:
    """A copy of /etc/passwd begins with them; they receive no mail, and are no mistake."""
    uid = entry.value.partition(":")[0]
    return uid.isdecimal() and int(uid[:10]) < LOWEST_ID
