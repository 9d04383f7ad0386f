"""Decoded content for smtpctl, through a pipe: never more in memory than one piece of it and what the pipe holds.

    a thread: next piece --> loop: as much as the pipe takes --> smtpctl

A reader that goes away ends it; one that stops reading costs one of FEEDS_MAX places, and nobody else.
"""

import asyncio
import os
from collections.abc import Iterator

from smtpd.ipc.log import log
from smtpd.queue.store.disk import Disk

FEEDS_MAX = 16  # contents that are read at a time


class ContentFeeds:
    def __init__(self, loop: asyncio.AbstractEventLoop, disk: Disk):
        self._loop, self._disk = loop, disk
        self._feeds: set[_Feed] = set()

    @property
    def has_room(self) -> bool:
        return len(self._feeds) < FEEDS_MAX

    def begin(self, pieces: Iterator[bytes], first: bytes | None) -> int:
        """The reading end of a pipe for `first` and what `pieces` makes behind it.  Raises OSError."""
        reading, writing = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(writing, False)
        feed = _Feed(self._loop, self._disk, pieces, writing, self._feeds)
        self._feeds.add(feed)
        feed.take(first, None)
        return reading


class _Feed:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        disk: Disk,
        pieces: Iterator[bytes],
        writing: int,
        feeds: "set[_Feed]",
    ):
        self._loop, self._disk, self._pieces, self._writing, self._feeds = loop, disk, pieces, writing, feeds
        self._rest = b""

    def take(self, piece: bytes | None, error: BaseException | None) -> None:
        """None: there is nothing more."""
        if error is not None:
            log.warn(f"content cannot be read further: {error}")
        if piece is None:
            self._end()
        else:
            self._rest = piece
            self._write()

    def _write(self) -> None:
        try:
            written = os.write(self._writing, self._rest)
        except BlockingIOError:
            self._loop.add_writer(self._writing, self._write)
            return
        except OSError:  # the reader has gone
            self._end()
            return
        self._rest = self._rest[written:]
        if self._rest:
            self._loop.add_writer(self._writing, self._write)
        else:
            self._loop.remove_writer(self._writing)
            self._disk.work(lambda: next(self._pieces, None), self.take)

    def _end(self) -> None:
        self._loop.remove_writer(self._writing)
        os.close(self._writing)
        self._feeds.discard(self)
        self._disk.work(self._close, lambda _nothing, _error: None)

    def _close(self) -> None:
        """The file behind it: by a thread, as `pieces` has been with one so far."""
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
