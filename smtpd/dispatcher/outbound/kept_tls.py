"""What queue keeps over a restart of other hosts' TLS: hosts whose TLS has worked, and MTA-STS policies.

    begin --ReadTlsHosts, ReadStsPolicies--> queue --> TlsMemory, StsPolicies; then `when_read`
    every KEEP_INTERVAL, and at the end: what is new --KeepTls--> queue

Mail waits until all is read, clients do not: otherwise each restart would be a moment without that knowledge.  What is
new since the last KeepTls is lost when the daemon dies: it is found out anew.
"""

import asyncio
from collections.abc import Callable

from smtpd.imsg import (
    STS_ROWS_MAX,
    TLS_HOSTS_MAX,
    KeepTls,
    ReadStsPolicies,
    ReadTlsHosts,
    StsPoliciesRead,
    TlsHostsRead,
    TlsKept,
)
from smtpd.ipc.request_window import RequestWindow
from smtpd.ipc.text_limit import text_error, text_errors
from smtpd.next_hop import Service, StsRow, TlsHost
from smtpd.relay.mta_sts import KeptPolicy, StsMode, StsPolicies, StsPolicy
from smtpd.relay.tls_memory import TlsMemory

KEEP_INTERVAL = 10.0  # seconds


class KeptTls:
    def __init__(
        self, loop: asyncio.AbstractEventLoop, to_queue: RequestWindow, memory: TlsMemory, policies: StsPolicies
    ):
        self._loop, self._to_queue, self._memory, self._policies = loop, to_queue, memory, policies
        self._read = False
        self._waiting: list[Callable[[], None]] = []
        self._keeping = False
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self._read_hosts(0)
        self._timer = self._loop.call_later(KEEP_INTERVAL, self._every_interval)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._keep()

    def when_read(self, go_on: Callable[[], None]) -> None:
        """Call `go_on` when everything has been read: now, or later."""
        if self._read:
            go_on()
        else:
            self._waiting.append(go_on)

    # -- at the start ------------------------------------------------------------------------------

    def _read_hosts(self, after: int) -> None:
        self._to_queue.ask(lambda request: ReadTlsHosts(request, after), self._hosts_read)

    def _hosts_read(self, imsg: TlsHostsRead) -> None:
        for host in imsg.hosts:
            self._memory.restore(host.service, float(host.worked))
        if imsg.last:
            self._read_hosts(imsg.last)
        else:
            self._read_policies(0)

    def _read_policies(self, after: int) -> None:
        self._to_queue.ask(lambda request: ReadStsPolicies(request, after), self._policies_read)

    def _policies_read(self, imsg: StsPoliciesRead) -> None:
        for row in imsg.policies:
            policy = StsPolicy(StsMode(row.mode), tuple(row.mx.split()), row.max_age)
            self._policies.restore(row.domain, KeptPolicy(policy, row.id, float(row.fetched)))
        if imsg.last:
            self._read_policies(imsg.last)
            return
        self._read = True
        waiting, self._waiting = self._waiting, []
        for go_on in waiting:
            go_on()

    # -- what is new ---------------------------------------------------------------------------------

    def _every_interval(self) -> None:
        self._timer = self._loop.call_later(KEEP_INTERVAL, self._every_interval)
        self._keep()

    def _keep(self) -> None:
        """Send what is new, unless queue has something already."""
        if self._keeping or not self._read:
            return
        hosts, policies = self._memory.to_keep(TLS_HOSTS_MAX), self._policies.to_keep(STS_ROWS_MAX)
        if not (hosts or policies):
            return
        self._keeping = True
        fitting = [service for service in hosts if not text_error(Service, service)]
        host_rows = [TlsHost(service, int(hosts[service])) for service in fitting]
        policy_rows = [row for domain, kept in policies.items() if (row := _maybe_row(domain, kept)) is not None]

        def answered(imsg: TlsKept) -> None:
            self._keeping = False
            if not imsg.kept:
                self._memory.not_kept(hosts)
                self._policies.not_kept(policies)
            elif self._timer is None or len(hosts) == TLS_HOSTS_MAX or len(policies) == STS_ROWS_MAX:
                self._keep()  # there may be more

        self._to_queue.ask(lambda request: KeepTls(request, host_rows, policy_rows), answered)


def _maybe_row(domain: str, kept: KeptPolicy) -> StsRow | None:
    """None: a text is too long to be kept, or not ASCII; the policy will be fetched again after a restart."""
    mx = " ".join(kept.policy.mx)
    row = StsRow(domain, kept.id, kept.policy.mode.value, mx, kept.policy.max_age, int(kept.fetched))
    return None if any(text_errors(row, StsRow)) else row
