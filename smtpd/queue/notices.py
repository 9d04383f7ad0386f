"""Notices to senders (delivery status notifications): made of the rows that say what senders are to be told.

    conclude.py: Remove + Owe durable --> owed(message) --GATHER_TIME--> rows and content read --> composed
    --> one transaction: the notice is a new message with an envelope, and its rows go --> scheduler: due --> attempt
    --> lookup expands it as mail of this host --> envelopes in its place --> delivered like any mail

There is no moment in which the mail is gone and neither row nor notice is there, and each row goes with exactly one
notice, wherever the daemon ends: the next start finds the rows that are left.  Recipients of one message whose rows
come within GATHER_TIME share a notice.

Of messages whose rows wait for their time at most WAITING_MAX are known here; the others, as those that were there at
the start, are looked for in the database when there is room.  UNDER_WAY_MAX notices are made at a time, so that a
million of failures is no more work at once than a few.

A notice is from the null sender, and never leads to another one (notify.py).
"""

import asyncio
import hashlib
import os
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from typing import NamedTuple

from smtpd.envelope import (
    INLINE_MAX,
    LOCAL_CLIENT,
    Body,
    Duty,
    Kind,
    MailParameters,
    Notify,
    Origin,
    Recipient,
    Schedule,
    envelope_id,
    envelope_text,
    message_text,
)
from smtpd.ipc.log import log
from smtpd.queue.message_ids import OwnIds
from smtpd.queue.notice_report import compose_notice, reader
from smtpd.queue.store.content_codec import KeyMissing
from smtpd.queue.store.disk import Disk
from smtpd.queue.store.recipient_status import RecipientStatus, ReportAction
from smtpd.queue.store.spool import Spool, store_error
from smtpd.queue.store.store import (
    AS_IT_CAME,
    Add,
    ContentDamaged,
    Envelope,
    Message,
    StoreBroken,
    StoreFull,
    StoreNotice,
    UnreadableRow,
    untried,
)
from smtpd.slice import QueueSlice

GATHER_TIME = 2.0  # seconds from the first row of a message to its notice
WAITING_MAX = 10_000  # messages that wait for that
UNDER_WAY_MAX = 8  # notices that are being made
NOTICE_RECIPIENTS_MAX = 100  # of one notice: more of them have another one
RETRY_DELAY = 5.0  # seconds until it is tried again, after a failure of the disk

Rows = Sequence[RecipientStatus | UnreadableRow]


class _Notice(NamedTuple):
    """One that is being made."""

    message: int  # that it tells of
    id: int  # its own
    rows: list[RecipientStatus]  # that it tells
    keys: tuple[tuple[int, int], ...]  # of these, and of those that they make needless
    more: bool  # there are further rows


class Notices:
    """`submitted` gets the schedule of each new envelope, `lane_of` as in AttemptContext; `now` is the time of the wall
    clock."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        configuration: QueueSlice,
        disk: Disk,
        own_ids: OwnIds,
        submitted: Callable[[list[Schedule]], None],
        statistics: Counter[str],
        now: Callable[[], float] = time.time,
    ):
        self._loop, self._disk, self._own_ids, self._now = loop, disk, own_ids, now
        self._host, self._lifetime = configuration.server_name, configuration.notice_lifetime
        self._submitted, self._statistics = submitted, statistics
        self._waiting: OrderedDict[int, float] = OrderedDict()  # message -> when its notice is made; ascending
        self._under_way: set[int] = set()
        self._more_after: int | None = None  # in the database there may be others: messages above that
        self._looking = False
        self._timer: asyncio.TimerHandle | None = None
        self._stopping = False

    def __len__(self) -> int:
        return len(self._waiting) + len(self._under_way)

    def begin(self) -> None:
        """What is owed from an earlier life."""
        self._look_from(0)

    def stop(self) -> None:
        """Begin no further notice: the rows stay for the next start."""
        self._stopping = True

    def owed(self, message: int) -> None:
        """A row of it is durable."""
        if message in self._waiting or self._stopping:
            return
        if len(self._waiting) >= WAITING_MAX:
            self._look_from(0)
            return
        self._waiting[message] = self._loop.time() + GATHER_TIME
        self._set_timer()

    # -- which are due ----------------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        if self._timer is None and self._waiting:
            wait = next(iter(self._waiting.values())) - self._loop.time()
            self._timer = self._loop.call_later(max(0.0, wait), self._go_on)

    def _go_on(self) -> None:
        """Begin with those whose time has come, as far as there are places."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._loop.time()
        while self._waiting and len(self._under_way) < UNDER_WAY_MAX and not self._stopping:
            message, when = next(iter(self._waiting.items()))
            if when > now:
                break
            del self._waiting[message]
            if message in self._under_way:  # it has got further rows: after that
                self._waiting[message] = now + GATHER_TIME
                continue
            self._under_way.add(message)
            self._read(message)
        if len(self._under_way) < UNDER_WAY_MAX and not self._stopping:
            self._set_timer()
            self._look_for_more()

    def _look_from(self, message: int) -> None:
        self._more_after = message
        self._look_for_more()

    def _look_for_more(self) -> None:
        """In the database, when nothing is known that waits."""
        if self._more_after is None or self._waiting or self._looking or self._stopping:
            return
        self._looking = True
        self._disk.read(partial(self._disk.store.owed, self._more_after, WAITING_MAX), self._found)

    def _found(self, messages: list[int] | None, error: BaseException | None) -> None:
        self._looking = False
        if messages is None:
            log.warn(f"what senders are to be told cannot be read: {error}")
            self._loop.call_later(RETRY_DELAY, self._look_for_more)
            return
        self._more_after = messages[-1] if messages else None
        now = self._loop.time()
        for message in messages:
            if message not in self._under_way:
                self._waiting.setdefault(message, now)
        self._go_on()

    def _end(self, message: int) -> None:
        self._under_way.discard(message)
        self._go_on()

    def _again(self, message: int) -> None:
        """Later: its rows are where they were."""
        self._loop.call_later(RETRY_DELAY, self._end_and_wait, message)

    def _end_and_wait(self, message: int) -> None:
        self._under_way.discard(message)
        self.owed(message)
        self._go_on()

    # -- one notice: rows, content, commit ----------------------------------------------------------------------------

    def _read(self, message: int) -> None:
        read = partial(self._disk.store.statuses, message, NOTICE_RECIPIENTS_MAX + 1)
        self._disk.read(read, partial(self._contained, self._have_rows, message))

    def _contained(self, step: Callable[..., None], message: int, *arguments: object) -> None:
        """Whatever a step of one notice raises costs that notice, in this life of the daemon."""
        try:
            step(message, *arguments)
        except Exception as error:  # noqa: BLE001  (one notice, rule R8)
            log.trouble(f"notice about message {message_text(message)}", error)
            self._end(message)

    def _have_rows(self, message: int, rows: Rows | None, error: BaseException | None) -> None:
        if rows is None:
            log.warn(f"what the sender of message {message_text(message)} is to be told cannot be read: {error}")
            self._again(message)
            return
        for row in rows:
            if isinstance(row, UnreadableRow):
                log.warn(f"what is to be told of envelope {envelope_text(row.id)} cannot be read: {row.reason}")
        known = [row for row in rows if isinstance(row, RecipientStatus)]
        if not known:
            self._end(message)
            return
        id = self._own_ids.maybe_take()
        if id is None:
            self._again(message)
            return
        told = known[:NOTICE_RECIPIENTS_MAX]
        keys = tuple((row.envelope, int(row.action)) for row in told)
        notice = _Notice(message, id, _latest(told), keys, len(known) > len(told))
        self._disk.read_message(message, partial(self._contained, self._have_message, message, notice))

    def _have_message(
        self, message: int, notice: _Notice, content: Message | None, error: BaseException | None
    ) -> None:
        if error is not None and not isinstance(error, ContentDamaged | KeyMissing):
            log.warn(f"message {message_text(message)} cannot be read, for its notice: {error}")
            self._give_up(notice)
            return
        work = partial(_make, self._disk.spool, self._host, notice, content, self._now())
        self._disk.work(work, partial(self._contained, self._made, message, notice))

    def _made(
        self,
        message: int,
        notice: _Notice,
        made: Message | None,
        error: BaseException | None,
    ) -> None:
        if made is None:
            if isinstance(error, StoreBroken):
                self._disk.commits.failed(error)
            elif not isinstance(error, StoreFull | OSError):
                self._disk.remove_files([notice.id])
                self._own_ids.spend(notice.id)
                raise error or RuntimeError("no notice")
            log.warn(f"the notice about message {message_text(message)} cannot be written: {error}")
            self._give_up(notice)
            return
        add = Add(made, [self._envelope(notice, made)])
        change = StoreNotice(notice.keys[0][0], notice.keys, add)
        stored = partial(self._contained, self._stored, message, notice, add)
        self._disk.commits.submit(change, stored, must_succeed=True)

    def _give_up(self, notice: _Notice) -> None:
        self._disk.remove_files([notice.id])
        self._own_ids.spend(notice.id)
        self._again(notice.message)

    def _stored(self, message: int, notice: _Notice, add: Add, error: Exception | None) -> None:
        self._own_ids.spend(notice.id)
        if error is not None:  # not of the disk
            self._disk.remove_files([notice.id])
            raise error
        (envelope,) = add.envelopes
        self._statistics["bounce.message"] += 1
        self._statistics["bounce.envelope"] += len(notice.rows)
        for row in notice.rows:
            log.info(_line(row, envelope))
        if not self._stopping:
            self._disk.cache.keep(add.message, add.envelopes)
            self._submitted([envelope.schedule()])
        if notice.more:
            self.owed(message)
        self._end(message)

    def _envelope(self, notice: _Notice, made: Message) -> Envelope:
        created, first = int(self._now()), notice.rows[0]
        sender = first.sender
        origin = Origin("", LOCAL_CLIENT, "localhost", self._host, self._host, "", True)
        to = Recipient(sender, sender, "", Kind.MDA, "", "", duty=Duty.EXPAND, notify=Notify.NEVER)
        terms = MailParameters(body=Body.SEVEN_BIT, utf8=not sender.isascii(), require_tls=first.require_tls)
        id, expires = envelope_id(notice.id, 1), created + self._lifetime
        return untried(id, self._disk.store.run, created, expires, origin, to, terms, is_notice=True)


def _latest(rows: Sequence[RecipientStatus]) -> list[RecipientStatus]:
    """Less those of a delay that is over."""
    over = {row.envelope for row in rows if row.action is not ReportAction.DELAYED}
    return [row for row in rows if row.action is not ReportAction.DELAYED or row.envelope not in over]


def _make(spool: Spool, host: str, notice: _Notice, message: Message | None, now: float) -> Message:
    """The notice, in a spool file when it is large.  Raises StoreFull, StoreBroken."""
    id = f"{message_text(notice.id)}{int(now):08x}"
    size = message.size if message is not None else 0
    try:
        content = compose_notice(host, notice.rows, reader(spool, message), size, now, id)
    except (ContentDamaged, KeyMissing):
        content = compose_notice(host, notice.rows, reader(spool, None), 0, now, id)
    if len(content) <= INLINE_MAX:
        return Message(notice.id, len(content), hashlib.sha256(content).digest(), content)
    try:
        digest, coding = (_write_coded if spool.codec.is_active else _write)(spool, notice.id, content)
    except OSError as error:
        raise store_error(error) from error
    return Message(notice.id, len(content), digest, None, coding)


def _write(spool: Spool, id: int, content: bytes) -> tuple[bytes, int]:
    """A spool file with `content`, durable: its SHA-256, and the coding of its content."""
    theirs, own = spool.create(id)
    try:
        with os.fdopen(theirs, "wb") as file:
            file.write(content)
        return spool.seal(id, own, len(content)), AS_IT_CAME
    finally:
        os.close(own)


def _write_coded(spool: Spool, id: int, content: bytes) -> tuple[bytes, int]:
    with closing(spool.create_file(id)) as file:
        file.write(content)
        return file.seal(), spool.codec.coding


def _line(row: RecipientStatus, envelope: Envelope) -> str:
    return (
        f"bounce: {row.action.name.lower()} for {envelope_text(row.envelope)}: from=<>, to=<{row.sender}>,"
        f" rcpt=<{row.recipient}>, evpid={envelope_text(envelope.id)}, stat={row.status} {row.reason}"
    )
