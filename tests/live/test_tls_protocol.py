"""Versions, ciphers, groups and signatures that clients can choose: each works or is refused, and none is the end.

crypto takes a request that no handshake makes for one of a dispatcher that was broken into, and the daemon ends: so no
client may be able to bring such a request about.
"""

import itertools
import subprocess

import pytest

from tests.live.certificate import Authority
from tests.live.conftest import Daemon, started
from tests.unique import free_port

KINDS = ("rsa", "rsa3072", "p256", "p384")
PKIS = "".join(
    f'pki {kind}.test cert "{{{{directory}}}}/{kind}.crt"\npki {kind}.test key "{{{{directory}}}}/{kind}.key"\n'
    f"pki {kind}.test dhe auto\n"
    for kind in KINDS
)
ALL = "tls " + " ".join(f"pki {kind}.test" for kind in KINDS)
CONF = f"""{PKIS}
listen on 127.0.0.1 port {{{{port}}}} {ALL}
listen on 127.0.0.1 port {{old}} {ALL} protocols "all" ciphers "ALL:@SECLEVEL=0"
listen on 127.0.0.1 port {{legacy}} {ALL} protocols "legacy"
listen on 127.0.0.1 port {{newest}} {ALL} protocols "TLSv1.3"
listen on 127.0.0.1 port {{narrow}} {ALL} protocols "TLSv1.2" ciphers "ECDHE-RSA-AES128-GCM-SHA256"
action "local" maildir
match from any for domain "here.test" action "local"
"""
HASHES = ("MD5", "SHA1", "SHA224", "SHA256", "SHA384", "SHA512")
WEAK = ("-cipher", "ALL@SECLEVEL=0")


@pytest.fixture(scope="module")
def ports():
    return {name: free_port() for name in ("old", "legacy", "newest", "narrow")}


@pytest.fixture(scope="module")
def daemon(ground, users, ports):
    daemon = Daemon(ground, CONF.format(**ports))
    daemon.ports = {"default": daemon.port, **ports}
    authority = Authority("here")
    for kind in KINDS:
        authority.issue(f"{kind}.test", kind=kind).write(daemon.directory, kind)
    with started(daemon):
        yield daemon


def used(daemon, listener, kind, *options):
    """Version and cipher that OpenSSL's client ends up with; None: none."""
    where = f"127.0.0.1:{daemon.ports[listener]}"
    command = ["openssl", "s_client", "-connect", where, "-starttls", "smtp", "-servername", f"{kind}.test", *options]
    done = subprocess.run(command, input="quit\n", capture_output=True, text=True, timeout=60)
    for line in done.stdout.splitlines():
        if line.startswith("New, ") and "(NONE)" not in line:
            words = line.replace(",", "").split()
            return words[1], words[-1]
    return None


def version_of(daemon, listener, kind, *options):
    found = used(daemon, listener, kind, *options)
    return found and found[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "listener, spoken",
    [
        ("default", {"-tls1_2", "-tls1_3"}),
        ("old", {"-tls1", "-tls1_1", "-tls1_2", "-tls1_3"}),
        ("legacy", {"-tls1", "-tls1_1", "-tls1_2", "-tls1_3"}),
        ("newest", {"-tls1_3"}),
    ],
)
def test_a_listener_speaks_the_versions_that_it_should(daemon, kind, listener, spoken):
    versions = ("-tls1", "-tls1_1", "-tls1_2", "-tls1_3")
    assert {version for version in versions if used(daemon, listener, kind, version, *WEAK)} == spoken


@pytest.mark.parametrize("group", ["X25519", "P-256", "P-384"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_client_whose_first_group_is_not_ours_is_asked_again(daemon, kind, group):
    """HelloRetryRequest: the name is looked at twice."""
    assert version_of(daemon, "default", kind, "-groups", f"X448:{group}") == "TLSv1.3"


def test_a_listener_with_one_cipher_has_no_other(daemon):
    name = "ECDHE-RSA-AES128-GCM-SHA256"
    assert used(daemon, "narrow", "rsa", *WEAK) == ("TLSv1.2", name)
    assert used(daemon, "narrow", "rsa", "-cipher", "ECDHE-RSA-AES256-GCM-SHA384") is None
    assert used(daemon, "narrow", "p256", *WEAK) is None


@pytest.mark.parametrize("kind", ["rsa", "rsa3072"])
@pytest.mark.parametrize("listener", ["default", "old"])
def test_clients_without_elliptic_curves_have_dhe(daemon, listener, kind):
    assert used(daemon, listener, kind, "-tls1_2", "-cipher", "DHE-RSA-AES256-GCM-SHA384") == (
        "TLSv1.2",
        "DHE-RSA-AES256-GCM-SHA384",
    )


NEVER = ["NULL", "aNULL", "kRSA", "RC4", "3DES", "EXPORT", "PSK", "SRP"]


@pytest.mark.parametrize("cipher", NEVER)
@pytest.mark.parametrize("listener", ["default", "old", "legacy"])
def test_what_must_never_be_is_not_to_be_had(daemon, listener, cipher):
    """Without encryption, without a certificate, or with our key as the one that decrypts."""
    assert used(daemon, listener, "rsa", "-tls1_2", "-cipher", f"{cipher}@SECLEVEL=0") is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("listener", ["default", "old", "legacy"])
def test_no_signature_that_a_client_can_ask_for_is_the_end(daemon, listener, kind):
    """Each algorithm alone, in each version.  Those that are good today must work."""
    scheme = "RSA" if kind.startswith("rsa") else "ECDSA"
    asked = [f"{name}+{digest}" for name in ("RSA", "RSA-PSS", "ECDSA") for digest in HASHES]
    working = set()
    for version, algorithm in itertools.product(("-tls1_2", "-tls1_3"), asked):
        if used(daemon, listener, kind, version, "-sigalgs", algorithm, *WEAK):
            working.add((version, algorithm))
    assert daemon.running(), daemon.log[-2000:]
    assert not any(
        words in daemon.log for words in ("no signature:", "no signature in", "no such key", "internal error")
    )
    assert {algorithm.partition("+")[0] for _, algorithm in working} <= {scheme, f"{scheme}-PSS"}
    good = {("-tls1_2", f"{scheme}+{digest}") for digest in HASHES[3:]}
    if scheme == "RSA":
        good |= {(version, f"RSA-PSS+{digest}") for version in ("-tls1_2", "-tls1_3") for digest in HASHES[3:]}
    else:
        good.add(("-tls1_3", {"p256": "ECDSA+SHA256", "p384": "ECDSA+SHA384"}[kind]))
    assert working >= good


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("version", ["-tls1", "-tls1_1"])
def test_signatures_of_old_versions_are_no_end_either(daemon, kind, version):
    """MD5 and SHA-1 in a row for RSA, SHA-1 for ECDSA."""
    assert used(daemon, "old", kind, version, *WEAK)
    assert daemon.running()
