"""A DNS stub resolver: UDP, and TCP for truncated answers, on the event loop.

    query -> server 1, 1 s -> server 2, 1 s -> … -> server 1, 2 s -> …        until the caller's deadline

An answer is accepted from the server's address only, on the socket of its question, with its id and its question in it;
everything else is ignored.

Whether DNSSEC holds is asked of a trusted server only (resolver_config.py), and believed of it.
"""

import asyncio
import secrets
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, repeat
from typing import Any

import dns.name
import dns.reversename

from smtpd.ipc.os_error import describe_error
from smtpd.lookup.dns_message import (
    CODES,
    NOERROR,
    NXDOMAIN,
    UDP_MAX,
    CnameLoop,
    DnsAnswer,
    DnsQuestion,
    DnsResult,
    RecordType,
)
from smtpd.lookup.resolver_config import NameServer

FIRST_TIMEOUT, SECOND_TIMEOUT = (
    1.0,
    2.0,
)  # seconds for each server, in the first round and in the second
NEGATIVE_TTL = 60  # seconds, TTL of a name that does not exist


class NoDnsAnswer(Exception):
    """No name server gave a usable answer; the text says why."""


class Resolver:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        servers: Sequence[NameServer],
        statistics: Counter[str],
        patience: float = 1.0,
    ):
        """`patience`: what the time-outs are multiplied by."""
        self._loop = loop
        self._servers = servers
        self._statistics = statistics
        self._patience = patience

    async def names(self, address: str) -> DnsResult[str]:
        """The PTR names of a numeric address, unchecked.  Raises NoDnsAnswer."""
        return await self._find(dns.reversename.from_address(address), RecordType.PTR)

    async def addresses(self, name: str, version: int) -> DnsResult[str]:
        """The addresses of a host; `version` is 4 or 6.  Raises NoDnsAnswer."""
        return await self._find(dns.name.from_text(name), RecordType.A if version == 4 else RecordType.AAAA)

    async def find(self, name: str, kind: RecordType) -> DnsResult[Any]:
        """The records of a name, and whether DNSSEC holds.  Raises NoDnsAnswer."""
        return await self._find(dns.name.from_text(name), kind, dnssec=True)

    async def _find(self, name: dns.name.Name, kind: RecordType, dnssec: bool = False) -> DnsResult[Any]:
        reason = "no name server is configured"
        for server, seconds in self._tries():
            question = DnsQuestion(secrets.randbelow(1 << 16), name, kind, dnssec and server.trusted)
            self._statistics["lookup.dns.query"] += 1
            try:
                async with asyncio.timeout(seconds * self._patience):
                    answer = await self._ask(server, question)
                if answer.code in (NOERROR, NXDOMAIN):
                    found = question.find(answer, NEGATIVE_TTL)
                    return found if question.dnssec else replace(found, secure=False)
                reason = f"the name server answered {CODES.get(answer.code, answer.code)}"
            except TimeoutError:
                reason = "no name server answered in time"
            except OSError as error:
                reason = f"the name server cannot be reached: {describe_error(error)}"
            except CnameLoop:
                reason = "a chain of CNAME records without an end"
            except NoDnsAnswer as error:
                reason = str(error)
        raise NoDnsAnswer(reason)

    def _tries(self) -> Iterator[tuple[NameServer, float]]:
        return chain(zip(self._servers, repeat(FIRST_TIMEOUT)), zip(self._servers, repeat(SECOND_TIMEOUT)))

    async def _ask(self, server: NameServer, question: DnsQuestion) -> DnsAnswer:
        answer = await self._by_datagram(server, question)
        return await self._by_stream(server, question) if answer.truncated else answer

    async def _by_datagram(self, server: NameServer, question: DnsQuestion) -> DnsAnswer:
        with socket.socket(server.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
            sock.connect(server.address)  # from now on only datagrams of this server arrive
            sock.send(question.to_wire())
            arrived: asyncio.Future[DnsAnswer] = self._loop.create_future()
            self._loop.add_reader(sock.fileno(), _receive, sock, question, arrived)
            try:
                return await arrived
            finally:
                self._loop.remove_reader(sock.fileno())

    async def _by_stream(self, server: NameServer, question: DnsQuestion) -> DnsAnswer:
        """Ask over TCP; each message has two bytes of length before it: RFC 7766 8."""
        wire = question.to_wire()
        with socket.socket(server.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
            await self._loop.sock_connect(sock, server.address)
            await self._loop.sock_sendall(sock, len(wire).to_bytes(2) + wire)
            size = int.from_bytes(await self._exactly(sock, 2))
            answer = question.read(await self._exactly(sock, size))
        if answer is None or answer.truncated:
            raise NoDnsAnswer("the name server sent no answer to the question")
        return answer

    async def _exactly(self, sock: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self._loop.sock_recv(sock, size - len(data))
            if not more:
                raise NoDnsAnswer("the name server closed the connection")
            data += more
        return data


def _receive(sock: socket.socket, question: DnsQuestion, arrived: asyncio.Future[DnsAnswer]) -> None:
    if arrived.done():
        return
    try:
        answer = question.read(sock.recv(UDP_MAX))
    except BlockingIOError:
        return
    except Exception as error:  # ECONNREFUSED, or a bug of ours: raised where the answer is awaited, not in the loop
        arrived.set_exception(error)
        return
    if answer is not None:
        arrived.set_result(answer)
