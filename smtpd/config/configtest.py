"""smtpd -n: checks the configuration and starts nothing.

As root, files that the daemon reads as _smtpl are read as _smtpl here, too.

Errors and warnings go to standard error, the configuration in its canonical form to standard output.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from smtpd import sandbox
from smtpd.config import trust
from smtpd.config.check.key_files import KeyFiles
from smtpd.config.check.queue_key import check_queue_key
from smtpd.config.errors import ConfigErrors
from smtpd.config.parser import Parsed
from smtpd.config.printer import print_config
from smtpd.config.process import USER, Configuration, configure, explain_denial, file_reader
from smtpd.ipc.os_error import error_text


def configtest(path: str, macros: dict[str, str], verbose: bool, insecure_paths: bool) -> int:
    """Print errors, warnings and the canonical form.  Returns the exit status."""
    made = maybe_configure(path, macros, insecure_paths, check_keys)
    if made is None:
        return 1
    if verbose:
        print(print_config(made.parsed.config), end="")
    print("configuration OK", file=sys.stderr)
    return 0


def maybe_configure(
    path: str, macros: dict[str, str], insecure_paths: bool, check: Callable[[Parsed, bool], None] | None = None
) -> Configuration | None:
    """The configuration; None, and errors on standard error, if it has any.  `check` gets the parsed file, and whether
    files have to be root's."""
    strict = os.geteuid() == 0 and not insecure_paths

    def check_ourselves(parsed: Parsed) -> None:
        if check:
            with as_calling_user():
                check(parsed, strict)

    try:
        read = file_reader(insecure_paths)
        text, included = read(path), explain_denial(read)
        with as_daemon_user():
            made = configure(path, text, macros, included, check_ourselves)
        if strict:
            parent = made.slices.parent
            trust.check_named(parent.files, [word for program in parent.programs for word in program.arguments])
    except ConfigErrors as errors:
        for line in (*(f"warning: {warning}" for warning in errors.warnings), *errors.errors):
            print(line, file=sys.stderr)
        return None
    except (OSError, ValueError) as error:
        print(f"{path}: {error_text(error)}", file=sys.stderr)
        return None
    for warning in made.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return made


@contextmanager
def as_daemon_user() -> Iterator[None]:
    """As root, take the rights of the user who reads includes, tables and databases: root could read all of them."""
    ids = sandbox.find_ids(USER) if os.geteuid() == 0 else None
    if ids is None:
        yield
        return
    groups, group = os.getgroups(), os.getegid()
    os.setgroups([])
    os.setegid(ids.gid)
    os.seteuid(ids.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)
        os.setgroups(groups)


@contextmanager
def as_calling_user() -> Iterator[None]:
    """Within `as_daemon_user`, take back the rights of the caller."""
    user = os.geteuid()
    os.seteuid(os.getuid())
    try:
        yield
    finally:
        os.seteuid(user)


def check_keys(parsed: Parsed, strict: bool) -> None:
    KeyFiles(parsed, parsed.report, strict=strict, now=time.time()).check()
    check_queue_key(parsed, parsed.report, strict=strict)
