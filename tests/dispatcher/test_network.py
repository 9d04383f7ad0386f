"""Which addresses are counted together."""

import pytest

from smtpd.dispatcher.inbound.network import network_of


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
    assert network_of(text) == text
