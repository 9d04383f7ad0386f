"""Questions to name servers: UDP, TCP where an answer does not fit, without ever waiting.

    query -> server 1, 1 s -> server 2, 1 s -> … -> server 1, 2 s -> …        until the asker's deadline

An answer counts when it comes from where the question went, to a port that was opened for it, with its number and its
question in it; everything else that arrives is as if it had not.
"""

import asyncio
import secrets
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, repeat

import dns.name
import dns.reversename

from smtpd.lookup.answer import NO_ERROR, NO_NAME, UDP_MAX, Answer, Circle, Found, Kind, Question
from smtpd.lookup.system import Server

FIRST, LATER = 1.0, 2.0  # seconds that a server has for an answer, in the first round and in the second
ABSENT = 60  # seconds that a name does not exist


class NoAnswer(Exception):
    """No server has said anything of use."""


class Resolver:
    def __init__(self, loop: asyncio.AbstractEventLoop, servers: Sequence[Server], statistics: Counter[str]):
        self._loop = loop
        self._servers = servers
        self._statistics = statistics

    async def names(self, address: str) -> Found:
        """The names of a numeric address, as they were sent.  Raises NoAnswer."""
        return await self._find(dns.reversename.from_address(address), Kind.PTR)

    async def addresses(self, name: str, version: int) -> Found:
        """The addresses of a host, IP version 4 or 6.  Raises NoAnswer."""
        return await self._find(dns.name.from_text(name), Kind.A if version == 4 else Kind.AAAA)

    async def _find(self, name: dns.name.Name, kind: Kind) -> Found:
        for server, seconds in self._tries():
            question = Question(secrets.randbelow(1 << 16), name, kind)
            self._statistics["lookup.dns.query"] += 1
            try:
                async with asyncio.timeout(seconds):
                    answer = await self._ask(server, question)
                if answer.code in (NO_ERROR, NO_NAME):
                    return question.find(answer, ABSENT)
            except (OSError, TimeoutError, NoAnswer, Circle):
                continue
        raise NoAnswer

    def _tries(self) -> Iterator[tuple[Server, float]]:
        return chain(zip(self._servers, repeat(FIRST)), zip(self._servers, repeat(LATER)))

    async def _ask(self, server: Server, question: Question) -> Answer:
        answer = await self._by_datagram(server, question)
        return await self._by_stream(server, question) if answer.truncated else answer

    async def _by_datagram(self, server: Server, question: Question) -> Answer:
        with socket.socket(server.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
            sock.connect(server.address)  # from now on nobody else's datagrams arrive
            sock.send(question.to_wire())
            arrived: asyncio.Future[Answer] = self._loop.create_future()
            self._loop.add_reader(sock.fileno(), _receive, sock, question, arrived)
            try:
                return await arrived
            finally:
                self._loop.remove_reader(sock.fileno())

    async def _by_stream(self, server: Server, question: Question) -> Answer:
        """RFC 7766 8: two bytes of length in front."""
        wire = question.to_wire()
        with socket.socket(server.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
            await self._loop.sock_connect(sock, server.address)
            await self._loop.sock_sendall(sock, len(wire).to_bytes(2) + wire)
            size = int.from_bytes(await self._exactly(sock, 2))
            answer = question.read(await self._exactly(sock, size))
        if answer is None or answer.truncated:
            raise NoAnswer
        return answer

    async def _exactly(self, sock: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self._loop.sock_recv(sock, size - len(data))
            if not more:
                raise NoAnswer
            data += more
        return data


def _receive(sock: socket.socket, question: Question, arrived: asyncio.Future[Answer]) -> None:
    if arrived.done():
        return
    try:
        answer = question.read(sock.recv(UDP_MAX))
    except (BlockingIOError, InterruptedError):
        return
    except Exception as error:  # ECONNREFUSED, or our mistake: it belongs to whoever waits, not to the loop
        arrived.set_exception(error)
        return
    if answer is not None:
        arrived.set_result(answer)
