"""Alias and virtual tables: the files they include, and the commands and files they name.

Only tables in the configuration and in text files are read; the content of databases and programs is not known here.
"""

from collections.abc import Iterator

from smtpd.config.check.table_files import TableEntry, TableFileError, TableFiles
from smtpd.config.errors import Report, SourcePosition, quoted
from smtpd.config.model import Config, Table
from smtpd.config.parser import Parsed
from smtpd.envelope import ALIAS_FILES_MAX
from smtpd.tables import alias_syntax

DEV_NULL = "/dev/null"


def alias_tables_of(config: Config) -> Iterator[Table]:
    names = {name for action in config.actions for name in (action.alias, action.virtual)}
    return (table for table in config.tables if table.name in names)


def command_files(config: Config) -> tuple[str, ...]:
    """The alias tables that are text files: only those may name commands."""
    return tuple(sorted({table.path for table in alias_tables_of(config) if table.backend == "file" and table.path}))


def check_file_count(config: Config, position: SourcePosition, report: Report) -> None:
    """Their number is bounded, as each agent that looks for a command gets all of them."""
    if len(command_files(config)) > ALIAS_FILES_MAX:
        report.add(
            position,
            f"{len(command_files(config))} alias files that may name commands, expected at most {ALIAS_FILES_MAX}",
        )


def included_files(parsed: Parsed, texts: TableFiles, report: Report) -> set[str]:
    """The paths of included files.  An invalid value is a warning: it stops only the mail to that name.  A table that
    cannot be read is reported elsewhere."""
    found = set()
    for table in alias_tables_of(parsed.config):
        if table.backend not in ("", "file"):
            continue
        may_run = table.backend == "file" and parsed.config.alias_commands is not None
        try:
            entries = texts.entries(table)
        except TableFileError:
            continue
        for entry in entries:
            found |= _includes(entry, may_run, texts, report)
    return found


def _includes(entry: TableEntry, may_run: bool, texts: TableFiles, report: Report) -> set[str]:
    found = set()
    try:
        targets = alias_syntax.parse_value(entry.value)
    except alias_syntax.AliasSyntaxError as malformed:
        report.warn(entry.position, f"alias {quoted(entry.key)}: {malformed}")
        return set()
    for target in targets:
        match target:
            case alias_syntax.Include(path):
                found |= _included(entry, path, texts, report)
            case alias_syntax.Command() | alias_syntax.File() if not may_run and not _is_nowhere(target):
                _warn_of_command(entry, report)
    return found


def _included(entry: TableEntry, path: str, texts: TableFiles, report: Report) -> set[str]:
    try:
        texts.text(path)
    except TableFileError as unreadable:
        report.warn(entry.position, f"alias {quoted(entry.key)}: include: {unreadable}")
        return set()
    return {path}


def _is_nowhere(target: alias_syntax.Target) -> bool:
    return isinstance(target, alias_syntax.File) and target.path == DEV_NULL


def _warn_of_command(entry: TableEntry, report: Report) -> None:
    text = "commands and files need a table in a text file, and alias-commands in smtpd.conf"
    report.warn(entry.position, f"alias {quoted(entry.key)} is refused: {text}")
