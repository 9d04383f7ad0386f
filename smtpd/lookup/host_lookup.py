"""Questions for the hosts of a destination: asks the DNS, and has the answers judged.

    FindHosts --> destination.py: a domain, or an address
                  MX ------------> host_selection.py: which hosts
                  A, AAAA, TLSA -> host_records.py, for several hosts at the same time
                  _mta-sts TXT --> mta_sts_record.py, beside all that
              --> host_selection.py --> HostsFound | HostsNotFound

A destination has HOSTS_TIMEOUT for all its questions; what is not answered then counts as failed.  Time in which a
question waits for its turn does not count.  Names of MX records are looked up in the DNS only.  A smarthost is named by
the administrator: the hosts file comes first, and may say that it is a program on this host.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import Mapping
from itertools import chain

from smtpd.domain_name import ascii_form
from smtpd.envelope import Text
from smtpd.imsg import FindHosts, HostsFound, HostsNotFound
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log
from smtpd.ipc.text_limit import fit_text
from smtpd.lookup.destination import (
    Domain,
    HostAddress,
    NoHosts,
    address_fault,
    is_localhost,
    read_destination,
)
from smtpd.lookup.dns_cache import FAILURE_TTL, TTL_MAX, TTL_MIN, Deadline, DnsCache
from smtpd.lookup.dns_message import DnsFailure, DnsResult, RecordType
from smtpd.lookup.host_records import HostRecords, RecordAnswer, host_records
from smtpd.lookup.host_selection import (
    Selected,
    Shuffle,
    ThisHost,
    select_address,
    select_exchangers,
    select_hosts,
    select_smarthost,
)
from smtpd.lookup.mta_sts_record import policy_id, record_name
from smtpd.lookup.resolver_config import ResolverConfig
from smtpd.next_hop import ADDRESSES_MAX

HOSTS_TIMEOUT = 30.0  # seconds for all questions about a destination
DESTINATIONS_MAX = 256  # of one dispatcher, looked up at a time; more than it asks for
HOSTS_AT_ONCE = 5  # hosts of one destination that are looked up at a time
NEGATIVE_TTL_MAX = 300  # seconds
LOOPBACK = ("::1", "127.0.0.1")

Outcome = tuple[Selected | NoHosts, bool, str]  # whether the MX answer was secure, and the id of the MTA-STS policy


class HostLookups:
    def __init__(self, loop: asyncio.AbstractEventLoop, system: ResolverConfig, dns: DnsCache, this: ThisHost):
        self._loop = loop
        self._hosts = system.addresses
        self._dane = any(server.trusted for server in system.servers)
        self._dane_off_logged = False
        self._dns = dns
        self._this = this
        self._shuffle = random.SystemRandom().shuffle
        self._tasks: dict[int, set[asyncio.Task[None]]] = defaultdict(set)  # by dispatcher

    def find(self, dispatcher: Channel, asked: FindHosts) -> None:
        tasks = self._tasks[dispatcher.number]
        if len(tasks) >= DESTINATIONS_MAX:
            full = NoHosts(451, "4.3.2", "too many destinations are looked up at the same time")
            _answer(dispatcher, asked, (full, False, ""), TTL_MIN)
            return
        if asked.policy:
            self._log_dane_off()
        task = self._loop.create_task(self._find(dispatcher, asked))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def cancel(self) -> None:
        for task in chain.from_iterable(self._tasks.values()):
            task.cancel()
        self._dns.cancel()

    def _log_dane_off(self) -> None:
        """Once: an administrator who thinks that DANE protects the mail has to know that it does not."""
        if not self._dane and not self._dane_off_logged:
            self._dane_off_logged = True
            log.warn("DANE is off: no name server of /etc/resolv.conf is trusted to validate (smtpd(8), Name servers)")

    async def _find(self, dispatcher: Channel, asked: FindHosts) -> None:
        deadline = Deadline(self._loop.time, HOSTS_TIMEOUT)
        lookup = _DestinationLookup(asked, self._hosts, self._dns, self._this, deadline)
        outcome: Outcome = NoHosts(451, "4.3.0", "internal error"), False, ""
        try:
            outcome = await lookup.find(self._shuffle)
        except Exception as error:
            lookup.seconds = FAILURE_TTL
            log.trouble(f"hosts of {asked.name}", error)
        _answer(dispatcher, asked, outcome, lookup.seconds)


def _answer(dispatcher: Channel, asked: FindHosts, outcome: Outcome, seconds: int) -> None:
    selected, secure, sts_id = outcome
    seconds = max(TTL_MIN, seconds)
    if isinstance(selected, NoHosts):
        seconds = min(seconds, NEGATIVE_TTL_MAX)
        text = fit_text(Text, selected.text)
        dispatcher.send(HostsNotFound(asked.request, selected.code, selected.enhanced, text, seconds))
    else:
        skipped = [fit_text(Text, reason) for reason in selected.skipped]
        dispatcher.send(HostsFound(asked.request, list(selected.hosts), secure, sts_id, skipped, seconds))


class _DestinationLookup:
    """`seconds`: how long what has been found holds."""

    def __init__(
        self,
        asked: FindHosts,
        hosts: Mapping[str, frozenset[str]],
        dns: DnsCache,
        this: ThisHost,
        deadline: Deadline,
    ):
        self.seconds = TTL_MAX
        self._asked = asked
        self._hosts = hosts
        self._dns = dns
        self._this = this
        self._deadline = deadline
        self._slots = asyncio.Semaphore(HOSTS_AT_ONCE)

    async def find(self, shuffle: Shuffle) -> Outcome:
        name, mx = self._asked.name, self._asked.mx
        match read_destination(name, mx):
            case NoHosts() as missing:
                return missing if mx else missing.temporary(), False, ""
            case HostAddress(address) if mx:
                return select_address(name, address, self._this.has_address), False, ""
            case HostAddress(address):
                return self._smarthost_address(name, address), True, ""
            case Domain(domain):
                sts_id, (selected, secure) = await asyncio.gather(
                    self._sts_id(domain), self._mx_hosts(domain, shuffle) if mx else self._smarthost(domain)
                )
                return selected, secure, sts_id

    async def _mx_hosts(self, domain: str, shuffle: Shuffle) -> tuple[Selected | NoHosts, bool]:
        names = self._this.names | {ascii_form(self._asked.own_name)}
        exchangers = select_exchangers(domain, await self._ask(domain, RecordType.MX), names, shuffle)
        if isinstance(exchangers, NoHosts):
            return exchangers, False
        # RFC 7672 2.2.1: without a secure MX answer the names of the hosts may be an attacker's.
        dane = self._asked.policy and exchangers.secure
        found = await asyncio.gather(*(self._records(record.host, dane) for record in exchangers.records))
        return select_hosts(domain, exchangers, found, self._this.has_address), exchangers.secure

    async def _smarthost(self, name: str) -> tuple[Selected | NoHosts, bool]:
        here = sorted(self._hosts.get(name, LOOPBACK if is_localhost(name) else ()))
        if here:
            usable = [address for address in here if not address_fault(address, named_here=True)]
            found = HostRecords(tuple(usable[:ADDRESSES_MAX]))
        else:
            found = await self._records(name, dane=self._asked.policy)  # RFC 7672 2.2.2
        return select_smarthost(name, found, self._asked.port, self._this), True

    def _smarthost_address(self, name: str, address: str) -> Selected | NoHosts:
        if fault := address_fault(address, named_here=True):
            return NoHosts(451, "4.1.2", f"smarthost {name} is {fault}")
        return select_smarthost("", HostRecords((address,)), self._asked.port, self._this)

    async def _records(self, name: str, dane: bool) -> HostRecords:
        async with self._slots:
            steps = host_records(name, self._asked.port, dane)
            questions = next(steps)
            try:
                while True:
                    answers = await asyncio.gather(*(self._ask(asked.name, asked.kind) for asked in questions))
                    questions = steps.send(tuple(answers))
            except StopIteration as end:
                found: HostRecords = end.value
                return found

    async def _sts_id(self, domain: str) -> str:
        name = record_name(domain)
        if not self._asked.policy or not name:
            return ""
        answer = await self._ask(name, RecordType.TXT)
        return policy_id(answer.values) if isinstance(answer, DnsResult) else ""

    async def _ask(self, name: str, kind: RecordType) -> RecordAnswer:
        try:
            answer = await self._dns.find(name, kind, self._deadline)
        except TimeoutError:
            answer = DnsFailure("no answer in time", FAILURE_TTL)
        self.seconds = min(self.seconds, answer.seconds)
        return answer
