"""makemap [-U] [-d hash|btree] [-o OUT] [-t aliases|set] FILE: make a lookup table, FILE.db, from a text file.

    -d     accepted; there is one kind of file
    -o     the file to make
    -t     set: each line is a key; aliases: each value is checked; otherwise keys and values
    -U     print the entries of FILE, which makemap has made
    FILE   - for standard input, which needs -o
    makemap hash NAME < FILE           makes NAME.db, as makemap of Sendmail

The lines are those of a table in a file (smtpd/tables/file.py); errors are reported line by line, and then no file is
made.  The new file is read back as lookup reads it, and then appears whole and synced, in place of the old
one, with FILE's mode and owner.  A link in its place stays, and leads to the new file.
"""

import fcntl
import getopt
import os
import stat
import sys
import tempfile
from collections.abc import Sequence

from smtpd import PRODUCT, VERSION
from smtpd.domain_name import normal_address
from smtpd.ipc.os_error import error_text
from smtpd.tables import alias_syntax, db, file
from smtpd.tables.text_file import LineFault, decode

DONE, FAILED = 0, 1
USAGE = "usage: makemap [-U] [-d hash|btree] [-o file] [-t aliases|set] file"
HELP = f"""{USAGE}

Make a lookup table from a text file: FILE.db from FILE.

  -d hash|btree    accepted; there is one kind of file
  -o file          the file to make
  -t aliases|set   aliases: each value is checked; set: each line is a key (default: keys and values)
  -U               print the entries of a file that makemap has made
  --help           this text
  --version        the version of makemap

exit status: 0 done; 1 anything else
"""
STDIN = "-"
LINKS_MAX = 40

Entry = tuple[str, str | None]


class MakemapError(Exception):
    """What to say, a line each."""


class MakemapOptions:
    """What stands on the command line.  Raises MakemapError, with how to use it."""

    def __init__(self, arguments: Sequence[str]):
        try:
            given, operands = getopt.getopt(list(arguments), "Ud:o:t:", ["help", "version"])
        except getopt.GetoptError:
            raise MakemapError(USAGE) from None
        options = dict(given)
        self.help, self.version = "--help" in options, "--version" in options
        if self.help or self.version:
            return
        self.dump = "-U" in options
        self.kind = options.get("-t", "map")
        if len(operands) == 2 and operands[0] in ("hash", "btree") and not given:
            operands, options["-o"] = [STDIN], f"{operands[1]}.db"
        if len(operands) != 1 or self.kind not in ("map", "aliases", "set"):
            raise MakemapError(USAGE)
        if options.get("-d", "hash") not in ("hash", "btree"):
            raise MakemapError(USAGE)
        self.source = operands[0]
        if self.source == STDIN and "-o" not in options:
            raise MakemapError("makemap: standard input needs -o")
        self.target = options.get("-o", f"{self.source}.db")


def main(arguments: Sequence[str]) -> int:
    try:
        options = MakemapOptions(arguments)
        if options.help or options.version:
            print(HELP if options.help else f"makemap ({PRODUCT}) {VERSION}\n", end="")
        elif options.dump:
            dump(options.source)
        elif not make(options.source, options.target, options.kind):
            print(f"makemap: {options.source}: no entries", file=sys.stderr)
    except MakemapError as failed:
        print(failed, file=sys.stderr)
        return FAILED
    return DONE


def dump(path: str) -> None:
    try:
        for key, value in db.read(path):
            print(key if value is None else f"{key}\t{value}")
    except db.READ_ERRORS as error:
        raise _trouble(path, error) from None


def make(source: str, target: str, kind: str) -> int:
    """How many entries.  Raises MakemapError."""
    entries, status = read(source, kind)
    try:
        _replace(_followed(target, status), entries, status)
    except db.READ_ERRORS as error:
        raise _trouble(target, error) from None
    return len(entries)


# -- the text ---------------------------------------------------------------------------------


def read(source: str, kind: str) -> tuple[list[Entry], os.stat_result]:
    """All entries, and what the file is.  Raises MakemapError with all that is wrong."""
    try:
        with open(0 if source == STDIN else source, "rb", closefd=source != STDIN) as opened:
            fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
            content, status = opened.read(), os.fstat(opened.fileno())
    except BlockingIOError:
        raise MakemapError(f"{source} is locked") from None
    except OSError as error:
        raise _trouble(source, error) from None
    entries, wrong = parse(decode(content), kind)
    if wrong:
        raise MakemapError("\n".join(f"{source}:{line}: {reason}" for line, reason in wrong))
    return entries, status


def parse(text: str, kind: str) -> tuple[list[Entry], list[LineFault]]:
    """The entries; and the numbers of the lines that are none, and why."""
    content = file.read(text, is_list=kind == "set")
    wrong = list(content.faults)
    found: dict[str, int] = {}
    for entry in content.entries:
        first = found.setdefault(normal_address(entry.key), entry.line)
        if first != entry.line:
            wrong.append((entry.line, f"duplicate {entry.key}, first in line {first}"))
        if db.is_too_large(entry.key, entry.value):
            wrong.append((entry.line, f"more than {db.VALUE_MAX} bytes in an entry"))
        if kind == "aliases" and (fault := _alias_fault(entry)):
            wrong.append((entry.line, fault))
    return [(entry.key, None if content.is_list else entry.value) for entry in content.entries], sorted(wrong)


def _alias_fault(entry: file.FileEntry) -> str:
    try:
        alias_syntax.parse_value(entry.value)
    except alias_syntax.AliasSyntaxError as malformed:
        return f"{entry.key}: {malformed}"
    return ""


# -- the file ---------------------------------------------------------------------------------


def _followed(target: str, source: os.stat_result) -> str:
    """The file that the symbolic links at `target` lead to: it is replaced, the links stay.  Raises MakemapError,
    OSError."""
    path = target
    for _ in range(LINKS_MAX):
        try:
            status = os.lstat(path)
        except FileNotFoundError:
            return path
        if not stat.S_ISLNK(status.st_mode):
            break
        if status.st_uid not in (0, os.geteuid()):  # in a directory that others may write, it is anybody's
            raise MakemapError(f"{path}: a link of uid {status.st_uid} is not followed")
        path = os.path.join(os.path.dirname(path), os.readlink(path))
    else:
        raise MakemapError(f"{target}: too many links")
    if os.path.samestat(status, source):
        raise MakemapError(f"{target} is input and output: expected another file for the table")
    if not stat.S_ISREG(status.st_mode):
        raise MakemapError(f"{target}: not a regular file")
    if path != target and not _is_database(path):
        raise MakemapError(f"{target} is a link to {path}, which makemap has not made")
    return path


def _is_database(path: str) -> bool:
    """Or empty: what a link leads to is replaced only if it looks like what makemap makes."""
    with open(path, "rb") as file:
        return file.read(len(db.HEADER)) in (b"", db.HEADER)


def _replace(target: str, entries: list[Entry], like: os.stat_result) -> None:
    """Replace `target`, which is no link: a reader finds the old file or the new one.  Raises OSError, or
    db.DbFileError."""
    folder, name = os.path.split(target)
    descriptor, path = tempfile.mkstemp(prefix=f"{name}.", dir=folder or ".")
    try:
        with open(descriptor, "wb") as made:
            made.write(db.encode(entries))
            made.flush()
            if dict(db.read(path)) != dict(entries):
                raise db.DbFileError("what was written is not what is read back")
            if stat.S_ISREG(like.st_mode):
                _give(made.fileno(), like)
            os.fsync(made.fileno())
        os.rename(path, target)
    except BaseException:
        os.unlink(path)
        raise
    directory = os.open(folder or ".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _give(descriptor: int, like: os.stat_result) -> None:
    """Who is not root keeps it."""
    try:
        os.fchown(descriptor, like.st_uid, like.st_gid)
    except PermissionError:
        if os.geteuid() == 0:
            raise
    os.fchmod(descriptor, stat.S_IMODE(like.st_mode) & 0o777)


def _trouble(path: str, error: Exception) -> MakemapError:
    return MakemapError(f"{path}: {error_text(error)}")
