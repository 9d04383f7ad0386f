"""TLS memory: which hosts have offered TLS before, so that an attacker who hides STARTTLS is noticed.

    worked             FRESH       TLS worked within 30 days: that it fails now is no reason for clear text
    failed, worked     SUSPECT     for 1 h after the first failure: as FRESH, mail waits
    failed, worked     LOST        it has failed for an hour: tried, and clear text if it fails again
    failed             BROKEN      as LOST or never worked, and tried not long ago: clear text without trying
    nothing known      UNKNOWN

Only for hosts to which nothing stronger applies (tls_policy.py).  The table is bounded; the hosts that were used least
recently are forgotten first, so it takes HOSTS_MAX others to make it forget one.

That TLS has worked is kept over a restart: `to_keep` says what is not kept so far, of each host once a day.  Failures
are not: after a restart mail may wait for one hour more.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import islice

HOSTS_MAX = 50_000
WORKED_TIME = 30 * 86_400.0  # seconds that a working TLS is remembered
ALARM_TIME = 3600.0  # seconds that mail waits when it fails
KEEP_INTERVAL = 86_400.0  # seconds in which a host whose TLS works is kept again
BROKEN_TIME = 3600.0  # seconds after a failure in which TLS is not tried again, once clear text is allowed


class TlsHistory(Enum):
    UNKNOWN = "no TLS known"
    FRESH = "TLS worked within 30 days"
    SUSPECT = "TLS worked within 30 days and has failed for less than an hour"
    LOST = "TLS worked within 30 days and has failed for an hour"
    BROKEN = "TLS has failed not long ago"


@dataclass(slots=True)
class _Host:
    worked: float | None = None  # when last, in seconds since 1970; None: never
    failed: float | None = None  # when first since it worked
    failed_last: float = 0.0
    kept: float = -KEEP_INTERVAL  # the `worked` that is kept


class TlsMemory:
    def __init__(self, most: int = HOSTS_MAX):
        self._most = most
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._to_keep: dict[str, None] = {}  # in the order of time

    def __len__(self) -> int:
        return len(self._hosts)

    def history(self, host: str, now: float) -> TlsHistory:
        """What is known of this host, "name:port"."""
        found = self._hosts.get(host)
        if found is None:
            return TlsHistory.UNKNOWN
        worked = found.worked is not None and now < found.worked + WORKED_TIME
        if worked and found.failed is None:
            return TlsHistory.FRESH
        if worked and found.failed is not None and now < found.failed + ALARM_TIME:
            return TlsHistory.SUSPECT
        if found.failed is not None and now < found.failed_last + BROKEN_TIME:
            return TlsHistory.BROKEN
        return TlsHistory.LOST if worked else TlsHistory.UNKNOWN

    def worked(self, host: str, now: float) -> None:
        """A handshake with this host has succeeded."""
        before = self._hosts.get(host)
        found = self._hosts[host] = _Host(worked=now, kept=before.kept if before else -KEEP_INTERVAL)
        self._hosts.move_to_end(host)
        if now >= found.kept + KEEP_INTERVAL:
            self._to_keep[host] = None
        self._forget_oldest()

    def failed(self, host: str, now: float) -> None:
        """A handshake has failed, or the host has not offered STARTTLS although it did before."""
        found = self._hosts.setdefault(host, _Host())
        if found.failed is None:
            found.failed = now
        found.failed_last = now
        self._hosts.move_to_end(host)
        self._forget_oldest()

    def missing(self, host: str, now: float) -> None:
        """The host has not offered STARTTLS: only of interest where it did before."""
        if host in self._hosts and self._hosts[host].worked is not None:
            self.failed(host, now)

    def _forget_oldest(self) -> None:
        if len(self._hosts) > self._most:
            host, _ = self._hosts.popitem(last=False)
            self._to_keep.pop(host, None)

    # -- over a restart -----------------------------------------------------------------------------

    def to_keep(self, most: int) -> dict[str, float]:
        """Up to `most` hosts whose TLS has worked, and when, that are not kept so far; they count as kept now."""
        found: dict[str, float] = {}
        for host in list(islice(self._to_keep, most)):
            del self._to_keep[host]
            known = self._hosts[host]
            if known.worked is not None:
                found[host] = known.kept = known.worked
        return found

    def not_kept(self, hosts: Iterable[str]) -> None:
        """These could not be kept."""
        for host in hosts:
            if host in self._hosts:
                self._hosts[host].kept = -KEEP_INTERVAL
                self._to_keep[host] = None

    def restore(self, host: str, worked: float) -> None:
        """TLS has worked then, as was kept."""
        self._hosts[host] = _Host(worked=worked, kept=worked)
        self._forget_oldest()
