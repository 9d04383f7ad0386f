"""Appending to an mbox of a user's own, wherever it is: what a path in a .forward means, and mail.mboxfile.

    /home/bob/archive        made with mode 0600 where there is none; a regular file of bob's with one name
    /home/bob/mail/archive   `mail` may be a symbolic link, `archive` may not

The path's last step is not followed: in a directory of several users somebody could lead bob's mail, which is whatever
a sender likes, into another file of bob's.  A directory where everybody may write is not used at all.  The steps before
are whoever's who may write there.  The file is locked with fcntl(2); there is no dot-lock, as the directory need not be
one for mailboxes.  What is in the file of a mail that could not be stored is taken back.
"""

import os
import posixpath

from mail_local import mailbox, mbox
from mail_local.mailbox import MailboxError
from smtpd.ipc.os_error import error_path

LOCK_TIMEOUT = 30.0  # seconds that a lock of somebody else is waited for


def append(path: str, mail: mbox.MboxMail, lock_timeout: float = LOCK_TIMEOUT) -> None:
    """With the caller's rights; it is on the disk then.  Raises Refused for what somebody has to mend, OSError for the
    rest."""
    directory, name = posixpath.split(path)
    if not name:
        raise MailboxError("no name of a file")
    where = mailbox.open_directory(directory or ".")
    try:
        whose = name, os.geteuid(), os.getegid()
        with error_path(directory):
            locked = mailbox.locked(where, *whose, dot=False, any_name=True, lock_timeout=lock_timeout)
            with locked as descriptor, error_path(path):
                (reason,) = mbox.store(descriptor, [mail])
    finally:
        os.close(where)
    if reason:
        raise OSError(f"{path}: {reason}")
