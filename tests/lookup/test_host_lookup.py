"""Hosts of destinations as a dispatcher hears of them, from a name server that the test plays on 127.0.0.1."""

import time
from dataclasses import replace
from types import SimpleNamespace

import dns.rcode
import pytest

from smtpd.imsg import FindHosts, HostsFound, HostsNotFound
from smtpd.ipc.channel import Violation
from smtpd.ipc.log import log
from smtpd.lookup import dns_cache, host_lookup, resolver
from smtpd.lookup.own_address import has_address
from smtpd.lookup.resolver_config import ResolverConfig, parse_servers
from smtpd.next_hop import HOSTS_MAX, TlsaRecord, TlsaState
from tests.lookup.conftest import House
from tests.lookup.name_server import Zone, serve

DIGEST = "5f" * 32
OURS = ("198.51.100.1", "127.0.0.1", "::1")  # addresses of this host
TLSA = TlsaRecord(3, 1, 1, bytes.fromhex(DIGEST))


@pytest.fixture
def find(house):
    """find(zone, name) -> HostsFound or HostsNotFound."""
    houses = {}

    def find(zone, name="there.test", system=None, trusted=True, listening=(), **options):
        if id(zone) not in houses:
            made = houses[id(zone)] = house(system, own_names=("mx.here.test",), listening=listening)
            servers = [serve(made, zone)] if zone is not None else []
            made.lookup.hosts._dns._resolver._servers = [replace(server, trusted=trusted) for server in servers]
            # This machine may have any of the addresses below.
            made.lookup.hosts._this = replace(made.lookup.hosts._this, has_address=OURS.__contains__)
        made = houses[id(zone)]
        options = {"mx": True, "port": 25, "policy": True} | options
        return made.ask(FindHosts(len(made.heard) + 1, name, **options))

    find.houses = houses
    return find


@pytest.fixture
def impatient(monkeypatch):
    """For tests in which a server says nothing of use."""
    monkeypatch.setattr(resolver, "FIRST_TIMEOUT", 0.3)
    monkeypatch.setattr(resolver, "SECOND_TIMEOUT", 0.1)


def names(found):
    assert isinstance(found, HostsFound), found
    return [host.name for host in found.hosts]


def reply(found):
    assert isinstance(found, HostsNotFound), found
    return found.code, found.enhanced


def two_hosts(**options):
    zone = Zone(**options).add("there.test.", "MX", "20 b.test.", "10 A.test.")
    return zone.host("a.test.", "192.0.2.1", "2001:db8::1").host("b.test.", "192.0.2.2")


def test_hosts_of_a_domain(find):
    zone = two_hosts()
    found = find(zone)
    assert names(found) == ["a.test", "b.test"] and (found.secure, found.sts_id, found.skipped) == (False, "", [])
    assert found.hosts[0].addresses == ["2001:db8::1", "192.0.2.1"] and found.hosts[0].preference == 10
    assert ("_25._tcp.a.test.", "TLSA") not in zone.asked, "nothing is secure"


@pytest.mark.parametrize("name", ["müller.test", "MÜLLER.TEST", "xn--mller-kva.test."])
def test_a_domain_beyond_ascii(find, name):
    zone = Zone().add("xn--mller-kva.test.", "MX", "10 a.test.").host("a.test.", "192.0.2.1")
    assert names(find(zone, name)) == ["a.test"]


def test_equal_preferences_are_not_always_in_one_order(find):
    zone = Zone().add("there.test.", "MX", *[f"10 mx{n}.test." for n in range(8)])
    for n in range(8):
        zone.host(f"mx{n}.test.", f"192.0.2.{n + 1}")
    assert len({tuple(names(find(zone))) for _ in range(20)}) > 1


def test_thirty_mx_hosts(find):
    zone = Zone().add("there.test.", "MX", *[f"{n} mx{n}.test." for n in range(30, 0, -1)])
    for n in range(1, 31):
        zone.host(f"mx{n}.test.", f"192.0.2.{n}")
    assert names(find(zone)) == [f"mx{n}.test" for n in range(1, HOSTS_MAX + 1)]
    assert ("mx21.test.", "A") not in zone.asked


def test_an_implicit_mx(find):
    zone = Zone().host("there.test.", "192.0.2.1")
    assert names(find(zone)) == ["there.test"]


def test_a_domain_that_is_an_alias(find):
    """RFC 5321 5.1: the MX records are those of its target."""
    zone = Zone().host("a.test.", "192.0.2.1")
    zone.records["there.test.", "MX"] = [("there.test.", "CNAME", "other.test."), ("other.test.", "MX", "10 a.test.")]
    assert names(find(zone)) == ["a.test"]


@pytest.mark.parametrize(
    "zone, expected",
    [
        (Zone(), (550, "5.1.2")),
        (Zone(empty={"there.test."}), (550, "5.4.4")),
        (Zone().add("there.test.", "MX", "0 ."), (556, "5.1.10")),
        (Zone().add("there.test.", "MX", "10 mx.here.test.", "20 a.test."), (550, "5.4.6")),
        (Zone().add("there.test.", "MX", "10 a.test."), (451, "4.4.4")),
        (Zone().add("there.test.", "MX", "10 a.test.").host("a.test.", "127.0.0.1", "::"), (550, "5.4.6")),
        (Zone().add("there.test.", "MX", "10 192.0.2.1."), (550, "5.4.4")),
    ],
)
def test_no_host(find, zone, expected):
    assert reply(find(zone)) == expected


@pytest.mark.parametrize("name", ["", "a b", "192.0.2.1", "[127.0.0.1]", "localhost", "x" * 200 + ".test"])
def test_a_name_that_needs_no_question(find, name):
    zone = Zone()
    assert find(zone, name).code == 550 and zone.asked == []


def test_an_mx_host_with_an_address_of_this_host(find):
    zone = two_hosts().host("b.test.", "198.51.100.1")
    assert names(find(zone)) == ["a.test"]
    assert reply(find(zone.host("other.test.", "198.51.100.1"), "other.test")) == (550, "5.4.6")
    assert reply(find(zone, "[198.51.100.1]")) == (550, "5.4.6")


def test_a_name_of_ours_beside_those_that_lookup_knows(find):
    """`backup mx`"""
    zone = two_hosts()
    assert names(find(zone, own_name="B.test")) == ["a.test"]
    assert reply(find(zone, own_name="a.test")) == (550, "5.4.6")


# -- failures ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code, reason",
    [
        (dns.rcode.SERVFAIL, "the name server answered SERVFAIL"),
        (dns.rcode.REFUSED, "the name server answered REFUSED"),
        (None, "no name server answered in time"),
    ],
)
def test_a_failed_mx_lookup(find, impatient, code, reason):
    zone = Zone(failing={("there.test.", "MX"): code}).host("there.test.", "192.0.2.1")
    found = find(zone)
    assert reply(found) == (451, "4.4.3") and found.text == f"MX lookup of there.test: {reason}"
    assert ("there.test.", "A") not in zone.asked, "RFC 5321 5.1: no implicit MX"
    assert found.seconds == dns_cache.FAILURE_TTL


def test_aliases_in_a_circle(find, impatient):
    zone = Zone()
    zone.records["there.test.", "MX"] = [("there.test.", "CNAME", "a.test."), ("a.test.", "CNAME", "there.test.")]
    found = find(zone)
    assert reply(found) == (451, "4.4.3") and "CNAME" in found.text


def test_a_failed_address_lookup_costs_its_host_only(find, impatient):
    zone = two_hosts(failing={("a.test.", "A"): dns.rcode.SERVFAIL, ("a.test.", "AAAA"): None})
    found = find(zone)
    assert names(found) == ["b.test"] and found.skipped[0].startswith("a.test: A lookup of a.test: ")
    assert found.seconds == dns_cache.FAILURE_TTL, "it is asked for again soon"


def test_without_a_name_server(find):
    found = find(None)
    assert reply(found) == (451, "4.4.3") and "no name server is configured" in found.text


def test_what_is_not_answered_by_the_deadline_has_failed(find, monkeypatch):
    monkeypatch.setattr(host_lookup, "HOSTS_TIMEOUT", 0.3)
    zone = two_hosts(failing={("a.test.", "A"): None, ("a.test.", "AAAA"): None, ("_mta-sts.there.test.", "TXT"): None})
    begun = time.monotonic()
    found = find(zone)
    assert names(found) == ["b.test"] and "in time" in found.skipped[0] and found.sts_id == ""
    assert time.monotonic() - begun < 5


def test_an_exception_of_ours_costs_one_answer(find, monkeypatch, capfd):
    zone = two_hosts()

    def broken(*arguments):
        raise ZeroDivisionError("ours")

    with monkeypatch.context() as patched:
        patched.setattr(host_lookup, "select_hosts", broken)
        assert reply(find(zone)) == (451, "4.3.0")
    assert names(find(zone)) == ["a.test", "b.test"]
    log.flush()
    assert "hosts of there.test: ZeroDivisionError" in capfd.readouterr().err


def test_no_more_destinations_at_a_time_than_there_is_room_for(find, monkeypatch):
    monkeypatch.setattr(host_lookup, "DESTINATIONS_MAX", 3)
    zone = Zone(failing={("there.test.", "MX"): None}).add("other.test.", "MX", "0 .")
    assert reply(find(zone, "other.test")) == (556, "5.1.10")
    made = find.houses[id(zone)]

    async def scenario():
        for request in range(101, 106):
            made.theirs["dispatcher1"].send(FindHosts(request, "there.test", True, 25, True))
        await made.until(lambda: len(made.sent(HostsNotFound)) == 3)

    made.run(scenario())
    assert {found.enhanced for found in made.sent(HostsNotFound)[1:]} == {"4.3.2"}
    assert reply(made.ask(FindHosts(201, "other.test", True, 25, False), "dispatcher2")) == (556, "5.1.10")


# -- the cache --------------------------------------------------------------------------------------------


def test_an_answer_is_cached_for_its_ttl(find):
    zone = two_hosts(ttl=7)
    found = find(zone)
    asked = len(zone.asked)
    assert 5 <= found.seconds <= 7
    assert names(find(zone)) == ["a.test", "b.test"] and len(zone.asked) == asked


def test_a_ttl_is_bounded(find):
    zone = two_hosts(ttl=2**31 - 1).host("b.test.", "192.0.2.2", "2001:db8::2")
    zone.add("_mta-sts.there.test.", "TXT", "x")
    assert find(zone).seconds == dns_cache.TTL_MAX
    assert find(two_hosts(ttl=0)).seconds == dns_cache.TTL_MIN


def test_null_mx_is_asked_for_again_after_five_minutes(find):
    assert find(Zone(ttl=86400).add("there.test.", "MX", "0 ."), policy=False).seconds == host_lookup.NEGATIVE_TTL_MAX


def test_many_questions_at_once_are_one(find):
    zone = two_hosts()
    find(zone, "other.test")
    made, before = find.houses[id(zone)], len(zone.asked)

    async def scenario():
        for request in range(101, 201):
            made.theirs["dispatcher1"].send(FindHosts(request, "there.test", True, 25, False))
        await made.until(lambda: len(made.sent(HostsFound)) == 100)

    made.run(scenario())
    assert len(zone.asked) - before == 5  # MX, twice A and AAAA


# -- DNSSEC, TLSA, MTA-STS ------------------------------------------------------------------------------------


def signed(**options):
    zone = two_hosts(secure=True, **options)
    return zone.add("_25._tcp.a.test.", "TLSA", f"3 1 1 {DIGEST}").add("_25._tcp.b.test.", "TLSA", f"0 1 1 {DIGEST}")


def test_secure_hosts(find):
    found = find(signed())
    a, b = found.hosts
    assert (found.secure, a.secure, b.secure) == (True, True, True)
    assert (a.tlsa, a.tlsa_base, a.tlsa_records) == (TlsaState.USABLE, "a.test", [TLSA])
    assert (b.tlsa, b.tlsa_base, b.tlsa_records) == (TlsaState.UNUSABLE, "b.test", [])


def test_without_a_trusted_name_server_nothing_is_secure(find):
    """RFC 7672 2.1.3, RFC 6840 5.8: the AD bit is not even asked for."""
    zone = signed()
    found = find(zone, trusted=False)
    assert (found.secure, found.hosts[0].secure, found.hosts[0].tlsa) == (False, False, TlsaState.NONE)
    assert not [kind for _, kind in zone.asked if kind == "TLSA"]


@pytest.mark.parametrize("trust", ["", "options trust-ad"])
def test_that_dane_is_off_is_logged_once(find, capfd, trust):
    system = ResolverConfig(parse_servers(f"nameserver 192.0.2.53\n{trust}\n"))
    zone = two_hosts()
    for _ in range(2):
        find(zone, system=system)
    log.flush()
    assert capfd.readouterr().err.count("DANE is off") == (0 if trust else 1)


def test_hosts_of_an_insecure_mx_answer_have_no_dane(find):
    """RFC 7672 2.2.1: an attacker may have named them."""
    zone = signed(insecure={("there.test.", "MX")})
    found = find(zone)
    assert (found.secure, found.hosts[0].secure, found.hosts[0].tlsa) == (False, True, TlsaState.NONE)
    assert not [kind for _, kind in zone.asked if kind == "TLSA"]


def test_a_secure_denial_of_mx_records_is_secure(find):
    zone = Zone(secure=True).host("there.test.", "192.0.2.1").add("_25._tcp.there.test.", "TLSA", f"3 1 1 {DIGEST}")
    found = find(zone)
    assert found.secure and found.hosts[0].tlsa is TlsaState.USABLE


@pytest.mark.parametrize("code", [dns.rcode.SERVFAIL, None])
def test_a_bogus_tlsa_answer_is_told(find, impatient, code):
    """RFC 7672 2.1.1"""
    found = find(signed(failing={("_25._tcp.a.test.", "TLSA"): code}))
    assert [host.tlsa for host in found.hosts] == [TlsaState.FAILED, TlsaState.UNUSABLE]


def test_a_tlsa_record_that_is_an_alias(find):
    """RFC 7672 2.1.3"""
    zone = signed()
    zone.records["_25._tcp.a.test.", "TLSA"] = [
        ("_25._tcp.a.test.", "CNAME", "_dane.test."),
        ("_dane.test.", "TLSA", f"3 1 1 {DIGEST}"),
    ]
    host = find(zone).hosts[0]
    assert (host.tlsa, host.tlsa_base, host.tlsa_records) == (TlsaState.USABLE, "a.test", [TLSA])


def test_a_host_that_is_an_alias(find):
    """RFC 7672 2.2.2"""
    zone = signed().add("_25._tcp.target.test.", "TLSA", f"3 1 1 {DIGEST}")
    zone.records["a.test.", "A"] = [("a.test.", "CNAME", "Target.test."), ("target.test.", "A", "192.0.2.1")]
    zone.records["a.test.", "AAAA"] = [("a.test.", "CNAME", "Target.test.")]
    assert find(zone).hosts[0].tlsa_base == "target.test"


def test_without_a_policy_no_policy_is_asked_for(find):
    zone = signed()
    found = find(zone, policy=False)
    assert found.secure and found.hosts[0].tlsa is TlsaState.NONE
    assert {kind for _, kind in zone.asked} == {"MX", "A", "AAAA"}


def test_the_id_of_an_mta_sts_policy(find):
    """RFC 8461 3.1, in several strings"""
    zone = two_hosts().add("_mta-sts.there.test.", "TXT", '"v=spf1 -all"', '"v=STSv1; " "id=77;"')
    assert find(zone).sts_id == "77"


def test_the_record_of_an_mta_sts_policy_may_be_an_alias(find):
    """RFC 8461 8.2"""
    zone = two_hosts()
    zone.records["_mta-sts.there.test.", "TXT"] = [
        ("_mta-sts.there.test.", "CNAME", "_mta-sts.provider.test."),
        ("_mta-sts.provider.test.", "TXT", '"v=STSv1; id=78;"'),
    ]
    assert find(zone).sts_id == "78"


# -- smarthosts ----------------------------------------------------------------------------------------------


def test_a_smarthost_has_no_mx_records(find):
    zone = two_hosts().host("there.test.", "192.0.2.9").add("_mta-sts.there.test.", "TXT", '"v=STSv1; id=77;"')
    found = find(zone, mx=False, port=587)
    assert names(found) == ["there.test"] and found.hosts[0].addresses == ["192.0.2.9"]
    assert (found.secure, found.sts_id) == (True, "77"), "RFC 8461 3.4: the policy of the smarthost's domain"
    assert ("there.test.", "MX") not in zone.asked


def test_the_tlsa_records_of_a_smarthost(find):
    """RFC 7672 2.2.2"""
    zone = Zone(secure=True).host("hub.test.", "192.0.2.9").add("_587._tcp.hub.test.", "TLSA", f"3 1 1 {DIGEST}")
    assert find(zone, "hub.test", mx=False, port=587).hosts[0].tlsa_records == [TLSA]


@pytest.mark.parametrize("name", ["192.0.2.9", "[192.0.2.9]"])
def test_a_smarthost_by_address(find, name):
    zone = Zone()
    (host,) = find(zone, name, mx=False).hosts
    assert (host.name, host.addresses, zone.asked) == ("", ["192.0.2.9"], [])


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1", "[IPv6:::1]"])
def test_a_program_on_this_host_as_a_smarthost(find, name):
    zone = Zone()
    found = find(zone, name, mx=False, port=10025, listening=(("0.0.0.0", 25),))
    assert set(found.hosts[0].addresses) <= {"127.0.0.1", "::1"} and zone.asked == []
    assert reply(find(zone, "127.0.0.1", mx=False, port=25)) == (451, "4.4.6")


def test_the_hosts_file_comes_first(find):
    system = ResolverConfig((), {}, {"hub.test": frozenset(["127.0.0.1", "192.0.2.9"])})
    zone = Zone(secure=True).host("hub.test.", "192.0.2.10").add("there.test.", "MX", "10 hub.test.")
    (host,) = find(zone, "Hub.test", mx=False, system=system).hosts
    assert (host.name, sorted(host.addresses), host.secure) == ("hub.test", ["127.0.0.1", "192.0.2.9"], False)
    assert find(zone).hosts[0].addresses == ["192.0.2.10"], "but for names out of MX records"


def test_a_long_line_of_the_hosts_file_can_be_carried(find):
    many = frozenset(f"192.0.2.{n}" for n in range(1, 200))
    system = ResolverConfig((), {}, {"hub.test": many})
    assert set(find(Zone(), "hub.test", mx=False, system=system).hosts[0].addresses) < many


@pytest.mark.parametrize("name", ["", "a b", "[1.2.3]", "0.0.0.0", "224.0.0.1", "nowhere.test", "loop.test"])
def test_a_smarthost_that_cannot_be_is_waited_for(find, name):
    """The configuration or the DNS is wrong, and not the mail."""
    found = find(Zone().host("loop.test.", "127.0.0.1"), name, mx=False)
    assert found.code == 451 and found.enhanced.startswith("4.")


# -- this host -------------------------------------------------------------------------------------------------


def test_addresses_of_this_host():
    """tests/live/test_hosts.py has more."""
    assert has_address("127.0.0.1")
    assert not has_address("203.0.113.77") and not has_address("2001:db8::77") and not has_address("255.255.255.255")


def test_an_address_that_the_socket_layer_does_not_take():
    assert not has_address("fe80::1")


# -- the largest answers ------------------------------------------------------------------------------------------


def test_the_largest_answer_can_be_carried(find):
    """Twenty hosts with names, records and addresses as large as they may be."""
    label = "x" * 60
    hosts = [f"{n:02}{label}.{label}.{label}.{'y' * 40}." for n in range(20)]
    zone = Zone(secure=True).add("there.test.", "MX", *[f"10 {host}" for host in hosts])
    for n, host in enumerate(hosts):
        zone.host(
            host, *[f"192.0.{n}.{m}" for m in range(1, 9)], *[f"2001:db8:1:2:3:4:{n:x}:{m:x}" for m in range(1, 9)]
        )
        records = [f"3 0 0 {m:02x}{'ab' * 2047}" for m in range(16)]
        zone.add(f"_25._tcp.{host}", "TLSA", *records)
    found = find(zone)
    assert len(found.hosts) == 20 and found.hosts[0].tlsa_base == found.hosts[0].name
    assert sum(len(record.data) for host in found.hosts for record in host.tlsa_records) == 20 * 16 * 2048


def test_a_name_server_that_answers_nothing_costs_nothing_but_hosts(find, monkeypatch):
    monkeypatch.setattr(host_lookup, "HOSTS_TIMEOUT", 0.3)
    monkeypatch.setattr(host_lookup, "DESTINATIONS_MAX", 1000)
    monkeypatch.setattr(dns_cache, "QUESTION_TIMEOUT", 0.3)
    zone = Zone(twist=lambda query, answer: [])
    assert find(zone, "first.test").code == 451
    made = find.houses[id(zone)]

    async def scenario():
        for request in range(1001, 1601):
            made.theirs["dispatcher1"].send(FindHosts(request, f"d{request}.test", True, 25, True))
        await made.until(lambda: len(made.sent(HostsNotFound)) == 601)
        await made.until(lambda: not any(made.lookup.hosts._tasks.values()) and not made.lookup.hosts._dns._tasks)

    made.run(scenario())
    assert {found.enhanced for found in made.sent(HostsNotFound)} == {"4.4.3"}


def test_a_destination_whose_questions_wait_behind_silent_ones_has_not_failed(find, monkeypatch):
    """No clock of it runs before its question is sent; otherwise each mail to a healthy domain would be delayed."""
    monkeypatch.setattr(dns_cache, "LOOKUPS_MAX", 4)
    monkeypatch.setattr(dns_cache, "QUESTION_TIMEOUT", 0.2)
    monkeypatch.setattr(host_lookup, "HOSTS_TIMEOUT", 0.5)
    zone = two_hosts(failing={(f"d{number}.test.", "MX"): None for number in range(24)})
    assert names(find(zone)) == ["a.test", "b.test"]
    made = find.houses[id(zone)]
    zone.add("healthy.test.", "MX", "10 a.test.")

    async def scenario():
        for number in range(24):
            made.theirs["dispatcher1"].send(FindHosts(100 + number, f"d{number}.test", True, 25, False))
        made.theirs["dispatcher1"].send(FindHosts(200, "healthy.test", True, 25, False))
        await made.until(lambda: len(made.sent(HostsFound)) == 2)

    begun = time.monotonic()
    made.run(scenario())
    assert time.monotonic() - begun > 1.0, "it has waited for longer than each time-out"
    assert names(made.sent(HostsFound)[1]) == ["a.test"]


def test_hosts_are_not_looked_up_where_no_action_relays():
    """Nothing of the daemon asks then: a dispatcher in the hands of an attacker gets no resolver."""
    house = House(routes=())
    asking = SimpleNamespace(number=1, send=None)
    with pytest.raises(Violation, match="no action relays"):
        house.lookup.find_hosts(asking, FindHosts(1, "there.test", True, 25, True))
    house.close()
