"""A destination: what shares connections, an action with a domain or with a list of smarthosts.

tasks that wait, the hosts that DNS or the configuration names, the connections, and the back-off:
when no host can be reached the whole destination rests, and none of its mail is tried meanwhile.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from smtpd.next_hop import MailHost
from smtpd.relay.address_order import Path
from smtpd.relay.limit import Key
from smtpd.relay.mta_sts import StsPolicy
from smtpd.relay.task import Task
from smtpd.relay.tls_policy import HostRefused, TlsWords
from smtpd.slice import RelayLimits, RelaySlice


@dataclass(frozen=True, slots=True)
class NextHop:
    """A host that takes mail of a destination, and how to speak to it.

    `rank`: a lower one is tried first; that of an MX host is its preference, smarthosts that share the work have the
    same.  `trusted`, `domain`, `sts`: see tls_policy.TlsCircumstances."""

    host: MailHost
    rank: int = 0
    port: int = 25
    words: TlsWords = TlsWords()
    lmtp: bool = False
    password: bool = False  # credentials are sent
    trusted: bool = False
    domain: str = ""
    sts: StsPolicy | None = None

    @property
    def name(self) -> str:
        """The host as logs and memories call it."""
        return self.host.name or self.host.addresses[0]

    @property
    def service(self) -> str:
        """Host and port, as the TLS memory calls it: what a host offers on one port says nothing about another."""
        return f"{self.name}:{self.port}"


@dataclass(slots=True)
class Destination:
    number: int  # as queue calls it
    require_tls: bool  # it is for mails with REQUIRETLS only (RFC 8689)
    relay: RelaySlice
    domain: str  # of the recipients; empty for an action with smarthosts
    limits: RelayLimits
    tasks: deque[Task] = field(default_factory=deque)  # that wait
    connections: set[int] = field(default_factory=set)
    connected_at: float = 0.0  # begun to connect; 0: never
    hops: Sequence[NextHop] = ()
    hops_until: float = 0.0  # they may be used
    resolving: bool = False
    refusal: HostRefused | None = None  # permanent: no host will ever take it, until `hops_until`
    failures: int = 0  # to reach any host, in a row
    delayed_until: float = 0.0
    reason: str = ""  # of the delay
    waiting: Key | None = None  # for a place of this limit
    ticket: int = 0  # its place in the order of those that wait; 0: none

    @property
    def key(self) -> int:
        return self.number << 1 | self.require_tls

    def uses(self, path: Path) -> bool:
        """Whether one of its hosts is reached over this path."""
        from_there = path.source in (self.relay.sources or ("",))
        return from_there and any(path.address in hop.host.addresses for hop in self.hops)

    @property
    def is_idle(self) -> bool:
        return not (self.tasks or self.connections or self.resolving or self.waiting)
