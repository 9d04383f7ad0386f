"""Private keys are in the memory of crypto, and of no other process."""

import signal
import ssl

import pytest

from tests.live.certificate import Authority
from tests.live.conftest import Daemon, started, until
from tests.live.encrypted import Client, careless
from tests.secret import found_in, numbers
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
HANDSHAKES = 200
PROCESSES = {"parent", "nursery", "crypto", "control", "lookup", "dispatcher", "queue", "scheduler"}


@pytest.fixture(scope="module")
def authority():
    return Authority("here")


@pytest.fixture
def smtps():
    return free_port()


@pytest.fixture
def daemon(ground, users, authority, smtps):
    daemon = Daemon(ground, CONF.format(smtps=smtps))
    daemon.keys = renew(daemon, authority)
    with started(daemon):
        yield daemon


def renew(daemon, authority):
    """New files; their keys."""
    identities = [authority.issue("mx.here.test", kind=kind) for kind in ("rsa", "p256")]
    for name, identity in zip(("rsa", "ec"), identities, strict=True):
        identity.write(daemon.directory, name)
    return [identity.key for identity in identities]


def shake(daemon, smtps, times, recipient):
    """Handshakes with both keys in both versions; with the last of them a mail, so that there is an agent."""
    for number in range(times):
        context = careless()
        if number // 2 % 2:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        port = smtps if number % 2 else daemon.port
        with Client(port, smtps=port == smtps, context=context) as client:
            if port != smtps:
                client.starttls()
            if number >= times - 4:
                client.begin_mail(recipient).command("DATA")
                assert client.command("Subject: x\r\n\r\nx\r\n.").startswith("250")
            client.command("QUIT")


def signatures(daemon):
    lines = daemon.smtpctl("show", "stats").stdout.splitlines()
    counted = dict(line.split("=", 1) for line in lines)
    return [int(counted.get(f"crypto.signature.{kind}", 0)) for kind in ("rsa", "ecdsa")]


def where(daemon, keys):
    """Process -> what it has of those keys; also agents and whatever else is below the parent."""
    pids = {pid: title for title, pid in daemon.pids().items()}
    assert set(pids.values()) >= PROCESSES
    assert any(title.startswith("agent") for title in pids.values())
    found = {}
    for pid in [daemon.process.pid, *daemon.descendants()]:
        try:
            found[pids.get(pid, pid)] = found_in(pid, *keys)
        except FileNotFoundError:  # an agent that had nothing more to do
            assert pids.get(pid) not in PROCESSES
    return {title: forms for title, forms in found.items() if forms}


def check_only_crypto(daemon, keys):
    holders = where(daemon, keys)
    assert set(holders) == {"crypto"}, holders
    every = {(at, name) for at, key in enumerate(keys) for name in numbers(key)}
    # That it is found there shows that it would be found elsewhere.
    assert {(at, name) for at, name, form in holders["crypto"]} == every
    # OpenSSL's own numbers; not the bytes of the file, nor what was decoded of them.
    assert {form for *_, form in holders["crypto"]} <= {"low", "words"}


def test_the_secret_numbers_of_keys_are_in_crypto_and_nowhere_else(daemon, smtps, authority, alice):
    shake(daemon, smtps, HANDSHAKES, f"{alice}@here.test")
    assert signatures(daemon) == [HANDSHAKES // 2] * 2
    check_only_crypto(daemon, daemon.keys)

    keys = renew(daemon, authority)
    daemon.process.send_signal(signal.SIGHUP)
    until(lambda: "certificates of 2 pki loaded" in daemon.log.split("HUP:", 1)[-1], what="the new keys")
    shake(daemon, smtps, 20, f"{alice}@here.test")
    check_only_crypto(daemon, keys)
