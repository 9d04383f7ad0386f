"""The program mail.mda: runs a shell command with the mail on standard input.

    mail.mda command

    the exit status of the command · 75 when it has none · 1 started as root, or wrong arguments

For mail servers that start a program and not a shell line.  The line is the whole argument: values that came by mail
belong into the environment, not into the line.
"""

import subprocess
import sys

from mail_local.command import SHELL
from mail_local.program import EX_ROOT, EX_TEMPFAIL, Arguments, refuse_root
from smtpd.ipc.os_error import describe_error
from smtpd.ipc.signal_disposition import reset_signals


def mail_mda() -> None:
    """`mail.mda`: run a command with the mail on its standard input."""
    parser = Arguments(
        prog="mail.mda",
        description="Run a command of the shell with the mail on standard input.",
        epilog="Exit status: that of the command; 75 when it was killed or could not be started, 1 when started as "
        "root or with wrong arguments.",
    )
    parser.wrong = EX_ROOT
    parser.add_argument("command", help="a line for /bin/sh")
    arguments = parser.parse_args()
    reset_signals()
    refuse_root(parser.prog)
    try:
        status = subprocess.run([SHELL, "-c", arguments.command], check=False).returncode
    except OSError as error:
        print(f"mail.mda: {describe_error(error)}", file=sys.stderr)
        status = EX_TEMPFAIL
    sys.exit(status if status >= 0 else EX_TEMPFAIL)
