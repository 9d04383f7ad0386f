"""newaliases [-f FILE] [--state DIR]: check the aliases, and have smtpd read them again.

    smtpd.conf: table aliases file:/etc/aliases       /etc/aliases is checked
                table aliases db:/etc/aliases.db      and /etc/aliases.db is made of it
                neither                               /etc/aliases is checked, and smtpd is not told

prints `/etc/aliases: 12 aliases`, and tells a running smtpd to read the table again.
"""

import getopt
import sys
from collections.abc import Sequence

from smtpctl import makemap
from smtpctl.connection import Connection, ControlError, NotRunning
from smtpctl.makemap import DONE, FAILED, MakemapError
from smtpd import PRODUCT, VERSION
from smtpd.config import parser
from smtpd.config.check import alias_tables
from smtpd.config.check.table_files import TableFiles
from smtpd.config.errors import ConfigErrors, Report
from smtpd.config.model import Table
from smtpd.config.parser import Parsed
from smtpd.imsg import UpdateTable
from smtpd.paths import CONFIGURATION, Paths
from smtpd.tables.text_file import read_file

USAGE = "usage: newaliases [-f file] [--state directory]"
HELP = f"""{USAGE}

Check the aliases, and tell a running smtpd to read them again.

  -f file            the configuration (default {CONFIGURATION})
  --state directory  talk to the smtpd that was started with --state directory
  --help             this text
  --version          the version of newaliases

exit status: 0 the aliases are good; 1 anything else
"""
TABLE, ALIASES = "aliases", "/etc/aliases"
REQUEST = 1


def main(arguments: Sequence[str]) -> int:
    try:
        given, operands = getopt.getopt(list(arguments), "f:", ["help", "state=", "version"])
    except getopt.GetoptError:
        given, operands = [], [""]
    if operands:
        print(USAGE, file=sys.stderr)
        return FAILED
    options = dict(given)
    if "--help" in options or "--version" in options:
        print(HELP if "--help" in options else f"newaliases ({PRODUCT}) {VERSION}\n", end="")
        return DONE
    try:
        parsed = read_configuration(options.get("-f", CONFIGURATION))
        table = next((table for table in parsed.config.tables if table.name == TABLE), None)
        print(check(table), flush=True)
        for warning in warnings(parsed, table):
            print(f"warning: {warning}", file=sys.stderr)
        if table is not None:
            update(Paths(options.get("--state")).socket)
    except (MakemapError, ControlError) as trouble:
        print(f"newaliases: {trouble}", file=sys.stderr)
        return FAILED
    return DONE


def read_configuration(path: str) -> Parsed:
    """Raises MakemapError."""
    try:
        return parser.parse(path)
    except ConfigErrors as errors:
        raise MakemapError(str(errors)) from None


def check(table: Table | None) -> str:
    """What is said of the aliases; the file of a db is made.  Raises MakemapError."""
    if table is None:
        count = len(makemap.read(ALIASES, "aliases")[0])
        return f"{ALIASES}: {count} aliases"
    path = table.path or ""
    match table.backend:
        case "file":
            return f"{path}: {len(makemap.read(path, 'aliases')[0])} aliases"
        case "db" if path.endswith(".db"):
            source = path.removesuffix(".db")
            return f"{source}: {makemap.make(source, path, 'aliases')} aliases"
        case "db":
            raise MakemapError(f"{path} does not end in .db, so its source is not known: use makemap")
    return f"table {TABLE} is in no file of aliases"


def warnings(parsed: Parsed, table: Table | None) -> list[str]:
    """Of aliases that are well written, and lead nowhere."""
    report = Report()
    alias_tables.included_files(parsed, TableFiles(parsed, read_file, report), report)
    return [str(warning) for warning in report.warnings() if table is not None and warning.file == table.path]


def update(socket: str) -> None:
    """Raises ControlError."""
    try:
        updated = Connection(socket).ask(UpdateTable(REQUEST, TABLE))
    except NotRunning:
        return
    if updated.trouble:
        raise ControlError(updated.trouble)
