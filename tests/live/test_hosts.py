"""Hosts of destinations out of a real DNS in a network of our own, signed and validated (name_servers.py)."""

import tempfile
from pathlib import Path

import pytest

from smtpd.imsg import FindHosts, HostsFound, HostsNotFound
from smtpd.lookup import resolver
from smtpd.lookup.own_address import has_address
from smtpd.lookup.resolver_config import ResolverConfig, parse_servers
from smtpd.next_hop import HOSTS_MAX, TlsaState
from tests.live.name_servers import NameServers
from tests.live.network import Network
from tests.lookup.conftest import House

US, US_LATER = "198.51.100.1", "198.51.100.7"
DIGEST = "5f" * 32
WRONG = f"DS 4711 13 2 {'00' * 32}"

SIGNED = f"""
ns A 127.0.0.1
order MX 30 c
order MX 10 a
order MX 20 b
a A 192.0.2.11
a AAAA 2001:db8::11
b A 192.0.2.12
c A 192.0.2.13
null MX 0 .
empty TXT "nothing"
implicit A 192.0.2.14
_25._tcp.implicit TLSA 3 1 1 {DIGEST}
chain CNAME chain1
chain1 CNAME chain2
chain2 MX 10 a
loop CNAME loop1
loop1 CNAME loop
missing MX 10 nowhere
missing MX 20 a
literal MX 10 192.0.2.1.
ours MX 10 a
ours MX 20 ours-mx
ours-mx A {US}
later MX 10 later-mx
later-mx A {US_LATER}
self MX 10 mx.here.test.
dane MX 10 right
dane MX 20 unusable
dane MX 30 alias
dane MX 40 records-alias
dane MX 50 outside
dane MX 60 none
dane MX 70 bogus
right A 192.0.2.21
_25._tcp.right TLSA 3 1 1 {DIGEST}
unusable A 192.0.2.22
_25._tcp.unusable TLSA 1 1 1 {DIGEST}
alias CNAME target
target A 192.0.2.23
_25._tcp.target TLSA 3 1 1 {DIGEST}
_25._tcp.alias TLSA 0 0 1 {DIGEST}
records-alias A 192.0.2.24
_25._tcp.records-alias CNAME _dane
_dane TLSA 2 0 1 {DIGEST}
outside CNAME outside.plain.test.
_25._tcp.outside TLSA 3 1 1 {DIGEST}
none A 192.0.2.26
bogus A 192.0.2.27
_tcp.bogus NS ns
_tcp.bogus {WRONG}
_mta-sts.dane TXT "v=STSv1; id=20261130T1;"
bad NS ns
bad {WRONG}
""" + "".join(f"plenty MX {n} plenty{n}\nplenty{n} A 203.0.113.{n}\n" for n in range(30, 0, -1))

PLAIN = """
@ MX 10 right.signed.test.
outside A 192.0.2.25
loopback MX 10 loopback-mx
loopback-mx A 127.0.0.1
loopback-mx AAAA ::ffff:127.0.0.1
loopback-mx A 0.0.0.0
"""


@pytest.fixture(scope="module", autouse=True)
def network():
    with Network() as network:
        network.add("eth1", f"{US}/24")
        yield network


@pytest.fixture(scope="module")
def servers(network):
    signed = {
        "signed.test": SIGNED,
        "_tcp.bogus.signed.test": f"_25 TLSA 3 1 1 {DIGEST}\n",
        "bad.signed.test": "@ MX 10 a.signed.test.\n",
    }
    options = {"silent": ["silent.test"], "lost": ["lost.test"]}
    with (
        tempfile.TemporaryDirectory() as directory,
        NameServers(Path(directory), signed, {"plain.test": PLAIN}, "signed.test", **options) as servers,
    ):
        yield servers


@pytest.fixture(scope="module")
def find(servers):
    """find(name) -> HostsFound or HostsNotFound, from a lookup with this resolv.conf."""
    house = House(ResolverConfig(parse_servers("nameserver 127.0.0.1\n")), own_names=("mx.here.test",))

    def find(name, mx=True, port=25):
        return house.ask(FindHosts(len(house.heard) + 1, name, mx, port, policy=True))

    yield find
    house.close()


def hosts(found):
    assert isinstance(found, HostsFound), found
    return [host.name.removesuffix(".signed.test") for host in found.hosts]


def reply(found):
    assert isinstance(found, HostsNotFound), found
    return found.code, found.enhanced


def test_mx_order(find):
    """RFC 5321 5.1: by preference."""
    found = find("order.signed.test")
    assert hosts(found) == ["a", "b", "c"] and found.secure
    assert found.hosts[0].addresses == ["2001:db8::11", "192.0.2.11"] and found.hosts[0].secure


def test_thirty_mx_hosts(find):
    """RFC 5321 5.1: there may be a limit to the number of hosts that are tried.  The answer needs TCP."""
    assert hosts(find("plenty.signed.test")) == [f"plenty{n}" for n in range(1, HOSTS_MAX + 1)]


def test_null_mx(find):
    """RFC 7505 3, 4.2"""
    assert reply(find("null.signed.test")) == (556, "5.1.10")


def test_a_domain_that_does_not_exist(find):
    """RFC 3463 3.2"""
    assert reply(find("nowhere.signed.test")) == reply(find("nowhere.plain.test")) == (550, "5.1.2")


def test_a_domain_that_takes_no_mail(find):
    assert reply(find("empty.signed.test")) == (550, "5.4.4")


def test_an_implicit_mx(find):
    """RFC 5321 5.1; RFC 7672 2.2.1: the denial of MX records is secure."""
    found = find("implicit.signed.test")
    assert hosts(found) == ["implicit"] and found.secure and found.hosts[0].tlsa is TlsaState.USABLE


def test_a_chain_of_cname_records(find):
    """RFC 5321 5.1: "If a CNAME record is found, the resulting name is processed as if it were the initial name." """
    found = find("chain.signed.test")
    assert hosts(found) == ["a"] and found.secure


def test_a_loop_of_cname_records(find):
    assert reply(find("loop.signed.test")) == (451, "4.4.3")


def test_an_mx_host_that_does_not_exist(find):
    """RFC 5321 5.1: the other ones are tried."""
    found = find("missing.signed.test")
    assert hosts(found) == ["a"] and found.skipped == ["nowhere.signed.test: no such host"]


def test_an_mx_record_that_names_an_address(find):
    """RFC 5321 5.1, 2.3.5"""
    assert reply(find("literal.signed.test")) == (550, "5.4.4")


@pytest.mark.parametrize("domain", ["lost.test", "bad.signed.test"])
def test_servfail(find, domain):
    """RFC 5321 5.1 and 4.2.1: no implicit MX, and no permanent error; a bogus answer is SERVFAIL: RFC 4035 5.5."""
    found = find(domain)
    assert reply(found) == (451, "4.4.3") and found.text == f"MX lookup of {domain}: the name server answered SERVFAIL"


def test_a_time_out(find, monkeypatch):
    monkeypatch.setattr(resolver, "FIRST_TIMEOUT", 0.1)
    monkeypatch.setattr(resolver, "SECOND_TIMEOUT", 0.1)
    found = find("silent.test")
    assert reply(found) == (451, "4.4.3") and found.text == "MX lookup of silent.test: no name server answered in time"


# -- this host ------------------------------------------------------------------------------------------


def test_a_loop_by_name(find):
    """RFC 5321 5.1: "all MX records with its preference and worse" are discarded, and none is left."""
    assert reply(find("self.signed.test")) == (550, "5.4.6")


def test_a_loop_by_address(find):
    assert hosts(find("ours.signed.test")) == ["a"]
    assert reply(find("ours-mx.signed.test")) == reply(find(f"[{US}]")) == (550, "5.4.6")


def test_an_address_that_comes_later_is_noticed(find, network):
    assert hosts(find("later.signed.test")) == ["later-mx"]
    network.give("eth1", f"{US_LATER}/24")
    assert reply(find("later.signed.test")) == (550, "5.4.6")


def test_a_loop_by_addresses_that_mean_this_host(find):
    assert reply(find("loopback.plain.test")) == (550, "5.4.6")


@pytest.fixture
def binding_everything():
    """As on a host that takes over the addresses of another one."""
    switch = Path("/proc/sys/net/ipv4/ip_nonlocal_bind")
    switch.write_text("1")
    yield
    switch.write_text("0")


def test_addresses_of_others_are_not_ours_where_they_may_be_bound(binding_everything):
    assert has_address(US) and has_address("127.0.0.1")
    assert not has_address("192.0.2.11") and not has_address("203.0.113.1")


def test_addresses_of_this_host(network):
    assert has_address(US) and has_address("127.0.0.1") and has_address("::1")
    assert not has_address("198.51.100.9") and not has_address("198.51.100.255") and not has_address("2001:db8::1")
    network.give("eth1", "2001:db8:1::1/64")
    network.give("eth1", "2001:db8:1::2/64")
    assert has_address("2001:db8:1::1") and has_address("2001:db8:1::2") and not has_address("2001:db8:1::3")


# -- DANE, MTA-STS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host, state, base",
    [
        ("right", TlsaState.USABLE, "right"),
        ("unusable", TlsaState.UNUSABLE, "unusable"),  # RFC 7672 3.1.3
        ("alias", TlsaState.USABLE, "target"),  # RFC 7672 2.2.2: secure from end to end, so the target first
        ("records-alias", TlsaState.USABLE, "records-alias"),  # RFC 7672 2.1.3
        ("outside", TlsaState.USABLE, "outside"),  # RFC 7672 2.2.2: only the first CNAME record is secure
        ("none", TlsaState.NONE, ""),
        ("bogus", TlsaState.FAILED, ""),  # RFC 7672 2.1.1, 2.1.2
    ],
)
def test_dane(find, host, state, base):
    found = find("dane.signed.test")
    assert found.secure
    (of_host,) = [one for one in found.hosts if one.name == f"{host}.signed.test"]
    assert (of_host.tlsa, of_host.tlsa_base) == (state, base and f"{base}.signed.test")
    assert all(record.data == bytes.fromhex(DIGEST) for record in of_host.tlsa_records)


def test_an_insecure_mx_answer_has_no_dane(find):
    """RFC 7672 2.2.1"""
    found = find("plain.test")
    assert hosts(found) == ["right"] and not found.secure
    assert found.hosts[0].secure and found.hosts[0].tlsa is TlsaState.NONE


def test_a_smarthost_with_dane(find):
    """RFC 7672 2.2.2"""
    (host,) = find("right.signed.test", mx=False).hosts
    assert host.tlsa is TlsaState.USABLE and host.addresses == ["192.0.2.21"]


def test_a_resolver_that_is_not_trusted(servers):
    """RFC 6840 5.8, RFC 7672 2.1.3: what it validates does not count."""
    (server,) = parse_servers("nameserver 127.0.0.1\n")
    house = House(ResolverConfig((type(server)(server.family, server.address, trusted=False),)))
    found = house.ask(FindHosts(1, "dane.signed.test", True, 25, policy=True))
    house.close()
    assert not found.secure and {(host.secure, host.tlsa) for host in found.hosts} == {(False, TlsaState.NONE)}


def test_the_id_of_an_mta_sts_policy(find):
    """RFC 8461 3.1"""
    assert find("dane.signed.test").sts_id == "20261130T1" and find("order.signed.test").sts_id == ""
