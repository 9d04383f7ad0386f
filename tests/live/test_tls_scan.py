"""What scanners think of TLS as it is without a word in the configuration: testssl.sh and sslscan.

Each sees STARTTLS with an RSA key, and TLS at once with an ECDSA key.
"""

import json
import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from tests.live.certificate import Authority
from tests.live.conftest import Daemon, started
from tests.unique import free_port

CONF = """
pki rsa cert "{{directory}}/rsa.crt"
pki rsa key "{{directory}}/rsa.key"
pki ec cert "{{directory}}/ec.crt"
pki ec key "{{directory}}/ec.key"
listen on 127.0.0.1 port {{port}} tls pki rsa
listen on 127.0.0.1 port {smtps} smtps pki ec
action "local" maildir
match from any for domain "here.test" action "local"
"""
WAIT_MAX = 300  # seconds: a scan takes 30 on a quiet machine

# Protocols, kinds of ciphers, forward secrecy, order of preference, certificate and extensions, vulnerabilities.  Not
# each of 370 ciphers one by one, nor the simulated clients: these find nothing that is called a fault.
TESTSSL = ["testssl", "--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none", "-p", "-s", "-f", "-P", "-S"]
TESTSSL += ["-U", "--connect-timeout", "10", "--openssl-timeout", "10"]

GOOD = {"OK", "INFO"}
EXPECTED = {
    "engine_problem": "of testssl itself: its openssl knows no GOST",
    "service": "that it is not HTTP, on a port where TLS comes first",
    "cert_revocation": "the authority is one of ours, and publishes neither a CRL nor OCSP",
}
if not shutil.which("socat"):
    EXPECTED["starttls_injection"] = "testssl 3.2 and later look for it with socat, which is not installed"


@pytest.fixture(scope="module")
def smtps():
    return free_port()


@pytest.fixture(scope="module")
def daemon(ground, users, smtps):
    daemon = Daemon(ground, CONF.format(smtps=smtps))
    authority = Authority("here").below("between")
    authority.by.write(daemon.directory, "root")
    for name, kind in (("rsa", "rsa"), ("ec", "p256")):
        authority.issue("mx.here.test", "127.0.0.1", kind=kind).write(daemon.directory, name)
    with started(daemon):
        yield daemon


@pytest.fixture(params=["STARTTLS, RSA", "at once, ECDSA"])
def port(request, daemon, smtps):
    return daemon.port if request.param.startswith("STARTTLS") else smtps


def needs(program):
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")


def test_testssl_finds_nothing_wrong(daemon, port):
    needs("testssl")
    report = daemon.directory / f"testssl-{port}.json"
    command = [*TESTSSL, "--add-ca", str(daemon.directory / "root.ca"), "--jsonfile", str(report)]
    command += ["-t", "smtp"] * (port == daemon.port) + [f"127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_MAX, stdin=subprocess.DEVNULL)
    found = json.loads(report.read_text())
    assert {"TLS1_3", "cert_chain_of_trust", "heartbleed", "LUCKY13", "RC4"} <= {finding["id"] for finding in found}
    bad = [one for one in found if one["severity"] not in GOOD and one["id"] not in EXPECTED]
    assert bad == [], done.stdout


def test_sslscan_finds_nothing_wrong(daemon, port):
    needs("sslscan")
    command = ["sslscan", "--xml=-", *["--starttls-smtp"] * (port == daemon.port), f"127.0.0.1:{port}"]
    done = subprocess.run(command, capture_output=True, timeout=WAIT_MAX)
    found = ElementTree.fromstring(done.stdout).find("ssltest")
    enabled = {(one.get("type"), one.get("version")) for one in found.iter("protocol") if one.get("enabled") == "1"}
    assert enabled == {("tls", "1.2"), ("tls", "1.3")}
    ciphers = [one.attrib for one in found.iter("cipher")]
    assert {one["sslversion"] for one in ciphers} == {"TLSv1.2", "TLSv1.3"}
    assert all(one["strength"] in ("strong", "acceptable") for one in ciphers), ciphers
    assert {one.get("id") for one in found.iter("group")} <= {"0x0017", "0x0018", "0x001d"}
    assert {one.get("vulnerable") for one in found.iter("heartbleed")} == {"0"}
    assert found.find("renegotiation").get("supported") == "0"
    assert {one.get("supported") for one in found.iter("compression")} <= {"0"}
