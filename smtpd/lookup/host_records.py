"""The addresses of one host, and whether DANE holds for it: RFC 7672 2.2.

A generator without I/O: it yields questions that may be asked at the same time, is sent their answers, and returns
HostRecords.

    mx.there.test  A, AAAA --> not secure, no alias                      DANE does not apply
                               secure                                    TLSA of mx.there.test
                               secure, alias of host.there.test          TLSA of host.there.test, then of mx.there.test
                               not secure, an alias --CNAME--> secure    TLSA of mx.there.test

The first secure TLSA answer with records decides.  One that fails makes the host unusable: an attacker who keeps the
answer back must not get mail in the clear.
"""

from collections.abc import Generator, Iterable
from dataclasses import dataclass
from typing import Any

from smtpd.lookup.destination import address_fault, is_this_host
from smtpd.lookup.dns_message import DnsFailure, DnsResult, RecordType, TlsaData
from smtpd.lookup.resolver_config import NAME_MAX, is_host_name
from smtpd.next_hop import ADDRESSES_MAX, TLSA_DATA_MAX, TLSA_RECORDS_MAX, TlsaRecord, TlsaState

DIGEST_SIZES = {1: 32, 2: 64}  # matching type -> bytes: RFC 6698 2.1.3


@dataclass(frozen=True)
class RecordQuestion:
    name: str
    kind: RecordType


RecordAnswer = DnsResult[Any] | DnsFailure
RecordQuestions = Generator[tuple[RecordQuestion, ...], tuple[RecordAnswer, ...], "HostRecords"]


@dataclass(frozen=True)
class Dane:
    state: TlsaState = TlsaState.NONE
    base: str = ""
    records: tuple[TlsaRecord, ...] = ()


@dataclass(frozen=True)
class HostRecords:
    addresses: tuple[str, ...] = ()
    failure: str = ""  # why addresses may be missing: a lookup has failed, and the other one gave none
    fault: str = ""  # of addresses that were left out
    loops: bool = False  # one of these is this host
    exists: bool = True  # the name
    secure: bool = False
    dane: Dane = Dane()


def host_records(name: str, port: int, dane: bool) -> RecordQuestions:
    """`dane`: ask for TLSA records, as whatever led to this name is secure."""
    a, aaaa = yield RecordQuestion(name, RecordType.A), RecordQuestion(name, RecordType.AAAA)
    results = [answer for answer in (aaaa, a) if isinstance(answer, DnsResult)]
    failures = [_failure(name, kind, answer) for kind, answer in (("A", a), ("AAAA", aaaa))]
    named = [address for result in results for address in _first(result.values)]
    faults = {address: address_fault(address) for address in named}
    addresses = tuple(address for address in named if not faults[address])
    if not addresses:
        return HostRecords(
            failure=next(filter(None, failures), ""),
            fault=next((f"{address} is {fault}" for address, fault in faults.items()), ""),
            loops=any(map(is_this_host, named)),
            exists=any(result.exists for result in results),
        )
    found = [result for result in results if result.values]
    secure = [result for result in found if result.secure]
    return HostRecords(addresses, secure=bool(secure), dane=(yield from _dane(name, port, found)) if dane else Dane())


def _failure(name: str, kind: str, answer: RecordAnswer) -> str:
    return f"{kind} lookup of {name}: {answer.reason}" if isinstance(answer, DnsFailure) else ""


def _first(addresses: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(addresses))[:ADDRESSES_MAX]


def _dane(
    name: str, port: int, found: list[DnsResult[str]]
) -> Generator[tuple[RecordQuestion, ...], tuple[RecordAnswer, ...], Dane]:
    # RFC 7672 2.2.2: one secure answer is enough; of many zones the denial of AAAA cannot be validated.
    secure = next((result for result in found if result.secure), None)
    bases: list[str] = []
    if secure is not None:
        bases = [secure.owner.lower(), name] if secure.owner else [name]
    elif any(result.owner for result in found):
        (alias,) = yield (RecordQuestion(name, RecordType.CNAME),)
        if isinstance(alias, DnsFailure):
            return Dane(TlsaState.FAILED)
        bases = [name] if alias.secure and alias.values else []
    for base in bases:
        records_name = f"_{port}._tcp.{base}"  # RFC 7672 2.2.3
        if not is_host_name(base) or len(records_name) > NAME_MAX:
            continue
        (answer,) = yield (RecordQuestion(records_name, RecordType.TLSA),)
        if isinstance(answer, DnsFailure):
            return Dane(TlsaState.FAILED)
        if answer.secure and answer.values:
            records = usable_records(answer.values)
            return Dane(TlsaState.USABLE if records else TlsaState.UNUSABLE, base, records)
    return Dane()


def usable_records(values: Iterable[TlsaData]) -> tuple[TlsaRecord, ...]:
    """RFC 7672 3.1: what SMTP can use.  PKIX-TA(0) and PKIX-EE(1) are not: 3.1.3."""
    usable = (
        TlsaRecord(value.usage, value.selector, value.matching, value.data)
        for value in dict.fromkeys(values)
        if value.usage in (2, 3)
        and value.selector in (0, 1)
        and value.matching in (0, 1, 2)
        and 0 < len(value.data) <= TLSA_DATA_MAX
        and len(value.data) == DIGEST_SIZES.get(value.matching, len(value.data))
    )
    return tuple(usable)[:TLSA_RECORDS_MAX]
