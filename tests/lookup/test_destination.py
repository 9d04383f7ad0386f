"""What a destination is: a domain, a domain literal, a smarthost; and which addresses are no other host's."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.lookup.destination import Domain, HostAddress, NoHosts, address_fault, is_this_host, read_destination
from smtpd.lookup.resolver_config import is_host_name


@pytest.mark.parametrize(
    "name, domain",
    [
        ("there.test", "there.test"),
        ("There.TEST.", "there.test"),
        ("müller.test", "xn--mller-kva.test"),
        ("xn--mller-kva.test", "xn--mller-kva.test"),
        ("fußball.test", "xn--fuball-cta.test"),  # RFC 5894 7.2: not fussball.test
        ("a_b.test", "a_b.test"),
        ("test", "test"),
    ],
)
@pytest.mark.parametrize("mx", [True, False])
def test_a_domain_in_any_spelling(name, domain, mx):
    assert read_destination(name, mx) == Domain(domain)


@pytest.mark.parametrize(
    "literal, address",
    [
        ("[192.0.2.1]", "192.0.2.1"),
        ("[IPv6:2001:DB8::1]", "2001:db8::1"),
        ("[ipv6:2001:db8:0::1]", "2001:db8::1"),
        ("[2001:db8::1]", "2001:db8::1"),
    ],
)
@pytest.mark.parametrize("mx", [True, False])
def test_a_literal_is_an_address(literal, address, mx):
    """RFC 5321 4.1.3"""
    assert read_destination(literal, mx) == HostAddress(address)


NONSENSE = ["", ".", "a..b", "[", "[]", "[there.test]", "[192.0.2.256]", "[IPv6:192.0.2.1]", "[X:1]", "[fe80::1%lo]"]
NONSENSE += ["a b", "a\nb", "-a.test", "x" * 64 + ".test", ".".join(["x" * 63] * 4), "\udcff.test", "a/b"]


@pytest.mark.parametrize("name", [*NONSENSE, "192.0.2.1", "2001:db8::1"])
def test_what_is_neither_is_refused(name):
    found = read_destination(name, mx=True)
    assert isinstance(found, NoHosts) and (found.code, found.enhanced) == (550, "5.1.2")


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1", "fe80::1%lo"])
def test_a_smarthost_may_be_a_bare_address(address):
    assert read_destination(address, mx=False) == HostAddress(address)


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "mail.localhost"])
def test_localhost_is_no_domain_of_others(name):
    """RFC 6761 6.3"""
    found = read_destination(name, mx=True)
    assert isinstance(found, NoHosts) and (found.code, found.enhanced) == (550, "5.4.6")
    assert isinstance(read_destination(name, mx=False), Domain)


@given(st.text() | st.text("[]:.v6IP0123456789%ab"), st.booleans())
def test_any_name_is_something(name, mx):
    match read_destination(name, mx):
        case Domain(domain):
            assert is_host_name(domain) and domain == domain.lower()
        case HostAddress(address):
            assert str(ipaddress.ip_address(address)) == address and not (mx and "%" in address)
        case NoHosts(code):
            assert code == 550


def test_a_configuration_that_is_wrong_fails_no_mail():
    assert NoHosts(550, "5.1.2", "x").temporary() == NoHosts(451, "4.1.2", "x")


THIS_HOST = ["127.0.0.1", "127.8.9.10", "0.0.0.0", "0.1.2.3", "::1", "::"]
UNUSABLE = ["::ffff:127.0.0.1", "::ffff:192.0.2.1", "::192.0.2.1", "224.0.0.1", "ff02::1", "255.255.255.255"]
UNUSABLE += ["169.254.1.1", "fe80::1", "fe80::1%lo", "2001:db8::1%lo"]


@pytest.mark.parametrize("address", THIS_HOST + UNUSABLE)
def test_addresses_that_no_mail_goes_to(address):
    assert address_fault(address)
    assert is_this_host(address) or address in UNUSABLE


@pytest.mark.parametrize("address", ["192.0.2.1", "10.0.0.1", "192.168.1.1", "2001:db8::1", "fd00::1", "64:ff9b::1"])
def test_addresses_of_other_hosts(address):
    assert not address_fault(address) and not is_this_host(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.5", "::1"])
def test_the_configuration_may_name_a_program_on_this_host(address):
    assert not address_fault(address, named_here=True)


@pytest.mark.parametrize("address", ["0.0.0.0", "::", *UNUSABLE[1:]])
def test_the_configuration_may_not_name_what_is_no_host(address):
    assert address_fault(address, named_here=True)
