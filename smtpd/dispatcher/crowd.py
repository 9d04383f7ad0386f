"""Everybody who is connected: who may come in, and when each has to notice the time."""

import ipaddress
import itertools
import secrets
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from smtpd.config.model import Limits

SWEEP = 5  # seconds between two looks at the time of every session


class Member(Protocol):
    """A connection, as far as the crowd is concerned."""

    id: int
    address: str  # numeric
    statistic: str  # what it is counted as, beside all sessions

    def tick(self, now: float) -> None: ...

    def shutdown(self) -> None: ...


class Crowd:
    def __init__(self, limits: Limits, statistics: Counter[str]):
        self.members: dict[int, Member] = {}
        self.left: Callable[[], None] = lambda: None  # told of everyone who leaves
        self._limits, self._statistics = limits, statistics
        self._by_address: Counter[str] = Counter()
        # A session id says nothing but which line of the log belongs to which session.
        self._ids = itertools.count(secrets.randbits(63))
        self._swept = 0.0

    def __len__(self) -> int:
        return len(self.members)

    def new_id(self) -> int:
        return next(self._ids) & (2**64 - 1)

    def admit(self, member: Member) -> str | None:
        """Count a session in.  A reason when there are too many of them."""
        limits, address = self._limits, member.address
        if len(self.members) >= limits.max_sessions:
            return "too many sessions"
        if self._by_address[address] >= limits.max_sessions_per_address and not _is_loopback(address):
            return "too many sessions from your address"
        self.members[member.id] = member
        self._count(member, 1)
        return None

    def leave(self, member: Member) -> None:
        if self.members.pop(member.id, None) is not None:
            self._count(member, -1)
            self.left()

    def _count(self, member: Member, step: int) -> None:
        self._by_address[member.address] += step
        if not self._by_address[member.address]:
            del self._by_address[member.address]
        self._statistics["smtp.session"] += step
        self._statistics[member.statistic] += step

    def sweep(self, now: float) -> None:
        """Let every session notice the time, now and then: their limits are minutes."""
        if now - self._swept < SWEEP:
            return
        self._swept = now
        for member in list(self.members.values()):
            member.tick(now)

    def shutdown(self) -> None:
        for member in list(self.members.values()):
            member.shutdown()


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False  # a peer that has no address gets no favours
