"""Scan of the spool at the start: its envelopes are told to the scheduler page by page, as it asks.

    ScanEnvelopes(after) --> a page of rows of other runs, by id --> EnvelopesSubmitted, EnvelopesScanned(last)

What this run stored has been submitted already.  A row that makes no sense is set aside and the scan goes on.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial

from smtpd.envelope import Schedule
from smtpd.imsg import EnvelopesScanned, EnvelopesSubmitted, ScanEnvelopes
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log
from smtpd.queue.store.disk import Disk
from smtpd.queue.store.store import PAGE, LaneOf, UnreadableRow

RETRY_DELAY = 5.0  # seconds until a page that could not be read is tried again

Rows = Sequence[Schedule | UnreadableRow]


class Scan:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        disk: Disk,
        set_aside: Callable[[UnreadableRow], None],
        lane_of: LaneOf,
    ):
        self._loop, self._disk, self._set_aside, self._lane_of = loop, disk, set_aside, lane_of

    def scan(self, channel: Channel, imsg: ScanEnvelopes) -> None:
        page = partial(self._disk.store.schedules, imsg.after, PAGE, self._lane_of)
        self._disk.read(page, partial(self._page, channel, imsg))

    def _page(self, channel: Channel, imsg: ScanEnvelopes, rows: Rows | None, error: BaseException | None) -> None:
        if rows is None:
            log.warn(f"the spool cannot be scanned now: {error}")
            self._loop.call_later(RETRY_DELAY, self.scan, channel, imsg)
            return
        channel.send(EnvelopesSubmitted([row for row in rows if isinstance(row, Schedule)]))
        for row in rows:
            if isinstance(row, UnreadableRow):
                self._set_aside(row)
        channel.send(EnvelopesScanned(_id(rows[-1]) if rows else 0))


def _id(row: Schedule | UnreadableRow) -> int:
    return row.envelope if isinstance(row, Schedule) else row.id
