"""What dispatchers know of other hosts' TLS: given to each at its start, and kept as it changes.

    dispatcher --ReadTlsHosts, ReadStsPolicies--> a page out of the store --TlsHostsRead, StsPoliciesRead-->
    dispatcher --KeepTls--> FindStsRecords: lookup --> one change of the store, in a commit with others --TlsKept-->

A policy is kept if lookup finds that its domain announces one now (RFC 8461 3.1): a dispatcher that is in the hands of
an attacker makes none up for a domain that has none.  Ids are not compared, as a dispatcher may ask for the right one.
A policy that was kept goes on to hold without a record (RFC 8461 5.1), until it ends.

A dispatcher reads each row once and has one KeepTls under way, so that one that is in the hands of an attacker makes
nothing grow here; anything else is a Violation.  What one dispatcher has kept, all of them read at the next start, and
not before.  A row that is later than the clock, which has been set back, is left out.

Where the tables are damaged nothing more is kept in this life of the daemon, and the dispatchers are not told, which
would send the same rows for ever: what they know is found out anew after a restart.
"""

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from smtpd.imsg import (
    STS_ROWS_MAX,
    TLS_HOSTS_MAX,
    FindStsRecords,
    KeepTls,
    ReadStsPolicies,
    ReadTlsHosts,
    StsPoliciesRead,
    StsRecordsFound,
    TlsHostsRead,
    TlsKept,
)
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log
from smtpd.ipc.request_window import RequestWindow
from smtpd.next_hop import StsRow, TlsHost
from smtpd.queue.store.disk import Disk
from smtpd.queue.store.store import RememberTls

ROW_BYTES = 4096  # that a row takes on the disk with its part of the index, at the most: its texts are ASCII

Page = tuple[Sequence[Any], int]


class KeptTls:
    """`now`: seconds since 1970."""

    def __init__(self, disk: Disk, to_lookup: RequestWindow, now: Callable[[], float]):
        self._disk, self._to_lookup, self._now = disk, to_lookup, now
        self._next: dict[tuple[int, type], int] = {}  # where a dispatcher goes on to read; absent: at the beginning
        self._keeping: set[int] = set()  # dispatchers
        self._asking = 0  # of these, those whose policies lookup is asked about
        self._damaged = False  # the tables cannot be written

    def read_hosts(self, channel: Channel, imsg: ReadTlsHosts) -> None:
        self._read(channel, imsg, lambda: self._disk.store.tls_hosts(imsg.after, TLS_HOSTS_MAX), TlsHostsRead)

    def read_policies(self, channel: Channel, imsg: ReadStsPolicies) -> None:
        self._read(channel, imsg, lambda: self._disk.store.sts_policies(imsg.after, STS_ROWS_MAX), StsPoliciesRead)

    def _read(
        self, channel: Channel, imsg: ReadTlsHosts | ReadStsPolicies, read: Callable[[], Page], answer: Callable
    ) -> None:
        key = channel.number, type(imsg)
        if self._next.get(key, 0) != imsg.after:
            raise Violation(f"dispatcher {channel.number} reads what is kept of TLS a second time")
        self._next[key] = -1  # until it is answered, and when there is no more
        self._disk.read(read, partial(self._answer, channel, imsg, answer, key))

    def _answer(
        self,
        channel: Channel,
        imsg: ReadTlsHosts | ReadStsPolicies,
        answer: Callable,
        key: tuple[int, type],
        page: Page | None,
        error: BaseException | None,
    ) -> None:
        if page is None:
            log.warn(f"what is kept of TLS cannot be read: {error}")
        rows, last = page or ([], 0)
        now = self._now()
        rows = [row for row in rows if _time_of(row) <= now]
        if last:
            self._next[key] = last
        channel.send(answer(imsg.request, rows, last))

    def keep(self, channel: Channel, imsg: KeepTls) -> None:
        if channel.number in self._keeping:
            raise Violation(f"dispatcher {channel.number} has TLS kept twice at a time")
        self._keeping.add(channel.number)
        if not imsg.policies:
            self._write(channel, imsg, [])
            return
        self._asking += 1
        domains = [row.domain for row in imsg.policies]
        self._to_lookup.ask(
            lambda request: FindStsRecords(request, domains), partial(self._records_found, channel, imsg)
        )

    def _records_found(self, channel: Channel, imsg: KeepTls, found: StsRecordsFound) -> None:
        if len(found.announced) != len(imsg.policies):
            raise Violation("lookup answers FindStsRecords for other domains")
        self._asking -= 1
        announced = zip(imsg.policies, found.announced, strict=True)
        self._write(channel, imsg, [row for row, is_announced in announced if is_announced])

    @property
    def is_asking(self) -> bool:
        """Lookup has not answered yet."""
        return self._asking > 0

    def _write(self, channel: Channel, imsg: KeepTls, policies: list[StsRow]) -> None:
        rows = len(imsg.hosts) + len(policies)
        if self._damaged or not rows:
            self._kept(channel, imsg, None)
        elif self._disk.space.take(ROW_BYTES * rows):
            change = RememberTls(int(self._now()), imsg.hosts, policies)
            self._disk.commits.submit(change, partial(self._kept, channel, imsg), urgent=False)
        else:
            self._kept(channel, imsg, OSError("no room"))

    def _kept(self, channel: Channel, imsg: KeepTls, error: Exception | None) -> None:
        self._keeping.discard(channel.number)
        if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CORRUPT:
            if not self._damaged:
                log.warn(f"what is known of TLS is not kept any more: {error}")
            self._damaged, error = True, None
        channel.send(TlsKept(imsg.request, error is None))


def _time_of(row: TlsHost | StsRow) -> int:
    return row.worked if isinstance(row, TlsHost) else row.fetched
