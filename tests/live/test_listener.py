"""Listeners of the real daemon: where they listen, what comes up later, what their options make of a client."""

import email
import os
import smtplib
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live import submission
from tests.live.conftest import PYTHON, Daemon, empty_maildir, mails, started, until
from tests.live.descriptors import sockets
from tests.live.encrypted import careless
from tests.live.network import Network, ip

US, US6, LINK = "198.51.100.1", "2001:db8:1::1", "fe80::1"
LATER = "198.51.100.77"  # has no interface yet
LATE, LATE_LINK = "203.0.113.1", "fe80::7"  # on an interface that there is not
PASSWORD = "correct-horse-battery"
PORTS = {"all": 2500, "late": 2501, "later": 2502, "six": 2503, "link": 2504, "masked": 2505, "login": 2506}
CONF = """
dispatchers 3
table names {{{{ "{us}" = one.here.test, "{us6}" = six.here.test }}}}
listen on "*" port {all} hostname mx.here.test hostnames <names>
listen on late0 port {late}
listen on {later_address} port {later}
listen on eth1 inet6 port {six}
listen on "{late_link}%late0" port {link}
listen on lo port {masked} mask-src no-dsn tag "masked" hostname masked.here.test
listen on 127.0.0.1 port {login} tls-require pki mx.here.test auth {{{{ "amy" = "{hash}" }}}}
action "local" maildir
match tag "masked" from any for domain "here.test" action "local"
match from auth for any action "local"
"""


@pytest.fixture(scope="module", autouse=True)
def network():
    with Network() as network:
        network.add("eth1", f"{US}/24", f"{US6}/64", f"{LINK}/64")
        yield network


@pytest.fixture(scope="module")
def daemon(ground, users):
    addresses = {"us": US, "us6": US6, "later_address": LATER, "late_link": LATE_LINK}
    conf = CONF.format(hash=submission.hashed(PASSWORD), **addresses, **PORTS)
    daemon = Daemon(ground, submission.PKI + conf, port=PORTS["all"])
    submission.certify(daemon)
    with started(daemon):
        yield daemon


def banner(address, name):
    """What a client is greeted with; None if nobody listens."""
    try:
        with socket.create_connection((address, PORTS[name]), timeout=20) as sock:
            return sock.makefile("rb").readline().decode()
    except OSError:
        return None


# -- where --------------------------------------------------------------------------------


NAMES = {"127.0.0.1": "mx", "::1": "mx", US: "one", US6: "six", f"{LINK}%eth1": "mx"}


@pytest.mark.parametrize("address, name", NAMES.items())
def test_a_wildcard_is_all_addresses_and_each_may_have_a_name(daemon, address, name):
    assert banner(address, "all") == f"220 {name}.here.test ESMTP smtpd\r\n"


def test_an_interface_is_all_of_its_addresses_of_a_family(daemon):
    assert banner(US6, "six") and banner(f"{LINK}%eth1", "six")
    assert banner(US, "six") is None and banner("::1", "six") is None


def test_a_client_with_a_link_local_address_is_named_without_its_interface(daemon):
    where = ("fe80::1%eth1", PORTS["six"], "client.test")
    with smtplib.SMTP(*where, timeout=20) as client:
        assert "Hello client.test [IPv6:fe80::1]," in client.ehlo()[1].decode()


def test_an_address_that_comes_later_is_listened_on(daemon, network):
    """Bound from the start: no time is lost."""
    assert f"{LATER} port {PORTS['later']}: no interface has this address yet" in daemon.log
    network.give("eth1", f"{LATER}/24")
    assert banner(LATER, "later")


def test_an_interface_that_comes_later_is_listened_on(daemon, network):
    """Within seconds; and again when it has gone and come back, at once."""
    assert 'unknown interface or host "late0"; the listener starts when the interface appears' in daemon.log
    network.add("late0", f"{LATE}/24", f"{LATE_LINK}/64")
    for address, name in ((LATE, "late"), (f"{LATE_LINK}%late0", "late"), (f"{LATE_LINK}%late0", "link")):
        until(lambda address=address, name=name: banner(address, name), what=f"a listener on {address}")
    ip("link", "delete", "late0")
    assert banner(LATE, "late") is None
    network.add("late0", f"{LATE}/24")
    assert banner(LATE, "late")


# -- what they make of a client --------------------------------------------------------------


def test_a_masked_source_is_in_no_mail(daemon, users, alice):
    """And the tag is what decides that it is taken."""
    empty_maildir(users.home(alice))
    with smtplib.SMTP("127.0.0.1", PORTS["masked"], "secret.test", timeout=20) as client:
        client.sendmail("amy@there.test", f"{alice}@here.test", "Subject: x\r\n\r\nx\r\n")
    (mail,) = until(lambda: mails(users.home(alice)), what="the mail")
    received = " ".join(email.message_from_bytes(mail)["Received"].split())
    assert received.startswith("by masked.here.test (smtpd) with ESMTP id ")
    assert b"127.0.0.1" not in mail and b"secret.test" not in mail


def test_no_other_listener_has_the_tag(daemon, alice):
    with smtplib.SMTP(US, PORTS["all"], "client.test", timeout=20) as client:
        client.ehlo()
        client.mail("amy@there.test")
        assert client.rcpt(f"{alice}@here.test")[0] == 550


def test_without_dsn_its_parameters_are_unknown(daemon, alice):
    with smtplib.SMTP("127.0.0.1", PORTS["masked"], "client.test", timeout=20) as client:
        client.ehlo()
        assert not client.has_extn("DSN")
        assert client.mail("amy@there.test", ["RET=HDRS"]) == (555, b"5.5.4 Parameter RET not recognised")
        assert client.mail("amy@there.test")[0] == 250
        assert client.rcpt(f"{alice}@here.test", ["NOTIFY=NEVER"])[0] == 555


# -- several dispatchers -------------------------------------------------------------------------


def test_several_dispatchers_share_the_clients_under_tls(daemon):
    pids = [pid for pid in daemon.descendants() if cmdline(pid).startswith("smtpd: dispatcher")]
    assert len(pids) == 3
    until(lambda: daemon.statistics()["smtp.session"] == 0, what="the end of other sessions")
    before = {pid: len(sockets(pid)) for pid in pids}

    def log_in(_):
        client = smtplib.SMTP("127.0.0.1", PORTS["login"], "client.test", timeout=30)
        client.starttls(context=careless())
        client.login("amy", PASSWORD)
        return client

    with ThreadPoolExecutor(8) as pool:
        clients = list(pool.map(log_in, range(24)))
    shares = [len(sockets(pid)) - before[pid] for pid in pids]
    assert sum(shares) == 24 and sum(share > 0 for share in shares) > 1, shares
    assert daemon.statistics()["smtp.tls"] == 24
    for client in clients:
        assert client.noop()[0] == 250
        client.quit()


def cmdline(pid):
    return Path(f"/proc/{pid}/cmdline").read_text()


# -- sockets that the service manager has bound ---------------------------------------------------


LAUNCHER = """
import ctypes, os, sys
manager, number, count = map(int, sys.argv[1:4])
for i in range(count):
    os.dup2(ctypes.CDLL(None).syscall(438, os.pidfd_open(manager), number + i, 0), 50 + i)  # pidfd_getfd
for i in range(count):
    os.dup2(50 + i, 3 + i)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count))
os.execv(sys.argv[4], sys.argv[4:])
"""
ACTIVATED = """
listen on 127.0.0.1 port {port}
listen on ::1 port {port}
action "local" maildir
match from any for any action "local"
"""


def test_a_socket_of_the_service_manager_serves_clients_over_a_restart(make_daemon):
    """We are the service manager: the sockets stay ours, and who connects meanwhile waits."""
    four = socket.create_server(("127.0.0.1", 2600))
    six = socket.create_server(("::1", 2600), family=socket.AF_INET6)
    stray = socket.create_server(("127.0.0.1", 2601))
    with four, six, stray:
        for number, made in enumerate((four, six, stray), 100):
            os.dup2(made.fileno(), number)
        try:
            daemon = make_daemon(ACTIVATED, port=2600)
            launcher = (PYTHON, "-c", LAUNCHER, str(os.getpid()), "100", "3")
            for _ in range(2):
                with (
                    socket.create_connection(("127.0.0.1", 2600), timeout=20) as one,
                    socket.create_connection(("::1", 2600), timeout=20) as other,
                ):
                    daemon.start(prefix=launcher)
                    for client in (one, other):
                        assert client.makefile("rb").readline().startswith(b"220 ")
                assert daemon.stop() == 0
            assert "socket 127.0.0.1 port 2601 of the service manager is not used: no listener has" in daemon.log
        finally:
            for number in (100, 101, 102):
                os.close(number)
