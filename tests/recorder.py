"""A recorder of order: what some code does to the disk and says to others, and what came before what.

    with recorded(directory) as recorder:
        ...
    recorder.in_order("write new", "sync new", "commit insert envelope", "queue tells dispatcher: MessageStored")

It stands at the edge of the system and changes nothing: for its time the calls of the operating system, the connections
of SQLite and the sockets that are named below note what they did.  Names are relative to `directory`, and only what is
below it is noted.

    make F, make directory F     a name that was not there
    write F, cut F               also when it is written by a descriptor that somebody else opened
    sync F                       fsync or fdatasync, of a file or of a directory
    move F to G, link F to G     rename, and link
    remove F, list F, lock F, unlock F
    begin, roll back, checkpoint TRUNCATE, check, open database, close database
    close reader                 a connection to a database that only reads
    commit insert message, delete envelope     with what the transaction has changed, each once
    queue tells scheduler: EnvelopesTried      an imsg, when it is given to its channel
    errand Deliver, answer DELIVERED           to an agent, and of one
    says 250 2.0.0 saved, hears 250 ...        a line to and from a server that is played by the test
    ... fails                                  what ended with an OSError

An event has a beginning and an end, as threads run side by side: one is before another when it was over before the
other began.  `refuse` makes a call fail as a disk does.
"""

import errno
import fcntl
import fnmatch
import itertools
import os
import socket
import sqlite3
import struct
from contextlib import contextmanager
from itertools import pairwise
from typing import NamedTuple

import pytest

from mail_local import maildir, openat2
from smtpd import errand as frames
from smtpd.ipc.channel import Channel


class Event(NamedTuple):
    text: str
    began: int
    ended: int


class Recorder:
    """Patterns are those of fnmatch; `*` matches a slash too."""

    def __init__(self, directory):
        self.directory = os.path.realpath(directory)
        self._events = []
        self._clock = itertools.count()
        self._refused = []

    # -- what a test asks -----------------------------------------------------------

    @property
    def events(self):
        """Their texts, in the order in which they ended."""
        return [event.text for event in self._events]

    def in_order(self, *patterns):
        """All of these have happened, and all that matches one was over before anything that matches the next began."""
        for earlier, later in pairwise(patterns):
            before, after = self._find(earlier), self._find(later)
            assert before, self._story(f"this never happened: {earlier}")
            assert after, self._story(f"this never happened: {later}")
            ended, began = max(event.ended for event in before), min(event.began for event in after)
            assert ended < began, self._story(f"not in order: {earlier}, then {later}")

    def happened(self, pattern):
        """How often."""
        return len(self._find(pattern))

    def forget(self):
        self._events.clear()

    def refuse(self, pattern, number=errno.EIO, times=1):
        """The next `times` that this would happen, it fails with that error instead."""
        self._refused += [(pattern, number)] * times

    def _find(self, pattern):
        return [event for event in self._events if fnmatch.fnmatchcase(event.text, pattern)]

    def _story(self, trouble):
        return "\n".join([trouble, "what happened:", *(f"    {text}" for text in self.events)])

    # -- what is noted ----------------------------------------------------------------

    @contextmanager
    def happening(self, text):
        """Note what is done inside; nothing when there is no text."""
        if text is None:
            yield
            return
        began = next(self._clock)
        try:
            self._fail(text)
            yield
        except OSError:
            text = f"{text} fails"
            raise
        finally:
            self._events.append(Event(text, began, next(self._clock)))

    def note(self, text):
        """Something that a test plays itself."""
        with self.happening(text):
            pass

    def _fail(self, text):
        for refusal in self._refused:
            pattern, number = refusal
            if fnmatch.fnmatchcase(text, pattern):
                self._refused.remove(refusal)
                raise OSError(number, os.strerror(number))

    def name_of(self, file, directory=None):
        """Of a descriptor or a path, below our directory; None elsewhere."""
        if isinstance(file, int):
            return self._name_of_descriptor(file)
        path = os.fsdecode(file)
        if directory is not None and not os.path.isabs(path):
            above = self._name_of_descriptor(directory)
            return None if above is None else os.path.normpath(os.path.join(above, path))
        inside = os.path.relpath(os.path.realpath(os.path.dirname(path)), self.directory)
        return None if inside.startswith("..") else os.path.normpath(os.path.join(inside, os.path.basename(path)))

    def _name_of_descriptor(self, descriptor):
        status = os.fstat(descriptor)
        for above, directories, files in os.walk(self.directory):
            for path in [above, *(os.path.join(above, name) for name in directories + files)]:
                if os.path.samestat(os.lstat(path), status):
                    return os.path.relpath(path, self.directory)
        return None


@contextmanager
def recorded(directory):
    recorder = Recorder(directory)
    with pytest.MonkeyPatch.context() as patch:
        _watch_files(recorder, patch)
        _watch_locks(recorder, patch)
        _watch_databases(recorder, patch)
        _watch_talk(recorder, patch)
        yield recorder


def _watch(recorder, patch, owner, name, describe):
    real = getattr(owner, name)

    def call(*arguments, **named):
        with recorder.happening(describe(*arguments, **named)):
            return real(*arguments, **named)

    patch.setattr(owner, name, call)


def _watch_files(recorder, patch):
    def about(verb):
        def describe(file, *_, dir_fd=None, **_more):
            name = recorder.name_of(file, dir_fd)
            return None if name is None else f"{verb} {name}"

        return describe

    def made(name, flags, mode=0, *, dir_fd=None):
        if not flags & os.O_CREAT or os.path.lexists(_whole(recorder, name, dir_fd)):
            return None
        return about("make")(name, dir_fd=dir_fd)

    def both(verb):
        def describe(source, target, *, src_dir_fd=None, dst_dir_fd=None, **_):
            names = recorder.name_of(source, src_dir_fd), recorder.name_of(target, dst_dir_fd)
            return None if None in names else f"{verb} {names[0]} to {names[1]}"

        return describe

    for name, verb in {
        "fsync": "sync",
        "fdatasync": "sync",
        "write": "write",
        "pwrite": "write",
        "ftruncate": "cut",
        "unlink": "remove",
        "mkdir": "make directory",
    }.items():
        _watch(recorder, patch, os, name, about(verb))
    _watch(recorder, patch, os, "listdir", lambda file=".": about("list")(file))
    for name in ("rename", "replace"):
        _watch(recorder, patch, os, name, both("move"))
    _watch(recorder, patch, os, "link", both("link"))
    _watch(recorder, patch, os, "open", made)
    _watch(recorder, patch, openat2, "open", made)
    _watch_renameat2(recorder, patch, both("move"))


def _whole(recorder, name, directory):
    found = recorder.name_of(name, directory)
    return os.path.join(recorder.directory, found) if found is not None else os.fsdecode(name)


def _watch_renameat2(recorder, patch, describe):
    real = maildir._renameat2
    if real is None:
        return

    def renameat2(source_directory, source, target_directory, target, flags):
        text = describe(source, target, src_dir_fd=source_directory, dst_dir_fd=target_directory)
        try:
            with recorder.happening(text):
                if real(source_directory, source, target_directory, target, flags):
                    raise OSError(maildir.ctypes.get_errno(), "")
        except OSError as error:
            maildir.ctypes.set_errno(error.errno)
            return -1
        return 0

    patch.setattr(maildir, "_renameat2", renameat2)


def _watch_locks(recorder, patch):
    def described(descriptor, unlocks):
        name = recorder.name_of(descriptor)
        return None if name is None else f"{'unlock' if unlocks else 'lock'} {name}"

    def by_structure(descriptor, command, argument=0):
        if command != getattr(fcntl, "F_OFD_SETLK", None):
            return None
        return described(descriptor, struct.unpack("h", argument[:2])[0] == fcntl.F_UNLCK)

    def by_number(descriptor, operation, *_):
        return described(descriptor, operation & fcntl.LOCK_UN)

    _watch(recorder, patch, fcntl, "fcntl", by_structure)
    _watch(recorder, patch, fcntl, "lockf", by_number)
    _watch(recorder, patch, fcntl, "flock", by_number)


def _watch_databases(recorder, patch):
    class Connection(sqlite3.Connection):
        def __init__(self, *arguments, **named):
            self._changes = []
            with recorder.happening("open database"):
                super().__init__(*arguments, **named)

        def execute(self, sql, *values):
            with recorder.happening(self._text(sql)):
                return self._changed(sql, super().execute(sql, *values))

        def executemany(self, sql, *values):
            return self._changed(sql, super().executemany(sql, *values))

        def close(self):
            (only_reads,) = super().execute("PRAGMA query_only").fetchone()
            with recorder.happening("close reader" if only_reads else "close database"):
                super().close()

        def _text(self, sql):
            match sql.split():
                case ["BEGIN", *_]:
                    self._changes = []
                    return "begin"
                case ["COMMIT"]:
                    return f"commit {', '.join(dict.fromkeys(self._changes))}".rstrip()
                case ["ROLLBACK"]:
                    return "roll back"
                case ["PRAGMA", pragma] if pragma.startswith("wal_checkpoint"):
                    return f"checkpoint {pragma[len('wal_checkpoint(') : -1]}"
                case ["PRAGMA", pragma] if pragma.startswith("quick_check"):
                    return "check"
            return None

        def _changed(self, sql, cursor):
            verb, *words = sql.split()
            if verb in ("INSERT", "DELETE", "UPDATE") and cursor.rowcount > 0:
                table = words[0] if verb == "UPDATE" else words[1 + words.index("INTO" if verb == "INSERT" else "FROM")]
                change = f"{verb.lower()} {table}"
                if self.in_transaction:
                    self._changes.append(change)
                else:
                    recorder.note(f"{change} outside of a transaction")
            return cursor

    real = sqlite3.connect
    patch.setattr(sqlite3, "connect", lambda *arguments, **named: real(*arguments, factory=Connection, **named))


def _watch_talk(recorder, patch):
    def frame(packet):
        try:
            said = frames.decode(bytes(packet))
        except frames.FrameError:
            return None
        if isinstance(said, frames.Result):
            return f"answer {said.outcome.name}"
        return f"{'errand' if isinstance(said, frames.Request) else 'answer'} {type(said).__name__}"

    def sent(sock, data, *_):
        return frame(data) if sock.type == socket.SOCK_SEQPACKET else None

    def sent_with(sock, pieces, *_):
        return frame(b"".join(pieces)) if sock.type == socket.SOCK_SEQPACKET else None

    def said(sock, data, *_):
        return f"says {_line(data)}"

    _watch(recorder, patch, Channel, "send", lambda c, imsg, *_: f"{c.me} tells {c.peer}: {type(imsg).__name__}")
    _watch(recorder, patch, socket.socket, "send", sent)
    _watch(recorder, patch, socket.socket, "sendmsg", sent_with)
    _watch(recorder, patch, socket.socket, "sendall", said)
    receive = socket.socket.recv

    def recv(sock, *arguments):
        data = receive(sock, *arguments)
        if sock.type == socket.SOCK_STREAM and data:
            recorder.note(f"hears {_line(data)}")
        return data

    patch.setattr(socket.socket, "recv", recv)


def _line(data):
    return bytes(data).partition(b"\r\n")[0].decode(errors="replace")
