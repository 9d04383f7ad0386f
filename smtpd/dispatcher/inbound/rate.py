"""Rates: connections, messages and failures of the last minute, by address, by network, by user.  No clock.

    |<---- minute before ------>|<-- this one so far -->|
                     |<------- the last 60 seconds ---->|

Two counters a key instead of a list of times: of the minute before, the part that lies in the last 60 seconds counts,
as if all had come evenly.  A rate keeps a bounded number of keys; when there are more, those with the lowest counts are
forgotten, so that a client with a great many addresses does not hide one that does harm.
"""

from collections import Counter

from smtpd.domain_name import normal_address
from smtpd.slice import Limits
from smtpd.smtp.ip_address import is_loopback, network_of

MINUTE = 60.0  # seconds
KEYS_MAX = 20_000  # that are counted in one minute


class Rate:
    """`limit` a minute for each key; 0: any number."""

    def __init__(self, limit: int, most: int = KEYS_MAX):
        self._limit, self._most = limit, most
        self._before: Counter[str] = Counter()
        self._current: Counter[str] = Counter()
        self._begun = 0.0  # of the current minute

    def is_full(self, key: str, now: float) -> bool:
        """The key has reached its limit, for now."""
        if not self._limit:
            return False
        self._turn(now)
        left = 1.0 - (now - self._begun) / MINUTE
        return self._before[key] * left + self._current[key] >= self._limit

    def count(self, key: str, now: float) -> None:
        if not self._limit:
            return
        self._turn(now)
        self._current[key] += 1
        if len(self._current) > self._most:
            self._current = Counter(dict(self._current.most_common(self._most // 2)))

    def _turn(self, now: float) -> None:
        minutes = int((now - self._begun) // MINUTE)
        if minutes:
            self._before = self._current if minutes == 1 else Counter()
            self._current = Counter()
            self._begun += minutes * MINUTE


class Rates:
    """The rates of one dispatcher.  Loopback addresses are not counted; a user who comes from one is."""

    def __init__(self, limits: Limits):
        self._connections = Rate(limits.connection_rate), Rate(limits.connection_rate_per_network)
        self._messages = Rate(limits.message_rate), Rate(limits.message_rate_per_network)
        self._messages_of_user = Rate(limits.message_rate_per_user)
        self._failures = Rate(limits.failure_rate), Rate(limits.failure_rate_per_network)

    def take_connection(self, address: str, now: float) -> bool:
        """Count one connection and return True, unless a rate is full: a refused one is not counted."""
        return _take(_keys_of(self._connections, address), now)

    def take_message(self, address: str, user: str, now: float) -> bool:
        keys = _keys_of(self._messages, address)
        if user:
            keys.append((self._messages_of_user, normal_address(user)))  # in the form of tables: amy is Amy
        return _take(keys, now)

    def count_failure(self, address: str, now: float) -> None:
        for rate, key in _keys_of(self._failures, address):
            rate.count(key, now)

    def has_failed(self, address: str, now: float) -> bool:
        """Too often: the address is not served until the minute is over."""
        return any(rate.is_full(key, now) for rate, key in _keys_of(self._failures, address))


def _keys_of(rates: tuple[Rate, Rate], address: str) -> list[tuple[Rate, str]]:
    if is_loopback(address):
        return []
    by_address, by_network = rates
    return [(by_address, address), (by_network, network_of(address))]


def _take(keys: list[tuple[Rate, str]], now: float) -> bool:
    if any(rate.is_full(key, now) for rate, key in keys):
        return False
    for rate, key in keys:
        rate.count(key, now)
    return True
