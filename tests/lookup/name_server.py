"""A name server that a test plays on 127.0.0.1, in the loop of its lookup."""

import asyncio
import errno
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset

from smtpd.lookup.resolver_config import server_at


@dataclass
class Zone:
    """`records`: (name, type) -> values; names that have none do not exist, but those in `empty`."""

    records: dict = field(default_factory=dict)
    twist: object = None  # query, answer -> datagrams to send
    by_stream: bool = False  # say "truncated" to datagrams
    ttl: int = 600
    asked: list = field(default_factory=list)
    secure: bool = False  # the AD bit of all answers
    insecure: set = field(default_factory=set)  # (name, type) whose answers are without it all the same
    failing: dict = field(default_factory=dict)  # (name, type) -> code; None: no answer
    empty: set = field(default_factory=set)  # names

    def answer(self, query):
        """None: nothing is said."""
        question = query.question[0]
        name, kind = str(question.name), dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, kind))
        answer = dns.message.make_response(query)
        if (name, kind) in self.failing:
            code = self.failing[name, kind]
            if code is None:
                return None
            answer.set_rcode(code)
            return answer
        if self.secure and (name, kind) not in self.insecure:
            answer.flags |= dns.flags.AD
        found = self.records.get((name, kind))
        if found is None and name not in self.empty and not any(name == of for of, _ in self.records):
            answer.set_rcode(dns.rcode.NXDOMAIN)
        for owner, of_kind, value in found or []:
            answer.answer.append(dns.rrset.from_text(owner, self.ttl, "IN", of_kind, value))
        return answer

    def add(self, name, kind, *values):
        self.records[name, kind] = [(name, kind, value) for value in values]
        return self

    def host(self, name, *addresses):
        for kind, of_kind in (
            ("A", [a for a in addresses if ":" not in a]),
            ("AAAA", [a for a in addresses if ":" in a]),
        ):
            if of_kind:
                self.add(name, kind, *of_kind)
        return self


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self, zone):
        self.zone = zone

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, sender):
        query = dns.message.from_wire(data)
        answer = self.zone.answer(query)
        if answer is None:
            return
        wire = answer.to_wire(max_size=65535)
        if self.zone.by_stream or len(wire) > query.payload:
            answer.flags |= dns.flags.TC
            answer.answer.clear()
        for datagram in self.zone.twist(query, answer) if self.zone.twist else [answer.to_wire()]:
            self.transport.sendto(datagram, sender)


async def serve_stream(zone, reader, writer):
    size = int.from_bytes(await reader.readexactly(2))
    answer = zone.answer(dns.message.from_wire(await reader.readexactly(size)))
    if answer is not None:
        wire = answer.to_wire(max_size=65535)
        for data in zone.by_stream(wire) if callable(zone.by_stream) else [len(wire).to_bytes(2) + wire]:
            writer.write(data)
    writer.close()


def serve(house, zone):
    """The NameServer of a zone, one port for datagrams and streams."""
    return house.run(_serve(house, zone))


async def _serve(house, zone):
    while True:
        server = await asyncio.start_server(lambda reader, writer: serve_stream(zone, reader, writer), "127.0.0.1", 0)
        house.opened.append(server)  # a loop that is closed with an open server waits for ever
        port = server.sockets[0].getsockname()[1]
        try:
            datagrams, _ = await house.loop.create_datagram_endpoint(lambda: Datagrams(zone), ("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:  # by the datagrams of a test beside this one
                raise
        else:
            house.opened.append(datagrams)
            return server_at("127.0.0.1", port)
