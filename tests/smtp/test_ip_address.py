"""Numeric addresses of hosts."""

import ipaddress

import pytest

from smtpd.smtp.ip_address import is_loopback, unmapped


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
