"""A Maildir: mails as files, each under a name that no other mail has.

    tmp/NAME    being written           O_EXCL; what a crash left under the same name is replaced
    new/NAME    all there and synced    placed by a rename that never overwrites; then the directory is synced
    cur/NAME:2, seen by a mail reader   which may happen at any moment

The name is the caller's.  One that is made of the envelope (created + envelope id, never "now") makes a second delivery
of the same mail find the first: EEXIST in new/, or, where the first may have been long ago, a look into new/ and cur/.
That is what makes local delivery exactly-once.  A mail that a reader moved to another folder in between is not found.

Everything below the root goes by descriptors of directories and follows no symbolic link.  The root itself may be one.

SYNCING
    Mails that are stored together are all written, then all synced, then placed, then new/ is synced, once.  The kernel
    is asked to begin writing each file as soon as it stands (a hint, sync_file_range), so that the first fsync commits
    what all of them need and the others find it done.  The caller may run several `store` side by side: the file system
    joins their commits.  On ext4 with its journal, 4 KiB mails: one at a time 950/s; four threads with up to eight each
    5 400/s, without the hint 2 400/s; one thread with up to 32 mails 1 900/s.  syncfs for a whole batch costs less CPU,
    but waits for the dirty pages of everybody else and does nothing on FUSE: not used.  fdatasync saves nothing, as the
    size of a new file has to be written anyway.  A directory that was made is synced in the one above it.

Understands no mail: the caller decides about folders (folder_name, and `trace` for junk).
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
# On the way to another one: a home, or one above it, that may be searched and not read is none the worse.
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

_SPECIAL = re.compile(r"[!#$%&'*?`{|}~/\x00-\x1f\x7f:]")  # reference 3, and what a file name cannot hold


@dataclass(frozen=True)
class MaildirMail:
    """`content` is consumed once, piece by piece."""

    name: str
    content: Iterable[bytes]
    junk: bool = False  # into .Junk, which is made
    extension: str = ""  # into the sub-address's folder, where there is one
    perhaps_stored: bool = False  # by an earlier process: look first


def host_part(hostname: str) -> str:
    """A host's name as part of a file's name."""
    return hostname.replace("/", "\\057").replace(":", "\\072") or "localhost"


def folder_name(extension: str) -> str:
    """The folder of a sub-address: one path component, and never `.`, `..` or a hidden one inside it."""
    plain = _SPECIAL.sub(":", extension)
    dots = len(plain) - len(plain.lstrip("."))
    return "." + ":" * dots + plain[dots:]


def pieces_of(descriptor: int, size: int) -> Iterator[bytes]:
    """`size` bytes from the start of a file, by pread: the offset may be shared.  Raises OSError when it is shorter."""
    at = 0
    while at < size:
        piece = os.pread(descriptor, min(_PIECE, size - at), at)
        if not piece:
            raise OSError(errno.EIO, f"content ends after {at} of {size} bytes")
        yield piece
        at += len(piece)


def make(path: str, below: str = "/") -> None:
    """A Maildir, with each missing directory on the way to it, 0700.  Symbolic links on that way are followed.

    `below` is a directory on that way, and the first one that is opened: there may be no right to open those above it.
    """
    root = _make_directories(path, below)
    try:
        Folder(root, path).close()
    finally:
        os.close(root)


def make_directory(path: str) -> None:
    """A directory, with each missing one on the way to it, as `make` does."""
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
    """A Maildir or a folder in one: its three directories, held open, made where they were missing."""

    def __init__(self, root: int, path: str):
        """`root` is open, and stays the caller's; `path` is its name in errors."""
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
        """The mail in tmp/; its descriptor.  After an OSError nothing is left there."""
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
            # A process that died while it wrote; whatever lies there, a link too, is removed and never opened.
            os.unlink(name, dir_fd=self.tmp)
            return os.open(name, _NEW_FILE, 0o600, dir_fd=self.tmp)

    def sync(self, name: str, descriptor: int) -> None:
        """The file on the disk, and closed.  Some file systems tell a full disk or quota only here."""
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
        """From tmp/ to new/.  One that is there already is this very mail."""
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
        """Out of new/ again: its directory could not be synced, and the mail will come again.  False when a reader has
        moved it to cur/ meanwhile, and that is on the disk: then it is delivered."""
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
        """Of all mails in new/ and cur/, without flags.  In this order: a reader moves them from one to the other."""
        for descriptor in (self.new, self.cur):
            for name in os.listdir(descriptor):
                yield name.partition(":")[0]


@dataclass
class EarlierDeliveries:
    """What lay in the folders when somebody first asked; shared by the threads of a process.

    Once is enough: what this process stores itself it stores once, and what it found and a reader has removed since
    was delivered all the same.
    """

    host: str  # only mails stored here are of interest
    _names: dict[str, frozenset[str]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def holds(self, path: str, folder: Folder, name: str) -> bool:
        with self._lock:
            if path not in self._names:
                self._names[path] = frozenset(found for found in folder.names() if found.endswith(self.host))
            return name in self._names[path]


class Maildir:
    """The Maildir at `path`, held open; for one thread at a time.  Raises OSError when it cannot be opened."""

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
        """False when `path` leads elsewhere by now: moved away, removed, restored from a backup."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self._root))
        except OSError:
            return False

    def store(self, mails: list[MaildirMail]) -> list[str]:
        """Store all of them; for each an empty text when it is durable, or why it is not (and then it is not there)."""
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
                    if any(draft.found for draft in placed):  # moved by a reader, perhaps, in the moment before a crash
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
    """One mail on its way through tmp/; or `found`, when an earlier process had stored it."""

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
        """It will come again."""
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
    with suppress(FileExistsError):  # made by another thread or program in this moment
        os.mkdir(name, 0o700, dir_fd=parent)


def _sync_directory(way: int) -> None:
    """The names in it, some of which are new; not where there is a right to make some and none to read them."""
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
    """What is no OSError of one mail ends all of them: no descriptor and no file of theirs stays."""
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
