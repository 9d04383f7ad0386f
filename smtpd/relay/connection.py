"""An outgoing connection, as the relay sees it: to which host, in which state, with which task.

CONNECTING --connected--> GREETING --ready--> IDLE <--tried-- BUSY
                                               |  ---give---> /
                                               +--quit--> QUITTING
any of them --ended--> GONE
"""

from dataclasses import dataclass, field
from enum import Enum

from smtpd.relay.address_order import Path
from smtpd.relay.destination import NextHop
from smtpd.relay.host import HostKey
from smtpd.relay.limit import Place
from smtpd.relay.route import Route
from smtpd.relay.task import Task
from smtpd.relay.tls_policy import TlsPolicy
from smtpd.relay.tls_result import TlsResult


class ConnectionState(Enum):
    CONNECTING = "waiting for TCP"
    GREETING = "connected: banner, EHLO, TLS, authentication"
    IDLE = "greeted, without a task"
    BUSY = "sending the message of a task"
    QUITTING = "QUIT said"
    GONE = "closed"


TRANSITIONS: dict[ConnectionState, set[ConnectionState]] = {
    ConnectionState.CONNECTING: {ConnectionState.GREETING, ConnectionState.GONE},
    ConnectionState.GREETING: {ConnectionState.IDLE, ConnectionState.GONE},
    ConnectionState.IDLE: {ConnectionState.BUSY, ConnectionState.QUITTING, ConnectionState.GONE},
    ConnectionState.BUSY: {ConnectionState.IDLE, ConnectionState.GONE},
    ConnectionState.QUITTING: {ConnectionState.GONE},
    ConnectionState.GONE: set(),
}
OPEN = (ConnectionState.IDLE, ConnectionState.BUSY)  # greeted, and not about to end


class Stage(Enum):
    """Where a connection has failed."""

    RESOURCES = "descriptors or memory of this system"
    ADDRESS = "address of this system"
    CONNECT = "connect"
    GREETING = "greeting"
    TLS = "TLS"
    AUTHENTICATION = "authentication"
    SESSION = "session"


@dataclass(frozen=True, slots=True)
class ConnectionFailure:
    """`code`: of the reply, 0 without one.  `uncertain`: the message was sent to its end and not answered.
    `untouched`: nothing of the task that was given had been answered.  `tls`: where TLS has failed."""

    stage: Stage
    text: str
    code: int = 0
    enhanced: str = ""
    uncertain: bool = False
    untouched: bool = False
    tls: TlsResult | None = None


@dataclass(slots=True)
class Attempt:
    """One way to one host: its addresses are tried beside each other until one connects (RFC 8305 5)."""

    hop: NextHop
    policy: TlsPolicy
    paths: list[Path]  # not tried so far
    connections: set[int] = field(default_factory=set)  # under way
    tried: list[Path] = field(default_factory=list)


@dataclass(slots=True)
class Connection:
    number: int
    destination: int
    path: Path
    places: tuple[Place, ...]
    attempt: Attempt
    state: ConnectionState = ConnectionState.CONNECTING
    task: Task | None = None
    messages: int = 0  # that were answered
    refused: int = 0  # recipients
    idle_since: float = 0.0
    not_before: float = 0.0  # the next message
    look_at: float | None = None  # the timer that is set for it
    address_refused: bool = False  # the host does not want our address of this family: no further message
    begun_at: float = 0.0

    @property
    def hop(self) -> NextHop:
        return self.attempt.hop

    @property
    def route(self) -> Route:
        return Route(self.path, self.hop.port)

    @property
    def host_key(self) -> HostKey:
        return self.path.address, self.hop.port

    @property
    def policy(self) -> TlsPolicy:
        return self.attempt.policy

    def enter(self, state: ConnectionState) -> None:
        assert state in TRANSITIONS[self.state], f"connection {self.number}: {self.state.name} to {state.name}"
        self.state = state
