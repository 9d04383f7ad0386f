"""Questions to name servers: UDP, TCP where an answer does not fit, without ever waiting.

    query -> server 1, 1 s -> server 2, 1 s -> … -> server 1, 2 s -> …        until the asker's deadline

An answer counts when it comes from where the question went, to a port that was opened for it, with its number and its
question in it; everything else that arrives is as if it had not.  So is an answer that cannot be understood or holds
more than a name can need: what stands in it was written by whoever owns the address that is asked about.

dnspython makes the questions and reads the answers.  It imports the class of a record type when the first one comes;
those that we read are named below, and the others stay bytes.
"""

import asyncio
import secrets
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.reversename

from smtpd.lookup.system import Server

FIRST, LATER = 1.0, 2.0  # seconds that a server has for an answer, in the first round and in those behind it
UDP_MAX = 1232  # bytes that pass most paths in one piece
TCP_MAX = 8192  # bytes; a name does not need more
RECORDS_MAX = 64  # of an answer, all sections; each may cost 255 bytes of name
HEADER = 12  # bytes, RFC 1035 4.1.1

TYPES = [dns.rdatatype.PTR, dns.rdatatype.A, dns.rdatatype.AAAA, dns.rdatatype.CNAME, dns.rdatatype.SOA]
for _type in TYPES:
    dns.rdata.get_rdata_class(dns.rdataclass.IN, _type)

Query = dns.message.QueryMessage  # dnspython's name for question and answer alike


class NoAnswer(Exception):
    """No server has said anything of use."""


@dataclass(frozen=True)
class Found:
    """What the records say, and for how many seconds they hold.  No values: the name or the records do not exist."""

    values: tuple[str, ...]
    seconds: int


class Resolver:
    def __init__(self, loop: asyncio.AbstractEventLoop, servers: Sequence[Server], statistics: Counter[str]):
        self._loop = loop
        self._servers = servers
        self._statistics = statistics

    async def names(self, address: str) -> Found:
        """The names of a numeric address, as they were sent.  Raises NoAnswer."""
        found = await self._records(dns.reversename.from_address(address), dns.rdatatype.PTR)
        return Found(tuple(name.removesuffix(".") for name in found.values), found.seconds)

    async def addresses(self, name: str, version: int) -> Found:
        """The addresses of a host, IP version 4 or 6.  Raises NoAnswer."""
        return await self._records(dns.name.from_text(name), dns.rdatatype.A if version == 4 else dns.rdatatype.AAAA)

    async def _records(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Found:
        answer = await self._query(name, kind)
        try:
            chained = answer.resolve_chaining()  # RFC 2317: reverse names of small networks are aliases
        except dns.exception.DNSException as error:
            raise NoAnswer(str(error)) from None
        values = () if chained.answer is None else tuple(record.to_text() for record in chained.answer)
        return Found(values, chained.minimum_ttl)

    async def _query(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> Query:
        for server, seconds in self._tries():
            self._statistics["lookup.dns.query"] += 1
            query = dns.message.make_query(name, kind, use_edns=0, payload=UDP_MAX, id=secrets.randbelow(1 << 16))
            try:
                async with asyncio.timeout(seconds):
                    answer = await self._ask(server, query)
            except (OSError, TimeoutError, NoAnswer):
                continue
            if answer.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                return answer
        raise NoAnswer("no server has an answer")

    def _tries(self) -> Iterator[tuple[Server, float]]:
        first = zip(self._servers, repeat(FIRST), strict=False)
        return chain(first, zip(self._servers, repeat(LATER), strict=False))

    async def _ask(self, server: Server, query: Query) -> Query:
        answer = await self._by_datagram(server, query)
        return await self._by_stream(server, query) if answer.flags & dns.flags.TC else answer

    async def _by_datagram(self, server: Server, query: Query) -> Query:
        with socket.socket(server.family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
            sock.connect(server.address)  # from now on nobody else's datagrams arrive
            sock.send(query.to_wire())
            arrived: asyncio.Future[Query] = self._loop.create_future()
            self._loop.add_reader(sock.fileno(), _receive, sock, query, arrived)
            try:
                return await arrived
            finally:
                self._loop.remove_reader(sock.fileno())

    async def _by_stream(self, server: Server, query: Query) -> Query:
        """RFC 7766 8: two bytes of length in front."""
        with socket.socket(server.family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
            await self._loop.sock_connect(sock, server.address)
            await self._loop.sock_sendall(sock, query.to_wire(prepend_length=True))
            size = int.from_bytes(await self._exactly(sock, 2))
            if size > TCP_MAX:
                raise NoAnswer(f"an answer of {size} bytes")
            answer = parse_answer(query, await self._exactly(sock, size))
        if answer is None:
            raise NoAnswer("an answer that is none")
        return answer

    async def _exactly(self, sock: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = await self._loop.sock_recv(sock, size - len(data))
            if not more:
                raise NoAnswer("an answer that ends early")
            data += more
        return data


def _receive(sock: socket.socket, query: Query, arrived: asyncio.Future[Query]) -> None:
    try:
        answer = parse_answer(query, sock.recv(UDP_MAX + 1))
    except (BlockingIOError, InterruptedError):
        return
    except OSError as error:  # ECONNREFUSED: nobody listens there
        if not arrived.done():
            arrived.set_exception(error)
        return
    if answer is not None and not arrived.done():
        arrived.set_result(answer)


def parse_answer(query: Query, data: bytes) -> Query | None:
    """The answer to this very question, or None."""
    if len(data) < HEADER or int.from_bytes(data[:2]) != query.id:
        return None
    if sum(int.from_bytes(data[at : at + 2]) for at in (4, 6, 8, 10)) > RECORDS_MAX:
        return None
    try:
        answer = dns.message.from_wire(data, ignore_trailing=True)
    except (dns.exception.DNSException, ValueError):
        return None
    return answer if isinstance(answer, Query) and query.is_response(answer) else None
