"""What resolv.conf and hosts say, and what is a name at all."""

import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.lookup.resolver_config import (
    ResolverConfig,
    canonical_address,
    is_host_name,
    parse_hosts,
    parse_servers,
    read_resolver_config,
)


def test_name_servers_and_no_more_than_three():
    text = "# a comment\nsearch here.test\nnameserver 192.0.2.53\nnameserver\nnameserver nonsense\noptions rotate\n"
    text += "nameserver 2001:db8::53\nnameserver ::1\nnameserver 192.0.2.54\n"
    assert [server.address for server in parse_servers(text)] == [
        ("192.0.2.53", 53),
        ("2001:db8::53", 53, 0, 0),
        ("::1", 53, 0, 0),
    ]


@pytest.mark.parametrize(
    "text, trusted",
    [
        ("nameserver 192.0.2.53\n", [False]),
        ("nameserver 127.0.0.53\nnameserver ::1\nnameserver 192.0.2.53\n", [True, True, False]),
        ("nameserver 192.0.2.53\noptions edns0 trust-ad\n", [True]),
        ("options trust-ad\noptions edns0\nnameserver 192.0.2.53\n", [True]),
        ("# options trust-ad\nnameserver 192.0.2.53\noptions no-trust-ad\n", [False]),
    ],
)
def test_whose_validation_counts(text, trusted):
    """resolv.conf(5): trust-ad; and a resolver on this host."""
    assert [server.trusted for server in parse_servers(text)] == trusted


def test_a_link_local_name_server_is_on_its_link():
    (server,) = parse_servers("nameserver fe80::1%lo\n")
    assert server.family == socket.AF_INET6
    assert server.address == ("fe80::1", 53, 0, socket.if_nametoindex("lo"))
    assert parse_servers("nameserver fe80::1%nosuch\n") == ()


def test_hosts():
    names, addresses = parse_hosts(
        "127.0.0.1 localhost loopback # here\n"
        "127.0.0.1 other\n"
        "::1\tLocalhost ip6-localhost\n"
        "192.0.2.1\n"
        "nonsense host\n"
        "192.0.2.2 in/valid host\n"
        "::ffff:192.0.2.3 mapped\n"
    )
    assert names == {"127.0.0.1": "localhost", "::1": "localhost", "192.0.2.2": "host", "192.0.2.3": "mapped"}
    assert addresses["localhost"] == {"127.0.0.1", "::1"}
    assert addresses["other"] == {"127.0.0.1"}


def test_a_host_that_has_neither_file(tmp_path):
    assert read_resolver_config(str(tmp_path / "resolv.conf"), str(tmp_path / "hosts")) == ResolverConfig((), {}, {})


@given(st.text("0123456789.:% \tabn#\n"), st.text())
def test_any_text_gives_some_system(one, other):
    for text in (one, other, "nameserver " + one):
        parse_servers(text)
        parse_hosts(text)


@pytest.mark.parametrize(
    "address, expected",
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::1"),
        ("local", None),
        ("", None),
        ("192.0.2.256", None),
        ("192.0.2.1/24", None),
    ],
)
def test_an_address_is_written_in_one_way(address, expected):
    assert canonical_address(address) == expected


@pytest.mark.parametrize("name", ["a", "mail.example", "A-b.example", "a_b.example", "4u.example", "x" * 63 + ".test"])
def test_a_host_name(name):
    assert is_host_name(name)


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a..b",
        "a.",
        "192.0.2.1",
        "1",
        "a b",
        "a\n",
        "a\0",
        "a/b",
        "(evil)",
        'a"b',
        "a\\032b",
        "bücher.test",
        "-a.test",
        "::1",
        "x" * 64 + ".test",
        ".".join(["x" * 63] * 4),
    ],
)
def test_what_is_no_host_name(name):
    assert not is_host_name(name)
