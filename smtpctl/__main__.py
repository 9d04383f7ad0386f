"""smtpctl [-hjn] [--state DIR] command, and the programs that are smtpctl under another name: makemap, newaliases,
sendmail, send-mail, mailq.

    0    done
    1    not done: smtpd does not run, refuses, failed, or cannot do that yet
    255  not a command

Runs with the rights of whoever calls it; control decides who may ask.
"""

import io
import os
import sys

from smtpd import PRODUCT, VERSION
from smtpd.ipc.signal_disposition import reset_signals

TYPE_CHECKING = False  # see command.py
if TYPE_CHECKING:
    from collections.abc import Sequence

    from smtpctl.command import Command
    from smtpctl.command_parser import UnknownCommand

FAILED, NOT_A_COMMAND = 1, 255
# Programs with options of their own -> their modules.
PROGRAMS = {"makemap": "makemap", "newaliases": "newaliases", "sendmail": "sendmail", "send-mail": "sendmail"}
MAILQ = "mailq"
DASHED = ("--scram",)  # words of a command that look like options

OPTIONS = """\
usage: smtpctl [-hjn] [--state DIR] command
       smtpctl makemap|newaliases|sendmail ...

    -h, --help   this help; with the beginning of a command, help for what begins so
    -j           print JSON, where something is printed
    -n           show the envelopes that the command is for, and change nothing
    --state DIR  talk to the smtpd that was started with --state DIR
    --version    the version of smtpctl
"""
SELECTION = """\
a selection is one or more of these; the same word again is an alternative, different words have to hold together:
    from ADDRESS, to ADDRESS   @spam.test: of a domain; <>: the null sender; `*`: any text; `?`: one character
    action NAME, error TEXT    the action's name; the error of the last attempt, or a part of it
    older TIME, newer TIME     created before or since then: 90s, 15m, 4h, 2d, 1w, 1d12h
    is STATE                   waiting, paused, held, tried, untried
"""
MAILQ_OPTIONS = """\
usage: mailq [-hj] [--state DIR] [msgid]

    -h, --help   this help
    -j           print JSON
    --state DIR  talk to the smtpd that was started with --state DIR
    --version    the version of mailq
"""
EXIT_CODES = """\
exit status:
    0            done
    1            smtpd doesn't run, refuses, or failed; or that is not available yet
    255          not a command
"""


class Usage(Exception):
    """The options make no sense."""


class Options:
    """What stands on the command line; options may stand between and behind the words."""

    def __init__(self, arguments: "Sequence[str]"):
        self.help = self.json = self.version = self.dry_run = False
        self.state: str | None = None
        self.words: list[str] = []
        left = list(arguments)
        while left:
            self._take(left.pop(0), left)

    def _take(self, argument: str, left: list[str]) -> None:
        if argument in ("-h", "--help"):
            self.help = True
        elif argument in ("-j", "--json"):
            self.json = True
        elif argument in ("-n", "--dry-run"):
            self.dry_run = True
        elif argument == "--version":
            self.version = True
        elif argument in ("-hj", "-jh"):
            self.help = self.json = True
        elif argument.startswith("--state="):
            self.state = argument.removeprefix("--state=")
        elif argument == "--state" and left:
            self.state = left.pop(0)
        elif argument.startswith("-") and argument not in DASHED:
            raise Usage(argument)
        else:
            self.words.append(argument)


def main(arguments: "Sequence[str] | None" = None) -> int:
    """Run one command; its exit status.  By default it is the command line, with the program's name."""
    reset_signals()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a name in a script that the locale does not have
    try:
        status = run(_called() if arguments is None else arguments)
        if sys.stdout is not None:  # mailutils closes it, and takes a failure behind the last word for a mail not sent
            sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return FAILED
    except KeyboardInterrupt:
        return 130
    return status


def _called() -> list[str]:
    """What was typed, as words of smtpctl."""
    name = os.path.basename(sys.argv[0])
    return [name, *sys.argv[1:]] if name in (*PROGRAMS, MAILQ) else sys.argv[1:]


def run(arguments: "Sequence[str]") -> int:
    if arguments and arguments[0] in PROGRAMS:
        program = __import__(f"smtpctl.{PROGRAMS[arguments[0]]}", fromlist=["main"])
        return int(program.main(arguments[1:]))
    is_mailq = arguments[:1] == [MAILQ]
    name, usage = (MAILQ, MAILQ_OPTIONS) if is_mailq else ("smtpctl", OPTIONS)
    try:
        options = Options(arguments[1:] if is_mailq else arguments)
    except Usage as error:
        print(f"smtpctl: unknown option {error}\n{usage}", file=sys.stderr, end="")
        return NOT_A_COMMAND
    if options.version:
        print(f"{name} ({PRODUCT}) {VERSION}")
        return 0
    if is_mailq and options.help:
        print(f"{usage}\n{EXIT_CODES}", end="")
        return 0
    if is_mailq:
        options.words[:0] = ["show", "queue"]
    return _command(options)


def _command(options: Options) -> int:
    from smtpctl.command import COMMANDS
    from smtpctl.command_parser import UnknownCommand, find_command

    try:
        if options.help:
            return _help(COMMANDS, options.words)
        command, parameters = find_command(COMMANDS, options.words)
    except UnknownCommand as unclear:
        return _say_possibilities(unclear)
    if not command.run:
        return _fail(f"{command.pattern}: not available yet")
    if options.dry_run and not command.preview:
        print(f"smtpctl: -n is not for {command.pattern}", file=sys.stderr)
        return NOT_A_COMMAND
    return _talk(command, parameters, options)


def _talk(command: "Command", parameters: "Sequence[str]", options: Options) -> int:
    from smtpctl.command_parser import UnknownCommand
    from smtpctl.connection import Connection, ControlError
    from smtpd.paths import Paths

    try:
        return command.load(options.dry_run)(Connection(Paths(options.state).socket), parameters, options.json)
    except UnknownCommand as wrong:  # the words of a selection: the command reads them
        return _say_possibilities(wrong)
    except ControlError as trouble:
        print(end="", flush=True)
        return _fail(str(trouble))


def _fail(text: str) -> int:
    print(f"smtpctl: {text}", file=sys.stderr)
    return FAILED


def _say_possibilities(unclear: "UnknownCommand") -> int:
    print(f"smtpctl: {unclear}", file=sys.stderr)
    if unclear.possibilities:
        print("possibilities are:", file=sys.stderr)
    for command in unclear.possibilities:
        print(f"  {command.pattern}", file=sys.stderr)
    return NOT_A_COMMAND


def _help(known: "Sequence[Command]", words: "Sequence[str]") -> int:
    """Help for all commands that begin with `words`."""
    from smtpctl.command_parser import find_beginning

    commands = find_beginning(known, words)
    if not words:
        print(OPTIONS)
        print("commands:")
    width = max(len(command.pattern) for command in commands)
    for command in commands:
        later = "" if command.run else " (not available yet)"
        print(f"    {command.pattern:{width}}  {command.help}{later}")
        if words and command.fails:
            print(f"    {'':{width}}  exit status 1 also when {command.fails}")
    print()
    if any("<selection>" in command.pattern for command in commands):
        print(SELECTION)
    print(EXIT_CODES, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
