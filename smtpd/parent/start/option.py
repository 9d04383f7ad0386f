"""The command line.

    smtpd [-dFhnv] [-D macro=value] [-f file] [-P system] [--state directory] [--insecure-paths]
    smtpd -n [-v] [-D macro=value] [-f file] --explain key=value …

The words of OpenSMTPD; what is not built yet is refused by name and never ignored.
"""

import getopt
import os
from dataclasses import dataclass, field

from smtpd import PRODUCT, VERSION
from smtpd.config import macro
from smtpd.envelope import Path
from smtpd.ipc.text_limit import text_error
from smtpd.paths import CONFIGURATION

USAGE = f"""{PRODUCT} {VERSION}
usage: smtpd [-dFhnv] [-D macro=value] [-f file] [-P system] [--state directory] [--insecure-paths]
       smtpd -n [-v] [-D macro=value] [-f file] --explain key=value ...

  -d                 stay in the foreground, log to stderr
  -F                 stay in the foreground, log to syslog
  -D macro=value     define a macro; wins over the file
  -f file            the configuration (default /etc/smtpd.conf)
  -h, --help         this text
  --version          the version of smtpd
  -n                 check the configuration and exit; with -v print it in its canonical form
  --explain          with -n: what would become of a recipient, and why; the words that follow say of which:
                     rcpt-to=address, and if that matters mail-from=address from=address tag=name
                     helo=name rdns=name auth=user tls=yes
  -P mda|mta|smtp    start with local delivery, relaying, or the listeners paused; may be repeated
  -v                 log more
  --state directory  keep spool, mailboxes, control socket, pid file and empty directory below this one
  --insecure-paths   as root: also run code and read files that others than root may change

exit status: 0 stopped in order, or the configuration is good; 1 anything else
"""
SHORT, LONG = "B:dD:f:FhnP:T:v", ["explain", "help", "insecure-paths", "state=", "version"]
PAUSABLE = ("mda", "mta", "smtp")


class UsageError(Exception):
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
    version: bool = False
    check_only: bool = False
    verbose: bool = False
    insecure_paths: bool = False
    paused: tuple[str, ...] = ()
    explain: tuple[str, ...] = ()  # key=value; empty: nothing is asked


def read_options(arguments: list[str]) -> Options:
    """Raises UsageError."""
    try:
        pairs, operands = getopt.gnu_getopt(arguments, SHORT, LONG)
    except getopt.GetoptError as error:
        raise UsageError(str(error)) from None
    given = [option for option, _ in pairs]
    if "--explain" in given:
        _check_explain(given, operands)
    elif operands:
        raise UsageError(f'unexpected operand "{operands[0]}"')
    for option in ("-B", "-T"):
        if option in given:
            raise UsageError(f"{option}: not available")
    last = dict(pairs)
    return Options(
        configuration=_absolute(last.get("-f", CONFIGURATION)),
        macros=dict(_macro(value) for option, value in pairs if option == "-D"),
        state=_absolute(last["--state"]) if "--state" in last else None,
        foreground="-d" in given or "-F" in given,
        log_to_stderr="-d" in given,
        help="-h" in given or "--help" in given,
        version="--version" in given,
        check_only="-n" in given,
        verbose="-v" in given,
        insecure_paths="--insecure-paths" in given,
        paused=tuple(_pausable(value) for option, value in pairs if option == "-P"),
        explain=tuple(operands),
    )


def _check_explain(given: list[str], words: list[str]) -> None:
    if "-n" not in given:
        raise UsageError("--explain goes with -n")
    if not words:
        raise UsageError("--explain: of what?  Expected key=value, such as rcpt-to=address")
    for word in words:
        if not word.partition("=")[0] or "=" not in word:
            raise UsageError(f'--explain "{word}": expected key=value')


def _absolute(path: str) -> str:
    if not path:
        raise UsageError("an empty path")
    absolute = os.path.join(os.getcwd(), path)
    if wrong := text_error(Path, absolute):
        raise UsageError(f'"{path}" cannot be used as a path: {wrong}')
    return absolute


def _macro(text: str) -> tuple[str, str]:
    try:
        return macro.split(text)
    except ValueError as error:
        raise UsageError(f"-D {error}") from None


def _pausable(word: str) -> str:
    if word not in PAUSABLE:
        raise UsageError(f'-P "{word}": expected {", ".join(PAUSABLE[:-1])} or {PAUSABLE[-1]}')
    return word
