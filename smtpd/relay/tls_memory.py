"""TLS memory: which hosts have offered TLS before, so that an attacker who hides STARTTLS is noticed.

    worked             FRESH       TLS worked within 30 days: that it fails now is no reason for clear text
    failed, worked     SUSPECT     for 1 h after the first failure: as FRESH, mail waits
    failed, worked     LOST        it has failed for an hour: tried, and clear text if it fails again
    failed             BROKEN      as LOST or never worked, and tried not long ago: clear text without trying
    nothing known      UNKNOWN

Only for hosts to which nothing stronger applies (tls_policy.py).  The table is bounded; the hosts that were used least
recently are forgotten first, so it takes HOSTS_MAX others to make it forget one.
"""

from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum

HOSTS_MAX = 50_000
WORKED_TIME = 30 * 86_400.0  # seconds that a working TLS is remembered
ALARM_TIME = 3600.0  # seconds that mail waits when it fails
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


class TlsMemory:
    def __init__(self, most: int = HOSTS_MAX):
        self._most = most
        self._hosts: OrderedDict[str, _Host] = OrderedDict()

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
        self._hosts[host] = _Host(worked=now)
        self._hosts.move_to_end(host)
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
            self._hosts.popitem(last=False)

    def kept(self) -> dict[str, float]:
        """The hosts whose TLS has worked, and when: what is to be there again after a restart."""
        return {host: found.worked for host, found in self._hosts.items() if found.worked is not None}

    def restore(self, host: str, worked: float) -> None:
        self.worked(host, worked)
