"""TLS of the real daemon: which certificate a client gets, what is said of the client's, where it is written down."""

import re
import smtplib
import ssl
import subprocess

import pytest

from tests.live.certificate import Authority
from tests.live.conftest import Daemon, empty_maildir, mails, started, until
from tests.live.encrypted import Client, careless, showing
from tests.unique import free_port

CONF = """
pki first.test cert "{{directory}}/first.crt"
pki first.test key "{{directory}}/first.key"
pki second.test cert "{{directory}}/second.crt"
pki second.test key "{{directory}}/second.key"
pki "*" cert "{{directory}}/any.crt"
pki "*" key "{{directory}}/any.key"
ca clients cert "{{directory}}/clients.ca"
listen on 127.0.0.1 port {{port}} tls pki first.test pki second.test pki "*" hostname mx.here.test
listen on 127.0.0.1 port {smtps} smtps pki first.test pki second.test hostname mx.here.test
listen on 127.0.0.1 port {asking} tls pki first.test ca clients hostname mx.here.test
listen on 127.0.0.1 port {verifying} tls-require verify pki first.test ca clients hostname mx.here.test
action "local" maildir
match from any for domain "here.test" action "local"
"""
CONTENT = b"Subject: encrypted\r\n\r\nx\r\n"


@pytest.fixture(scope="module")
def here():
    return Authority("here").below("between here and there")


@pytest.fixture(scope="module")
def clients():
    return Authority("clients")


@pytest.fixture(scope="module")
def ports():
    return {name: free_port() for name in ("smtps", "asking", "verifying")}


@pytest.fixture(scope="module")
def daemon(ground, users, here, clients, ports):
    daemon = Daemon(ground, CONF.format(**ports))
    daemon.identities = {
        "first": here.issue("first.test", "www.first.test", kind="rsa"),
        "second": here.issue("second.test", "*.second.test"),
        "any": here.issue("mx.here.test", kind="p384"),
    }
    for name, identity in daemon.identities.items():
        identity.write(daemon.directory, name)
    clients.write(daemon.directory, "clients")
    with started(daemon):
        yield daemon


@pytest.fixture(autouse=True)
def mark(daemon):
    """Where this test's part of the log begins."""
    until(lambda: daemon.log.count(" connected ") == daemon.log.count(" disconnected "), what="the end of earlier ones")
    daemon.mark = len(daemon.log)


def s_client(port, *options):
    """What OpenSSL's own client says of a connection."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options]
    return subprocess.run(command, input="QUIT\r\n", capture_output=True, text=True, timeout=60)


def serial_of(shown):
    """Of the first certificate in there."""
    first = re.search("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", shown, re.DOTALL)
    done = subprocess.run(["openssl", "x509", "-noout", "-serial"], input=first[0], capture_output=True, text=True)
    return int(done.stdout.removeprefix("serial="), 16)


def log_of(daemon, session):
    return [line.removeprefix(session + " smtp ") for line in daemon.log.splitlines() if line.startswith(session)]


def last_session(daemon, event):
    """The log of this test's latest session that has such a line, once it is over."""

    def find():
        found = re.findall(rf"^([0-9a-f]{{16}}) smtp {event}", daemon.log[daemon.mark :], re.MULTILINE)
        lines = log_of(daemon, found[-1]) if found else []
        return lines if lines and lines[-1].startswith("disconnected") else None

    return until(find, what=f"a session with {event}")


# -- which certificate ----------------------------------------------------------------------

NAMES = [
    ("first.test", "first"),
    ("FIRST.test", "first"),
    ("www.first.test", "first"),
    ("second.test", "second"),
    ("deep.second.test", "second"),
    ("too.deep.second.test", "any"),
    ("elsewhere.test", "any"),
]


@pytest.mark.parametrize("name, expected", NAMES)
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_a_client_gets_the_certificate_of_the_name_that_it_asks_for(daemon, name, expected, version):
    done = s_client(daemon.port, "-starttls", "smtp", "-servername", name, version)
    assert serial_of(done.stdout) == daemon.identities[expected].serial


def test_a_client_without_sni_gets_the_default_certificate(daemon):
    done = s_client(daemon.port, "-starttls", "smtp", "-noservername")
    assert serial_of(done.stdout) == daemon.identities["any"].serial


@pytest.mark.parametrize("options", [["-noservername"], ["-servername", "elsewhere.test"]])
def test_without_a_default_certificate_the_first_of_the_listener_is_used(daemon, ports, options):
    done = s_client(ports["smtps"], *options)
    assert serial_of(done.stdout) == daemon.identities["first"].serial


@pytest.mark.parametrize("name", ["first.test", "second.test", "mx.here.test"])
def test_a_client_that_knows_the_authority_trusts_the_chain(daemon, here, name):
    """The authority itself is not in the file: what is between comes with the handshake."""
    verify = ["-CAfile", str(here.by.write(daemon.directory, "root")), "-verify_return_error", "-verify_hostname", name]
    done = s_client(daemon.port, "-starttls", "smtp", "-servername", name, *verify)
    assert "Verify return code: 0 (ok)" in done.stdout, done.stdout + done.stderr


# -- what is written down ----------------------------------------------------------------------


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_the_log_and_received_name_version_cipher_and_bits(daemon, users, alice, version):
    empty_maildir(users.home(alice))
    context = careless()
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with smtplib.SMTP("127.0.0.1", daemon.port, local_hostname="client.test", timeout=20) as client:
        client.starttls(context=context)
        cipher, protocol, bits = client.sock.cipher()
        client.sendmail("amy@there.test", [f"{alice}@here.test"], CONTENT)
        used = f"{client.sock.version()}:{cipher}:{bits}"
    assert used.startswith(version.replace("_", "."))
    lines = last_session(daemon, "tls ciphers")
    assert f"tls ciphers={used}" in lines
    assert any(line.startswith("message") and line.endswith("proto=ESMTPS") for line in lines)
    (mail,) = until(lambda: mails(users.home(alice)), what="delivery")
    assert " with ESMTPS id " in mail.decode()
    assert f" ({used}:NO)\n" in mail.decode()


def test_a_mail_in_the_clear_says_nothing_of_tls(daemon, users, alice):
    empty_maildir(users.home(alice))
    daemon.send(f"{alice}@here.test", CONTENT)
    (mail,) = until(lambda: mails(users.home(alice)), what="delivery")
    assert re.search(r"\tby mx\.here\.test \(smtpd\) with ESMTP id [0-9a-f]{8}\n", mail.decode())


@pytest.mark.parametrize("size", [15_000, 17_000, 20_000_000])
def test_a_mail_of_any_size_arrives_byte_for_byte(daemon, users, alice, size):
    """In DATA and in a chunk, in records of 16 KiB."""
    empty_maildir(users.home(alice))
    line = bytes(set(range(33, 256)) - {0x2E}) + b"\r\n"
    content = b"Subject: large\r\n\r\n" + line * (size // len(line))
    with Client(daemon.port).starttls() as client:
        client.begin_mail(f"{alice}@here.test").command("DATA")
        client.say(content)
        assert client.command(".").startswith("250")
        client.begin_mail(f"{alice}@here.test")
        client.say(b"BDAT %d LAST\r\n" % len(content) + content)
        assert client.reply().startswith("250")
    arrived = until(lambda: len(mails(users.home(alice))) == 2 and mails(users.home(alice)), what="delivery")
    for mail in arrived:
        assert mail.partition(b"\n\n")[2] == content.partition(b"\r\n\r\n")[2].replace(b"\r\n", b"\n")


def test_the_statistics_count_the_sessions_of_now(daemon, ports):
    with Client(daemon.port) as one, Client(ports["smtps"], smtps=True) as other:
        one.starttls()
        stats = daemon.smtpctl("show", "stats").stdout
        assert "smtp.tls=1\n" in stats and "smtp.smtps=1\n" in stats
        one.command("QUIT")
        other.command("QUIT")
    until(lambda: "smtp.tls=0\n" in daemon.smtpctl("show", "stats").stdout, what="their end")


FAILURES = [
    (["-tls1_1", "-cipher", "ALL@SECLEVEL=0"], "client offers no version that we speak"),
    (["-tls1_2", "-cipher", "AES128-SHA:AES256-GCM-SHA384"], "client offers no cipher that we have"),
    (["-tls1_3", "-curves", "P-521"], "client offers no group that we have"),
]


@pytest.mark.parametrize("options, reason", FAILURES, ids=[reason for _, reason in FAILURES])
def test_a_handshake_that_fails_says_why(daemon, options, reason):
    s_client(daemon.port, "-starttls", "smtp", *options)
    *_, failed, end = last_session(daemon, "tls-failed")
    assert failed.startswith(f'tls-failed reason="{reason}"')
    assert end == "disconnected reason=tls-accept-failed"


def test_a_client_without_tls_has_another_reason_in_the_log_than_one_with_it(daemon, ports):
    with Client(daemon.port) as client:
        assert client.command("STARTTLS").startswith("220")
        client.send(b"MAIL FROM:<amy@there.test>\r\n")
        assert b"250" not in client.rest()
    *_, failed, end = last_session(daemon, "tls-failed")
    assert failed.startswith('tls-failed reason="client does not speak TLS"')
    assert end == "disconnected reason=tls-accept-failed"


# -- certificates of clients -------------------------------------------------------------------


def mail_with(port, identity, daemon, recipient):
    context = showing(identity, daemon.directory) if identity else careless()
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client.test", timeout=20) as client:
        client.starttls(context=context)
        client.sendmail("amy@there.test", [recipient], CONTENT)


def shown(daemon):
    """The certificate's line of the latest session."""
    return next(line for line in last_session(daemon, "cert-check") if line.startswith("cert-check"))


@pytest.mark.parametrize("port", ["asking", "verifying"])
def test_a_client_with_a_certificate_of_our_authority_is_verified(daemon, users, alice, clients, ports, port):
    empty_maildir(users.home(alice))
    identity = clients.issue("client.test", client=True)
    mail_with(ports[port], identity, daemon, f"{alice}@here.test")
    assert shown(daemon) == f'cert-check result="verified" fingerprint="{identity.fingerprint}"'
    (mail,) = until(lambda: mails(users.home(alice)), what="delivery")
    assert re.search(r" with ESMTPS id [0-9a-f]{8} \(TLSv1\.3:\S+:256:YES\)\n", mail.decode())


def of_others(clients):
    return Authority("somebody").issue("client.test", client=True)


def expired(clients):
    return clients.issue("client.test", client=True, begins=-90, ends=-1)


def of_tomorrow(clients):
    return clients.issue("client.test", client=True, begins=1)


def of_a_server(clients):
    return clients.issue("client.test")


def of_no_authority(clients):
    """Signed by a certificate that our authority has given, but not for signing others."""
    client = clients.issue("client.test", client=True)
    forger = Authority("forger")
    forger.key, forger.certificate, forger.above = client.key, client.certificate, (client.certificate,)
    return forger.issue("president.test", client=True)


UNFIT = {
    of_others: "unknown authority",
    expired: "certificate has expired",
    of_tomorrow: "certificate is not yet valid",
    of_a_server: "un[a-z]+ certificate purpose",
    of_no_authority: "(invalid CA certificate|un[a-z]+ certificate purpose)",  # by the version of OpenSSL
}
BY_NAME = {"argvalues": UNFIT.items(), "ids": [make.__name__ for make in UNFIT]}


@pytest.mark.parametrize("make, reason", **BY_NAME)
def test_any_other_certificate_is_no_more_than_noted(daemon, users, alice, clients, ports, make, reason):
    """The listener asks and does not insist."""
    empty_maildir(users.home(alice))
    identity = make(clients)
    mail_with(ports["asking"], identity, daemon, f"{alice}@here.test")
    assert shown(daemon) == f'cert-check result="unchecked" fingerprint="{identity.fingerprint}"'
    (mail,) = until(lambda: mails(users.home(alice)), what="delivery")
    assert ":256:NO)\n" in mail.decode()


@pytest.mark.parametrize("make, reason", **BY_NAME)
@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
def test_any_other_certificate_is_refused_where_one_must_be_verified(daemon, clients, ports, make, reason, version):
    context = showing(make(clients), daemon.directory)
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    assert refused(ports["verifying"], context)
    *_, failed, end = last_session(daemon, "tls-failed")
    assert re.match(f'tls-failed reason="certificate of the client: {reason}"', failed)
    assert end == "disconnected reason=tls-accept-failed"


def refused(port, context):
    """With TLS 1.3 a client thinks that it is through, and then is not."""
    with Client(port, context=context) as client:
        try:
            client.starttls()
            return client.command("EHLO client.test") == ""
        except (ssl.SSLError, ConnectionError):
            return True


def test_no_certificate_is_refused_where_one_must_be_verified(daemon, ports):
    assert refused(ports["verifying"], careless())
    *_, failed, _ = last_session(daemon, "tls-failed")
    assert failed.startswith('tls-failed reason="client presents no certificate"')


def test_no_certificate_is_no_more_than_noted_elsewhere(daemon, alice, ports):
    mail_with(ports["asking"], None, daemon, f"{alice}@here.test")
    assert shown(daemon) == 'cert-check result="no certificate presented"'


def test_no_client_is_asked_for_a_certificate_without_need(daemon, alice, clients):
    """Nor is there a line in the log."""
    mail_with(daemon.port, clients.issue("client.test", client=True), daemon, f"{alice}@here.test")
    assert not any(line.startswith("cert-check") for line in last_session(daemon, "tls ciphers"))


def test_mail_in_the_clear_is_refused_where_tls_is_required(daemon, ports):
    with Client(ports["verifying"]) as client:
        assert client.command("MAIL FROM:<amy@there.test>").startswith("530 5.7.0")
