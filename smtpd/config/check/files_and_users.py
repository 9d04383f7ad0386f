"""What the configuration names and this machine does not have.

table t file:/path     there is no such file: an error, for passwd: and sqlite: too
table t db:/path       may appear later, as makemap makes it: a warning
action … user NAME     there is no such user, nor is there for alias-commands: a warning, as it may be added later;
                       one of the system's own, such as mail or www-data, likewise, as nothing is delivered as that

Interfaces are looked at in address.py, programs in program.py, the files of pki and ca in keyfile.py.
"""

from smtpd.config.build.table_operand import BACKENDS_WITH_PATH
from smtpd.config.errors import Report, quoted
from smtpd.config.host import Host
from smtpd.config.parser import Parsed
from smtpd.slice import LOWEST_ID, NOBODY


def check_files_and_users(parsed: Parsed, host: Host, report: Report) -> None:
    for table in parsed.config.tables:
        if table.backend not in BACKENDS_WITH_PATH or table.path is None or host.has_file(table.path):
            continue
        place = parsed.names.table_positions[table.name]
        text = f"cannot read {quoted(table.path)}: No such file or directory"
        if table.backend == "db":
            report.warn(place, f"{text}; it is used as soon as makemap has made it")
        else:
            report.add(place, text)
    for name, place in parsed.names.user_positions.items():
        uid = host.find_uid(name)
        if uid is None:
            report.warn(place, f"there is no user {quoted(name)} on this system; it may be added later")
        elif uid < LOWEST_ID or uid in NOBODY:
            text = f"nothing is delivered as {quoted(name)}, which is a user of the system itself (uid {uid})"
            report.warn(place, f"{text}, expected another user")
