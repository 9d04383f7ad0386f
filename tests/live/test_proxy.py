"""Who speaks for others: a real HAProxy with the PROXY protocol, swaks with the same, and XCLIENT."""

import csv
import re
import smtplib
import socket
import subprocess
import time

import pytest

from tests.live import peer, submission
from tests.live.conftest import Daemon, empty_maildir, mails, started, until
from tests.live.encrypted import careless
from tests.live.network import Network
from tests.live.recipient import logged

US, US6 = "198.51.100.1", "2001:db8:1::1"
CLIENT, CLIENT6 = "198.51.100.7", "2001:db8:1::7"
PORTS = {"any": 2500, "one": 2501, "two": 2502, "smtps": 2503, "xclient": 2504}
CONF = """
smtp limit connection-rate 5 tarpit 0
listen on 0.0.0.0 port {any} proxy hostname mx.here.test
listen on 127.0.0.1 port {one} proxy-v1 hostname mx.here.test
listen on 127.0.0.1 port {two} proxy-v2 hostname mx.here.test
listen on 127.0.0.1 port {smtps} smtps pki mx.here.test proxy-v2 hostname mx.here.test
listen on 0.0.0.0 port {xclient} xclient {{{{ "127.0.0.1" }}}} hostname mx.here.test
action "local" maildir
match from src {{{{ "198.51.100.0/24", "2001:db8:1::/64", "203.0.113.7", "203.0.113.11" }}}} for any action "local"
match from auth for any action "local"
"""
HAPROXY = """
global
    stats socket {directory}/haproxy.socket
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
"""
WAYS = {"one": "send-proxy", "two": "send-proxy-v2", "smtps": "send-proxy-v2"}
CHECKS = {name: "check inter 500ms" for name in WAYS} | {"smtps": "check inter 500ms check-ssl verify none"}
ABOVE = 100  # a port of HAProxy's, above the one it passes clients on to


@pytest.fixture(scope="module", autouse=True)
def network():
    with Network() as network:
        network.add("eth1", f"{US}/24", f"{CLIENT}/24", f"{US6}/64", f"{CLIENT6}/64")
        yield network


@pytest.fixture(scope="module")
def daemon(ground, users):
    daemon = Daemon(ground, submission.PKI + CONF.format(**PORTS), port=PORTS["any"])
    submission.certify(daemon)
    with started(daemon):
        yield daemon


@pytest.fixture(scope="module")
def haproxy(daemon):
    """In front of all of them but two."""
    peer.skip_without("haproxy")
    text = HAPROXY.format(directory=daemon.directory)
    for name, option in WAYS.items():
        port = PORTS[name] + ABOVE
        text += f"listen {name}\n    bind {US}:{port}\n    bind [{US6}]:{port}\n"
        text += (
            f"    option smtpchk EHLO check.test\n    server {name} 127.0.0.1:{PORTS[name]} {option} {CHECKS[name]}\n"
        )
    path = daemon.directory / "haproxy.cfg"
    path.write_text(text)
    process = subprocess.Popen(["haproxy", "-db", "-q", "-f", path], stdin=subprocess.DEVNULL)
    listening = f":{max(PORTS[name] for name in WAYS) + ABOVE} "
    until(lambda: listening in subprocess.check_output(["ss", "-ltn"], text=True), what="HAProxy")
    yield process
    process.kill()
    process.wait()


@pytest.fixture
def maildir(users, alice):
    empty_maildir(users.home(alice))
    return users.home(alice)


def received(maildir):
    """The line that the one mail got here."""
    (mail,) = until(lambda: mails(maildir), what="the mail")
    return " ".join(re.search(rb"^Received: ((?:.+\n[\t ])*)", mail, re.MULTILINE)[1].decode().split())


# -- HAProxy ------------------------------------------------------------------------------


@pytest.mark.parametrize("source, to", [(CLIENT, US), (CLIENT6, US6)], ids=["tcp4", "tcp6"])
@pytest.mark.parametrize("name", WAYS)
def test_the_client_behind_the_proxy_is_the_one_in_the_log(daemon, haproxy, maildir, alice, name, source, to):
    make = smtplib.SMTP_SSL if name == "smtps" else smtplib.SMTP
    more = {"context": careless()} if name == "smtps" else {}
    client = make(to, PORTS[name] + ABOVE, "client.test", timeout=20, source_address=(source, 0), **more)
    literal = f"[IPv6:{source}]" if ":" in source else f"[{source}]"
    with client:
        assert literal in client.ehlo()[1].decode()
        client.sendmail("amy@there.test", f"{alice}@here.test", "Subject: x\r\n\r\nx\r\n")
    line = received(maildir)
    assert line.startswith("from client.test (") and f"{literal})" in line
    assert logged(daemon, f"smtp connected address={source} ")


def checks(daemon):
    """What HAProxy thinks of us, by the listener: L7OK is a 250 to EHLO."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"{daemon.directory}/haproxy.socket")
        sock.sendall(b"show stat\n")
        rows = list(csv.DictReader(sock.makefile(), skipinitialspace=True))
    return {row["svname"]: row["check_status"] for row in rows if row["svname"] in WAYS}


def test_it_finds_us_alive(daemon, haproxy):
    """It then speaks for nobody."""
    until(lambda: set(checks(daemon).values()) == {"L7OK"}, what="a check of each")


# -- a proxy of any sort --------------------------------------------------------------------


def swaks(port, *words):
    command = ["swaks", "--server", "127.0.0.1", "--port", str(port), "--ehlo", "client.test"]
    command += ["--from", "amy@there.test", "--to", "bob@here.test"]
    return peer.run(*command, *words)


def claim(version, source, *words):
    protocol = ["--proxy-protocol", "STREAM"] if version == 2 else []
    family = ["--proxy-family", ("AF_INET" if version == 2 else "TCP4")]
    words = [*words, "--proxy-version", str(version), *family, *protocol, "--proxy-source", source]
    words += ["--proxy-source-port", "4711", "--proxy-dest", US, "--proxy-dest-port", "25"]
    return [*words, "--quit-after", "HELO"]


@pytest.mark.parametrize("name, version", [("any", 1), ("any", 2), ("one", 1), ("two", 2)])
def test_what_swaks_claims_is_believed(daemon, name, version):
    """Hence the manual's advice: only the proxy should be able to connect."""
    code, text = swaks(PORTS[name], *claim(version, "203.0.113.7"))
    assert "Hello client.test [203.0.113.7]" in text, text


@pytest.mark.parametrize("name, version", [("one", 2), ("two", 1)])
def test_a_header_of_the_other_version_is_none(daemon, name, version):
    code, text = swaks(PORTS[name], *claim(version, "203.0.113.7"))
    assert code != 0 and "220" not in text, text


def test_a_client_that_is_claimed_is_counted_like_one_that_is_there(daemon):
    """Who has let a liar in has let it use up the rate of others."""
    before = daemon.statistics()["smtp.refused.connection-rate"]
    greeted, begun = 0, time.monotonic()
    while "220 mx.here.test" in (text := swaks(PORTS["any"], *claim(1, "203.0.113.9"))[1]):
        greeted += 1  # five, and one more for every twelve seconds that swaks takes for them
        assert greeted <= 6 + (time.monotonic() - begun) / 12
    assert greeted >= 5
    assert "421 4.7.0 Too many connections in a minute" in text
    assert "220 mx.here.test" in swaks(PORTS["any"], *claim(1, "203.0.113.10"))[1]
    assert daemon.statistics()["smtp.refused.connection-rate"] == before + 1


def test_a_proxy_elsewhere_cannot_make_a_client_local(daemon):
    """Its loopback address is not ours."""
    code, text = swaks(PORTS["any"], "--server", US, "--local-interface", CLIENT, *claim(2, "127.0.0.1"))
    assert f"Hello client.test [{CLIENT}]" in text, text


NO_HEADERS = {
    "EHLO": b"EHLO client.test\r\n",
    "a header behind something": b" PROXY TCP4 203.0.113.7 198.51.100.1 1 2\r\n",
    "no address": b"PROXY TCP4 203.0.113.777 198.51.100.1 1 2\r\n",
    "the wrong family": b"PROXY TCP4 2001:db8::7 2001:db8::1 1 2\r\n",
    "too long": b"PROXY TCP4 " + b"1" * 200,
    "UDP": b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c" + bytes(12),
    "another version": b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c" + bytes(12),
    "too short": b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x04" + bytes(4),
}


@pytest.mark.parametrize("header", NO_HEADERS.values(), ids=NO_HEADERS)
def test_a_connection_without_the_header_gets_no_banner(daemon, header):
    before = daemon.statistics()["smtp.proxy.failed"]
    with socket.create_connection(("127.0.0.1", PORTS["any"]), timeout=20) as sock:
        sock.sendall(header)
        assert until_end(sock) == b""
    assert daemon.statistics()["smtp.proxy.failed"] == before + 1


def until_end(sock):
    """All that comes."""
    found = b""
    try:
        while data := sock.recv(4096):
            found += data
    except ConnectionError:
        pass
    return found


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0"], ids=["1", "2"])
def test_a_proxy_that_names_no_client_is_the_client(daemon, header):
    with socket.create_connection(("127.0.0.1", PORTS["any"]), timeout=20) as sock:
        sock.sendall(header + b"EHLO client.test\r\nQUIT\r\n")
        assert b"Hello client.test [127.0.0.1]" in until_end(sock)


def test_a_second_header_is_no_command(daemon):
    """It comes from the client, who is not believed."""
    header = b"PROXY TCP4 203.0.113.11 198.51.100.1 1 2\r\n"
    with socket.create_connection(("127.0.0.1", PORTS["any"]), timeout=20) as sock:
        sock.sendall(header + header.replace(b"113.11", b"113.12") + b"EHLO client.test\r\nQUIT\r\n")
        text = until_end(sock)
    assert b"\r\n500 5.5.1 " in text and b"Hello client.test [203.0.113.11]" in text


# -- XCLIENT ------------------------------------------------------------------------------------


def test_xclient_makes_a_client_another_one(daemon, maildir, alice):
    words = ["--xclient-addr", "203.0.113.7", "--xclient-name", "mail.there.test", "--xclient-helo", "there.test"]
    words += ["--xclient-port", "4711", "--xclient-proto", "ESMTP", "--xclient-login", "amy"]
    code, text = swaks(PORTS["xclient"], *words, "--to", f"{alice}@here.test")
    assert code == 0, text
    line = received(maildir)
    assert line.startswith("from client.test (mail.there.test [203.0.113.7])")
    assert "with ESMTPA id" in line
    assert logged(daemon, "smtp xclient address=203.0.113.7 host=mail.there.test user=amy")


def test_xclient_is_for_the_clients_that_are_named(daemon):
    with smtplib.SMTP(US, PORTS["xclient"], "client.test", timeout=20, source_address=(CLIENT, 0)) as client:
        client.ehlo()
        assert not client.has_extn("XCLIENT")
        assert client.docmd("XCLIENT", "ADDR=127.0.0.1") == (550, b"5.7.0 XCLIENT is not for you")
        assert f"[{CLIENT}]" in client.ehlo()[1].decode()


def test_it_may_be_said_in_several_commands(daemon):
    words = ["--xclient-name", "mail.there.test", "--xclient-delim", "--xclient-addr", "203.0.113.8"]
    code, text = swaks(PORTS["xclient"], *words, "--xclient-delim", "--xclient-port", "1", "--quit-after", "MAIL")
    assert code == 0 and "Hello client.test [203.0.113.8]" in text, text
    assert logged(daemon, "smtp xclient address=203.0.113.8 host=<unknown>")  # of another address it is not the name


@pytest.mark.parametrize("argument", ["", "ADDR", "ADDR=203.0.113.777", "ADDR=[UNAVAILABLE]", "COLOUR=red", "PORT=x"])
def test_what_is_malformed_changes_nothing(daemon, argument):
    with smtplib.SMTP("127.0.0.1", PORTS["xclient"], "client.test", timeout=20) as client:
        client.ehlo()
        assert client.docmd("XCLIENT", argument)[0] == 501
        assert "[127.0.0.1]" in client.ehlo()[1].decode()
