"""The name of a client: forward-confirmed reverse DNS.

    192.0.2.1 --hosts file, PTR--> mail.example, other.example --hosts file, A--> 192.0.2.1, …: confirmed

Of several names the first confirmed one is used, else the first one, unconfirmed.  The owner of an address writes its
PTR records, so those that are no host names are ignored, and only a few are followed.

Each address is looked up once at a time, and the result is cached for the TTL of its records, within bounds.  After
LOOKUP_TIMEOUT the client has no name, and its session continues.
"""

import asyncio
from dataclasses import dataclass

from smtpd.envelope import LOCAL_CLIENT
from smtpd.imsg import ClientResolved, ResolveClient
from smtpd.ipc.answer_cache import AnswerCache
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log
from smtpd.lookup.dns_message import DnsResult
from smtpd.lookup.resolver import NoDnsAnswer, Resolver
from smtpd.lookup.resolver_config import ResolverConfig, canonical_address, is_host_name

LOOKUP_TIMEOUT = 5.0  # seconds from the question to the answer
LOOKUPS_MAX = 256  # lookups at a time; each has a socket
NAMES_CACHED = 20_000  # addresses
CACHE_TTL_MIN, CACHE_TTL_MAX = 60, 3600  # seconds, bounds of the TTL
NEGATIVE_TTL_MAX = 300  # seconds: no name, or no confirmed one
FAILURE_TTL = 30  # seconds: no name server answered
PTR_NAMES_MAX = 4


@dataclass(frozen=True)
class ClientName:
    text: str  # empty: no name
    confirmed: bool


NO_NAME = ClientName("", False)


class ClientNames:
    def __init__(self, loop: asyncio.AbstractEventLoop, system: ResolverConfig, resolver: Resolver):
        self._loop = loop
        self._system = system
        self._resolver = resolver
        self._slots = asyncio.Semaphore(LOOKUPS_MAX)
        self._tasks: set[asyncio.Task[None]] = set()
        self._memory: AnswerCache[str, ClientName] = AnswerCache(self._fetch, loop.time, NAMES_CACHED)

    def resolve(self, dispatcher: Channel, asked: ResolveClient) -> None:
        address = canonical_address(asked.address)
        if address is None:
            _answer(dispatcher, asked, ClientName("localhost", True) if asked.address == LOCAL_CLIENT else NO_NAME)
        elif address in self._system.names:
            _answer(dispatcher, asked, ClientName(self._system.names[address], True))
        elif known := self._memory.find(address):
            _answer(dispatcher, asked, known)
        else:
            self._memory.ask(address, lambda name: _answer(dispatcher, asked, name))

    def _fetch(self, address: str) -> None:
        task = self._loop.create_task(self._look_up(address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_up(self, address: str) -> None:
        name, seconds = NO_NAME, FAILURE_TTL
        until = self._loop.time() + LOOKUP_TIMEOUT
        try:
            # Those that wait get their slot in time, as the slots' holders have come before them: no time-out ends
            # their wait, as thousands that it ends together would cost seconds of CPU.
            async with self._slots:
                if self._loop.time() < until:
                    async with asyncio.timeout_at(until):
                        name, seconds = await self._name(address)
        except (TimeoutError, NoDnsAnswer):
            log.debug(f"no name server has an answer for {address}")
        except Exception as error:
            log.trouble(f"name of {address}", error)
        self._memory.answer(address, name, seconds)

    async def _name(self, address: str) -> tuple[ClientName, int]:
        found = await self._resolver.names(address)
        names = [name.lower() for name in found.values if is_host_name(name)][:PTR_NAMES_MAX]
        if not names:
            return NO_NAME, _within(found.seconds, NEGATIVE_TTL_MAX)
        return await self._confirm(address, names, found.seconds)

    async def _confirm(self, address: str, names: list[str], seconds: int) -> tuple[ClientName, int]:
        for name in names:
            found = await self._addresses(name, 6 if ":" in address else 4)
            seconds = min(seconds, found.seconds)
            if address in map(canonical_address, found.values):
                return ClientName(name, True), _within(seconds, CACHE_TTL_MAX)
        return ClientName(names[0], False), _within(seconds, NEGATIVE_TTL_MAX)

    async def _addresses(self, name: str, version: int) -> DnsResult[str]:
        if name in self._system.addresses:
            return DnsResult(tuple(self._system.addresses[name]), CACHE_TTL_MAX)
        try:
            return await self._resolver.addresses(name, version)
        except NoDnsAnswer:
            return DnsResult((), FAILURE_TTL)


def _within(seconds: int, most: int) -> int:
    return max(CACHE_TTL_MIN, min(seconds, most))


def _answer(dispatcher: Channel, asked: ResolveClient, name: ClientName) -> None:
    dispatcher.send(ClientResolved(asked.request, name.text, name.confirmed))
