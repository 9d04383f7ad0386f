"""The content of a message that is being received: in memory while it is small, beyond that in a spool file of queue.

    add(data) … add(data)   finish(done)
       |  up to 16 KiB: kept                         done(content)
       |  beyond: OpenSpoolFile, then written        done(b"")       when the last byte was written
       |          by a thread, piece after piece     done(RefusedAnswer)   it could not be, or was closed before
       +- the bytes that wait to be written are bounded: with `full` the connection reads no further

Never fsynced here: queue does that, through a descriptor of its own.
"""

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

from smtpd.envelope import INLINE_MAX
from smtpd.imsg import OpenSpoolFile, SpoolFileOpened
from smtpd.ipc.request_window import RequestWindow
from smtpd.smtp.question import RefusedAnswer

MEMORY_MAX = 64 * 1024 * 1024  # bytes of all messages in memory
UNWRITTEN_MAX = 256 * 1024  # bytes of one message that may wait to be written

NO_SPACE = RefusedAnswer(452, "4.3.1", "Insufficient system storage")
ABANDONED = RefusedAnswer(451, "4.3.0", "Message was given up")


class MemoryUse:
    """Bytes that all messages on their way in hold in memory together."""

    def __init__(self) -> None:
        self.used = 0


class IncomingContent:
    def __init__(
        self,
        message: int,
        memory: MemoryUse,
        to_queue: RequestWindow,
        loop: asyncio.AbstractEventLoop,
        writers: Executor,
        drained: Callable[[], None],
    ):
        self.message = message
        self.size = 0
        self.failed: RefusedAnswer | None = None
        self._memory, self._to_queue, self._loop, self._writers = memory, to_queue, loop, writers
        self._drained = drained
        self._pieces: list[bytes] = []
        self._held = 0  # bytes in _pieces and in the piece being written
        self._descriptor: int | None = None
        self._spooled = False  # a spool file was asked for
        self._busy = False  # a thread is writing
        self._closed = False
        self._done: Callable[[bytes | RefusedAnswer], None] | None = None

    @property
    def full(self) -> bool:
        return self._spooled and self._held > UNWRITTEN_MAX

    def add(self, data: bytes) -> None:
        self.size += len(data)
        if self.failed:
            return
        self._pieces.append(data)
        self._hold(len(data))
        if not self._spooled and (self.size > INLINE_MAX or self._memory.used > MEMORY_MAX):
            self._spooled = True
            self._to_queue.ask(lambda request: OpenSpoolFile(request, self.message), self._opened)
        self._write()

    def finish(self, done: Callable[[bytes | RefusedAnswer], None]) -> None:
        """Call `done`, once: when queue can find all content, or never will."""
        self._done = done
        self._finish_if_done()

    def close(self) -> None:
        """Give everything back; the file is closed at once, or when the thread that writes it has ended."""
        self._closed = True
        self._pieces.clear()
        self._hold(-self._held)
        if not self._busy:
            self._close_file()
        done, self._done = self._done, None
        if done is not None:
            done(ABANDONED)

    def _close_file(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _hold(self, size: int) -> None:
        self._held += size
        self._memory.used += size

    def _opened(self, imsg: Any, descriptor: int | None) -> None:
        if isinstance(imsg, SpoolFileOpened):
            self._descriptor = descriptor
        else:
            self._fail(RefusedAnswer(imsg.code, imsg.enhanced, imsg.text))
        if self._closed:
            self._close_file()
        else:
            self._write()

    def _write(self) -> None:
        if self._busy or self._closed or self._descriptor is None or not self._pieces:
            self._finish_if_done()
            return
        pieces, self._pieces = self._pieces, []
        self._busy = True
        writing = self._loop.run_in_executor(self._writers, _write_all, self._descriptor, pieces)
        writing.add_done_callback(self._written)

    def _written(self, writing: asyncio.Future[int]) -> None:
        self._busy = False
        if self._closed:
            self._close_file()
            return
        error = writing.exception()
        if error is not None:
            self._fail(NO_SPACE)
        else:
            self._hold(-writing.result())
        self._write()
        if not self.full:
            self._drained()

    def _fail(self, refused: RefusedAnswer) -> None:
        self.failed = refused
        self._pieces.clear()
        self._hold(-self._held)

    def _finish_if_done(self) -> None:
        if self._done is None or self._busy or (self._spooled and self._pieces):
            return
        if self._spooled and self._descriptor is None and not self.failed:
            return
        done, self._done = self._done, None
        done(self.failed or (b"" if self._spooled else b"".join(self._pieces)))


def _write_all(descriptor: int, pieces: list[bytes]) -> int:
    """In a thread.  How many bytes were written."""
    data = memoryview(b"".join(pieces))
    size = len(data)
    while data:
        data = data[os.write(descriptor, data) :]
    return size
