"""How many connections a host bears, which family has failed, and what is forgotten."""

import pytest

from smtpd.relay.host import CONCURRENCY_START, Hosts, host_group


def test_a_host_bears_one_more_after_ten_messages_up_to_the_limit():
    host = Hosts().get(("192.0.2.1", 25))
    grown = [host.succeeded(3) for _ in range(30)]
    assert grown.count(True) == 1 and grown[9]
    assert host.concurrency == CONCURRENCY_START + 1


def test_refusals_of_the_same_second_halve_once():
    host = Hosts().get(("192.0.2.1", 25))
    host.concurrency = 16
    for now in (10.0, 10.1, 10.2):
        host.push_back(now)
    assert host.concurrency == 8
    host.push_back(11.5)
    assert host.concurrency == 4


def test_one_connection_is_always_tried():
    host = Hosts().get(("192.0.2.1", 25))
    for now in range(10):
        host.push_back(10.0 * now)
    assert host.concurrency == 1
    host.bears_no_more()
    assert host.concurrency == 1


def test_the_host_used_least_recently_is_forgotten_but_not_one_in_use():
    hosts = Hosts(most=2)
    hosts.get(("192.0.2.1", 25)).connections = 1
    hosts.get(("192.0.2.2", 25))
    hosts.get(("192.0.2.3", 25))
    hosts.get(("192.0.2.4", 25))
    assert hosts.find(("192.0.2.1", 25)) is not None
    assert hosts.find(("192.0.2.2", 25)) is None
    assert len(hosts) == 2


def test_a_family_rests_for_ten_minutes():
    hosts = Hosts()
    hosts.family_failed("mx.there.test", 6, 100.0)
    assert hosts.broken_families("mx.there.test", 699.0) == [6]
    assert hosts.broken_families("mx.there.test", 700.0) == []


@pytest.mark.parametrize(
    "name, group",
    [
        ("alt1.aspmx.l.google.com", "google.com"),
        ("there-test.mail.protection.outlook.com", "outlook.com"),
        ("mx1.mail.example.co.uk", "example.co.uk"),
        ("mx.example.de", "example.de"),
        ("there.test", "there.test"),
        ("localhost", "localhost"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_hosts_of_one_provider_are_counted_together(name, group):
    assert host_group(name) == group
