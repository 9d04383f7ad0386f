"""Table of open connections: admission limits, and the sweep that makes each session notice the time.

add         a connection has been accepted: is there room for one more?
identify    its address is known (a PROXY header may say it): may this address connect?
add_local   a session for a program of this host: may this user have one more?
remove      the connection is gone, in whatever phase
"""

import itertools
import resource
import secrets
from collections import Counter
from collections.abc import Callable
from enum import Enum
from typing import Protocol

from smtpd.dispatcher.inbound.rate import Rates
from smtpd.slice import Limits
from smtpd.smtp.ip_address import counted_address, is_loopback

SWEEP_INTERVAL = 5  # seconds between two looks at the timeouts of all sessions
RESERVED_DESCRIPTORS = 16  # that no session uses: those on their way from other processes, and what a library opens


class Refusal(Enum):
    """Why a connection is refused, as the log says it."""

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


class RegisteredConnection(Protocol):
    """A connection, as far as this table needs it."""

    id: int
    address: str  # numeric; empty until it is known; of a program of this host, its user
    statistic: str  # what it is counted as, beside all sessions

    def tick(self, now: float) -> None: ...

    def shutdown(self) -> None: ...


class Connections:
    """`removed` is called after each `remove`; `descriptors_scarce` when there are none for one more connection."""

    def __init__(
        self,
        limits: Limits,
        rates: Rates,
        statistics: Counter[str],
        *,
        removed: Callable[[], None],
        descriptors_scarce: Callable[[], None],
    ):
        self.by_id: dict[int, RegisteredConnection] = {}
        self._limits, self._rates, self._statistics = limits, rates, statistics
        self._removed, self._descriptors_scarce = removed, descriptors_scarce
        self._descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)[0] - RESERVED_DESCRIPTORS
        self._by_address: Counter[str] = Counter()  # by counted_address
        self._identified: set[int] = set()
        # A session id only tells which line of the log belongs to which session.
        self._ids = itertools.count(secrets.randbits(63))
        self._swept = 0.0

    def __len__(self) -> int:
        return len(self.by_id)

    def new_id(self) -> int:
        return next(self._ids) & (2**64 - 1)

    def add(self, connection: RegisteredConnection, descriptor: int) -> Refusal | None:
        """`descriptor` is its socket's: the lowest that was free, so it tells how many are used.

        Every session may need one more, for a spool file; a descriptor that cannot be received ends the daemon."""
        if len(self.by_id) >= self._limits.max_sessions:
            return self._refuse(Refusal.SESSIONS)
        self.by_id[connection.id] = connection
        if descriptor + len(self.by_id) >= self._descriptors:
            self._descriptors_scarce()
        return None

    def identify(self, connection: RegisteredConnection, now: float) -> Refusal | None:
        """Count it by its address.  A connection that is refused here stays in the table until it is removed."""
        address = connection.address
        if not is_loopback(address):
            if self._by_address[counted_address(address)] >= self._limits.max_sessions_per_address:
                return self._refuse(Refusal.SESSIONS_OF_ADDRESS)
            if self._rates.has_failed(address, now):
                return self._refuse(Refusal.FAILURE_RATE)
            if not self._rates.take_connection(address, now):
                return self._refuse(Refusal.CONNECTION_RATE)
        self._admit(connection)
        return None

    def add_local(self, connection: RegisteredConnection, descriptor: int) -> Refusal | None:
        """Rates do not count: a user who does harm is known by name, and by the mail that was sent."""
        if self._by_address[connection.address] >= self._limits.max_sessions_per_address:
            return self._refuse(Refusal.SESSIONS_OF_USER)
        refusal = self.add(connection, descriptor)
        if refusal is None:
            self._admit(connection)
        return refusal

    def remove(self, connection: RegisteredConnection) -> None:
        if self.by_id.pop(connection.id, None) is None:
            return
        if connection.id in self._identified:
            self._identified.discard(connection.id)
            self._count(connection, -1)
        self._removed()

    def _admit(self, connection: RegisteredConnection) -> None:
        self._identified.add(connection.id)
        self._count(connection, 1)

    def _refuse(self, refusal: Refusal) -> Refusal:
        self._statistics[STATISTICS[refusal]] += 1
        return refusal

    def _count(self, connection: RegisteredConnection, step: int) -> None:
        key = counted_address(connection.address)
        self._by_address[key] += step
        if not self._by_address[key]:
            del self._by_address[key]
        self._statistics["smtp.session"] += step
        self._statistics[connection.statistic] += step

    def sweep(self, now: float) -> None:
        """Let every session notice the time, now and then: their limits are minutes."""
        if now - self._swept < SWEEP_INTERVAL:
            return
        self._swept = now
        for connection in list(self.by_id.values()):
            connection.tick(now)

    def shutdown(self) -> None:
        for connection in list(self.by_id.values()):
            connection.shutdown()
