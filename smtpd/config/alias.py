"""What alias and virtual tables lead to: files that they include, commands and files that they name.

Only tables in the configuration and in text files are looked through; what a database or a program will say is not
known before it is asked.
"""

from collections.abc import Iterator

from smtpd.config.error import Place, Report, quoted
from smtpd.config.model import Config, Table
from smtpd.config.parser import Parsed
from smtpd.config.tablefile import Entry, TableFiles, Unreadable
from smtpd.envelope import ALIAS_FILES_MAX
from smtpd.tables import expansion

NOWHERE = "/dev/null"


def tables_of(config: Config) -> Iterator[Table]:
    names = {name for action in config.actions for name in (action.alias, action.virtual)}
    return (table for table in config.tables if table.name in names)


def files(config: Config) -> tuple[str, ...]:
    """Text files, which alone may name commands."""
    return tuple(sorted({table.path for table in tables_of(config) if table.backend == "file" and table.path}))


def check_count(config: Config, place: Place, report: Report) -> None:
    """All of them are told to each agent that looks for a command."""
    if len(files(config)) > ALIAS_FILES_MAX:
        report.add(place, f"{len(files(config))} alias files may name commands, expected {ALIAS_FILES_MAX} or fewer")


def includes(parsed: Parsed, texts: TableFiles, report: Report) -> set[str]:
    """The paths; on the way, a value that is wrong becomes a warning: it stops the mail to that name only.  A file that
    cannot be read is told of elsewhere."""
    found = set()
    for table in tables_of(parsed.config):
        if table.backend not in ("", "file"):
            continue
        may_run = table.backend == "file" and parsed.config.alias_commands is not None
        try:
            entries = texts.entries(table)
        except Unreadable:
            continue
        for entry in entries:
            found |= _includes(entry, may_run, texts, report)
    return found


def _includes(entry: Entry, may_run: bool, texts: TableFiles, report: Report) -> set[str]:
    found = set()
    try:
        targets = expansion.parse_value(entry.value)
    except expansion.Malformed as malformed:
        report.warn(entry.place, f"alias {quoted(entry.key)}: {malformed}")
        return set()
    for target in targets:
        match target:
            case expansion.Include(path):
                found |= _included(entry, path, texts, report)
            case expansion.Command() | expansion.File() if not may_run and not _is_nowhere(target):
                _warn_of_command(entry, report)
    return found


def _included(entry: Entry, path: str, texts: TableFiles, report: Report) -> set[str]:
    try:
        texts.text(path)
    except Unreadable as unreadable:
        report.warn(entry.place, f"alias {quoted(entry.key)} includes nothing: {unreadable}")
        return set()
    return {path}


def _is_nowhere(target: expansion.Target) -> bool:
    return isinstance(target, expansion.File) and target.path == NOWHERE


def _warn_of_command(entry: Entry, report: Report) -> None:
    text = "commands and files need a table in a text file, and alias-commands in smtpd.conf"
    report.warn(entry.place, f"alias {quoted(entry.key)} is refused: {text}")
