"""DNS messages: a question as bytes, and the records in an answer.  No socket, no clock.

    number | flags | 1 | answers | … | …         RFC 1035 4.1.1
    the question: name, type, class              4.1.2
    answers: name, type, class, seconds, data    4.1.3

An answer is written by the owner of the address, who may be hostile, so no more of it is read than is needed: its first
records, of the types below.  dnspython parses names; its message class compares and sorts all records, which takes a
tenth of a second for a packet made for that.

Not read: the authority and additional sections (negative TTL, EDNS), and all other types of records.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address

import dns.exception
import dns.name
import dns.wire

HEADER = struct.Struct(">HHHHHH")
RESPONSE, OPCODE, TRUNCATED, RECURSION_DESIRED, RCODE = 0x8000, 0x7800, 0x0200, 0x0100, 0x000F
CLASS_IN = 1
NOERROR, NXDOMAIN = 0, 3

RECORDS_MAX = 16  # records of an answer that are read
CNAME_CHAIN_MAX = 8  # CNAME records that are followed
UDP_MAX = 1232  # bytes that pass most paths unfragmented
EDNS_RECORD = b"\0" + struct.pack(">HHIH", 41, UDP_MAX, 0, 0)  # RFC 6891 6.1.2: the size we accept


class RecordType(IntEnum):
    """Record types."""

    A = 1
    CNAME = 5
    PTR = 12
    AAAA = 28


class CnameLoop(Exception):
    """A chain of CNAME records without an end."""


NameKey = tuple[bytes, ...]  # the labels of a name, in lower case


@dataclass(frozen=True)
class DnsRecord:
    owner: NameKey
    kind: RecordType
    seconds: int
    value: str  # a name without its final dot, or an address
    target: NameKey = ()  # of a CNAME


@dataclass(frozen=True)
class DnsAnswer:
    code: int
    truncated: bool
    records: tuple[DnsRecord, ...] = ()


@dataclass(frozen=True)
class DnsResult:
    """The values of a lookup, and their TTL in seconds.  No values: the name or the record does not exist."""

    values: tuple[str, ...]
    seconds: int


@dataclass(frozen=True)
class DnsQuestion:
    number: int  # 16 random bits
    name: dns.name.Name
    kind: RecordType

    def to_wire(self) -> bytes:
        asked = self.name.to_digestable() + struct.pack(">HH", self.kind, CLASS_IN)
        return HEADER.pack(self.number, RECURSION_DESIRED, 1, 0, 0, 1) + asked + EDNS_RECORD

    def read(self, data: bytes) -> DnsAnswer | None:
        """The answer to this question; None for any other message."""
        if len(data) < HEADER.size or data[:2] != self.number.to_bytes(2):
            return None
        try:
            return self._read(dns.wire.Parser(data))
        except (dns.exception.DNSException, ValueError):
            return None

    def _read(self, parser: dns.wire.Parser) -> DnsAnswer | None:
        _, flags, questions, answers, _, _ = parser.get_struct(HEADER.format)
        if flags & (RESPONSE | OPCODE) != RESPONSE or questions != 1:
            return None
        asked = _key(parser.get_name(decompress=True)), *parser.get_struct(">HH")
        if asked != (_key(self.name), self.kind, CLASS_IN):
            return None
        if flags & TRUNCATED:
            return DnsAnswer(flags & RCODE, True)
        return DnsAnswer(flags & RCODE, False, tuple(_records(parser, min(answers, RECORDS_MAX))))

    def find(self, answer: DnsAnswer, absent: int) -> DnsResult:
        """The values, following CNAME records; a missing one has a TTL of `absent` seconds.  Raises CnameLoop."""
        owner, seconds = _key(self.name), 2**31
        for _ in range(CNAME_CHAIN_MAX):
            values = [record for record in answer.records if (record.owner, record.kind) == (owner, self.kind)]
            if values:
                seconds = min(seconds, *(record.seconds for record in values))
                return DnsResult(tuple(record.value for record in values), seconds)
            alias = [record for record in answer.records if (record.owner, record.kind) == (owner, RecordType.CNAME)]
            if not alias:
                return DnsResult((), absent)
            owner, seconds = alias[0].target, min(seconds, alias[0].seconds)
        raise CnameLoop


def _records(parser: dns.wire.Parser, count: int) -> Iterator[DnsRecord]:
    for _ in range(count):
        owner = _key(parser.get_name(decompress=True))
        kind, network, seconds, size = parser.get_struct(">HHIH")
        with parser.restrict_to(size):
            if network != CLASS_IN:
                parser.get_remaining()
            elif kind in (RecordType.PTR, RecordType.CNAME):
                name = parser.get_name(decompress=True)
                yield DnsRecord(owner, RecordType(kind), seconds, name.to_text(omit_final_dot=True), _key(name))
            elif kind == RecordType.A:
                yield DnsRecord(owner, RecordType.A, seconds, str(IPv4Address(parser.get_remaining())))
            elif kind == RecordType.AAAA:
                yield DnsRecord(owner, RecordType.AAAA, seconds, str(IPv6Address(parser.get_remaining())))
            else:
                parser.get_remaining()


def _key(name: dns.name.Name) -> NameKey:
    """The labels of a name, in lower case: RFC 4343."""
    return tuple(label.lower() for label in name.labels)
