"""Whether domains announce a policy of MTA-STS now: what queue asks before it keeps what a dispatcher says of them.

    FindStsRecords --TXT of _mta-sts.DOMAIN each--> StsRecordsFound

The domains come from a dispatcher that may be in the hands of an attacker.  Mostly their records have just been looked
up for it, and are cached (dns_cache.py).
"""

import asyncio

from smtpd.imsg import FindStsRecords, StsRecordsFound
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log
from smtpd.lookup.destination import Domain, read_destination
from smtpd.lookup.dns_cache import DnsCache
from smtpd.lookup.dns_message import DnsResult, RecordType
from smtpd.lookup.mta_sts_record import policy_id, record_name

RECORDS_TIMEOUT = 4.0  # seconds for all domains of a question: less than a stop of queue waits for
RECORD_QUESTIONS_MAX = 64  # at a time


class StsAnnouncements:
    def __init__(self, loop: asyncio.AbstractEventLoop, dns: DnsCache):
        self._loop, self._dns = loop, dns
        self._tasks: set[asyncio.Task[None]] = set()

    def find(self, queue: Channel, asked: FindStsRecords) -> None:
        if len(self._tasks) >= RECORD_QUESTIONS_MAX:
            queue.send(StsRecordsFound(asked.request, [False] * len(asked.domains)))
            return
        task = self._loop.create_task(self._find(queue, asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _find(self, queue: Channel, asked: FindStsRecords) -> None:
        until = self._loop.time() + RECORDS_TIMEOUT
        announced = await asyncio.gather(*(self._is_announced(domain, until) for domain in asked.domains))
        queue.send(StsRecordsFound(asked.request, announced))

    async def _is_announced(self, name: str, until: float) -> bool:
        try:
            domain = read_destination(name, mx=False)
            where = record_name(domain.name) if isinstance(domain, Domain) else ""
            if not where:
                return False
            async with asyncio.timeout_at(until):
                answer = await self._dns.find(where, RecordType.TXT)
            return isinstance(answer, DnsResult) and bool(policy_id(answer.values))
        except TimeoutError:
            return False
        except Exception as error:  # rule R8: a defect costs one policy
            log.trouble(f"MTA-STS record of {name}", error)
            return False
