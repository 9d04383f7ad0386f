"""Queued content that is not encrypted as it would be now is encrypted anew, or decrypted, in the background.

    rows, ROWS at a time --> content is read, coded as it is now --> Recode --> the old file, if any, is removed

At most ROWS messages each PAUSE, so deliveries have the disk.  A file is coded into a new one beside the old, which the
row means from the commit on: a crash leaves either, and the other is an orphan of the next start.  What cannot be coded
now, as the disk is full or fails, is looked at again after RETRY_DELAY.  Messages whose key is not configured are
counted, and wait.
"""

import asyncio
from collections import Counter
from functools import partial

from smtpd.envelope import message_text
from smtpd.ipc.log import log
from smtpd.queue.store.content_codec import KeyMissing
from smtpd.queue.store.disk import Disk
from smtpd.queue.store.store import ContentDamaged, Message, Recode

START_DELAY = 5.0  # seconds after the start: what is due then goes first
ROWS = 16  # messages at a time
PAUSE = 0.05  # seconds between them
RETRY_DELAY = 60.0  # seconds
REPORT_INTERVAL = 10.0  # seconds between two lines of the log


class Recoding:
    def __init__(self, loop: asyncio.AbstractEventLoop, disk: Disk):
        self._loop, self._disk, self._codec = loop, disk, disk.spool.codec
        self._after = 0  # the last message that was looked at
        self._left = 0  # messages of this page that are under way
        self._failed = False  # one of this page has to be looked at again
        self._done = 0
        self._without_key: Counter[int] = Counter()  # id of a key -> messages
        self._report_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def begin(self) -> None:
        if self._codec.has_keys:
            self._report_at = self._loop.time() + REPORT_INTERVAL
            self._later(START_DELAY)

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _later(self, seconds: float) -> None:
        if not self._stopped:
            self._timer = self._loop.call_later(seconds, self._next_page)

    def _next_page(self) -> None:
        self._disk.read(partial(self._disk.store.codings, self._after, ROWS), self._found)

    def _found(self, rows: list[tuple[int, int]] | None, error: BaseException | None) -> None:
        if rows is None:
            log.warn(f"queue encryption: the queue cannot be read: {error}")
            self._later(RETRY_DELAY)
            return
        if not rows:
            self._end()
            return
        last = rows[-1][0]
        wanted = [(id, coding) for id, coding in rows if not self._codec.is_current(coding)]
        readable = [id for id, coding in wanted if coding in self._codec.codings]
        without_key = [coding for _, coding in wanted if coding not in self._codec.codings]
        self._left, self._failed = len(readable), False
        for id in readable:
            self._disk.read_message(id, partial(self._read, last, id))
        if not readable:
            self._page_done(last)
        if not self._failed:
            self._without_key.update(without_key)

    def _read(self, last: int, id: int, message: Message | None, error: BaseException | None) -> None:
        if isinstance(error, ContentDamaged | KeyMissing):  # an attempt says so, and holds it or lets it wait
            self._one_done(last, None)
        elif error is not None or message is None:  # None: it is gone
            self._one_done(last, error)
        elif message.content is not None:
            change = Recode(id, message.coding, message.content, b"", 0)
            self._disk.commits.submit(change, partial(self._recoded, last), urgent=False)
        elif not self._disk.space.take(message.size):
            self._one_done(last, OSError("the disk is full"))
        else:
            self._disk.work(partial(self._disk.spool.recode, message), partial(self._file_made, last, message))

    def _file_made(self, last: int, message: Message, digest: bytes | None, error: BaseException | None) -> None:
        if digest is None:
            is_damage = isinstance(error, ContentDamaged)
            self._one_done(last, None if is_damage else error)
            return
        change = Recode(message.id, message.coding, None, digest, self._codec.coding)
        self._disk.commits.submit(change, partial(self._file_committed, last, message), urgent=False)

    def _file_committed(self, last: int, message: Message, error: Exception | None) -> None:
        """After an error too it is the row that says which of the files is the message's."""
        self._disk.read(partial(self._remove_other, message), partial(self._file_recoded, last, error))

    def _remove_other(self, message: Message) -> None:
        row = self._disk.store.find_message(message.id)
        for coding in {message.coding, self._codec.coding}:
            if row is None or row.coding != coding:
                self._disk.spool.remove_file(message.id, coding)

    def _file_recoded(self, last: int, refused: Exception | None, _nothing: None, error: BaseException | None) -> None:
        if error is not None:
            log.warn(f"queue encryption: a file stays until the next start: {error}")
        self._recoded(last, refused)

    def _recoded(self, last: int, error: Exception | None) -> None:
        if error is None:
            self._done += 1
        self._one_done(last, error)

    def _one_done(self, last: int, error: BaseException | None) -> None:
        if error is not None:
            log.warn(f"queue encryption: messages up to {message_text(last)} are coded later: {error}")
            self._failed = True
        self._left -= 1
        if not self._left:
            self._page_done(last)

    def _page_done(self, last: int) -> None:
        if self._failed:
            self._later(RETRY_DELAY)
            return
        self._after = last
        if self._done and self._loop.time() >= self._report_at:
            self._report_at = self._loop.time() + REPORT_INTERVAL
            log.info(f"queue encryption: messages {self._what} so far: {self._done}, up to {message_text(last)}")
        self._later(PAUSE)

    def _end(self) -> None:
        if self._done:
            log.info(f"queue encryption: messages {self._what}: {self._done}, all that there were")
        for coding, count in self._without_key.items():
            log.warn(f"queue encryption: key {coding:016x} is not configured; messages that wait for it: {count}")

    @property
    def _what(self) -> str:
        return f"encrypted with key {self._codec.coding:016x}" if self._codec.encrypts else "decrypted"
