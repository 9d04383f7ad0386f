"""The questions that are asked about one host, and what their answers say of DANE: RFC 7672 2.2."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.lookup.dns_message import DnsFailure, DnsResult, RecordType, TlsaData
from smtpd.lookup.host_records import Dane, HostRecords, host_records, usable_records
from smtpd.next_hop import ADDRESSES_MAX, TLSA_DATA_MAX, TLSA_RECORDS_MAX, TlsaRecord, TlsaState

NAME, TARGET = "mx.there.test", "host.there.test"
DIGEST = b"d" * 32
NONE = DnsResult((), 60)
DENIED = DnsResult((), 60, secure=True)
NO_NAME = DnsResult((), 60, exists=False)
FAILURE = DnsFailure("the name server answered SERVFAIL", 30)
EE = TlsaData(3, 1, 1, DIGEST)


def a(*values, secure=False, owner=""):
    return DnsResult(values, 600, secure=secure, owner=owner)


def tlsa(*values, secure=True):
    return DnsResult(values, 600, secure=secure)


def ask(answers, dane=True, port=25):
    """`answers`: name and type -> answer; what is not there has no record.  Returns what came out, and the questions
    after those for addresses."""
    steps, asked = host_records(NAME, port, dane), []
    try:
        questions = next(steps)
        while True:
            asked += [(question.name, question.kind.name) for question in questions]
            questions = steps.send(tuple(answers.get((q.name, q.kind.name), NONE) for q in questions))
    except StopIteration as end:
        assert asked[:2] == [(NAME, "A"), (NAME, "AAAA")]
        return end.value, asked[2:]


# -- addresses ------------------------------------------------------------------------------------


def test_both_families_and_no_more_than_five_of_each():
    many = {
        (NAME, "A"): a(*[f"192.0.2.{n}" for n in range(1, 100)]),
        (NAME, "AAAA"): a(*[f"2001:db8::{n:x}" for n in range(1, 100)]),
    }
    found, _ = ask(many)
    assert found.addresses == (*[f"2001:db8::{n}" for n in range(1, 6)], *[f"192.0.2.{n}" for n in range(1, 6)])
    assert len(found.addresses) == 2 * ADDRESSES_MAX


def test_one_family_is_enough_when_the_other_one_fails():
    found, _ = ask({(NAME, "A"): a("192.0.2.1"), (NAME, "AAAA"): FAILURE})
    assert (found.addresses, found.failure) == (("192.0.2.1",), "")


@pytest.mark.parametrize("kind, other", [("A", "AAAA"), ("AAAA", "A")])
@pytest.mark.parametrize("absent", [NONE, NO_NAME])
def test_a_failure_beside_no_address_is_a_failure(kind, other, absent):
    found, _ = ask({(NAME, kind): FAILURE, (NAME, other): absent})
    assert found.failure == f"{kind} lookup of {NAME}: the name server answered SERVFAIL"


def test_a_host_that_does_not_exist():
    assert ask({(NAME, "A"): NO_NAME, (NAME, "AAAA"): NO_NAME})[0] == HostRecords(exists=False)
    assert ask({})[0] == HostRecords(exists=True)


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "224.0.0.1"])
def test_an_address_that_no_mail_goes_to_is_left_out(address):
    assert ask({(NAME, "A"): a(address, "192.0.2.1")})[0].addresses == ("192.0.2.1",)
    found, _ = ask({(NAME, "A"): a(address)})
    assert found.addresses == () and found.fault.startswith(address) and found.loops == (address != "224.0.0.1")


def test_mapped_addresses_are_left_out():
    assert ask({(NAME, "AAAA"): a("::ffff:127.0.0.1", "::", "2001:db8::1")})[0].addresses == ("2001:db8::1",)


def test_the_same_address_twice_is_one():
    assert ask({(NAME, "A"): a("192.0.2.1", "192.0.2.1")})[0].addresses == ("192.0.2.1",)


# -- DANE -----------------------------------------------------------------------------------------


RECORDS = f"_25._tcp.{NAME}"
USABLE = (TlsaRecord(3, 1, 1, DIGEST),)
SECURE = {(NAME, "A"): a("192.0.2.1", secure=True)}


def test_without_a_secure_address_no_tlsa_record_is_asked_for():
    """RFC 7672 2.2.2: zones that are not signed often have name servers that do not answer such questions."""
    found, asked = ask({(NAME, "A"): a("192.0.2.1"), (NAME, "AAAA"): a("2001:db8::1")})
    assert (found.secure, found.dane, asked) == (False, Dane(), [])


def test_nothing_is_asked_where_dane_is_not_wanted():
    found, asked = ask(SECURE | {(RECORDS, "TLSA"): tlsa(EE)}, dane=False)
    assert (found.secure, found.dane, asked) == (True, Dane(), [])


def test_usable_records():
    found, asked = ask(SECURE | {(RECORDS, "TLSA"): tlsa(EE)})
    assert (found.secure, asked) == (True, [(RECORDS, "TLSA")])
    assert found.dane == Dane(TlsaState.USABLE, NAME, USABLE)


@pytest.mark.parametrize("other", [NONE, FAILURE, a("2001:db8::1")])
def test_one_secure_family_is_enough(other):
    found, _ = ask(SECURE | {(NAME, "AAAA"): other, (RECORDS, "TLSA"): tlsa(EE)})
    assert found.secure and found.dane.state is TlsaState.USABLE


def test_the_port_is_in_the_name():
    """RFC 7672 2.2.3"""
    assert ask(SECURE, port=587)[1] == [(f"_587._tcp.{NAME}", "TLSA")]


@pytest.mark.parametrize("answer", [NONE, DENIED, NO_NAME, tlsa(EE, secure=False)])
def test_no_secure_record_is_no_dane(answer):
    found, _ = ask(SECURE | {(RECORDS, "TLSA"): answer})
    assert found.dane == Dane()


def test_a_lookup_that_fails_makes_the_host_unusable():
    """RFC 7672 2.1.2, 2.2: or an attacker would only have to keep the answer back."""
    found, _ = ask(SECURE | {(RECORDS, "TLSA"): FAILURE})
    assert found.dane == Dane(TlsaState.FAILED)


UNUSABLE = [
    TlsaData(0, 1, 1, DIGEST),  # RFC 7672 3.1.3: PKIX-TA
    TlsaData(1, 1, 1, DIGEST),  # PKIX-EE
    TlsaData(4, 1, 1, DIGEST),
    TlsaData(255, 1, 1, DIGEST),
    TlsaData(3, 2, 1, DIGEST),
    TlsaData(3, 1, 3, DIGEST),
    TlsaData(3, 1, 1, DIGEST[1:]),
    TlsaData(3, 1, 1, DIGEST + b"x"),
    TlsaData(3, 1, 2, DIGEST),
    TlsaData(3, 0, 0, b""),
    TlsaData(3, 0, 0, b"x" * (TLSA_DATA_MAX + 1)),
]


@pytest.mark.parametrize("record", UNUSABLE)
def test_a_record_that_cannot_be_used_is_left_out(record):
    """RFC 7672 3.1; RFC 6698 2.1.3"""
    assert ask(SECURE | {(RECORDS, "TLSA"): tlsa(record, EE)})[0].dane == Dane(TlsaState.USABLE, NAME, USABLE)
    assert ask(SECURE | {(RECORDS, "TLSA"): tlsa(record)})[0].dane == Dane(TlsaState.UNUSABLE, NAME)


@pytest.mark.parametrize(
    "record", [EE, TlsaData(2, 0, 1, DIGEST), TlsaData(3, 1, 2, b"x" * 64), TlsaData(2, 0, 0, b"x" * TLSA_DATA_MAX)]
)
def test_a_usable_record(record):
    assert usable_records([record]) == (TlsaRecord(record.usage, record.selector, record.matching, record.data),)


def test_no_more_records_than_an_imsg_carries():
    assert len(usable_records([TlsaData(3, 1, 1, bytes([n]) * 32) for n in range(99)])) == TLSA_RECORDS_MAX


# -- RFC 7672 2.2.2: a host that is an alias ----------------------------------------------------------


ALIAS = {(NAME, "A"): a("192.0.2.1", secure=True, owner=TARGET)}
OTHER = TlsaData(3, 1, 1, b"o" * 32)


def test_of_a_secure_alias_the_target_comes_first():
    answers = ALIAS | {(f"_25._tcp.{TARGET}", "TLSA"): tlsa(EE), (RECORDS, "TLSA"): tlsa(OTHER)}
    found, asked = ask(answers)
    assert (found.dane, asked) == (Dane(TlsaState.USABLE, TARGET, USABLE), [(f"_25._tcp.{TARGET}", "TLSA")])


@pytest.mark.parametrize("target", [NONE, DENIED, NO_NAME, tlsa(OTHER, secure=False)])
def test_of_a_secure_alias_whose_target_has_no_records_its_own_count(target):
    found, _ = ask(ALIAS | {(f"_25._tcp.{TARGET}", "TLSA"): target, (RECORDS, "TLSA"): tlsa(EE)})
    assert found.dane == Dane(TlsaState.USABLE, NAME, USABLE)


def test_a_failure_at_the_target_does_not_fall_through():
    found, asked = ask(ALIAS | {(f"_25._tcp.{TARGET}", "TLSA"): FAILURE, (RECORDS, "TLSA"): tlsa(EE)})
    assert found.dane == Dane(TlsaState.FAILED) and len(asked) == 1


def test_unusable_records_at_the_target_decide_too():
    found, _ = ask(ALIAS | {(f"_25._tcp.{TARGET}", "TLSA"): tlsa(UNUSABLE[0]), (RECORDS, "TLSA"): tlsa(EE)})
    assert found.dane == Dane(TlsaState.UNUSABLE, TARGET)


INSECURE_ALIAS = {(NAME, "A"): a("192.0.2.1", owner=TARGET)}


def test_of_a_secure_alias_to_an_insecure_zone_its_own_records_count():
    answers = INSECURE_ALIAS | {(NAME, "CNAME"): a(TARGET, secure=True), (RECORDS, "TLSA"): tlsa(EE)}
    found, asked = ask(answers)
    assert found.dane == Dane(TlsaState.USABLE, NAME, USABLE)
    assert asked == [(NAME, "CNAME"), (RECORDS, "TLSA")] and not found.secure


@pytest.mark.parametrize("cname", [a(TARGET), NONE, DENIED])
def test_of_an_insecure_alias_no_record_is_asked_for(cname):
    found, asked = ask(INSECURE_ALIAS | {(NAME, "CNAME"): cname})
    assert (found.dane, asked) == (Dane(), [(NAME, "CNAME")])


def test_an_alias_whose_lookup_fails_makes_the_host_unusable():
    assert ask(INSECURE_ALIAS | {(NAME, "CNAME"): FAILURE})[0].dane == Dane(TlsaState.FAILED)


def test_a_target_that_is_no_host_name_is_passed_over():
    odd = {(NAME, "A"): a("192.0.2.1", secure=True, owner="a\\032b.test"), (RECORDS, "TLSA"): tlsa(EE)}
    assert ask(odd)[0].dane.base == NAME


def test_a_name_that_is_too_long_has_no_record():
    name = ".".join(["x" * 62] * 4)  # 251 octets
    steps = host_records(name, 25, True)
    next(steps)
    with pytest.raises(StopIteration) as end:
        steps.send((a("192.0.2.1", secure=True), NONE))
    assert end.value.value.dane == Dane()


# -- whatever the DNS says ------------------------------------------------------------------------------


VALUES = {
    RecordType.A: st.ip_addresses(v=4).map(str),
    RecordType.AAAA: st.ip_addresses(v=6).map(str),
    RecordType.CNAME: st.sampled_from([NAME, TARGET, "\\000.", "."]),
    RecordType.TLSA: st.builds(TlsaData, *[st.integers(0, 255) | st.integers(0, 3)] * 3, st.binary(max_size=70)),
}


@given(st.data(), st.booleans())
def test_any_answers_lead_to_an_end(data, dane):
    steps, rounds = host_records(NAME, 25, dane), 0
    try:
        questions = next(steps)
        while True:
            rounds += 1
            questions = steps.send(tuple(data.draw(answers(question.kind)) for question in questions))
    except StopIteration as end:
        found = end.value
    assert rounds <= 3
    assert len(found.addresses) <= 2 * ADDRESSES_MAX
    assert bool(found.dane.base) == (found.dane.state in (TlsaState.USABLE, TlsaState.UNUSABLE))
    assert bool(found.dane.records) == (found.dane.state is TlsaState.USABLE)


def answers(kind):
    result = st.builds(
        DnsResult,
        st.lists(VALUES[kind], max_size=3).map(tuple),
        st.just(60),
        st.booleans(),
        st.booleans(),
        st.sampled_from(["", TARGET, NAME, "\\000"]),
    )
    return result | st.just(FAILURE)
