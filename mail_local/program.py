"""The delivery programs, for any mail server that hands mail to a command: on standard input, an exit status back.

    mail.maildir [-j] [path]     0 stored and durable · 75 try later · 64 wrong arguments · 1 started as root

Named and behaving as OpenSMTPD's helpers of that name.  smtpd itself does not run them: its agents call the library.
"""

import argparse
import os
import secrets
import sys
import time
from collections.abc import Iterator
from itertools import chain

from mail_local import maildir, trace

EX_ROOT, EX_USAGE, EX_TEMPFAIL = 1, 64, 75
_PIECE = 64 * 1024


class Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(EX_USAGE, f"{self.prog}: {message}\n{self.format_usage()}")


def mail_maildir() -> None:
    """`mail.maildir`: store the mail on standard input in a Maildir."""
    parser = Arguments(
        prog="mail.maildir",
        description="Store the mail on standard input in a Maildir.",
        epilog="With EXTENSION in the environment, and a folder .EXTENSION in the Maildir, the mail goes there.  "
        "Exit status: 0 stored and on the disk, 75 try again later, 64 wrong arguments, 1 started as root.",
    )
    parser.add_argument("-j", dest="junk", action="store_true", help="mails with X-Spam: yes go to the folder .Junk")
    parser.add_argument("path", nargs="?", help="the Maildir, an absolute path (default: $HOME/Maildir)")
    arguments = parser.parse_args()
    if os.geteuid() == 0:
        sys.exit("mail.maildir: not for root")  # exit status 1
    os.umask(0o077)
    try:
        reason = _store(_path(arguments.path), arguments.junk)
    except OSError as error:
        reason = str(error)
    if reason:
        print(f"mail.maildir: {reason}", file=sys.stderr)
        sys.exit(EX_TEMPFAIL)


def _path(argument: str | None) -> str:
    """A wrong path is for the administrator to mend while the mail waits, so it is trouble and not a wrong argument."""
    home = os.environ.get("HOME", "")
    path = argument if argument is not None else home and f"{home}/Maildir"
    if not path.startswith("/"):
        raise OSError(f"not an absolute path: {path!r}")
    return path


def _store(path: str, junk: bool) -> str:
    start = _read_start()
    spam = junk and trace.is_junk(trace.header_of(start))
    host = maildir.host_part(os.uname().nodename)
    name = f"{int(time.time())}.{secrets.token_hex(8)}.{host}"
    mail = maildir.Mail(name, chain((start,), _rest()), spam, os.environ.get("EXTENSION", ""))
    maildir.make(path)
    (reason,) = maildir.Maildir(path, maildir.Earlier(host)).store([mail])
    return reason


def _read_start() -> bytes:
    """As much as a header may be long; a pipe gives it in pieces."""
    start = b""
    while len(start) < trace.HEADER_MAX and (piece := os.read(0, trace.HEADER_MAX - len(start))):
        start += piece
    return start


def _rest() -> Iterator[bytes]:
    while piece := os.read(0, _PIECE):
        yield piece
