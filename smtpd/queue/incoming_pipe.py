"""Content that a dispatcher writes to a pipe, as it is coded: read as it comes, coded and written by a thread.

    dispatcher --> pipe --> loop: PIECE bytes --> a thread: coded, written      one piece of a message at a time
    finish(size)  all of it is in the pipe or has come: sealed --> done(digest, error)

So neither keys nor compressed content are in a dispatcher, nothing that is to be encrypted is on the disk before it is,
and a message in the making costs the pipe and one piece.  A dispatcher that writes on when the message is complete
writes to nothing.
"""

import asyncio
import os
from collections.abc import Callable

from smtpd.envelope import message_text
from smtpd.ipc.log import log
from smtpd.queue.store.disk import Disk
from smtpd.queue.store.spool import NewCodedFile
from smtpd.queue.store.store import ContentDamaged

PIECE = 64 * 1024  # bytes: what a pipe holds

Done = Callable[[bytes | None, BaseException | None], None]


class IncomingPipe:
    def __init__(self, loop: asyncio.AbstractEventLoop, disk: Disk, message: int, new: NewCodedFile):
        self.coding = disk.spool.codec.coding
        self._loop, self._disk, self._message = loop, disk, message
        self._file, self._reading = new.file, new.reading
        self._received = 0
        self._expected: int | None = None  # bytes in all, once they are known
        self._done: Done | None = None
        self._error: BaseException | None = None
        self._busy = False  # a thread is writing
        self._closed = False
        self._loop.add_reader(self._reading, self._read)

    def finish(self, size: int, done: Done) -> None:
        """The dispatcher says that it has written `size` bytes.  Once."""
        self._expected, self._done = size, done
        self._read()

    def close(self) -> None:
        """At once, or when the thread that is writing has ended."""
        self._closed = True
        self._done = None
        if not self._busy:
            self._close()

    def _close(self) -> None:
        self._stop_reading()
        self._file.close()

    def _stop_reading(self) -> None:
        """The dispatcher hears of it when it writes."""
        if self._reading >= 0:
            self._loop.remove_reader(self._reading)
            os.close(self._reading)
            self._reading = -1

    def _read(self) -> None:
        if self._busy or self._closed:
            return
        is_too_much = self._expected is not None and self._received > self._expected
        data = self._maybe_piece() if self._reading >= 0 and not is_too_much else b""
        if data:
            self._received += len(data)
            self._busy = True
            if self._reading >= 0:
                self._loop.remove_reader(self._reading)
            self._disk.work(lambda: self._file.write(data), self._written)
        elif data is None and self._expected is None:
            self._loop.add_reader(self._reading, self._read)
        else:
            self._stop_reading()
            self._maybe_finish()

    def _maybe_piece(self) -> bytes | None:
        """None: there is nothing yet.  Empty: there will be nothing more."""
        try:
            return os.read(self._reading, PIECE)
        except BlockingIOError:
            return None

    def _written(self, _nothing: None, error: BaseException | None) -> None:
        self._busy = False
        if error is not None and self._error is None:
            log.warn(f"message {message_text(self._message)} cannot be written: {error}")
            self._error = error
            self._stop_reading()
        if self._closed:
            self._close()
        else:
            self._read()

    def _maybe_finish(self) -> None:
        if self._done is None:
            return
        done, self._done = self._done, None
        if self._error is not None:
            self._loop.call_soon(done, None, self._error)
        elif self._received != self._expected:
            damage = ContentDamaged(f"{self._received} bytes where {self._expected} were announced")
            self._loop.call_soon(done, None, damage)
        else:
            self._busy = True
            self._disk.work(self._file.seal, lambda digest, error: self._sealed(done, digest, error))

    def _sealed(self, done: Done, digest: bytes | None, error: BaseException | None) -> None:
        self._busy = False
        if self._closed:
            self._close()
        done(digest, error)
