"""Which hosts take the mail of a domain: RFC 5321 5.1, RFC 7505, and what is told where there is none."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.lookup.destination import NoHosts
from smtpd.lookup.dns_message import DnsFailure, DnsResult, MxRecord
from smtpd.lookup.host_records import Dane, HostRecords
from smtpd.lookup.host_selection import (
    Exchangers,
    Selected,
    ThisHost,
    select_address,
    select_exchangers,
    select_hosts,
    select_smarthost,
)
from smtpd.next_hop import HOSTS_MAX, TlsaRecord, TlsaState

DOMAIN = "there.test"
US = frozenset(["mx.here.test"])
OUR_ADDRESSES = {"198.51.100.1", "2001:db8:1::1"}
NONE = DnsResult((), 60)


def unshuffled(records):
    pass


def backwards(records):
    records.reverse()


def mx(*records, secure=False):
    """(preference, host), …"""
    return DnsResult(tuple(MxRecord(*record) for record in records), 600, secure=secure)


def exchangers(*records, shuffle=unshuffled, names=US):
    return select_exchangers(DOMAIN, mx(*records), names, shuffle)


def hosts_of(found):
    assert isinstance(found, Exchangers), found
    return [record.host for record in found.records]


def refused(found):
    assert isinstance(found, NoHosts), found
    return found.code, found.enhanced


# -- MX records -------------------------------------------------------------------------------------


def test_mx_records_are_sorted_by_preference():
    """RFC 5321 5.1: lowest first, however the answer has them; 10 before 9 is an old mistake of comparing texts."""
    assert hosts_of(exchangers((10, "c.test"), (9, "b.test"), (0, "a.test"), (65535, "d.test"))) == [
        *("a.test", "b.test", "c.test", "d.test")
    ]


def test_equal_preferences_are_shuffled_and_only_these():
    found = exchangers((10, "a.test"), (10, "b.test"), (20, "c.test"), (20, "d.test"), shuffle=backwards)
    assert hosts_of(found) == ["b.test", "a.test", "d.test", "c.test"]


def test_a_host_that_is_named_twice_has_its_best_preference():
    assert exchangers((20, "a.test"), (10, "A.test"), (15, "b.test")).records == (
        MxRecord(10, "a.test"),
        MxRecord(15, "b.test"),
    )


def test_thirty_mx_records_are_the_best_twenty():
    found = exchangers(*[(n, f"mx{n}.test") for n in range(30, 0, -1)])
    assert hosts_of(found) == [f"mx{n}.test" for n in range(1, HOSTS_MAX + 1)]


@pytest.mark.parametrize("answer", [NONE, DnsResult((), 60, exists=False)])
def test_without_an_mx_record_it_is_the_domain_itself(answer):
    """RFC 5321 5.1: "an implicit MX RR, with a preference of 0, pointing to that host"."""
    found = select_exchangers(DOMAIN, answer, US, unshuffled)
    assert found == Exchangers((MxRecord(0, DOMAIN),), secure=False, implicit=True)


@pytest.mark.parametrize("secure", [True, False])
def test_whether_the_answer_is_secure_is_told(secure):
    """RFC 7672 2.2.1; of a denial too."""
    assert select_exchangers(DOMAIN, mx((10, "a.test"), secure=secure), US, unshuffled).secure is secure
    assert select_exchangers(DOMAIN, DnsResult((), 60, secure=secure), US, unshuffled).secure is secure


@pytest.mark.parametrize("preference", [0, 10])
def test_null_mx(preference):
    """RFC 7505 3; some publish it with another preference than 0."""
    found = exchangers((preference, "."))
    assert refused(found) == (556, "5.1.10") and DOMAIN in found.text


def test_a_null_mx_beside_others_does_not_count():
    """RFC 7505 3: a domain "MUST NOT advertise any other MX RR"; where it does, mail goes to those."""
    assert hosts_of(exchangers((0, "."), (10, "a.test"))) == ["a.test"]


def test_a_failed_mx_lookup_is_no_implicit_mx():
    """RFC 5321 5.1: "If MX records are present, but none of them are usable … MUST be reported as an error"; a domain
    whose MX records are not known may have some."""
    found = select_exchangers(DOMAIN, DnsFailure("the name server answered SERVFAIL", 30), US, unshuffled)
    assert refused(found) == (451, "4.4.3")
    assert found.text == "MX lookup of there.test: the name server answered SERVFAIL"


# -- ourselves -----------------------------------------------------------------------------------------


def test_a_backup_keeps_what_is_preferred_to_it():
    """RFC 5321 5.1: "all MX records with its preference and worse" are discarded."""
    found = exchangers((10, "a.test"), (20, "b.test"), (20, "MX.here.test"), (30, "c.test"))
    assert hosts_of(found) == ["a.test"]


def test_of_several_names_of_ours_the_best_one_counts():
    found = exchangers(
        (10, "a.test"), (20, "one.test"), (30, "b.test"), (40, "two.test"), names={"one.test", "two.test"}
    )
    assert hosts_of(found) == ["a.test"]


@pytest.mark.parametrize("others", [[], [(10, "b.test")], [(20, "b.test")]])
def test_the_best_mx_host_may_not_be_us(others):
    assert refused(exchangers((10, "mx.here.test"), *others)) == (550, "5.4.6")


def test_a_domain_without_mx_records_may_not_be_us():
    assert refused(select_exchangers("mx.here.test", NONE, US, unshuffled)) == (550, "5.4.6")


@pytest.mark.parametrize("records", [[(0, "localhost")], [(10, "localhost"), (20, "a.localhost")]])
def test_localhost_is_no_host_of_others(records):
    assert refused(exchangers(*records)) == (550, "5.4.6")


def test_localhost_beside_others_is_left_out():
    found = exchangers((10, "localhost"), (20, "a.test"))
    assert hosts_of(found) == ["a.test"] and found.skipped == ("localhost: MX record names localhost",)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "a b.test", "-a.test", "\\000.test", "x" * 64 + ".test"])
def test_an_mx_record_that_names_no_host(host):
    """RFC 5321 5.1: it is to hold a domain name; an address there is no host."""
    assert refused(exchangers((10, host))) == (550, "5.4.4")
    found = exchangers((10, host), (20, "a.test"))
    assert hosts_of(found) == ["a.test"] and len(found.skipped) == 1


# -- their addresses --------------------------------------------------------------------------------------


def select(records, *found, implicit=False):
    given = Exchangers(tuple(MxRecord(*record) for record in records), secure=False, implicit=implicit)
    return select_hosts(DOMAIN, given, found, OUR_ADDRESSES.__contains__)


def at(*addresses):
    return HostRecords(addresses)


FAILED = HostRecords(failure="A lookup of x.test: no name server answered in time")
MISSING, EMPTY = HostRecords(exists=False), HostRecords()
LOOPED = HostRecords(fault="127.0.0.1 is an address of this host", loops=True)
MULTICAST = HostRecords(fault="224.0.0.1 is an address of many hosts")
TWO = [(10, "a.test"), (20, "b.test")]


def test_hosts_with_all_that_is_known_of_them():
    dane = Dane(TlsaState.USABLE, "a.test", (TlsaRecord(3, 1, 1, b"x" * 32),))
    found = select(TWO, HostRecords(("2001:db8::9", "192.0.2.9"), secure=True, dane=dane), at("192.0.2.8"))
    first, second = found.hosts
    assert (first.name, first.preference, first.addresses) == ("a.test", 10, ["2001:db8::9", "192.0.2.9"])
    assert (first.secure, first.tlsa, first.tlsa_base) == (True, TlsaState.USABLE, "a.test")
    assert first.tlsa_records == list(dane.records)
    assert (second.name, second.preference, second.secure, second.tlsa) == ("b.test", 20, False, TlsaState.NONE)


@pytest.mark.parametrize("bad, reason", [(MISSING, "no such host"), (EMPTY, "no address"), (FAILED, "in time")])
def test_a_host_without_an_address_is_left_out(bad, reason):
    """RFC 5321 5.1: the others are tried."""
    found = select(TWO, bad, at("192.0.2.8"))
    assert [host.name for host in found.hosts] == ["b.test"] and reason in found.skipped[0]


@pytest.mark.parametrize("address", sorted(OUR_ADDRESSES))
def test_a_host_with_an_address_of_ours_is_us(address):
    """RFC 5321 5.1: whatever its name is, it and all that is not preferred to it go."""
    three = [(10, "a.test"), (20, "b.test"), (20, "c.test"), (30, "d.test")]
    found = select(three, at("192.0.2.1"), at("192.0.2.2"), at("192.0.2.3", address), at("192.0.2.4"))
    assert [host.name for host in found.hosts] == ["a.test"]
    assert refused(select(TWO, at(address), at("192.0.2.1"))) == (550, "5.4.6")


@pytest.mark.parametrize("bad, reply", [(FAILED, (451, "4.4.3")), (MISSING, (451, "4.4.4")), (EMPTY, (451, "4.4.4"))])
def test_a_backup_waits_for_the_hosts_before_it(bad, reply):
    assert refused(select(TWO, bad, at("198.51.100.1"))) == reply


def test_a_failure_is_temporary_whatever_the_others_are():
    found = select([*TWO, (30, "c.test")], MISSING, FAILED, LOOPED)
    assert refused(found) == (451, "4.4.3") and found.text == FAILED.failure


@pytest.mark.parametrize("found", [[MISSING, MISSING], [EMPTY, MISSING], [LOOPED, MISSING]])
def test_mx_hosts_without_an_address_are_waited_for(found):
    assert refused(select(TWO, *found)) == (451, "4.4.4")


@pytest.mark.parametrize("found", [[LOOPED, LOOPED], [MULTICAST, LOOPED]])
def test_only_addresses_that_mean_this_host(found):
    assert refused(select(TWO, *found)) == (550, "5.4.6")


def test_only_addresses_of_no_host():
    assert refused(select(TWO, MULTICAST, MULTICAST)) == (550, "5.4.4")


@pytest.mark.parametrize(
    "found, reply",
    [
        (MISSING, (550, "5.1.2")),  # RFC 3463 3.2: the domain does not exist
        (EMPTY, (550, "5.4.4")),  # it exists, and takes no mail
        (FAILED, (451, "4.4.3")),
        (LOOPED, (550, "5.4.6")),
        (at("198.51.100.1"), (550, "5.4.6")),
    ],
)
def test_a_domain_without_mx_records(found, reply):
    assert refused(select([(0, DOMAIN)], found, implicit=True)) == reply


# -- literals and smarthosts -------------------------------------------------------------------------------


def test_a_literal_is_its_address():
    (host,) = select_address("[192.0.2.1]", "192.0.2.1", OUR_ADDRESSES.__contains__).hosts
    assert (host.name, host.addresses) == ("", ["192.0.2.1"])


@pytest.mark.parametrize(
    "address, reply",
    [
        *[(address, (550, "5.4.6")) for address in ("127.0.0.1", "::1", "0.0.0.0", "::", *sorted(OUR_ADDRESSES))],
        *[(address, (550, "5.1.2")) for address in ("224.0.0.1", "::ffff:192.0.2.1", "fe80::1")],
    ],
)
def test_a_literal_of_no_other_host(address, reply):
    assert refused(select_address(f"[{address}]", address, OUR_ADDRESSES.__contains__)) == reply


def this(*listening):
    return ThisHost(US, listening, (OUR_ADDRESSES | {"127.0.0.1", "::1"}).__contains__)


def smarthost(found, port, *listening, name="hub.test"):
    return select_smarthost(name, found, port, this(*listening))


def test_a_smarthost_is_all_of_its_addresses():
    (host,) = smarthost(at("2001:db8::9", "192.0.2.9"), 587).hosts
    assert (host.name, host.preference, host.addresses) == ("hub.test", 0, ["2001:db8::9", "192.0.2.9"])


@pytest.mark.parametrize("address", ["127.0.0.1", "198.51.100.1"])
def test_a_program_on_this_host_may_be_a_smarthost(address):
    assert isinstance(smarthost(at(address), 10025, (address, 25), ("0.0.0.0", 587)), Selected)


@pytest.mark.parametrize(
    "address, listening",
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "0.0.0.0"),
        ("127.0.0.9", "0.0.0.0"),
        ("::1", "::"),
        ("198.51.100.1", "198.51.100.1"),
        ("198.51.100.1", "0.0.0.0"),
        ("198.51.100.1", ""),
        ("2001:db8:1::1", "::"),
    ],
)
def test_smtpd_itself_may_not(address, listening):
    found = smarthost(at(address), 25, (listening, 25))
    assert refused(found) == (451, "4.4.6") and "hub.test port 25" in found.text


@pytest.mark.parametrize(
    "address, listening",
    [
        ("127.0.0.1", "198.51.100.1"),
        ("127.0.0.1", "::"),
        ("127.0.0.1", ""),
        ("192.0.2.1", "0.0.0.0"),
        ("192.0.2.1", ""),
    ],
)
def test_another_listener_does_not_matter(address, listening):
    assert isinstance(smarthost(at(address), 25, (listening, 25)), Selected)


def test_one_address_of_a_smarthost_that_is_smtpd_is_left_out():
    assert smarthost(at("192.0.2.1", "198.51.100.1"), 25, ("0.0.0.0", 25)).hosts[0].addresses == ["192.0.2.1"]


@pytest.mark.parametrize("found", [FAILED, MISSING, EMPTY, LOOPED, MULTICAST])
def test_a_smarthost_that_is_not_found_is_waited_for(found):
    assert smarthost(found, 25).code == 451


# -- whatever the DNS says ------------------------------------------------------------------------------------


NAMES = ["a.test", "b.test", "A.test", "mx.here.test", "localhost", ".", "192.0.2.1", "\\000", "c.test"]
RECORDS = st.lists(st.tuples(st.integers(0, 65535) | st.integers(0, 3), st.sampled_from(NAMES)), max_size=40)
FOUND = st.sampled_from([FAILED, MISSING, EMPTY, LOOPED, MULTICAST, at("192.0.2.1"), at("198.51.100.1"), at("::5")])


@given(RECORDS, st.data())
def test_no_answer_leads_to_us_or_behind_us(records, data):
    shuffle = lambda alike: alike.sort(key=lambda record: data.draw(st.integers(0, 9)))  # noqa: E731
    given_ = select_exchangers(DOMAIN, mx(*records), US, shuffle)
    if isinstance(given_, NoHosts):
        return
    found = [data.draw(FOUND) for _ in given_.records]
    selected = select_hosts(DOMAIN, given_, found, OUR_ADDRESSES.__contains__)
    own = [p for p, name in records if name == "mx.here.test"]
    own += [r.preference for r, f in zip(given_.records, found, strict=True) if f.addresses == ("198.51.100.1",)]
    if isinstance(selected, Selected):
        order = [host.preference for host in selected.hosts]
        assert order == sorted(order) and 1 <= len(order) <= HOSTS_MAX
        assert not own or max(order) < min(own)
        assert all(host.addresses for host in selected.hosts)
