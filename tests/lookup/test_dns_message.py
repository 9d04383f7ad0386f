"""DNS messages of every type that is asked for: hostile bytes, and what they may cost."""

import time

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.lookup.dns_message import (
    RECORDS_MAX,
    RECORDS_MAX_OF,
    CnameLoop,
    DnsAnswer,
    DnsQuestion,
    MxRecord,
    RecordType,
    TlsaData,
)

NAME = "there.test."
VALUES = {
    "A": ("192.0.2.1", "192.0.2.1"),
    "AAAA": ("2001:db8::1", "2001:db8::1"),
    "CNAME": ("Other.test.", "Other.test"),
    "PTR": ("Other.test.", "Other.test"),
    "MX": ("10 Mx.test.", MxRecord(10, "Mx.test")),
    "TXT": ('"v=STSv1; " "id=1;"', b"v=STSv1; id=1;"),
    "TLSA": ("3 1 1 " + "ab" * 32, TlsaData(3, 1, 1, b"\xab" * 32)),
}
KINDS = pytest.mark.parametrize("kind", VALUES)


def question(kind, dnssec=False):
    return DnsQuestion(0x1234, dns.name.from_text(NAME), RecordType[kind], dnssec)


def answer(kind, *values, flags=0, more=()):
    made = dns.message.make_response(dns.message.from_wire(question(kind).to_wire()))
    made.flags |= flags
    for owner, of_kind, value in (*more, *((NAME, kind, value) for value in values)):
        made.answer.append(dns.rrset.from_text(owner, 60, "IN", of_kind, value))
    return made.to_wire(max_size=65535)


@KINDS
def test_a_record_of_each_type(kind):
    text, value = VALUES[kind]
    asked = question(kind)
    found = asked.find(asked.read(answer(kind, text)), 60)
    assert (found.values, found.exists, found.secure, found.owner) == ((value,), True, False, "")


@KINDS
def test_dnssec_is_asked_for_and_told(kind):
    """RFC 3225 3, RFC 6840 5.7: DO and AD; and neither unless it is wanted."""
    for wanted in (True, False):
        sent = dns.message.from_wire(question(kind, dnssec=wanted).to_wire())
        assert bool(sent.ednsflags & dns.flags.DO) == bool(sent.flags & dns.flags.AD) == wanted
    assert question(kind).read(answer(kind, VALUES[kind][0], flags=dns.flags.AD)).authentic


def bare(kind):
    """The header and question of an answer, to which records are to be added."""
    wire = bytearray(answer(kind))[:-EDNS_SIZE]
    wire[10:12] = b"\0\0"
    return wire


EDNS_SIZE = 11  # bytes of the last record of an answer, which is not read
SIGNATURE = "A 13 2 60 20300101000000 20200101000000 1 test. " + "ab" * 44


def test_signatures_among_the_records_are_passed_over():
    more = [(NAME, "RRSIG", SIGNATURE)] * 3
    read = question("A").read(answer("A", "192.0.2.1", more=more))
    assert [record.value for record in read.records] == ["192.0.2.1"]


def test_the_root_as_a_host():
    """RFC 7505 3"""
    assert question("MX").read(answer("MX", "0 .")).records[0].value == MxRecord(0, ".")


def test_the_owner_at_the_end_of_a_chain():
    more = [(NAME, "CNAME", "one.test."), ("ONE.test.", "CNAME", "Two.test."), ("two.test.", "A", "192.0.2.1")]
    asked = question("A")
    found = asked.find(asked.read(answer("A", more=more, flags=dns.flags.AD)), 60)
    assert (found.values, found.owner, found.secure) == (("192.0.2.1",), "Two.test", True)


def test_a_cname_record_that_is_asked_for_is_not_followed():
    asked = question("CNAME")
    found = asked.find(asked.read(answer("CNAME", "one.test.", more=[("one.test.", "CNAME", "two.test.")])), 60)
    assert (found.values, found.owner) == (("one.test",), "")


def test_of_many_records_the_first_are_read():
    many = [f"{n} mx{n}.test." for n in range(150)]
    assert len(question("MX").read(answer("MX", *many)).records) == RECORDS_MAX_OF[RecordType.MX]
    assert len(question("TXT").read(answer("TXT", *[f'"{n}"' for n in range(150)])).records) == RECORDS_MAX


@pytest.mark.parametrize(
    "kind, data",
    [
        ("MX", b""),
        ("MX", b"\0"),
        ("MX", b"\0\x0a"),
        ("MX", b"\0\x0a\x03abc"),
        ("MX", b"\0\x0a\0x"),
        ("TXT", b"\x05abc"),
        ("TLSA", b"\3\1"),
        ("A", b"\1\2\3"),
        ("AAAA", b"\1" * 17),
    ],
)
def test_a_record_that_is_none_makes_the_answer_none(kind, data):
    """And so it is as if there were no answer, rather than no record."""
    head = bare(kind)
    head[6:8] = b"\0\1"
    owner = b"\xc0\x0c" + RecordType[kind].to_bytes(2) + b"\0\1\0\0\0\x3c" + len(data).to_bytes(2)
    assert question(kind).read(bytes(head) + owner + data) is None


def test_records_of_other_types_hide_others_only_where_no_signatures_are_expected():
    """The names of clients are asked for without DNSSEC: each record that is looked at costs time."""
    more = [(NAME, "RRSIG", SIGNATURE)] * RECORDS_MAX
    for dnssec in (False, True):
        read = question("A", dnssec).read(answer("A", "192.0.2.1", more=more))
        assert [record.value for record in read.records] == ["192.0.2.1"] * dnssec


@pytest.mark.parametrize("kind", ["MX", "RRSIG"])
def test_an_answer_that_is_made_to_cost_much_costs_little(kind):
    """Long owners by pointers to one name, in as many records as fit."""
    head = bare("MX")
    long = b"".join(b"\1" + bytes([97 + n % 26]) for n in range(120)) + b"\0"
    pointer = (0xC000 | len(head)).to_bytes(2)
    middle = dns.rdatatype.from_text(kind).to_bytes(2) + b"\0\1\0\0\0\x3c\0\4\0\x0a" + pointer
    count = 3000
    head[6:8] = count.to_bytes(2)
    wire = bytes(head) + long + middle + (pointer + middle) * (count - 1)
    assert len(wire) < 65536
    begun = time.process_time()
    assert question("MX").read(wire) is not None
    assert time.process_time() - begun < 0.1


WIRES = {kind: answer(kind, text, more=[(NAME, "RRSIG", SIGNATURE)]) for kind, (text, _) in VALUES.items()}
EDITS = st.one_of(
    st.binary(max_size=200).map(lambda data: lambda wire: wire[:2] + data),
    st.tuples(st.integers(2, 150), st.binary(min_size=1, max_size=4)).map(
        lambda edit: lambda wire: wire[: edit[0]] + edit[1] + wire[edit[0] + len(edit[1]) :]
    ),
    st.integers(0, 200).map(lambda end: lambda wire: wire[:end]),
)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(VALUES)), EDITS)
def test_any_bytes_are_an_answer_or_nothing(kind, edit):
    asked = question(kind)
    read = asked.read(edit(WIRES[kind]))
    assert read is None or isinstance(read, DnsAnswer)
    if read is not None:
        try:
            found = asked.find(read, 60)
        except CnameLoop:
            return
        assert len(found.values) <= RECORDS_MAX and {type(value) for value in found.values} <= {type(VALUES[kind][1])}


@KINDS
def test_an_answer_cut_anywhere_is_none(kind):
    wire = answer(kind, VALUES[kind][0])
    assert all(question(kind).read(wire[:end]) is None for end in range(len(wire) - EDNS_SIZE))
    assert question(kind).read(wire) is not None
