"""The programs mail.local and mail.maildir, for any mail server that pipes mail into a command.

    mail.local [-L|-l] [-f from] user...    0 · 67 no such user · 71 no room for a copy · 73 no mailbox · 75 · 64
    mail.maildir [-j] [path]                0 stored and durable · 75 try later · 64 wrong arguments · 1 started as root

The other programs: mail_lmtp.py, mail_mboxfile.py, mail_mda.py.

Names and behaviour are those of OpenSMTPD's helpers.  smtpd itself does not run them: its agents call the library.
They have the rights of their caller and no others: mail.local must not be set-uid or set-gid.
"""

import argparse
import ctypes
import errno
import os
import pwd
import re
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from tempfile import SpooledTemporaryFile

from mail_local import mailbox, maildir, mbox, trace
from smtpd import PRODUCT, VERSION
from smtpd.ipc.os_error import describe_error, error_path
from smtpd.ipc.signal_disposition import reset_signals

EX_ROOT, EX_USAGE, EX_NOUSER, EX_OSERR, EX_CANTCREAT, EX_TEMPFAIL = 1, 64, 67, 71, 73, 75
_PIECE = 64 * 1024
_IN_MEMORY = 1024 * 1024  # bytes of a mail; beyond that it is a file without a name
_LINE_MAX = 4096

_ENVELOPE_LINE = re.compile(rb"From (?![ \t]*:)[^\n]*\n")  # and no field with blanks before its colon: RFC 5322 4.5
_NOT_FOUND = (0, errno.ENOENT, errno.ESRCH)  # getpwnam(3), ERRORS

_libc = ctypes.CDLL(None, use_errno=True)
_libc.getpwnam.restype = ctypes.c_void_p


class Arguments(argparse.ArgumentParser):
    """`wrong`: the exit status for wrong ones."""

    wrong = EX_USAGE

    def __init__(self, prog: str, description: str, epilog: str):
        super().__init__(prog=prog, description=description, epilog=epilog)
        self.add_argument("--version", action="version", version=f"{prog} ({PRODUCT}) {VERSION}")

    def error(self, message: str) -> None:  # type: ignore[override]
        self.exit(self.wrong, f"{self.prog}: {message}\n{self.format_usage()}")


def mail_local(directory: str = mailbox.MAIL_DIRECTORY, lock_timeout: float = mailbox.LOCK_TIMEOUT) -> None:
    """`mail.local`: append the mail on standard input to the mailboxes of users."""
    parser = Arguments(
        prog="mail.local",
        description=f"Append the mail on standard input to the mailboxes of users, in {directory}.",
        epilog="Exit status: 0 stored and on the disk, 64 wrong arguments, 67 no such user, 71 the mail could not be "
        "read, 73 the mailbox is none to write to, or there is none and none can be made, 75 try again later.  With "
        "several users it is the highest of theirs, and the others have the mail all the same.",
    )
    parser.add_argument("-L", dest="dot", action="store_false", help="make no dot-lock")
    parser.add_argument("-l", dest="dot", action="store_true", help="make a dot-lock (the default)")
    parser.add_argument("-f", dest="sender", metavar="from", help="the envelope's sender (default: who starts it)")
    parser.add_argument("users", nargs="+", metavar="user")
    arguments = parser.parse_args()
    reset_signals()
    os.umask(0o077)
    end_by_exit()
    sender = login_name() if arguments.sender is None else arguments.sender
    try:
        content = copy()
    except OSError as error:
        print(f"mail.local: {describe_error(error)}", file=sys.stderr)
        sys.exit(EX_OSERR)
    sys.exit(max([_append(directory, user, sender, content, arguments.dot, lock_timeout) for user in arguments.users]))


def refuse_root(program: str) -> None:
    """Exit if started as root: root would follow links of any user."""
    if os.geteuid() == 0:
        print(f"{program}: not for root", file=sys.stderr)
        sys.exit(EX_ROOT)


def end_by_exit() -> None:
    """Make SIGHUP, SIGINT and SIGTERM raise SystemExit, which releases locks and removes a half written mail."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(EX_TEMPFAIL))


def login_name() -> str:
    with suppress(KeyError):
        return pwd.getpwuid(os.getuid()).pw_name
    return ""


def copy() -> SpooledTemporaryFile[bytes]:
    """Read all of standard input before anything is locked: it may be slow, and several users get the same mail."""
    content = SpooledTemporaryFile[bytes](_IN_MEMORY)
    for piece in _rest():
        content.write(piece)
    content.flush()
    return content


def pieces(content: SpooledTemporaryFile[bytes]) -> Iterator[bytes]:
    """The mail without the From_ line that some servers put in front: the mailbox gets its own."""
    content.seek(0)
    first = content.readline(_LINE_MAX)
    if not _ENVELOPE_LINE.fullmatch(first):
        yield first
    while piece := content.read(_PIECE):
        yield piece


def _append(
    directory: str, user: str, sender: str, content: SpooledTemporaryFile[bytes], dot: bool, lock_timeout: float
) -> int:
    """Deliver to one user: the exit status.  The reason goes to standard error."""
    try:
        person = _find_user(user)
        if person is None:
            status, reason = EX_NOUSER, "no such user"
        else:
            mail = mbox.MboxMail(sender, time.time(), pieces(content))
            reason = _append_to(directory, person, mail, dot, lock_timeout)
            status = EX_TEMPFAIL if reason else 0
    except mailbox.MailboxError as refused:
        status, reason = EX_CANTCREAT, str(refused)
    except OSError as error:
        status, reason = EX_TEMPFAIL, describe_error(error)
    if reason:
        print(f"mail.local: {user}: {reason}", file=sys.stderr)
    return status


def _append_to(directory: str, person: pwd.struct_passwd, mail: mbox.MboxMail, dot: bool, lock_timeout: float) -> str:
    where = mailbox.open_directory(directory)
    try:
        whose = person.pw_name, person.pw_uid, person.pw_gid
        with error_path(directory):
            locked = mailbox.locked(where, *whose, dot=dot, lock_timeout=lock_timeout)
            with locked as descriptor, error_path(f"{directory}/{person.pw_name}"):
                (reason,) = mbox.store(descriptor, [mail])
    finally:
        os.close(where)
    return reason


def _find_user(name: str) -> pwd.struct_passwd | None:
    """Raises OSError if the user database does not answer: Python's pwd module would report that as an unknown user."""
    try:
        return pwd.getpwnam(name)
    except KeyError:
        ctypes.set_errno(0)
        if _libc.getpwnam(os.fsencode(name)) or ctypes.get_errno() not in _NOT_FOUND:
            raise OSError(ctypes.get_errno(), "the user database does not answer") from None
        return None


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
    reset_signals()
    refuse_root(parser.prog)
    os.umask(0o077)
    try:
        reason = _store(_path(arguments.path), arguments.junk)
    except OSError as error:
        reason = describe_error(error)
    if reason:
        print(f"mail.maildir: {reason}", file=sys.stderr)
        sys.exit(EX_TEMPFAIL)


def _path(argument: str | None) -> str:
    """A wrong path is a temporary failure, not a wrong argument: the mail waits until the administrator corrects it."""
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
    mail = maildir.MaildirMail(name, chain((start,), _rest()), spam, os.environ.get("EXTENSION", ""))
    maildir.make(path)
    (reason,) = maildir.Maildir(path, maildir.EarlierDeliveries(host)).store([mail])
    return reason


def _read_start() -> bytes:
    """The first HEADER_MAX bytes; a pipe gives them in pieces."""
    start = b""
    while piece := os.read(0, trace.HEADER_MAX - len(start)):
        start += piece
    return start


def _rest() -> Iterator[bytes]:
    while piece := os.read(0, _PIECE):
        yield piece
