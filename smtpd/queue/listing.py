"""Pages of the queue and the quarantine, and the content of a message, for smtpctl.

A page has at most 1000 rows and less than 1 MiB.  The content of a small message comes through a pipe that holds all
of it, that of a large one as a fresh descriptor of its file, or where it is coded through a pipe that is fed; for a
message that is not there the pipe is empty.
"""

import errno
import os
from collections.abc import Container, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec

from smtpd.envelope import ENVELOPE_ID_MAX, Kind, QueueEntry, Text, envelope_text, message_of, message_text
from smtpd.imsg import (
    ContentNotOpened,
    ContentOpened,
    DestinationsFound,
    EnvelopesListed,
    EnvelopesSelected,
    FindDestinations,
    ListEnvelopes,
    ListQuarantine,
    OpenContent,
    QuarantineListed,
    SelectEnvelopes,
)
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log, visible
from smtpd.ipc.text_limit import fit_text
from smtpd.queue.content_feed import ContentFeeds
from smtpd.queue.delivery.destination import Delays, Numbers
from smtpd.queue.delivery.pauses import Pauses
from smtpd.queue.store.decoded_content import ContentHolder
from smtpd.queue.store.disk import Disk
from smtpd.queue.store.store import AS_IT_CAME, PAGE, Envelope, Message, Store, UnreadableRow
from smtpd.selection import SELECTED_MAX

PAGE_BYTES = 900 * 1024  # of the rows of one page
REASON_MAX = 200  # characters of why a row was set aside

_encode = msgspec.msgpack.Encoder().encode


class Listing:
    """`inflight` are the ids of the envelopes that are being tried."""

    def __init__(self, disk: Disk, inflight: Container[object], numbers: Numbers, delays: Delays, pauses: Pauses):
        self._disk, self._inflight = disk, inflight
        self._numbers, self._delays, self._pauses = numbers, delays, pauses
        self._feeds = ContentFeeds(disk.loop, disk)

    # -- envelopes ------------------------------------------------------------------------------------------------

    def list_envelopes(self, channel: Channel, imsg: ListEnvelopes) -> None:
        self._disk.read(partial(_read, self._disk.store, imsg), partial(self._list, channel, imsg))

    def _list(
        self,
        channel: Channel,
        imsg: ListEnvelopes,
        read: tuple[Sequence[Envelope | UnreadableRow], int, dict[int, int]] | None,
        error: BaseException | None,
    ) -> None:
        if read is None:
            channel.send(EnvelopesListed(imsg.request, [], 0, _said(f"the queue cannot be read: {error}")))
            return
        rows, behind, sizes = read
        page: list[QueueEntry] = []
        room = PAGE_BYTES
        for row in rows:
            if isinstance(row, UnreadableRow):  # the scan or a try of it says so, and sets it aside
                continue
            try:
                entry = self._entry(row, sizes)
                room -= len(_encode(entry))
            except Exception as raised:  # noqa: BLE001  (one envelope, rule R8)
                log.trouble(f"envelope {envelope_text(row.id)}", raised)
                continue
            if room < 0:
                channel.send(EnvelopesListed(imsg.request, page, row.id))
                return
            page.append(entry)
        channel.send(EnvelopesListed(imsg.request, page, behind))

    def select(self, channel: Channel, imsg: SelectEnvelopes) -> None:
        def done(found: tuple[list[int], int] | None, error: BaseException | None) -> None:
            trouble = "" if error is None else _said(f"the queue cannot be read: {error}")
            channel.send(EnvelopesSelected(imsg.request, *(found or ([], 0)), trouble))

        store = self._disk.store
        self._disk.read(partial(store.select, imsg.selection, imsg.first, ENVELOPE_ID_MAX, SELECTED_MAX), done)

    def _entry(self, envelope: Envelope, sizes: dict[int, int]) -> QueueEntry:
        to = envelope.recipient
        destination = self._numbers.destination(to.action, to.destination).number if to.kind is Kind.MTA else 0
        return QueueEntry(
            schedule=envelope.schedule(),
            origin=envelope.origin,
            recipient=envelope.recipient,
            last_try=envelope.last_try,
            error=envelope.error,
            inflight=envelope.id in self._inflight,
            size=sizes.get(message_of(envelope.id), 0),
            terms=envelope.terms,
            delayed=self._delays.find_reason(destination),
            paused=self._pauses.is_paused(destination),
            is_notice=envelope.is_notice,
        )

    def find_destinations(self, channel: Channel, imsg: FindDestinations) -> None:
        channel.send(DestinationsFound(imsg.request, self._numbers.find(imsg.name)))

    # -- quarantine -----------------------------------------------------------------------------------------------

    def list_quarantine(self, channel: Channel, imsg: ListQuarantine) -> None:
        def done(rows: list[tuple[int, int, str]] | None, error: BaseException | None) -> None:
            trouble = "" if error is None else _said(f"the quarantine cannot be read: {error}")
            channel.send(QuarantineListed(imsg.request, rows or [], trouble))

        self._disk.read(partial(_read_quarantine, self._disk.store), done)

    # -- content --------------------------------------------------------------------------------------------------

    def open_content(self, channel: Channel, imsg: OpenContent) -> None:
        self._disk.read_message(imsg.message, partial(self._found, channel, imsg))

    def _found(self, channel: Channel, imsg: OpenContent, message: Message | None, error: BaseException | None) -> None:
        if message is not None and message.content is None and message.coding != AS_IT_CAME:
            self._disk.work(partial(_begin, self._disk, message), partial(self._decoding, channel, imsg))
        elif message is not None and message.content is None:
            self._disk.open_content(message, ContentHolder(""), partial(self._opened, channel, imsg))
        else:
            self._answer(channel, imsg, message.content if message is not None else None, error)

    def _opened(self, channel: Channel, imsg: OpenContent, descriptor: int | None, error: BaseException | None) -> None:
        if descriptor is not None:
            channel.send(ContentOpened(imsg.request), descriptor)
        else:
            self._answer(channel, imsg, None, error)

    def _decoding(
        self,
        channel: Channel,
        imsg: OpenContent,
        begun: tuple[Iterator[bytes], bytes | None] | None,
        error: BaseException | None,
    ) -> None:
        if begun is None:
            self._answer(channel, imsg, None, error)
        elif not self._feeds.has_room:
            self._answer(channel, imsg, None, OSError(errno.EAGAIN, "too many messages are being read"))
        else:
            try:
                channel.send(ContentOpened(imsg.request), self._feeds.begin(*begun))
            except OSError as no_pipe:
                self._answer(channel, imsg, None, no_pipe)

    def _answer(self, channel: Channel, imsg: OpenContent, content: bytes | None, error: BaseException | None) -> None:
        if error is None:
            try:
                channel.send(ContentOpened(imsg.request), _pipe(content or b""))
                return
            except OSError as no_pipe:
                error = no_pipe
        reason = _said(f"message {message_text(imsg.message)} cannot be read: {error}")
        channel.send(ContentNotOpened(imsg.request, reason))


def _read(store: Store, imsg: ListEnvelopes) -> tuple[Any, int, dict[int, int]]:
    """Rows, where the next page begins or 0, and the sizes of messages."""
    if imsg.selection is None:
        rows = store.envelopes(imsg.first, imsg.last, PAGE)
        behind = rows[-1].id + 1 if len(rows) == PAGE and rows[-1].id < imsg.last else 0
    else:
        ids, behind = store.select(imsg.selection, imsg.first, imsg.last, PAGE)
        rows = store.load(ids)
    sizes = store.sizes({message_of(row.id) for row in rows})
    return rows, behind, {message: size for message, size in sizes.items() if isinstance(size, int) and size >= 0}


def _begin(disk: Disk, message: Message) -> tuple[Iterator[bytes], bytes | None]:
    """What decodes the content piece by piece, and the first piece, after a look at all of it: nothing is shown of
    what was changed."""
    for _ in disk.spool.pieces(message):
        pass
    pieces = disk.spool.pieces(message)
    return pieces, next(pieces, None)


def _read_quarantine(store: Store) -> list[tuple[int, int, str]]:
    """A row that cannot be decoded is quoted by SQLite as it is."""
    return [(envelope, when, fit_text(Text, reason)[:REASON_MAX]) for envelope, when, reason in store.quarantine(PAGE)]


def _said(trouble: str) -> str:
    """For the log, and as much of it as an imsg carries."""
    log.warn(trouble)
    return visible(trouble)[:512]


def _pipe(content: bytes) -> int:
    """The reading end of a pipe that holds `content`, which is less than a pipe has room for; but with very many pipes
    their user gets small ones (pipe(7)).  Raises OSError."""
    reading, writing = os.pipe2(os.O_CLOEXEC)
    try:
        os.set_blocking(writing, False)
        if os.write(writing, content) < len(content):
            raise OSError(errno.ENOBUFS, "there is no room in a pipe")
    except BaseException:
        os.close(reading)
        raise
    finally:
        os.close(writing)
    return reading
