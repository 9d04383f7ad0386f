"""Failed logins: when nobody looks any more, and how late a "no" comes.  No clock.

    begin(now, address, user)            False: too many have failed, say "later" without a look
    ended(now, address, user, verdict)   for a "no": seconds from its beginning to the answer, 1, 2, 4 … 16

Counted are the failures of an address (of the /64 around it, for IPv6, as everybody has that many) and those of a user,
each in the minute before; the wait grows with the failures of either since it was last quiet for a while.  Who has once
got in as a user from an address is not counted out there by what others try with that user's name, nor kept waiting.

Programs on this host, which log in for others, wait and are never counted out by their address.  All who try a user's
password by way of them are one to us: they are counted by the user's name, and apart from everybody else.

All that is kept is bounded.  The name of a user is counted in its normal form, as tables look it up.
"""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field

from smtpd.domain_name import normal_address
from smtpd.lookup.resolver_config import canonical_address
from smtpd.lookup.rule import LOCAL
from smtpd.smtp.ip_address import counted_address, is_loopback

YES, NO, TRY_LATER = "yes", "no", "later"  # verdicts, as imsgs carry them

COUNTING_PERIOD = 60.0  # seconds
ANSWER_DELAY_MIN, ANSWER_DELAY_MAX = 1.0, 16.0  # seconds that a "no" takes
DELAY_RESET_AFTER = 15 * COUNTING_PERIOD  # without a failure: the next one is a first one
KNOWN_LOGIN_TTL = 7 * 24 * 60 * COUNTING_PERIOD  # that an address from which a user got in is known
RECORDS_MAX = 20_000  # addresses, users, and pairs of them
LOGINS_MAX = 16  # logins of an address, and of a user, that are looked at at a time


@dataclass(slots=True)
class FailureRecord:
    """Of one address, or one user.  `recent` holds the times of the last failures."""

    row: int = 0
    recent: deque[float] = field(default_factory=deque)


class FailureCounter:
    """All addresses, or all users.  `rate`: failures a minute; 0: any number."""

    def __init__(self, rate: int):
        self._rate = rate
        self._records: OrderedDict[str, FailureRecord] = OrderedDict()
        self._under_way: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._records)

    def has_room(self, key: str) -> bool:
        """For one more look, which may come to be a failure before it is counted."""
        return self._under_way[key] < LOGINS_MAX

    def is_full(self, now: float, key: str) -> bool:
        record = self._records.get(key)
        if record is None or not self._rate:
            return False
        return len(record.recent) == self._rate and record.recent[0] > now - COUNTING_PERIOD

    def begin(self, key: str) -> None:
        self._under_way[key] += 1

    def end(self, key: str) -> None:
        self._under_way[key] -= 1
        if not self._under_way[key]:
            del self._under_way[key]

    def fail(self, now: float, key: str) -> float:
        """How long the answer takes."""
        record = self._records.pop(key, None)
        if record is None or record.recent[-1] <= now - DELAY_RESET_AFTER:
            record = FailureRecord(recent=deque(maxlen=max(self._rate, 1)))
        self._records[key] = record
        if len(self._records) > RECORDS_MAX:
            self._records.popitem(last=False)
        record.recent.append(now)
        record.row += 1
        return min(ANSWER_DELAY_MAX, ANSWER_DELAY_MIN * 2 ** min(record.row - 1, 10))


class LoginFailures:
    """`now` is of a clock that is never set, in seconds."""

    def __init__(self, rate: int):
        self._addresses, self._users = FailureCounter(rate), FailureCounter(rate)
        self._friends: OrderedDict[tuple[str, str], float] = OrderedDict()

    def may_ask(self, now: float, address: str, user: str) -> bool:
        network, name = counted_address(address), _name(address, user)
        if not is_local(address) and (self._addresses.is_full(now, network) or not self._addresses.has_room(network)):
            return False
        if self._is_friend(now, network, name):
            return True
        return self._users.has_room(name) and not self._users.is_full(now, name)

    def is_known(self, now: float, address: str, user: str) -> bool:
        """Programs of this host, and who has got in from there before: there is room for them whoever else comes."""
        return is_local(address) or self._is_friend(now, counted_address(address), normal_address(user))

    def begin(self, now: float, address: str, user: str) -> bool:
        """True: look, and say how it has ended."""
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
            self._befriend(now, network, name)
        if verdict != NO:
            return 0.0
        return max(self._addresses.fail(now, network), self._users.fail(now, name))

    def _is_friend(self, now: float, network: str, name: str) -> bool:
        return self._friends.get((network, name), now - KNOWN_LOGIN_TTL) > now - KNOWN_LOGIN_TTL

    def _befriend(self, now: float, network: str, name: str) -> None:
        self._friends.pop((network, name), None)
        self._friends[network, name] = now
        if len(self._friends) > RECORDS_MAX:
            self._friends.popitem(last=False)


def _name(address: str, user: str) -> str:
    """What is counted as one user.  No name has a NUL in it."""
    name = normal_address(user)
    return f"{name}\0" if is_local(address) else name


def is_local(address: str) -> bool:
    """A program on this host."""
    text = canonical_address(address)
    return address == LOCAL if text is None else is_loopback(text)
