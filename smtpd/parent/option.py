"""The command line.

    smtpd [-dFhnv] [-D macro=value] [-f file] [-P system] [--state directory] [--insecure-paths]

The words of OpenSMTPD; what is not built yet is refused by name and never ignored.
"""

import getopt
import os
from dataclasses import dataclass, field

from smtpd import PRODUCT, VERSION

USAGE = f"""{PRODUCT} {VERSION}
usage: smtpd [-dFhnv] [-D macro=value] [-f file] [-P system] [--state directory] [--insecure-paths]

  -d                 stay in the foreground, log to stderr
  -F                 stay in the foreground, log to syslog
  -D macro=value     define a macro; wins over the file
  -f file            the configuration (default /etc/smtpd.conf)
  -h, --help         this text
  -n                 check the configuration and exit; with -v print it in its canonical form
  -P mda|smtp        start with local delivery, or with the listeners, paused; may be repeated
  -v                 log more
  --state directory  keep spool, control socket, pid file and empty directory below this one
  --insecure-paths   as root: also run code and read files that others than root may change

exit status: 0 stopped in order, or the configuration is good; 1 anything else
"""
CONFIGURATION = "/etc/smtpd.conf"
PAUSABLE = ("mda", "smtp")


class Misused(Exception):
    """The command line is wrong; the text says how."""


@dataclass(frozen=True)
class Options:
    """Paths are absolute."""

    configuration: str = CONFIGURATION
    macros: dict[str, str] = field(default_factory=dict)
    state: str | None = None
    foreground: bool = False
    log_to_stderr: bool = False
    help: bool = False
    check_only: bool = False
    verbose: bool = False
    insecure_paths: bool = False
    paused: tuple[str, ...] = ()


def read_options(arguments: list[str]) -> Options:
    """Raises Misused."""
    try:
        pairs, operands = getopt.gnu_getopt(arguments, "B:dD:f:FhnP:T:v", ["help", "insecure-paths", "state="])
    except getopt.GetoptError as error:
        raise Misused(str(error)) from None
    if operands:
        raise Misused(f'unexpected operand "{operands[0]}"')
    given = [option for option, _ in pairs]
    for option in ("-B", "-T"):
        if option in given:
            raise Misused(f"{option}: not available")
    last = dict(pairs)
    return Options(
        configuration=_absolute(last.get("-f", CONFIGURATION)),
        macros=dict(_macro(value) for option, value in pairs if option == "-D"),
        state=_absolute(last["--state"]) if "--state" in last else None,
        foreground="-d" in given or "-F" in given,
        log_to_stderr="-d" in given,
        help="-h" in given or "--help" in given,
        check_only="-n" in given,
        verbose="-v" in given,
        insecure_paths="--insecure-paths" in given,
        paused=tuple(_pausable(value) for option, value in pairs if option == "-P"),
    )


def _absolute(path: str) -> str:
    if not path:
        raise Misused("an empty path")
    return os.path.join(os.getcwd(), path)


def _macro(text: str) -> tuple[str, str]:
    name, sign, value = text.rpartition("=")  # at the last one, as ever
    if not sign or not name:
        raise Misused(f'-D "{text}": expected macro=value')
    return name, value


def _pausable(word: str) -> str:
    if word == "mta":
        raise Misused("-P mta: not available yet")
    if word not in PAUSABLE:
        raise Misused(f'-P "{word}": expected {" or ".join(PAUSABLE)}')
    return word
