"""Actions: what the relay wants its driver to do, as it has no socket, no clock and no log.

Resolve       find the hosts of a destination; answered by hosts_found or hosts_not_found
Connect       open a connection; answered by connected, or by ended
Abort         close a connection that is not needed any more; has no answer
Give          send the message of a task over a connection; answered by tried, or by ended
Quit          end a connection in order; answered by ended
Report        results of envelopes, for queue
Return        envelopes that were not tried, for queue
Delay         no host of a destination can be reached: nothing of it is to come until then
Resume        a host of a delayed destination works again
Note          a line for the log
"""

from dataclasses import dataclass

from smtpd.envelope import RelayResult
from smtpd.relay.address_order import Path
from smtpd.relay.destination import NextHop
from smtpd.relay.task import Task
from smtpd.relay.tls_policy import TlsPolicy


@dataclass(frozen=True, slots=True)
class Resolve:
    """`failed`: its last try failed, so that this one may take long too."""

    destination: int
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Connect:
    connection: int
    destination: int
    hop: NextHop
    path: Path
    policy: TlsPolicy


@dataclass(frozen=True, slots=True)
class Abort:
    connection: int


@dataclass(frozen=True, slots=True)
class Give:
    connection: int
    task: Task


@dataclass(frozen=True, slots=True)
class Quit:
    connection: int


@dataclass(frozen=True, slots=True)
class Report:
    task: int
    results: tuple[RelayResult, ...]


@dataclass(frozen=True, slots=True)
class Return:
    task: int
    envelopes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Delay:
    destination: int
    until: float  # seconds since 1970
    reason: str
    repeated: bool = False  # it was said before, and a task has come all the same


@dataclass(frozen=True, slots=True)
class Resume:
    destination: int


@dataclass(frozen=True, slots=True)
class Note:
    text: str


RelayAction = Resolve | Connect | Abort | Give | Quit | Report | Return | Delay | Resume | Note
