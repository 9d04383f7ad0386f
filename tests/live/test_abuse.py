"""What may come in a minute, and what becomes of those who bring more: each limit of the real daemon, and its count.

Each test has addresses of its own, as what it does is remembered.  Programs on this host are not counted by address.
"""

import smtplib
import socket
import time

import pytest

from tests.live import submission
from tests.live.conftest import Daemon, started
from tests.live.encrypted import careless
from tests.live.network import Network
from tests.live.recipient import logged

US, US6 = "198.51.100.1", "2001:db8:1::1"
PASSWORD = "correct-horse-battery"
CONF = """
smtp limit connection-rate 4 connection-rate-per-network 6 message-rate 3 message-rate-per-user 2
smtp limit failure-rate 5 failure-rate-per-network 1000 tarpit-after 2 tarpit 1 max-errors 1000
listen on 0.0.0.0 port 2500 hostname mx.here.test
listen on {six} port 2500 hostname mx.here.test
listen on 0.0.0.0 port 2501 smtps pki mx.here.test auth {{{{ "amy" = "{hash}", "bob" = "{hash}" }}}}
action "local" maildir
match from any for any action "local"
"""
DELAYING = """
smtp limit greet-delay 1
listen on 127.0.0.1 port 2600 hostname mx.here.test
listen on 127.0.0.1 port 2601 smtps pki mx.here.test
listen on 127.0.0.1 port 2602 proxy
action "local" maildir
match from any for any action "local"
"""


@pytest.fixture(scope="module", autouse=True)
def network():
    with Network() as network:
        network.add("eth1", f"{US}/16", f"{US6}/48")
        yield network


@pytest.fixture(scope="module")
def hosts(network):
    """Addresses, each in a network of its own."""

    def make():
        for number in range(101, 200):
            network.give("eth1", f"198.51.{number}.1/16")
            yield f"198.51.{number}.1"

    return make()


@pytest.fixture
def host(hosts):
    return next(hosts)


@pytest.fixture(scope="module")
def daemon(ground, users):
    conf = CONF.format(six=US6, hash=submission.hashed(PASSWORD))
    daemon = Daemon(ground, submission.PKI + conf, port=2500)
    submission.certify(daemon)
    with started(daemon):
        yield daemon


@pytest.fixture
def counted(daemon):
    """`counted(key)`: by how much a statistic has grown since the test began."""

    before = daemon.statistics()
    return lambda key: daemon.statistics()[key] - before[key]


def connect(source, to=US):
    return smtplib.SMTP(to, 2500, "client.test", timeout=20, source_address=(source, 0))


def welcome(source, to=US):
    """The code that a new client is greeted with."""
    with socket.create_connection((to, 2500), 20, source_address=(source, 0)) as sock:
        return sock.makefile("rb").readline().decode()


TOO_MANY = "421 4.7.0 Too many connections in a minute, try again later\r\n"


def test_an_address_may_connect_so_often_in_a_minute(daemon, host, counted):
    assert [welcome(host)[:3] for _ in range(4)] == ["220"] * 4
    assert [welcome(host) for _ in range(2)] == [TOO_MANY] * 2
    assert counted("smtp.refused.connection-rate") == 2
    assert len(logged(daemon, f'smtp refused address={host} reason="too many connections in a minute"')) == 2


def test_a_network_of_addresses_may_not_either(daemon, host, network, counted):
    neighbours = [host, *(f"{host[:-1]}{number}" for number in (2, 3, 4))]
    for address in neighbours[1:]:
        network.give("eth1", f"{address}/16")
    assert [welcome(address)[:3] for address in neighbours[:3] * 2] == ["220"] * 6
    assert welcome(neighbours[3]) == TOO_MANY
    assert counted("smtp.refused.connection-rate") == 1


def test_of_ipv6_a_network_is_what_a_site_has(daemon, network):
    addresses = [f"2001:db8:1:7::{number}" for number in range(1, 8)]
    for address in (*addresses, "2001:db8:1:8::1"):
        network.give("eth1", f"{address}/48")
    assert [welcome(address, US6)[:3] for address in addresses] == ["220"] * 6 + ["421"]
    assert welcome("2001:db8:1:8::1", US6).startswith("220 ")


def test_programs_of_this_host_may_connect_as_often_as_they_want(daemon, counted):
    assert {welcome("127.0.0.1", "127.0.0.1")[:3] for _ in range(12)} == {"220"}
    assert counted("smtp.refused.connection-rate") == 0


LATER = (450, b"4.7.1 Too many messages, try again later")


def test_an_address_may_send_so_much_in_a_minute(daemon, host, counted):
    """A mail that is begun counts: it has cost something."""
    with connect(host) as client:
        client.ehlo()
        for expected in (250, 250, 250, 450):
            assert client.mail("amy@there.test")[0] == expected
            client.rset()
        assert client.mail("amy@there.test") == LATER
    assert counted("smtp.refused.message-rate") == 2


def log_in(user):
    client = smtplib.SMTP_SSL("127.0.0.1", 2501, "client.test", timeout=20, context=careless())
    client.login(user, PASSWORD)
    return client


def test_a_user_may_not_send_more_from_wherever_they_are(daemon, counted):
    """By no spelling of the name, and in no other session; other users may."""
    with log_in("amy") as first, log_in("AMY") as second, log_in("bob") as other:
        assert first.mail("amy@there.test")[0] == 250
        assert second.mail("amy@there.test")[0] == 250
        first.rset()
        second.rset()
        assert first.mail("amy@there.test") == LATER
        assert second.mail("amy@there.test") == LATER
        assert other.mail("bob@there.test")[0] == 250
    assert counted("smtp.refused.message-rate") == 2


def test_an_address_with_too_many_errors_loses_all_sessions(daemon, host, hosts, counted):
    with connect(host) as client, connect(host) as other, connect(next(hosts)) as stranger:
        client.ehlo()
        begun = time.monotonic()
        answers = [client.docmd("FOO")[0] for _ in range(4)]
        assert answers == [500] * 4
        assert time.monotonic() - begun >= 2  # the third and the fourth were kept back
        assert other.noop()[0] == 250  # it may still be somebody else
        assert client.docmd("FOO")[0] == 421
        assert other.docmd("FOO")[0] == 500 and other.getreply()[0] == 421
        assert stranger.noop()[0] == 250
        assert welcome(host) == "421 4.7.0 Too many errors in a minute, try again later\r\n"
    assert counted("smtp.refused.failure-rate") == 3  # two sessions, and who came then
    assert counted("smtp.tarpit") == 3  # one of them did not wait to its end


def test_programs_of_this_host_may_err(daemon, counted):
    for _ in range(4):
        with smtplib.SMTP("127.0.0.1", 2500, "client.test", timeout=20) as client:
            client.ehlo()
            assert [client.docmd("FOO")[0] for _ in range(2)] == [500] * 2
    assert counted("smtp.refused.failure-rate") == 0


# -- those who do not wait -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def delaying(ground, users):
    daemon = Daemon(ground, submission.PKI + DELAYING, port=2600)
    submission.certify(daemon)
    with started(daemon):
        yield daemon


HEADER = b"PROXY TCP4 198.51.100.1 198.51.100.1 1 2\r\n"


def in_the_clear():
    return socket.create_connection(("127.0.0.1", 2600), 20)


def under_tls():
    return careless().wrap_socket(socket.create_connection(("127.0.0.1", 2601), 20))


def through_a_proxy():
    sock = socket.create_connection(("127.0.0.1", 2602), 20)
    sock.sendall(HEADER)
    return sock


each_way = pytest.mark.parametrize("connect", [in_the_clear, under_tls, through_a_proxy])


@each_way
def test_a_client_that_waits_is_greeted_after_a_while(delaying, connect):
    """A handshake, and what a proxy has to say, is nothing that the client says."""
    begun = time.monotonic()
    with connect() as sock:
        answers = sock.makefile("rb")
        assert answers.readline().startswith(b"220 ")
        assert time.monotonic() - begun >= 1
        sock.sendall(b"HELO client.test\r\n")
        assert answers.readline().startswith(b"250 ")


@each_way
def test_a_client_that_talks_before_the_banner_is_disconnected(delaying, connect):
    before = delaying.statistics()["smtp.early-talker"]
    with connect() as sock:
        sock.sendall(b"EHLO client.test\r\nMAIL FROM:<amy@there.test>\r\n")
        text = sock.makefile("rb").read()
    assert text.startswith(b"554 5.5.1 ") and text.count(b"\r\n") == 1
    assert delaying.statistics()["smtp.early-talker"] == before + 1
    assert logged(delaying, "smtp disconnected reason=early-talker")
