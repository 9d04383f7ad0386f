"""Everybody who is connected: who may come in, and when each has to notice the time.

enter      a connection is there: is there room for one more?
identify   it is known who it is (a PROXY header may say so): may this address come in?
leave      the connection is gone, however far it had come

A program of this host enters as who it is.
"""

import itertools
import resource
import secrets
from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from smtpd.config.slice import Limits
from smtpd.dispatcher.network import network_of
from smtpd.dispatcher.rate import Rates
from smtpd.smtp.host import is_loopback

SWEEP = 5  # seconds between two looks at the time of every session
RESERVE = 16  # descriptors that no session uses: those on their way from other processes, and what a library opens


class Refusal(Enum):
    """Why somebody may not come in, as the log says it."""

    SESSIONS = "too many sessions"
    SESSIONS_OF_ADDRESS = "too many sessions from your address"
    CONNECTION_RATE = "too many connections in a minute"
    FAILURE_RATE = "too many errors in a minute"
    SESSIONS_OF_USER = "too many sessions of this user"


STATISTICS = {
    Refusal.SESSIONS: "smtp.refused.sessions",
    Refusal.SESSIONS_OF_ADDRESS: "smtp.refused.sessions",
    Refusal.CONNECTION_RATE: "smtp.refused.connection-rate",
    Refusal.FAILURE_RATE: "smtp.refused.failure-rate",
    Refusal.SESSIONS_OF_USER: "smtp.refused.sessions",
}


class Member(Protocol):
    """A connection, as far as the crowd is concerned."""

    id: int
    address: str  # numeric; empty until it is known; of a program of this host, its user
    statistic: str  # what it is counted as, beside all sessions

    def tick(self, now: float) -> None: ...

    def shutdown(self) -> None: ...


class Crowd:
    def __init__(self, limits: Limits, rates: Rates, statistics: Counter[str]):
        self.members: dict[int, Member] = {}
        self.left: Callable[[], None] = lambda: None  # told of everyone who leaves
        self.scarce: Callable[[], None] = lambda: None  # told when there are no descriptors for one more
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVE
        self._limits, self._rates, self._statistics = limits, rates, statistics
        self._by_address: Counter[str] = Counter()  # or by what is one (_place)
        self._identified: set[int] = set()
        # A session id says nothing but which line of the log belongs to which session.
        self._ids = itertools.count(secrets.randbits(63))
        self._swept = 0.0

    def __len__(self) -> int:
        return len(self.members)

    def new_id(self) -> int:
        return next(self._ids) & (2**64 - 1)

    def enter(self, member: Member, descriptor: int) -> Refusal | None:
        """`descriptor` is its socket's: the lowest that was free, so it tells how many are used.

        Every session may come to need one more, for a spool file; a descriptor that cannot be received is the end of
        the daemon."""
        if len(self.members) >= self._limits.max_sessions:
            return self._refuse(Refusal.SESSIONS)
        self.members[member.id] = member
        if descriptor + len(self.members) >= self._descriptors:
            self.scarce()
        return None

    def identify(self, member: Member, now: float) -> Refusal | None:
        """Count it as what it is.  Who is refused here is a member until it leaves."""
        address = member.address
        if not is_loopback(address):
            if self._by_address[_place(address)] >= self._limits.max_sessions_per_address:
                return self._refuse(Refusal.SESSIONS_OF_ADDRESS)
            if self._rates.has_failed(address, now):
                return self._refuse(Refusal.FAILURE_RATE)
            if not self._rates.take_connection(address, now):
                return self._refuse(Refusal.CONNECTION_RATE)
        self._admit(member)
        return None

    def enter_local(self, member: Member, descriptor: int) -> Refusal | None:
        """No rate is asked: a user who does harm has a name, and mail to show for it."""
        if self._by_address[_place(member.address)] >= self._limits.max_sessions_per_address:
            return self._refuse(Refusal.SESSIONS_OF_USER)
        refusal = self.enter(member, descriptor)
        if refusal is None:
            self._admit(member)
        return refusal

    def leave(self, member: Member) -> None:
        if self.members.pop(member.id, None) is None:
            return
        if member.id in self._identified:
            self._identified.discard(member.id)
            self._count(member, -1)
        self.left()

    def _admit(self, member: Member) -> None:
        self._identified.add(member.id)
        self._count(member, 1)

    def _refuse(self, refusal: Refusal) -> Refusal:
        self._statistics[STATISTICS[refusal]] += 1
        return refusal

    def _count(self, member: Member, step: int) -> None:
        place = _place(member.address)
        self._by_address[place] += step
        if not self._by_address[place]:
            del self._by_address[place]
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


def _place(address: str) -> str:
    """Of IPv6 the network, as whoever has one address there has all of them: else one client would be all sessions."""
    return network_of(address) if ":" in address else address
