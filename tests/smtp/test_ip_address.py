"""Numeric addresses of hosts."""

import ipaddress

import pytest

from smtpd.smtp.ip_address import counted_address, is_loopback, network_of, unmapped


@pytest.mark.parametrize(
    "written, meant", [("::ffff:192.0.2.1", "192.0.2.1"), ("192.0.2.1", "192.0.2.1"), ("2001:db8::1", "2001:db8::1")]
)
def test_an_ipv4_address_is_written_as_one(written, meant):
    assert str(unmapped(ipaddress.ip_address(written))) == meant


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.8.7", "::1"])
def test_a_loopback_address_is_this_hosts_own(address):
    assert is_loopback(address)


@pytest.mark.parametrize("address", ["128.0.0.1", "::127.0.0.1", "::", "local", ""])
def test_no_other_address_is(address):
    assert not is_loopback(address)


@pytest.mark.parametrize(
    "one, other",
    [
        ("192.0.2.1", "192.0.2.254"),
        ("2001:db8::1", "2001:db8:0:0:ffff:ffff:ffff:ffff"),
        ("::ffff:192.0.2.1", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::2"),
    ],
)
def test_a_network_is_a_slash_24_or_a_slash_64(one, other):
    assert network_of(one) == network_of(other)


@pytest.mark.parametrize(
    "one, other",
    [
        ("192.0.2.1", "192.0.3.1"),
        ("2001:db8::1", "2001:db8:0:1::1"),
        ("::ffff:192.0.2.1", "::ffff:192.0.3.1"),
        ("::1", "2001:db8::1"),
    ],
)
def test_neighbours_are_other_networks(one, other):
    assert network_of(one) != network_of(other)


@pytest.mark.parametrize("text", ["", "local", "x:y", "unknown"])
def test_what_is_no_address_stands_for_itself(text):
    assert network_of(text) == counted_address(text) == text


@pytest.mark.parametrize(
    "address, counted",
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:0db8:0000:0000"),
        ("2001:db8::ffff:1", "2001:0db8:0000:0000"),
        ("2001:db8:0:1::1", "2001:0db8:0000:0001"),
    ],
)
def test_an_address_of_ipv6_is_counted_by_its_network(address, counted):
    assert counted_address(address) == counted
