"""DNS messages: a question as bytes, and the records in an answer.  No socket, no clock.

    number | flags | 1 | answers | … | …         RFC 1035 4.1.1
    the question: name, type, class              4.1.2
    answers: name, type, class, seconds, data    4.1.3

An answer is written by the owner of the name, who may be hostile, so no more of it is read than is needed: its first
records, of the types below.  dnspython parses names; its message class compares and sorts all records, which takes a
tenth of a second for a packet made for that.

Whether an answer was validated is the AD bit: RFC 4035 3.2.3.  Signatures are not checked here.

Not read: the authority and additional sections (negative TTL, EDNS), and all other types of records.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from itertools import islice
from typing import Any

import dns.exception
import dns.name
import dns.wire

HEADER = struct.Struct(">HHHHHH")
RESPONSE, OPCODE, TRUNCATED, RECURSION_DESIRED, RCODE = 0x8000, 0x7800, 0x0200, 0x0100, 0x000F
AUTHENTIC = 0x0020  # AD: RFC 6840 5.7, 5.8
CLASS_IN = 1
NOERROR, SERVFAIL, NXDOMAIN, REFUSED = 0, 2, 3, 5
CODES = {1: "FORMERR", SERVFAIL: "SERVFAIL", 4: "NOTIMP", REFUSED: "REFUSED"}  # RFC 1035 4.1.1

CNAME_CHAIN_MAX = 8  # CNAME records that are followed
UDP_MAX = 1232  # bytes that pass most paths unfragmented
DNSSEC_OK = 0x8000  # RFC 3225 3
EDNS_RECORD = struct.Struct(">xHHIH")  # RFC 6891 6.1.2: type, the size we accept, flags, length
EDNS = 41


class RecordType(IntEnum):
    """Record types."""

    A = 1
    CNAME = 5
    PTR = 12
    MX = 15
    TXT = 16
    AAAA = 28
    TLSA = 52  # RFC 6698


# Records of an answer that are read, by what was asked; and that are looked at where signatures stand among them.
RECORDS_MAX = 16
RECORDS_MAX_OF = {RecordType.MX: 100}
RECORDS_SEEN_MAX = 200


class CnameLoop(Exception):
    """A chain of CNAME records without an end."""


NameKey = tuple[bytes, ...]  # the labels of a name, in lower case


@dataclass(frozen=True)
class MxRecord:
    """RFC 1035 3.3.9; `host` without its final dot, "." for the root."""

    preference: int
    host: str


@dataclass(frozen=True)
class TlsaData:
    """RFC 6698 2.1, any values."""

    usage: int
    selector: int
    matching: int
    data: bytes


# A name without its final dot, an address, an MX record, a TLSA record, or the joined strings of a TXT record.
Value = str | MxRecord | TlsaData | bytes


@dataclass(frozen=True)
class DnsRecord:
    owner: NameKey
    kind: RecordType
    seconds: int
    value: Value
    target: NameKey = ()  # of a CNAME


@dataclass(frozen=True)
class DnsAnswer:
    code: int
    truncated: bool
    records: tuple[DnsRecord, ...] = ()
    authentic: bool = False  # the AD bit


@dataclass(frozen=True)
class DnsResult[Of: Value]:
    """The values of a lookup, and their TTL in seconds.  No values: the name or the record does not exist."""

    values: tuple[Of, ...]
    seconds: int
    exists: bool = True  # the name; False: NXDOMAIN
    secure: bool = False  # DNSSEC says so, of the values or of their absence
    owner: str = ""  # the name that has the values, where CNAME records lead to another one than was asked for


@dataclass(frozen=True)
class DnsFailure:
    """A lookup without an answer: why, and the seconds before it is tried again."""

    reason: str
    seconds: int


@dataclass(frozen=True)
class DnsQuestion:
    number: int  # 16 random bits
    name: dns.name.Name
    kind: RecordType
    dnssec: bool = False  # ask whether the answer is validated

    def to_wire(self) -> bytes:
        asked = self.name.to_digestable() + struct.pack(">HH", self.kind, CLASS_IN)
        flags = RECURSION_DESIRED | (AUTHENTIC if self.dnssec else 0)
        edns = EDNS_RECORD.pack(EDNS, UDP_MAX, DNSSEC_OK if self.dnssec else 0, 0)
        return HEADER.pack(self.number, flags, 1, 0, 0, 1) + asked + edns

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
        most = RECORDS_MAX_OF.get(self.kind, RECORDS_MAX)
        seen = min(answers, RECORDS_SEEN_MAX if self.dnssec else most)
        records = islice(_records(parser, seen), most)
        return DnsAnswer(flags & RCODE, False, tuple(records), bool(flags & AUTHENTIC))

    def find(self, answer: DnsAnswer, absent: int) -> DnsResult[Any]:
        """The values, following CNAME records; a missing one has a TTL of `absent` seconds.  Raises CnameLoop."""
        owner, name, seconds = _key(self.name), "", 2**31
        for _ in range(CNAME_CHAIN_MAX):
            values = [record for record in answer.records if (record.owner, record.kind) == (owner, self.kind)]
            if values:
                seconds = min(seconds, *(record.seconds for record in values))
                found = tuple(record.value for record in values)
                return DnsResult(found, seconds, secure=answer.authentic, owner=name)
            alias = [record for record in answer.records if (record.owner, record.kind) == (owner, RecordType.CNAME)]
            if not alias:
                return DnsResult((), absent, answer.code != NXDOMAIN, answer.authentic, name)
            owner, name, seconds = alias[0].target, str(alias[0].value), min(seconds, alias[0].seconds)
        raise CnameLoop


def _records(parser: dns.wire.Parser, count: int) -> Iterator[DnsRecord]:
    for _ in range(count):
        owner = parser.get_name(decompress=True)
        kind, network, seconds, size = parser.get_struct(">HHIH")
        with parser.restrict_to(size):
            if network == CLASS_IN and kind in _READERS:
                value, target = _READERS[kind](parser)
                yield DnsRecord(_key(owner), RecordType(kind), seconds, value, target)
            else:
                parser.get_remaining()


def _name(parser: dns.wire.Parser) -> tuple[str, NameKey]:
    name = parser.get_name(decompress=True)
    return name.to_text(omit_final_dot=True), _key(name)


def _address(kind: type[IPv4Address | IPv6Address]) -> Callable[[dns.wire.Parser], tuple[Value, NameKey]]:
    return lambda parser: (str(kind(parser.get_remaining())), ())


def _mx(parser: dns.wire.Parser) -> tuple[Value, NameKey]:
    return MxRecord(parser.get_uint16(), parser.get_name(decompress=True).to_text(omit_final_dot=True)), ()


def _txt(parser: dns.wire.Parser) -> tuple[Value, NameKey]:
    strings = []
    while parser.remaining():
        strings.append(parser.get_counted_bytes())
    return b"".join(strings), ()


def _tlsa(parser: dns.wire.Parser) -> tuple[Value, NameKey]:
    usage, selector, matching = parser.get_struct(">BBB")
    return TlsaData(usage, selector, matching, parser.get_remaining()), ()


_READERS: dict[int, Callable[[dns.wire.Parser], tuple[Value, NameKey]]] = {
    RecordType.A: _address(IPv4Address),
    RecordType.CNAME: _name,
    RecordType.PTR: _name,
    RecordType.MX: _mx,
    RecordType.TXT: _txt,
    RecordType.AAAA: _address(IPv6Address),
    RecordType.TLSA: _tlsa,
}


def _key(name: dns.name.Name) -> NameKey:
    """The labels of a name, in lower case: RFC 4343."""
    return tuple(label.lower() for label in name.labels)
