"""The name of a client: what its address leads to, if that leads back to the address.

    192.0.2.1 --hosts file, PTR--> mail.example, other.example --hosts file, A--> 192.0.2.1, …: confirmed

Of several names the first confirmed one is taken, else the first one, unconfirmed.  Whoever owns an address writes what
its PTR says, so what is no host name does not exist, and only a few names are followed.

Each address is asked about once at a time, and what was found is remembered for as long as its records say, within
bounds.  After the deadline a client has no name, and is not kept waiting any longer.
"""

import asyncio
from dataclasses import dataclass

from smtpd.imsg import ClientResolved, ResolveClient
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log
from smtpd.lookup.answer import Found
from smtpd.lookup.memory import Memory
from smtpd.lookup.resolver import NoAnswer, Resolver
from smtpd.lookup.rule import LOCAL
from smtpd.lookup.system import System, canonical, is_host_name

DEADLINE = 5.0  # seconds from the question to a name, or to none
UNDER_WAY = 256  # addresses that are asked about at a time; each has a socket
REMEMBERED = 20_000  # addresses
LEAST, MOST = 60, 3600  # seconds that an answer is remembered, whatever its records say
MOST_ABSENT = 300  # that there is no name
SILENCE = 30  # that nothing could be found out
NAMES_FOLLOWED = 4


@dataclass(frozen=True)
class Name:
    text: str  # empty: none
    confirmed: bool


NONE = Name("", False)


class Clients:
    def __init__(self, loop: asyncio.AbstractEventLoop, system: System, resolver: Resolver):
        self._loop = loop
        self._system = system
        self._resolver = resolver
        self._slots = asyncio.Semaphore(UNDER_WAY)
        self._tasks: set[asyncio.Task[None]] = set()
        self._memory: Memory[str, Name] = Memory(self._fetch, loop.time, REMEMBERED)

    def resolve(self, dispatcher: Channel, asked: ResolveClient) -> None:
        address = canonical(asked.address)
        if address is None:
            _answer(dispatcher, asked, Name("localhost", True) if asked.address == LOCAL else NONE)
        elif address in self._system.names:
            _answer(dispatcher, asked, Name(self._system.names[address], True))
        elif known := self._memory.find(address):
            _answer(dispatcher, asked, known)
        else:
            self._memory.ask(address, lambda name: _answer(dispatcher, asked, name))

    def _fetch(self, address: str) -> None:
        task = self._loop.create_task(self._look_up(address))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _look_up(self, address: str) -> None:
        name, seconds = NONE, SILENCE
        try:
            async with asyncio.timeout(DEADLINE), self._slots:
                name, seconds = await self._name(address)
        except (TimeoutError, NoAnswer):
            log.debug(f"no name server has an answer for {address}")
        except Exception as error:
            log.trouble(f"name of {address}", error)
        self._memory.answer(address, name, seconds)

    async def _name(self, address: str) -> tuple[Name, int]:
        found = await self._resolver.names(address)
        names = [name.lower() for name in found.values if is_host_name(name)][:NAMES_FOLLOWED]
        if not names:
            return NONE, _within(found.seconds, MOST_ABSENT)
        return await self._confirm(address, names, found.seconds)

    async def _confirm(self, address: str, names: list[str], seconds: int) -> tuple[Name, int]:
        for name in names:
            found = await self._addresses(name, 6 if ":" in address else 4)
            seconds = min(seconds, found.seconds)
            if address in map(canonical, found.values):
                return Name(name, True), _within(seconds, MOST)
        return Name(names[0], False), _within(seconds, MOST_ABSENT)

    async def _addresses(self, name: str, version: int) -> Found:
        if name in self._system.addresses:
            return Found(tuple(self._system.addresses[name]), MOST)
        try:
            return await self._resolver.addresses(name, version)
        except NoAnswer:
            return Found((), SILENCE)


def _within(seconds: int, most: int) -> int:
    return max(LEAST, min(seconds, most))


def _answer(dispatcher: Channel, asked: ResolveClient, name: Name) -> None:
    dispatcher.send(ClientResolved(asked.request, name.text, name.confirmed))
