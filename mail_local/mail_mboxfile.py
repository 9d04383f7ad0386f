"""The program mail.mboxfile: appends the mail on standard input to a file of the user.

    mail.mboxfile [-f from] file

    0 stored and on the disk · 75 try later · 64 wrong arguments · 1 started as root

mboxfile.py says which files can be used.  One that cannot is a temporary failure: the mail waits until it is repaired.
"""

import os
import sys
import time

from mail_local import mbox, mboxfile
from mail_local.program import EX_TEMPFAIL, Arguments, copy, end_by_exit, login_name, pieces, refuse_root
from smtpd.ipc.os_error import describe_error
from smtpd.ipc.signal_disposition import reset_signals


def mail_mboxfile() -> None:
    """`mail.mboxfile`: append the mail on standard input to a file."""
    parser = Arguments(
        prog="mail.mboxfile",
        description="Append the mail on standard input to a file of the user's, in mbox format.",
        epilog="The file must be a regular one of the user's with one name, no symbolic link, in a directory where not "
        "everybody may write; it is made where there is none.  Exit status: 0 stored and on the disk, 75 try again "
        "later, 64 wrong arguments, 1 started as root.",
    )
    parser.add_argument("-f", dest="sender", metavar="from", help="the envelope's sender (default: who starts it)")
    parser.add_argument("file", help="the file to append to")
    arguments = parser.parse_args()
    reset_signals()
    refuse_root(parser.prog)
    os.umask(0o077)
    end_by_exit()
    sender = login_name() if arguments.sender is None else arguments.sender
    try:
        mboxfile.append(arguments.file, mbox.MboxMail(sender, time.time(), pieces(copy())))
    except (OSError, mboxfile.MailboxError) as error:
        print(f"mail.mboxfile: {arguments.file}: {describe_error(error)}", file=sys.stderr)
        sys.exit(EX_TEMPFAIL)
