"""Appends to an mbox file anywhere: a /file target of a .forward, and mail.mboxfile.

    /home/bob/archive        created with mode 0600 if missing; otherwise a regular file of bob's with one hard link
    /home/bob/mail/archive   `mail` may be a symbolic link, `archive` may not

The last component is not followed: in a directory of several users another user could lead bob's mail, whose content a
sender chooses, into another file of bob's.  A directory that everybody may write is not used at all.  The components
before it are trusted to the users who can write there.  The file is locked with fcntl(2) and without a dot-lock, as the
directory need not be one for mailboxes.  A mail that cannot be stored completely is truncated away.
"""

import os
import posixpath

from mail_local import mailbox, mbox
from mail_local.mailbox import MailboxError
from smtpd.ipc.os_error import error_path

LOCK_TIMEOUT = 30.0  # seconds to wait for a lock that another program holds


def append(path: str, mail: mbox.MboxMail, lock_timeout: float = LOCK_TIMEOUT) -> None:
    """Append and sync, with the caller's rights.  Raises MailboxError for a file that has to be repaired, OSError
    for other failures."""
    directory, name = posixpath.split(path)
    if not name:
        raise MailboxError("not the name of a file")
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
