"""Access to all that is on the disk, for the loop: nothing here blocks.

commits   changes of the store, in groups         one thread
read      of the store                            one thread
work      with spool files                        some threads, their fsyncs side by side
"""

import asyncio
import errno
import hashlib
import os
from collections.abc import Callable, Iterable
from functools import partial

from smtpd.queue.store.cache import Cache
from smtpd.queue.store.commit import Commits
from smtpd.queue.store.decoded_content import ContentHolder, ContentMemory
from smtpd.queue.store.disk_threads import DiskThreads, Done, Work
from smtpd.queue.store.space import Space
from smtpd.queue.store.spool import Spool
from smtpd.queue.store.store import (
    AS_IT_CAME,
    Change,
    ContentDamaged,
    Envelope,
    Message,
    Quarantine,
    Remove,
    Replace,
    Store,
    UnreadableRow,
    changed,
    changes_of,
)

SPOOL_THREADS = 8


class Disk:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        store: Store,
        spool: Spool,
        space: Space,
        give_up: Callable[[], None],
    ):
        self.loop, self.store, self.spool, self.space = loop, store, spool, space
        self.cache = Cache()
        self.memory = ContentMemory(loop)
        self.commits = Commits(loop, store, self._gone, give_up)
        self._reader = DiskThreads(loop, "read")
        self._spoolers = DiskThreads(loop, "spool", SPOOL_THREADS)

    def read(self, function: Work, done: Done) -> None:
        self._reader.ask(function, done)

    def work(self, function: Work, done: Done) -> None:
        self._spoolers.ask(function, done)

    def _gone(self, messages: list[int]) -> None:
        self.remove_files(messages)

    def remove_files(self, messages: list[int]) -> None:
        self.work(partial(self.spool.remove, messages), _nothing)

    def load(self, envelopes: list[int], done: Done) -> None:
        """`done(rows, error)`: those of `envelopes` (at most PAGE) that exist, as they will be when all that was
        submitted before is durable."""
        uncommitted = {id: changes for id in envelopes if (changes := self.commits.uncommitted(id))}
        self.read(partial(_load, self.store, envelopes, uncommitted), done)

    def find_message(self, message: int, done: Done) -> None:
        """`done(message or None, error)`; ContentDamaged when it is not what was stored.  For an attempt; its end makes
        the cache forget the message."""
        known = self.cache.maybe_message(message)
        if known is not None:
            done(known, None)
        else:
            self.read_message(message, partial(self._found, done))

    def read_message(self, message: int, done: Done) -> None:
        """As find_message, as it is in the store now."""
        self.read(partial(_read_message, self.store, message), done)

    def _found(self, done: Done, message: Message | None, error: BaseException | None) -> None:
        if message is not None:
            self.cache.keep(message)
        done(message, error)

    def open_content(self, message: Message, holder: ContentHolder, done: Done) -> None:
        """`done(descriptor, error)`: a fresh one, of a spool file that is still what was stored, or of memory with its
        content where it is coded.  That is the holder's until it is released."""
        self._open_content(message, holder, partial(self._opened, message, holder, done))

    def _opened(
        self, message: Message, holder: ContentHolder, done: Done, descriptor: int | None, error: BaseException | None
    ) -> None:
        """A file that is missing may have been coded anew since its row was read."""
        if not isinstance(error, ContentDamaged):
            done(descriptor, error)
            return

        def read_again(found: Message | None, _error: BaseException | None) -> None:
            if found is None or found.coding == message.coding:
                done(None, error)
            else:
                self._open_content(found, holder, done)

        self.read_message(message.id, read_again)

    def _open_content(self, message: Message, holder: ContentHolder, done: Done) -> None:
        if message.coding == AS_IT_CAME:
            self.work(partial(self.spool.open, message.id, message.size, message.digest), done)
        else:
            self.memory.ask(holder.owner, message.size, partial(self._decode, message, holder, done))

    def _decode(self, message: Message, holder: ContentHolder, done: Done, granted: bool) -> None:
        if granted and not holder.is_over:
            self.work(partial(self.spool.decode, message), partial(self._decoded, message, holder, done))
            return
        if granted:
            self.memory.give_back(holder.owner, message.size)
        done(None, OSError(errno.EAGAIN, "too much large mail is being delivered at a time"))

    def _decoded(
        self, message: Message, holder: ContentHolder, done: Done, descriptor: int | None, error: BaseException | None
    ) -> None:
        give_back = partial(self.memory.give_back, holder.owner, message.size)
        if descriptor is not None and not holder.is_over:
            holder.keep(descriptor, give_back)
            done(descriptor, error)
            return
        if descriptor is not None:
            os.close(descriptor)
        give_back()
        done(None, error or OSError(errno.ECANCELED, "the attempt is over"))

    @property
    def idle(self) -> bool:
        """Nothing is under way, of changes, of files, and of reads, which may lead to a change."""
        return self.commits.idle and not self._spoolers.under_way and not self._reader.under_way

    def close(self, done: Done) -> None:
        """When all that is under way has ended.  Nothing may be asked any more."""
        self.commits.close(done)


def _load(store: Store, envelopes: list[int], uncommitted: dict[int, list[Change]]) -> list[Envelope | UnreadableRow]:
    """A change may be in its row already: it is made a second time then, which makes no difference but to a count."""
    rows = store.load(envelopes)
    if not uncommitted:
        return [*rows]
    after = (_changed(row, uncommitted.get(row.id, ()), store.run) for row in rows)
    return [row for row in after if row is not None]


def _changed(row: Envelope | UnreadableRow, changes: Iterable[Change], run: int) -> Envelope | UnreadableRow | None:
    for change in (part for whole in changes for part in changes_of(whole, row.id)):
        if isinstance(change, Remove | Replace | Quarantine):
            return None
        if isinstance(row, Envelope):
            row = changed(row, change, run)
    return row


def _read_message(store: Store, message: int) -> Message | None:
    found = store.find_message(message)
    if found is None or (found.content is None and _is_number(found.size)):
        return found
    if found.coding != AS_IT_CAME and isinstance(found.content, bytes):
        return found  # checked as it was decoded
    if not isinstance(found.content, bytes) or hashlib.sha256(found.content).digest() != found.digest:
        raise ContentDamaged("the content was changed after it was stored")
    if len(found.content) != found.size:
        raise ContentDamaged("the size was changed after the content was stored")
    return found


def _is_number(size: object) -> bool:
    """A damaged row may hold anything."""
    return isinstance(size, int) and size > 0


def _nothing(_result: object, _error: object) -> None:
    pass
