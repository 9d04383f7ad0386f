"""Rate limit of failed logins, and the delay of a "no".  No clock.

    begin(now, address, user)            False: too many failures, answer "later" without checking
    ended(now, address, user, verdict)   for a "no": seconds from begin to the answer, 1, 2, 4 … 16

Failures are counted per address (per /64 for IPv6, as each subscriber has that many) and per user, over the last
minute; the delay doubles with each failure of either until DELAY_RESET_AFTER without one.  A known (address, user)
pair, which has logged in before, is not locked out by other clients' failures with that user's name.

Programs of this host, which log in for others, are delayed and never locked out by their address.  Their failures are
counted per user, apart from those of remote clients.

All records are bounded in number.  User names are counted in their normal form, as in lookups.
"""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

from smtpd.domain_name import normal_address
from smtpd.envelope import LOCAL_CLIENT
from smtpd.lookup.resolver_config import canonical_address
from smtpd.smtp.ip_address import counted_address, is_loopback

YES, NO, TRY_LATER = "yes", "no", "later"  # verdicts of imsgs

COUNTING_PERIOD = 60.0  # seconds
ANSWER_DELAY_MIN, ANSWER_DELAY_MAX = 1.0, 16.0  # seconds, the delay of a "no"
DELAY_RESET_AFTER = 15 * COUNTING_PERIOD  # seconds without a failure
KNOWN_LOGIN_TTL = 7 * 24 * 60 * COUNTING_PERIOD  # seconds since the last login of an (address, user) pair
RECORDS_MAX = 20_000  # addresses; users; and pairs of both
LOGINS_MAX = 16  # logins of an address, and of a user, that are checked at a time


@dataclass(slots=True)
class FailureRecord:
    """The failures of one address or user: `consecutive` ones, `recent` their last times."""

    consecutive: int = 0
    recent: deque[float] = field(default_factory=deque)


class FailureCounter:
    """Counts failures by address, or by user.  `rate`: failures a minute; 0: unlimited."""

    def __init__(self, rate: int):
        self._rate = rate
        self._records: OrderedDict[str, FailureRecord] = OrderedDict()
        self._open: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._records)

    def has_room(self, key: str) -> bool:
        """Whether one more login may be checked at the same time."""
        return self._open[key] < LOGINS_MAX

    def is_full(self, now: float, key: str) -> bool:
        record = self._records.get(key)
        if record is None or not self._rate:
            return False
        return len(record.recent) == self._rate and record.recent[0] > now - COUNTING_PERIOD

    def begin(self, key: str) -> None:
        self._open[key] += 1

    def end(self, key: str) -> None:
        self._open[key] -= 1
        if not self._open[key]:
            del self._open[key]

    def fail(self, now: float, key: str) -> float:
        """Count a failure.  Returns the delay of its answer, in seconds."""
        record = self._records.pop(key, None)
        if record is None or record.recent[-1] <= now - DELAY_RESET_AFTER:
            record = FailureRecord(recent=deque(maxlen=max(self._rate, 1)))
        self._records[key] = record
        if len(self._records) > RECORDS_MAX:
            self._records.popitem(last=False)
        record.recent.append(now)
        record.consecutive += 1
        return min(ANSWER_DELAY_MAX, ANSWER_DELAY_MIN * 2 ** min(record.consecutive - 1, 10))


class LoginFailures:
    """All counters.  `now`: seconds of a monotonic clock."""

    def __init__(self, rate: int):
        self._addresses, self._users = FailureCounter(rate), FailureCounter(rate)
        self._known_pairs: OrderedDict[tuple[str, str], float] = OrderedDict()

    def may_ask(self, now: float, address: str, user: str) -> bool:
        network, name = counted_address(address), _name(address, user)
        if not is_local(address) and (self._addresses.is_full(now, network) or not self._addresses.has_room(network)):
            return False
        if self._is_known_pair(now, network, name):
            return True
        return self._users.has_room(name) and not self._users.is_full(now, name)

    def is_known(self, now: float, address: str, user: str) -> bool:
        """Whether places are reserved for this login: a program of this host, or a known (address, user) pair."""
        return is_local(address) or self._is_known_pair(now, counted_address(address), normal_address(user))

    def begin(self, now: float, address: str, user: str) -> bool:
        """Whether to check the login; if so, call `ended` afterwards."""
        if not self.may_ask(now, address, user):
            return False
        self._addresses.begin(counted_address(address))
        self._users.begin(_name(address, user))
        return True

    def ended(self, now: float, address: str, user: str, verdict: str) -> float:
        network, name = counted_address(address), _name(address, user)
        self._addresses.end(network)
        self._users.end(name)
        if verdict == YES and not is_local(address):
            self._remember_pair(now, network, name)
        if verdict != NO:
            return 0.0
        return max(self._addresses.fail(now, network), self._users.fail(now, name))

    def _is_known_pair(self, now: float, network: str, name: str) -> bool:
        return self._known_pairs.get((network, name), now - KNOWN_LOGIN_TTL) > now - KNOWN_LOGIN_TTL

    def _remember_pair(self, now: float, network: str, name: str) -> None:
        self._known_pairs.pop((network, name), None)
        self._known_pairs[network, name] = now
        if len(self._known_pairs) > RECORDS_MAX:
            self._known_pairs.popitem(last=False)


def _name(address: str, user: str) -> str:
    """The key of a user's counter; that of local programs ends in a NUL, which no name has."""
    name = normal_address(user)
    return f"{name}\0" if is_local(address) else name


def is_local(address: str) -> bool:
    """Whether the client is a program of this host."""
    text = canonical_address(address)
    return address == LOCAL_CLIENT if text is None else is_loopback(text)
