"""smtpd -n: is the configuration good?  As a command of whoever types it; nothing is started.

What the daemon reads as a user of its own is read as that user here, too, if it is root who asks.

Errors and warnings go to standard error, the configuration in its canonical form to standard output.
"""

import os
import sys
import time
from collections.abc import Callable

from smtpd import sandbox
from smtpd.config.error import ConfigErrors
from smtpd.config.keyfile import KeyFiles
from smtpd.config.parser import Parsed
from smtpd.config.printer import print_config
from smtpd.config.process import USER, Configuration, as_user, configure, reader, reason


def check(path: str, macros: dict[str, str], verbose: bool, insecure_paths: bool) -> int:
    """The exit status."""
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
    """None means that there was an error.  `check` gets what was parsed, and whether files have to be root's."""
    strict = os.geteuid() == 0 and not insecure_paths
    try:
        read = reader(insecure_paths)
        more = (lambda parsed: check(parsed, strict)) if check else None
        made = configure(path, read(path), macros, as_daemon(read), more)
    except ConfigErrors as errors:
        for line in (*(f"warning: {warning}" for warning in errors.warnings), *errors.errors):
            print(line, file=sys.stderr)
        return None
    except (OSError, ValueError) as error:
        print(f"{path}: {reason(error)}", file=sys.stderr)
        return None
    for warning in made.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return made


def as_daemon(read: Callable[[str], str]) -> Callable[[str], str]:
    """Included files, and those of tables: root can read all of them, which says nothing."""
    ids = sandbox.find_ids(USER) if os.geteuid() == 0 else None
    if ids is None:
        return read

    def read_and_return(path: str) -> str:
        groups, group = os.getgroups(), os.getegid()
        os.setgroups([])
        os.setegid(ids.gid)
        os.seteuid(ids.uid)
        try:
            return read(path)
        finally:
            os.seteuid(0)
            os.setegid(group)
            os.setgroups(groups)

    return as_user(read_and_return)


def check_keys(parsed: Parsed, strict: bool) -> None:
    KeyFiles(parsed, parsed.report, strict=strict, now=time.time()).check()
