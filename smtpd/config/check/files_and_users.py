"""Files of tables and users that the configuration names and this machine does not have.

table t file:/path     there is no such file: an error, for passwd: and sqlite: too
table t db:/path       may be made later by makemap: a warning
action … user NAME     there is no such user, nor is there for alias-commands: a warning, as it may be added later;
                       a system user, such as mail or www-data, likewise: nothing is delivered as that user

Interfaces are checked in resolve/listen_addresses.py, programs in resolve/table_programs.py, the files of pki and ca in
key_files.py.
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
        position = parsed.names.table_positions[table.name]
        text = f"cannot read {quoted(table.path)}: No such file or directory"
        if table.backend == "db":
            report.warn(position, f"{text}; it is used as soon as makemap has made it")
        else:
            report.add(position, text)
    for name, position in parsed.names.user_positions.items():
        uid = host.find_uid(name)
        if uid is None:
            report.warn(position, f"unknown user {quoted(name)}; it may be added later")
        elif uid < LOWEST_ID or uid in NOBODY:
            text = f"user {quoted(name)} is a system user (uid {uid}) and receives no mail"
            report.warn(position, f"{text}, expected another user")
