"""Hosts: how many connections each bears, which of its address families has failed lately, who waits for it.

    start     2 connections       CONCURRENCY_START
    success   +1 after each 10    up to the limit of the configuration
    pushback  halved              421, or 4xx to the connect, to the banner, to MAIL

A host that is counted is a numeric address with a port: all destinations whose mail it takes share it, whatever they
call it.  What listens on one port says nothing about another: a content filter may be dead beside a server that works.
Address families belong to a name, as only a host with both has a choice.  Both tables are bounded; entries that no
connection uses are forgotten, the least recently used first.
"""

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

HOSTS_MAX = 20_000
CONCURRENCY_START = 2  # connections
SUCCESSES_PER_STEP = 10  # messages taken, then one connection more
PUSHBACK_INTERVAL = 1.0  # seconds in which several refusals are one: they answer what was sent at the same time
FAMILY_REST_TIME = 600.0  # seconds that a family that has failed is tried last
DELAYED_MAX = 1000  # destinations that are told when the host works again


HostKey = tuple[str, int]  # address and port


@dataclass(slots=True)
class Host:
    """`concurrency`: connections that it bears, as far as is known."""

    concurrency: int = CONCURRENCY_START
    connections: int = 0  # under way or open
    working: int = 0  # of these, that have been greeted
    name: str = ""  # by which it was connected to last
    connected_at: float = 0.0  # begun to connect; 0: never
    delayed: set[int] = field(default_factory=set)  # destinations for whose mail this host could not be reached
    _successes: int = 0
    _pushed_back: float = float("-inf")

    def succeeded(self, most: int) -> bool:
        """The host has taken a message.  Whether that allows one connection more, up to `most`."""
        self._successes += 1
        if self._successes < SUCCESSES_PER_STEP or self.concurrency >= most:
            return False
        self._successes = 0
        self.concurrency += 1
        return True

    def push_back(self, now: float) -> None:
        """The host has said that it is too much."""
        self._successes = 0
        if now >= self._pushed_back + PUSHBACK_INTERVAL:
            self._pushed_back = now
            self.concurrency = max(1, self.concurrency // 2)

    def bears_no_more(self) -> None:
        """A connection beside those that work was refused.  So the next one is tried when messages have been taken."""
        self._successes = 0
        self.concurrency = max(1, min(self.concurrency // 2, self.working))


def host_group(name: str) -> str:
    """What hosts of one provider have in common: alt1.aspmx.l.google.com -> google.com; an address is itself.

    The last two labels, or three where the last two are a short one below a country, such as co.uk.  That is a guess
    (there is no list of such domains here), and good enough to count messages by."""
    if ":" in name or name.rpartition(".")[2].isdecimal():
        return name
    labels = name.split(".")
    count = 3 if len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3 else 2
    return ".".join(labels[-count:])


class Hosts:
    def __init__(self, most: int = HOSTS_MAX):
        self._most = most
        self._hosts: OrderedDict[HostKey, Host] = OrderedDict()
        self._families: OrderedDict[tuple[str, int], float] = OrderedDict()  # name and family -> until when it rests

    def __len__(self) -> int:
        return len(self._hosts)

    def get(self, key: HostKey) -> Host:
        """The host, a new one if it is not known."""
        host = self._hosts.get(key)
        if host is None:
            host = self._hosts[key] = Host()
            self._forget_oldest()
        else:
            self._hosts.move_to_end(key)
        return host

    def find(self, key: HostKey) -> Host | None:
        return self._hosts.get(key)

    def known(self) -> Iterable[HostKey]:
        return self._hosts.keys()

    def _forget_oldest(self) -> None:
        for _ in range(min(len(self._hosts) - self._most, len(self._hosts))):
            key, host = self._hosts.popitem(last=False)
            if host.connections:  # in use: as new as any
                self._hosts[key] = host

    def broken_families(self, name: str, now: float) -> list[int]:
        return [family for family in (4, 6) if now < self._families.get((name, family), now)]

    def family_failed(self, name: str, family: int, now: float) -> None:
        """The other family has worked and this one has not."""
        self._families[name, family] = now + FAMILY_REST_TIME
        self._families.move_to_end((name, family))
        if len(self._families) > self._most:
            self._families.popitem(last=False)
