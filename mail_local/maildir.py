"""A Maildir: mails as files with unique names, stored durably and exactly once.

    tmp/NAME    being written           O_EXCL; a file that a crash has left is replaced
    new/NAME    complete and synced     placed by a rename that never overwrites; then the directory is synced
    cur/NAME:2, seen by a mail reader   at any moment

The caller chooses the name.  If it is made of the envelope (creation time + envelope id, never "now"), a second
delivery of the same mail finds the first one: by EEXIST in new/, or, where the first may have been long ago, by a
search of new/ and cur/.  That makes local delivery exactly-once.  A mail that a reader has moved to another folder is
not found.

Everything below the root goes by descriptors of directories and follows no symbolic link.  The root itself may be one.

SYNCING
    Mails that are stored together are all written, then all synced, then placed, then new/ is synced once.  The kernel
    is asked to start writing each file as soon as it is complete (a hint, sync_file_range), so that the first fsync
    commits what all of them need and the others find it done.  The caller may run several `store` side by side: the
    file system joins their commits.  On ext4 with its journal, 4 KiB mails: one at a time 950/s; four threads with up
    to eight each 5 400/s, without the hint 2 400/s; one thread with up to 32 mails 1 900/s.  syncfs for a whole batch
    costs less CPU, but waits for the dirty pages of all other programs and does nothing on FUSE: not used.  fdatasync
    saves nothing, as the size of a new file has to be written anyway.  A new directory is synced in its parent.

Knows nothing of mail: the caller decides about folders (folder_name, and `trace` for junk).
"""

import ctypes
import errno
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

from smtpd.ipc.os_error import describe_error, error_path

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# For parent directories: the user need not be allowed to read them, only to search them.
_WAY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_PARTS = ("tmp", "new", "cur")
_PIECE = 256 * 1024  # bytes copied at a time from a descriptor
_RENAME_NOREPLACE = 1
_NO_FOLDER = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)  # the second and third: a symbolic link
_LACKING = (errno.ENOSYS, errno.EINVAL)  # a kernel or a file system without RENAME_NOREPLACE

_libc = ctypes.CDLL(None, use_errno=True)
_renameat2 = getattr(_libc, "renameat2", None)
_sync_file_range = getattr(_libc, "sync_file_range", None)
_SYNC_FILE_RANGE_WRITE = 2
if _sync_file_range:
    _sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)

_SPECIAL = re.compile(r"[!#$%&'*?`{|}~/\x00-\x1f\x7f:]")  # as OpenSMTPD, and what a file name cannot hold


@dataclass(frozen=True)
class MaildirMail:
    """`content` is consumed once, piece by piece."""

    name: str
    content: Iterable[bytes]
    junk: bool = False  # store in .Junk, which is created if missing
    extension: str = ""  # store in the folder of this sub-address, if it exists
    perhaps_stored: bool = False  # an earlier process may have stored it: search first


def host_part(hostname: str) -> str:
    """The name of a host, escaped for use in a file name."""
    return hostname.replace("/", "\\057").replace(":", "\\072") or "localhost"


def folder_name(extension: str) -> str:
    """The folder of a sub-address: one path component, and never `.`, `..` or a hidden one inside it."""
    plain = _SPECIAL.sub(":", extension)
    dots = len(plain) - len(plain.lstrip("."))
    return "." + ":" * dots + plain[dots:]


def pieces_of(descriptor: int, size: int) -> Iterator[bytes]:
    """`size` bytes from the start of a file, by pread: the offset may be shared.  Raises OSError if it is shorter."""
    at = 0
    while at < size:
        piece = os.pread(descriptor, min(_PIECE, size - at), at)
        if not piece:
            raise OSError(errno.EIO, f"content ends after {at} of {size} bytes")
        yield piece
        at += len(piece)


def make(path: str, below: str = "/") -> None:
    """Create a Maildir, with all missing parent directories, mode 0700.  Symbolic links in the path are followed.

    `below` is a directory on that way, and the first one that is opened: there may be no right to open those above it.
    """
    root = _make_directories(path, below)
    try:
        Folder(root, path).close()
    finally:
        os.close(root)


def make_directory(path: str) -> None:
    """Create a directory, with all missing parent directories, as `make` does."""
    os.close(_make_directories(path, "/"))


def _make_directories(path: str, below: str) -> int:
    if os.path.commonpath([path, below]) != os.path.normpath(below):
        raise PermissionError(errno.EPERM, f"not below {below}", path)
    opened, way = os.open(below, _WAY), below
    try:
        for part in filter(None, path[len(below) :].split("/")):
            with error_path(way):
                inner = _open_directory(part, opened, _WAY, make=True)
            os.close(opened)
            opened, way = inner, os.path.join(way, part)
    except BaseException:
        os.close(opened)
        raise
    return opened


class Folder:
    """A Maildir or a folder in one: its three directories, held open, created if missing."""

    def __init__(self, root: int, path: str):
        """`root` is an open directory, which the caller closes; `path` is its name in errors."""
        self.path = path
        with error_path(path):
            try:
                self._open(root)
            except FileNotFoundError:
                for name in _PARTS:
                    _make_directory(name, root)
                _sync_directory(root)
                self._open(root)

    def _open(self, root: int) -> None:
        with ExitStack() as opened:
            self.tmp, self.new, self.cur = (self._open_part(root, name, opened) for name in _PARTS)
            self._opened = opened.pop_all()

    @staticmethod
    def _open_part(root: int, name: str, opened: ExitStack) -> int:
        descriptor = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=root)
        opened.callback(os.close, descriptor)
        return descriptor

    def close(self) -> None:
        self._opened.close()

    def _path(self, *names: str) -> str:
        return os.path.join(self.path, *names)

    def write(self, mail: MaildirMail) -> int:
        """Write the mail to tmp/: its descriptor.  If this raises OSError, no file is left."""
        path = self._path("tmp", mail.name)
        with error_path(os.path.dirname(path)):
            descriptor = self._create(mail.name)
        try:
            for piece in mail.content:
                with error_path(path):
                    _write_all(descriptor, piece)
        except BaseException:
            os.close(descriptor)
            self.discard(mail.name)
            raise
        if _sync_file_range:
            _sync_file_range(descriptor, 0, 0, _SYNC_FILE_RANGE_WRITE)
        return descriptor

    def _create(self, name: str) -> int:
        try:
            return os.open(name, _NEW_FILE, 0o600, dir_fd=self.tmp)
        except FileExistsError:
            # Left by a process that died while it wrote.  Whatever it is, also a link, it is removed and never opened.
            os.unlink(name, dir_fd=self.tmp)
            return os.open(name, _NEW_FILE, 0o600, dir_fd=self.tmp)

    def sync(self, name: str, descriptor: int) -> None:
        """Sync and close the file.  Some file systems report a full disk or quota only here."""
        try:
            try:
                with error_path(self._path("tmp", name)):
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            self.discard(name)
            raise

    def place(self, name: str) -> None:
        """Move it from tmp/ to new/.  A file of that name in new/ is this same mail."""
        try:
            with error_path(self._path("new", name)):
                self._rename(name)
        except FileExistsError:
            self.discard(name)
        except OSError:
            self.discard(name)
            raise

    def _rename(self, name: str) -> None:
        if _renameat2 and _renameat2(self.tmp, os.fsencode(name), self.new, os.fsencode(name), _RENAME_NOREPLACE) == 0:
            return
        number = ctypes.get_errno() if _renameat2 else errno.ENOSYS
        if number not in _LACKING:
            raise OSError(number, os.strerror(number))
        try:
            os.link(name, name, src_dir_fd=self.tmp, dst_dir_fd=self.new, follow_symlinks=False)
        except OSError as error:
            raise OSError(error.errno, error.strerror) from error
        self.discard(name)

    def discard(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(name, dir_fd=self.tmp)

    def withdraw(self, name: str) -> bool:
        """Remove it from new/ again: the directory could not be synced, so the mail will be tried again.  False if a
        reader has moved it to cur/ meanwhile and that has been synced: then it is delivered."""
        try:
            os.unlink(name, dir_fd=self.new)
        except FileNotFoundError:
            with suppress(OSError):
                os.fsync(self.cur)
                return False
        except OSError:
            pass
        return True

    def names(self) -> Iterator[str]:
        """Names of all mails, without flags.  First new/, then cur/: readers move them in this direction."""
        for descriptor in (self.new, self.cur):
            for name in os.listdir(descriptor):
                yield name.partition(":")[0]


@dataclass
class EarlierDeliveries:
    """Names of the mails that were in the folders when they were first searched; shared by the threads of a process.

    One search is enough: this process stores no mail twice, and a mail that was found and has been removed by a reader
    since then was delivered all the same.
    """

    host: str  # only names that end with it are kept
    _names: dict[str, frozenset[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def holds(self, path: str, folder: Folder, name: str) -> bool:
        with self._lock:
            if path not in self._names:
                self._names[path] = frozenset(found for found in folder.names() if found.endswith(self.host))
            return name in self._names[path]


class Maildir:
    """The Maildir at `path`, held open; for one thread at a time.  Raises OSError if it cannot be opened."""

    def __init__(self, path: str, earlier: EarlierDeliveries):
        self.path = path
        self.earlier = earlier
        self._root = os.open(path, _WAY)
        try:
            self._inbox = Folder(self._root, path)
        except OSError:
            os.close(self._root)
            raise

    def close(self) -> None:
        self._inbox.close()
        os.close(self._root)

    def is_current(self) -> bool:
        """False if `path` leads to another directory by now: it was moved, removed, or restored from a backup."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._root))
        except OSError:
            return False

    def store(self, mails: list[MaildirMail]) -> list[str]:
        """Store all mails.  For each: an empty text if it is durable, or the reason why not; then no file is left."""
        reasons = [""] * len(mails)
        drafts: list[PendingMail] = []
        with ExitStack() as opened, _given_up_together(drafts):
            for number, mail in enumerate(mails):
                with _reason_in(reasons, number):
                    folder, path = self._folder_of(mail, opened)
                    drafts.append(PendingMail.of(number, mail, folder, path, self.earlier))
            for draft in drafts:
                with _reason_in(reasons, draft.number):
                    draft.sync()
            for draft in drafts:
                if not reasons[draft.number]:
                    with _reason_in(reasons, draft.number):
                        draft.place()
            self._sync_directories([draft for draft in drafts if not reasons[draft.number]], reasons)
        return reasons

    def _sync_directories(self, drafts: list["PendingMail"], reasons: list[str]) -> None:
        for folder in {draft.folder for draft in drafts}:
            placed = [draft for draft in drafts if draft.folder is folder]
            try:
                with error_path(folder.path):
                    os.fsync(folder.new)
                    if any(draft.found for draft in placed):  # a reader may have moved it just before a crash
                        os.fsync(folder.cur)
            except OSError as error:
                for draft in placed:
                    if draft.found or folder.withdraw(draft.name):
                        reasons[draft.number] = describe_error(error)

    def _folder_of(self, mail: MaildirMail, opened: ExitStack) -> tuple[Folder, str]:
        if mail.junk:
            return self._open_folder(".Junk", opened, make=True), ".Junk"
        if mail.extension:
            name = folder_name(mail.extension)
            try:
                return self._open_folder(name, opened, make=False), name
            except OSError as error:
                if error.errno not in _NO_FOLDER:
                    raise
        return self._inbox, ""

    def _open_folder(self, name: str, opened: ExitStack, *, make: bool) -> Folder:
        with error_path(self.path):
            descriptor = _open_directory(name, self._root, _WAY | os.O_NOFOLLOW, make=make)
        try:
            folder = Folder(descriptor, os.path.join(self.path, name))
        finally:
            os.close(descriptor)
        opened.callback(folder.close)
        return folder


@dataclass
class PendingMail:
    """A mail that is being stored; `found` if an earlier process has stored it."""

    number: int
    name: str
    folder: Folder
    descriptor: int
    found: bool

    @classmethod
    def of(cls, number: int, mail: MaildirMail, folder: Folder, path: str, earlier: EarlierDeliveries) -> "PendingMail":
        found = mail.perhaps_stored and earlier.holds(path, folder, mail.name)
        return cls(number, mail.name, folder, -1 if found else folder.write(mail), found)

    def sync(self) -> None:
        if not self.found:
            descriptor, self.descriptor = self.descriptor, -1
            self.folder.sync(self.name, descriptor)

    def place(self) -> None:
        if not self.found:
            self.folder.place(self.name)

    def give_up(self) -> None:
        """Remove all traces of it: the mail will be tried again."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
        if not self.found:
            self.folder.discard(self.name)
            self.folder.withdraw(self.name)


def _open_directory(name: str, parent: int, flags: int, *, make: bool) -> int:
    try:
        return os.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        if not make:
            raise
    _make_directory(name, parent)
    _sync_directory(parent)
    return os.open(name, flags, dir_fd=parent)


def _make_directory(name: str, parent: int) -> None:
    with suppress(FileExistsError):  # another thread or program has just created it
        os.mkdir(name, 0o700, dir_fd=parent)


def _sync_directory(way: int) -> None:
    """Sync the new names in a directory; skipped if it may be written but not read."""
    try:
        descriptor = os.open(".", _DIRECTORY, dir_fd=way)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, piece: bytes) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


@contextmanager
def _given_up_together(drafts: list[PendingMail]) -> Iterator[None]:
    """On any exception but the OSError of one mail, give up all mails: no descriptor and no file is left."""
    try:
        yield
    except BaseException:
        for draft in drafts:
            draft.give_up()
        raise


@contextmanager
def _reason_in(reasons: list[str], number: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reasons[number] = describe_error(error)
