"""Spool files: the content of large messages, one file each; and the lock that makes the spool ours.

    create   a new file: a descriptor to write, for the dispatcher, once
    seal     it is complete: length, SHA-256, fsync of file and directory
    open     a fresh descriptor to read, each time, if the file is still what was sealed

Where content is coded (content_codec.py), the dispatcher has no file: it writes to a pipe, whose other end queue reads.

    create_coded   a new file, and the two ends of the pipe
    decode         a descriptor of memory with the content

The name of a file is that of its message, and where it is coded its coding too: so it can be coded anew beside the one
that the row still means.

The blocking halves of these run in threads.  The file is fsynced through a descriptor that is as old as the file: one
that was opened later would not hear of a write error that another descriptor has reported already.  A dispatcher keeps
its descriptor for as long as it likes, so what it wrote after the 250 has to be found out: a file whose length and time
of change are those of the last check is believed, any other is read and hashed again.
"""

import errno
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import NamedTuple

from smtpd.envelope import MESSAGE_ID_MAX, message_text
from smtpd.ipc.os_error import describe_error
from smtpd.queue.store.content_codec import NOT_ENCRYPTED, PLAIN, Codec, Encoder
from smtpd.queue.store.store import AS_IT_CAME, PAGE, ContentDamaged, Message, Store, StoreBroken, StoreFull

DIRECTORY = "content"
LOCK = "lock"
LOCK_TIMEOUT = 10.0  # seconds that a start waits for the lock
PIECE = 256 * 1024
SEALED_KEPT = 4096  # files whose last check is remembered

_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class SpoolLocked(Exception):
    """Another process has the spool."""


def lock(directory: str, patience: float = LOCK_TIMEOUT) -> int:
    """The exclusive lock on the spool, until the descriptor is closed.  Raises SpoolLocked, which names the holder."""
    descriptor = os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= end:
                holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
                os.close(descriptor)
                raise SpoolLocked(f"the spool is in use by process {holder or 'unknown'}") from None
            time.sleep(0.1)
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, b"%d\n" % os.getpid(), 0)
    return descriptor


class CodedFile:
    """A spool file that is being written, coded if what is stored is.  Its methods block; one is called at a time."""

    def __init__(self, own: int, directory: int, encoder: Encoder | None):
        self._own, self._directory, self._encoder = own, directory, encoder
        self._digest = hashlib.sha256()

    def write(self, content: bytes) -> None:
        """Raises StoreFull, StoreBroken."""
        self._write(self._encoder.add(content) if self._encoder is not None else content)

    def seal(self) -> bytes:
        """Make it durable: nothing more comes.  Returns the SHA-256 of the file.  Raises StoreFull, StoreBroken."""
        if self._encoder is not None:
            self._write(self._encoder.finish())
        try:
            os.fsync(self._own)
            os.fsync(self._directory)
        except OSError as error:
            raise store_error(error) from error
        return self._digest.digest()

    def _write(self, stored: bytes) -> None:
        self._digest.update(stored)
        try:
            write_all(self._own, stored)
        except OSError as error:
            raise store_error(error) from error

    def close(self) -> None:
        os.close(self._own)


class NewCodedFile(NamedTuple):
    file: CodedFile
    writing: int  # the end of the pipe that the dispatcher gets
    reading: int


class Spool:
    """The files below `directory`.  Its methods block; those of one message are called one after the other."""

    def __init__(self, directory: str, codec: Codec = PLAIN):
        self.codec = codec
        self.path = os.path.join(directory, DIRECTORY)
        try:
            os.mkdir(self.path, 0o700)
        except FileExistsError:
            pass
        _sync_directory(directory)  # each time: a crash may have come between the two
        self._directory = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        self._sealed: dict[int, tuple[int, int]] = {}  # message -> length and time of change when it was right

    def create(self, message: int) -> tuple[int, int]:
        """A new, empty file: a descriptor to write to it, and ours.  Raises OSError."""
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        own = os.open(message_text(message), flags | os.O_RDWR, 0o600, dir_fd=self._directory)
        try:
            return self._open(message, os.O_WRONLY), own
        except OSError:
            os.close(own)
            self.remove([message])
            raise

    def create_coded(self, message: int) -> NewCodedFile:
        """Raises OSError."""
        file = self.create_file(message)
        try:
            reading, writing = os.pipe2(os.O_CLOEXEC)
        except OSError:
            file.close()
            self.remove([message])
            raise
        os.set_blocking(reading, False)
        return NewCodedFile(file, writing, reading)

    def create_file(self, message: int) -> CodedFile:
        """A new file for content as it is coded now.  Raises OSError."""
        flags = os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_RDWR
        own = os.open(file_name(message, self.codec.coding), flags, 0o600, dir_fd=self._directory)
        return CodedFile(own, self._directory, self.codec.maybe_encoder(message))

    def _open(self, message: int, flags: int) -> int:
        return os.open(message_text(message), flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)

    def seal(self, message: int, own: int, size: int) -> bytes:
        """Make the finished file durable.  Returns its SHA-256.  Raises ContentDamaged, StoreFull, StoreBroken."""
        try:
            found = os.fstat(own)  # before the hash: what is written after it shows in the time of change
            if found.st_size != size:
                raise ContentDamaged(f"{found.st_size} bytes where {size} were announced")
            digest = _hash(own)
            os.fsync(own)
            os.fsync(self._directory)
        except OSError as error:
            raise store_error(error) from error
        self._remember(message, found)
        return digest

    def open(self, message: int, size: int, digest: bytes) -> int:
        """A fresh descriptor to read what was sealed.  Raises ContentDamaged, and OSError for what may pass."""
        try:
            descriptor = self._open(message, os.O_RDONLY)
        except FileNotFoundError:
            raise ContentDamaged("the spool file is missing") from None
        try:
            found = os.fstat(descriptor)
            if self._sealed.get(message) != (found.st_size, found.st_ctime_ns):
                if found.st_size != size or _hash(descriptor) != digest:
                    raise ContentDamaged("the spool file was changed after it was stored")
                self._remember(message, found)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def decode(self, message: Message) -> int:
        """Memory with the content of a file that is coded: to be read from its start, by pread.  It can be truncated,
        and not be written.  Raises ContentDamaged, content_codec.KeyMissing, and OSError for what may pass."""
        made = os.memfd_create("content", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            for piece in self.pieces(message):
                write_all(made, piece)
            fcntl.fcntl(made, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
        except BaseException:
            os.close(made)
            raise
        return made

    def pieces(self, message: Message) -> Generator[bytes]:
        """The content of a file: it is right when there has been an end.  As decode."""
        try:
            name = file_name(message.id, message.coding)
            descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
        except FileNotFoundError:
            raise ContentDamaged("the spool file is missing") from None
        try:
            digest = hashlib.sha256()
            stored = _pieces_of(descriptor, digest)
            if message.coding == AS_IT_CAME:
                yield from stored
            else:
                yield from self.codec.pieces(message.id, message.coding, stored, message.size)
            if message.coding in (AS_IT_CAME, NOT_ENCRYPTED) and digest.digest() != message.digest:
                raise ContentDamaged("the spool file was changed after it was stored")
        finally:
            os.close(descriptor)

    def recode(self, message: Message) -> bytes:
        """Make a second file of the content, as it is coded now.  Returns its SHA-256.  Raises ContentDamaged,
        content_codec.KeyMissing, StoreFull, StoreBroken, OSError."""
        file = self.create_file(message.id)
        try:
            for piece in self.pieces(message):
                file.write(piece)
            return file.seal()
        except BaseException:
            self.remove_file(message.id, self.codec.coding)
            raise
        finally:
            file.close()

    def _remember(self, message: int, found: os.stat_result) -> None:
        if len(self._sealed) >= SEALED_KEPT:
            self._sealed.clear()
        self._sealed[message] = found.st_size, found.st_ctime_ns

    def remove(self, messages: Iterable[int]) -> None:
        """A file that stays behind is found at the next start."""
        for message in messages:
            self._sealed.pop(message, None)
            for coding in self.codec.codings:
                if self.remove_file(message, coding):
                    break

    def remove_file(self, message: int, coding: int) -> bool:
        """False when it is not there, or stays."""
        try:
            os.unlink(file_name(message, coding), dir_fd=self._directory)
        except OSError:
            return False
        return True

    def remove_orphans(self, store: Store, say: Callable[[str], None]) -> None:
        """Remove what has no row: a crash left it behind.  Before anybody can begin a new file."""
        files = {file for name in os.listdir(self.path) if (file := maybe_file(name)) is not None}
        after = 0
        while page := store.spooled(after, PAGE):
            for message, coding in page:
                if (message, coding) not in files:
                    say(f"message {message_text(message)}: the spool file is missing")
                files.discard((message, coding))
            after, _ = page[-1]
        for message, coding in files:
            self.remove_file(message, coding)
        if files:
            say(f"removed {len(files)} spool files of messages that were never accepted")


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_name(message: int, coding: int) -> str:
    return message_text(message) if coding == AS_IT_CAME else f"{message_text(message)}.{coding:x}"


def maybe_file(name: str) -> tuple[int, int] | None:
    """Message and coding of a file of that name; None when it is not one of ours."""
    number, _, rest = name.partition(".")
    try:
        message, coding = int(number, 16), int(rest or "0", 16)
    except ValueError:
        return None
    return (message, coding) if 1 <= message <= MESSAGE_ID_MAX and name == file_name(message, coding) else None


def write_all(descriptor: int, data: bytes) -> None:
    """Raises OSError."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _hash(descriptor: int) -> bytes:
    digest = hashlib.sha256()
    for _ in _pieces_of(descriptor, digest):
        pass
    return digest.digest()


def _pieces_of(descriptor: int, digest: "hashlib._Hash") -> Iterator[bytes]:
    at = 0
    while piece := os.pread(descriptor, PIECE, at):
        digest.update(piece)
        at += len(piece)
        yield piece


def store_error(error: OSError) -> StoreFull | StoreBroken:
    """An error of the disk in the store's words."""
    return StoreFull(describe_error(error)) if error.errno in _NO_SPACE else StoreBroken(describe_error(error))
