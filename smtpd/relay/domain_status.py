"""The last status of the mail for each domain, for `smtpctl show hoststats`; forgotten after MEMORY_TIME."""

from collections import OrderedDict

from smtpd.relay.listing import page
from smtpd.relay_entry import DomainEntry

DOMAINS_MAX = 20_000
MEMORY_TIME = 4 * 3600  # seconds, as OpenSMTPD
STATUS_MAX = 200  # characters


class DomainStatuses:
    def __init__(self, most: int = DOMAINS_MAX):
        self._most = most
        self._statuses: OrderedDict[str, tuple[int, str]] = OrderedDict()  # time, text; the oldest first

    def __len__(self) -> int:
        return len(self._statuses)

    def note(self, domain: str, status: str, now: float) -> None:
        self._statuses[domain] = int(now), status[:STATUS_MAX]
        self._statuses.move_to_end(domain)
        if len(self._statuses) > self._most:
            self._statuses.popitem(last=False)

    def page(self, after: str, now: float) -> tuple[list[DomainEntry], bool]:
        """As the pages of RelayListing."""
        while self._statuses and next(iter(self._statuses.values()))[0] < now - MEMORY_TIME:
            self._statuses.popitem(last=False)
        keys = sorted(domain for domain in self._statuses if domain > after)
        return page(keys, lambda domain: DomainEntry(domain, *self._statuses[domain]))
