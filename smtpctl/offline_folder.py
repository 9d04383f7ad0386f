"""Keeps a mail while smtpd does not run: a new file in a directory that all users may write into and none may list.

    NAME.tmp --write, fsync--> --rename--> NAME --sync--> kept        NAME: 32 hexadecimal digits

The daemon hands it in when it runs (smtpd/parent/offline.py), as mail of the owner of the file.
"""

import os
import stat
import sys
import time
from contextlib import suppress

from smtpctl.offline_file import pack_head
from smtpctl.submission import SubmissionMail
from smtpd.header import received

TYPE_CHECKING = False  # see raw_mail.py
if TYPE_CHECKING:
    from collections.abc import Iterable

MODE = 0o600
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
# Linux only: a directory that may be written and not read can be opened no other way.
_O_PATH = getattr(os, "O_PATH", os.O_RDONLY)


def keep(directory: str, mail: SubmissionMail, content: "Iterable[bytes]", *, has_date: bool) -> None:
    """When it returns the mail is on the disk.  Raises OSError, offline_file.OfflineFileError."""
    folder = os.open(directory, _O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        _check(folder, directory)
        name = os.urandom(16).hex()
        _write(folder, name, mail, content, has_date=has_date)
    finally:
        os.close(folder)


def _check(folder: int, directory: str) -> None:
    """That no other user can remove or replace the file."""
    status = os.fstat(folder)
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & stat.S_IWOTH and not status.st_mode & stat.S_ISVTX:
        raise PermissionError(1, "not root's directory, or without the sticky bit", directory)


def _write(folder: int, name: str, mail: SubmissionMail, content: "Iterable[bytes]", *, has_date: bool) -> None:
    unfinished = f"{name}.tmp"
    descriptor = os.open(unfinished, _FLAGS, MODE, dir_fd=folder)
    try:
        with open(descriptor, "r+b", closefd=False) as file:
            head = pack_head(mail, 0)
            file.write(head)
            file.write(_trace(has_date=has_date))
            file.writelines(content)
            size = file.tell() - len(head)
            file.seek(0)
            file.write(pack_head(mail, size))
        os.fchmod(descriptor, MODE)  # whatever the umask is
        os.fsync(descriptor)
        os.rename(unfinished, name, src_dir_fd=folder, dst_dir_fd=folder)
        unfinished = name
        _sync(folder, descriptor)
    except BaseException:
        with suppress(OSError):
            os.unlink(unfinished, dir_fd=folder)  # or it would be sent although this is said to have failed
        raise
    finally:
        os.close(descriptor)


def _trace(*, has_date: bool) -> bytes:
    """When the mail came, perhaps days before it is handed in: delays of mail are looked for in these lines."""
    now = received.date(int(time.time()))
    date = "" if has_date else f"Date: {now}\n"
    return f"Received: by localhost (smtpd, from userid {os.getuid()});\n\t{now}\n{date}".encode()


def _sync(folder: int, descriptor: int) -> None:
    """The new name.  A directory that its user may not read cannot be synced by itself: then its file system is."""
    try:
        readable = os.open(f"/proc/self/fd/{folder}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        _sync_file_system(descriptor)
        return
    try:
        os.fsync(readable)
    finally:
        os.close(readable)


def _sync_file_system(descriptor: int) -> None:
    if sys.platform != "linux":
        os.sync()
        return
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
