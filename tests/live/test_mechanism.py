"""The mechanisms of AUTH by other people's mail programs: those that there are, and those that there are not.

swaks     PLAIN, LOGIN; CRAM-MD5, CRAM-SHA1, DIGEST-MD5, NTLM, which nobody offers any more
msmtp     SCRAM-SHA-256; from 1.8.26 SCRAM-SHA-256-PLUS, and without PLUS not where PLUS is offered
gsasl     SCRAM-SHA-256, SCRAM-SHA-256-PLUS, bound to TLS by its exporter (RFC 9266)
"""

import pytest

from tests.live import peer, submission
from tests.live.conftest import Daemon, started
from tests.live.login import NO, OK, connect, elsewhere, plain
from tests.live.network import Network
from tests.live.submission import assert_unsaid, hashed, smtpctl_encrypt

PORTS = {"hashes": 2501, "verifiers": 2502, "rows": 2503}
CONF = """
table hashes file:{{directory}}/hashes
table verifiers file:{{directory}}/verifiers
table rows sqlite:{{directory}}/rows.conf
listen on 127.0.0.1 port {hashes} tls-require pki mx.here.test auth <hashes> hostname mx.here.test
listen on 127.0.0.1 port {verifiers} tls-require pki mx.here.test auth <verifiers> hostname mx.here.test
listen on 127.0.0.1 port {rows} tls-require pki mx.here.test auth <rows> scram hostname mx.here.test
action "local" maildir
match from auth for domain "here.test" action "local"
"""
ASCII = "correct-horse-battery"


@pytest.fixture(scope="module", autouse=True)
def network():
    with Network() as network:
        yield network


@pytest.fixture(scope="module")
def daemon(ground, users):
    daemon = Daemon(ground, submission.PKI + CONF.format(**PORTS), port=2500)
    submission.certify(daemon)
    verifier = smtpctl_encrypt(ASCII, "--scram")
    submission.write_table(daemon, "hashes", {"swan": hashed(ASCII), "sam": verifier})
    submission.write_table(daemon, "verifiers", {"sam": verifier, "eve": "!" + hashed(ASCII)})
    submission.write_rows(daemon, {"rosa": verifier})
    with started(daemon, "-v"):
        yield daemon
        assert_unsaid(daemon.log, ASCII)


def swaks(port, *words):
    command = ["swaks", "--server", "127.0.0.1", "--port", str(port), "--tls", "--from", "amy@there.test"]
    command += ["--to", "bob@here.test", "--quit-after", "AUTH", "--local-interface", elsewhere()]
    return peer.run(*command, *words)


KNOWN = ["PLAIN", "LOGIN"]
UNKNOWN = ["CRAM-MD5", "CRAM-SHA1", "DIGEST-MD5", "NTLM"]


@pytest.mark.parametrize("mechanism", KNOWN)
def test_swaks_logs_in(daemon, mechanism):
    code, text = swaks(PORTS["hashes"], "--auth", mechanism, "--auth-user", "swan", "--auth-password", ASCII)
    assert code == 0 and OK in text, text


@pytest.mark.parametrize("mechanism", UNKNOWN)
def test_swaks_is_not_offered_what_there_is_not(daemon, mechanism):
    code, text = swaks(PORTS["hashes"], "--auth", mechanism, "--auth-user", "swan", "--auth-password", ASCII)
    assert code == 28, text
    assert "Auth not attempted, requested type not available" in text, text


@pytest.mark.parametrize("mechanism", [*UNKNOWN, "SCRAM-SHA-1", "SCRAM-SHA-256", "GSSAPI", "EXTERNAL", "ANONYMOUS"])
def test_a_mechanism_that_is_not_offered_is_refused_in_order(daemon, mechanism):
    with connect(PORTS["hashes"], smtps=False) as client:
        client.ehlo()
        assert client.docmd("AUTH", mechanism) == (504, b"5.5.4 Unknown authentication mechanism")  # RFC 4954 4
        assert plain(client, "swan", ASCII) == OK


PLAIN, ALL = "PLAIN LOGIN", "SCRAM-SHA-256-PLUS SCRAM-SHA-256 PLAIN LOGIN"


def test_scram_is_offered_where_it_is_good_for_all_or_said_to_be(daemon):
    for name, expected in (("hashes", PLAIN), ("verifiers", ALL), ("rows", ALL)):
        with connect(PORTS[name], smtps=False) as client:
            client.ehlo()
            assert client.esmtp_features["auth"].split() == expected.split()


def scram_of_msmtp():
    """The best that this version knows."""
    return "scram-sha-256-plus" if "scram-sha-256-plus" in peer.run("msmtp", "--version")[1] else "scram-sha-256"


def msmtp(daemon, method, user, password, versions):
    rc = daemon.directory / "msmtprc"
    rc.touch(mode=0o600)
    rc.write_text(
        f"account default\nhost 127.0.0.1\nport {PORTS['rows']}\nsource_ip {elsewhere()}\ndomain client.test\n"
        f"tls on\ntls_trust_file {daemon.ca}\ntls_priorities {versions}\n"
        f"auth {method}\nuser {user}\npassword {password}\n"
    )
    command = ["msmtp", "-C", rc, "--debug", "-f", f"{user}@there.test", "bob@here.test"]
    return peer.run(*command, input=b"Subject: x\n\nx\n")[1]


def gsasl(daemon, mechanism, user, password):
    command = ["gsasl", "--smtp", "--connect", f"localhost:{PORTS['verifiers']}", f"--x509-ca-file={daemon.ca}"]
    command += ["-m", mechanism, "-a", user, "-p", password, "--verbose"]
    if not mechanism.endswith("PLUS"):
        command.append("--no-cb")  # it would not do with less than it could
    return peer.run(*command)[1]


@pytest.mark.parametrize("versions", ["NORMAL", "NORMAL:-VERS-TLS1.3"])
def test_msmtp_logs_in_by_scram(daemon, versions):
    """With PLUS it binds by tls-unique before TLS 1.3, and by tls-exporter there."""
    method = scram_of_msmtp()
    text = msmtp(daemon, method, "rosa", ASCII, versions)
    assert f"--> AUTH {method.upper()}\r\n" in text and OK in text, text
    assert NO in msmtp(daemon, method, "rosa", ASCII + "x", versions)


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])
def test_gsasl_logs_in_by_scram(daemon, mechanism):
    text = gsasl(daemon, mechanism, "sam", ASCII)
    assert f"AUTH {mechanism}\n" in text and OK in text, text
    assert NO in gsasl(daemon, mechanism, "eve", ASCII)  # who is locked, and looks like anybody
