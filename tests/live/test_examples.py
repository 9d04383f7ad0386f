"""The configurations etc/laptop.conf and etc/server.conf, as they stand, in a network, a DNS and an /etc of our own."""

import contextlib
import hashlib
import http.server
import itertools
import shutil
import smtplib
import socketserver
import subprocess
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.live import reader
from tests.live.certificate import Authority, key_pem, pem
from tests.live.conftest import COMPLETE, TOP, Daemon, empty_maildir, mails, until
from tests.live.encrypted import careless
from tests.live.name_servers import NameServers
from tests.live.network import Network
from tests.live.next_hop import PASSWORD, USER, next_hop, server_context
from tests.live.recipient import envelopes

US, ALSO_US, OTHER = "192.0.2.1", "192.0.2.2", "192.0.2.66"
MOUNT = 'mount -t overlay overlay -o "lowerdir=$0:/etc" /etc; exec "$@"'
ALIASES = (TOP / "etc/aliases").read_text()
TLS_PORTS = {"smtps://provider@mail.example.net": 465, "smtp+tls://provider@mail.example.net:587": 587}


class Place:
    """A daemon with one of these configurations as /etc/smtpd.conf, and further files in its /etc, by path."""

    def __init__(self, ground, conf, files):
        self.daemon = Daemon(ground, port=25)
        self.etc = self.daemon.directory / "etc"
        files = {**files, "smtpd.conf": (TOP / "etc" / conf).read_text()}
        for path, content in files.items():
            (self.etc / path).parent.mkdir(parents=True, exist_ok=True)
            (self.etc / path).write_text(content)
        self.daemon.conf = Path("/etc/smtpd.conf")
        self.prefix = ["sh", str(TOP / "tests/unshare.sh"), "sh", "-euc", MOUNT, str(self.etc)]

    def keep_secret(self, path, group="_smtpl", mode=0o640):
        shutil.chown(self.etc / path, "root", group)
        (self.etc / path).chmod(mode)

    @contextlib.contextmanager
    def running(self, *options):
        try:
            self.daemon.start(*options, prefix=self.prefix)
            yield self.daemon
            assert self.daemon.stop() == 0, self.daemon.log
        finally:
            self.daemon.kill()

    def check(self):
        """The output of smtpd -n."""
        command = [*self.prefix, self.daemon.python, "-m", "smtpd", "-n", "-f", "/etc/smtpd.conf"]
        return subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=60)


@pytest.fixture(scope="module")
def authority():
    return Authority("web")


@pytest.fixture(scope="module")
def network():
    with Network() as network:
        network.connect("eth0", f"{US}/24", *(f"192.0.2.{host}/24" for host in (25, 26, 27, 28, 29, 30, 66)))
        network.give("eth0", f"{ALSO_US}/24")
        yield network


def connect(port=25, address="127.0.0.1", tls=False):
    kind = smtplib.SMTP_SSL if tls else smtplib.SMTP
    more = {"context": careless()} if tls else {}
    return kind(address, port, local_hostname="client.test", timeout=30, **more)


def content(subject, body=b"Gr\xc3\xbc\xc3\x9fe\r\n"):
    return COMPLETE + f"Subject: {subject}\r\n\r\n".encode() + body


def kept(hop, subject):
    """The mail with that subject, as soon as it is there."""
    found = until(lambda: [mail for mail in hop.mails if f"\r\nSubject: {subject}\r\n".encode() in mail.content])
    assert len(found) == 1
    return found[0]


# -- etc/laptop.conf ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def laptop(ground, users, network, authority):
    files = {
        "aliases": ALIASES,
        "hosts": "127.0.0.1 localhost\n192.0.2.25 mail.example.net\n",
        "mailname": "laptop.example.net\n",
        "ssl/certs/ca-certificates.crt": pem(authority.certificate).decode(),
        "mail/secrets": f"provider {USER}:{PASSWORD}\n",
    }
    place = Place(ground, "laptop.conf", files)
    place.keep_secret("mail/secrets")
    yield place
    shutil.rmtree(place.daemon.directory)


@pytest.fixture(scope="module")
def provider(network, authority, laptop):
    """The provider's ports: mails by port."""
    identity = authority.issue("mail.example.net")
    context = server_context(identity, laptop.daemon.directory, "provider")
    where = {"address": "192.0.2.25", "login": True}
    with contextlib.ExitStack() as stack:
        with network.elsewhere():
            submissions = stack.enter_context(next_hop(context, smtps=True, port=465, **where))
            submission = stack.enter_context(next_hop(context, port=587, **where))
        yield {465: submissions, 587: submission}


def test_the_laptop_is_accepted_without_a_warning(laptop):
    done = laptop.check()
    assert (done.returncode, done.stdout + done.stderr) == (0, "configuration OK\n")


@pytest.mark.parametrize("smarthost", TLS_PORTS)
def test_a_laptop(laptop, provider, network, alice, smarthost):
    port = TLS_PORTS[smarthost]
    with laptop.running("-D", f"smarthost={smarthost}") as daemon:
        daemon.send("bob@example.org", content(f"out by {port}"), f"{alice}@laptop.example.net")
        mail = kept(provider[port], f"out by {port}")
        assert (mail.sender, mail.recipients, mail.user) == ("amy@example.net", ["bob@example.org"], USER)
        assert mail.encrypted and mail.content.endswith(content(f"out by {port}"))

        daemon.send(f"{alice}@laptop.example.net", content(f"stays {port}"), "bob@laptop.example.net")
        daemon.send(f"{alice}@localhost", content(f"stays too {port}"), "bob@localhost")
        until(lambda: not envelopes(daemon), what="an empty queue")
        box = reader.by_python(daemon.state / "mail" / alice)
        assert {subject for subject, _ in box} >= {f"stays {port}", f"stays too {port}"}
        assert len(provider[port].mails) == 1

        with network.elsewhere(), pytest.raises(ConnectionRefusedError):
            connect(25, US)
        with pytest.raises(ConnectionRefusedError):
            connect(25, US)


# -- etc/server.conf ---------------------------------------------------------------------------------------------------

PASSWORD_HERE = "a password of the system"
SIGNED = """
ns A 127.0.0.1
right MX 10 mx.right
mx.right A 192.0.2.25
_25._tcp.mx.right TLSA 3 1 1 {right}
wrong MX 10 mx.wrong
mx.wrong A 192.0.2.26
_25._tcp.mx.wrong TLSA 3 1 1 {right}
"""
PLAIN = {
    "example.org": "@ MX 10 mx\nmx A 192.0.2.1\n",
    "example.com": "@ MX 5 primary\n@ MX 10 mx.example.org.\nprimary A 192.0.2.27\n",
    "example.net": "@ MX 10 clear\nclear A 192.0.2.28\n",
    # the first MX host is an attacker's
    "sts.test": "@ MX 5 other\n@ MX 10 mx\nother A 192.0.2.28\nmx A 192.0.2.29\nmta-sts A 192.0.2.30\n"
    '_mta-sts TXT "v=STSv1; id=1;"\n',
}
POLICY = b"version: STSv1\r\nmode: enforce\r\nmx: mx.sts.test\r\nmax_age: 86400\r\n"


def key_digest(identity):
    """RFC 6698 2.1: selector 1, matching type 1."""
    info = identity.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).hexdigest()


class Hosts:
    """The next hops by name."""


class PolicyRequest(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200 if self.path == "/.well-known/mta-sts.txt" else 404)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(POLICY)))
        self.end_headers()
        self.wfile.write(POLICY)

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def policy_host(context, address):
    """MTA-STS, by Python's own server."""
    with socketserver.ThreadingTCPServer((address, 443), PolicyRequest) as server:
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def identities(authority):
    made = {name: authority.issue(f"mx.{name}.test") for name in ("right", "wrong", "sts")}
    return {**made, "policy": authority.issue("mta-sts.sts.test")}


@pytest.fixture(scope="module")
def server(ground, users, network, authority, identities, alice, bob):
    """Bob is at another host now, and has left a .forward."""
    subprocess.run(["chpasswd"], input=f"{alice}:{PASSWORD_HERE}\n", text=True, check=True)
    forward = users.home(bob) / ".forward"
    forward.write_text("bob@right.signed.test\n")
    shutil.chown(forward, bob)
    ours = authority.issue("mx.example.org")
    live = "letsencrypt/live/mx.example.org"
    files = {
        "aliases": ALIASES.replace("postmaster: root", f"postmaster: {alice}"),
        "hosts": "127.0.0.1 localhost\n",
        "resolv.conf": "nameserver 127.0.0.1\n",
        "mailname": "mx.example.org\n",
        "ssl/certs/ca-certificates.crt": pem(authority.certificate).decode(),
        "mail/srs.conf": f"srs key {'0123456789abcdef' * 2}\n",
        "pam.d/smtpd": (TOP / "etc/pam.d/smtpd").read_text(),
        f"{live}/fullchain.pem": ours.chain.decode(),
        f"{live}/privkey.pem": key_pem(ours.key).decode(),
    }
    place = Place(ground, "server.conf", files)
    place.keep_secret("mail/srs.conf")
    place.keep_secret(f"{live}/privkey.pem", "root", 0o600)
    directory = place.daemon.directory
    zones = {"signed.test": SIGNED.format(right=key_digest(identities["right"]))}
    with NameServers(place.daemon.directory, zones, PLAIN, "signed.test"), place.running():
        yield place
    forward.unlink()
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def hosts(network, identities, server):
    """The servers of others."""
    here, directory = Hosts(), server.daemon.directory
    with contextlib.ExitStack() as stack:
        with network.elsewhere():
            stack.enter_context(policy_host(server_context(identities["policy"], directory, "policy"), "192.0.2.30"))
            for name, address in (("right", "192.0.2.25"), ("wrong", "192.0.2.26"), ("sts", "192.0.2.29")):
                context = server_context(identities[name], directory, name)
                setattr(here, name, stack.enter_context(next_hop(context, address=address, port=25)))
            here.primary = stack.enter_context(next_hop(address="192.0.2.27", port=25))
            here.clear = stack.enter_context(next_hop(address="192.0.2.28", port=25))
        yield here


def stranger(network):
    with network.elsewhere():
        return connect(25, US)


@contextlib.contextmanager
def logged_in(network, name, port):
    with network.elsewhere(), connect(port, US, tls=port == 465) as client:
        if port == 587:
            client.starttls(context=careless())
        client.login(name, PASSWORD_HERE)
        yield client


def reason_of(place, recipient):
    """Why its mail waits; empty if there is none."""
    return next((row[-1] for row in envelopes(place.daemon) if row[6] == recipient), "")


def test_the_server_is_accepted_without_a_warning(server):
    done = server.check()
    assert (done.returncode, done.stdout + done.stderr) == (0, "configuration OK\n")


def test_the_server_takes_mail_for_its_users(server, network, users, alice):
    empty_maildir(users.home(alice))
    with stranger(network) as client:
        client.starttls(context=careless())
        client.sendmail("amy@right.signed.test", [f"{alice}@example.org", "postmaster@example.org"], content("in"))
    until(lambda: len(mails(users.home(alice))) == 2, what="mail for a user and for an alias")


@pytest.mark.parametrize("port", [465, 587])
def test_the_server_sends_mail_of_its_users(server, network, hosts, alice, port):
    """DANE: the certificate is the one of the TLSA record."""
    sender = f"{alice}@example.org"
    with logged_in(network, alice, port) as client:
        client.sendmail(sender, ["eve@right.signed.test", "eve@example.net"], content(f"by {port}"))
    verified, clear = kept(hosts.right, f"by {port}"), kept(hosts.clear, f"by {port}")
    assert (verified.sender, verified.encrypted, verified.helo) == (sender, True, "mx.example.org")
    assert (clear.sender, clear.encrypted) == (sender, False)


def test_the_server_sends_nothing_past_dane(server, network, hosts, alice):
    """RFC 7672 2.2: the certificate is another one than the record says."""
    with logged_in(network, alice, 465) as client:
        client.sendmail(f"{alice}@example.org", ["eve@wrong.signed.test"], content("wrong"))
    until(
        lambda: any(row[6] == "eve@wrong.signed.test" and row[13] for row in envelopes(server.daemon)), what="a reason"
    )
    assert not hosts.wrong.mails


def test_the_server_sends_by_the_policy_of_a_domain(server, network, hosts, alice):
    """MTA-STS, RFC 8461 5: the MX host of the lower preference is not named by it."""
    with logged_in(network, alice, 465) as client:
        client.sendmail(f"{alice}@example.org", ["eve@sts.test"], content("by policy"))
    assert kept(hosts.sts, "by policy").encrypted
    assert not hosts.clear.subjects().count("by policy")


def test_the_server_forwards_with_a_sender_of_its_own(server, network, hosts, users, alice, bob):
    """And a bounce to that sender goes to where the mail came from."""
    with stranger(network) as client:
        client.sendmail("amy@example.net", [f"{bob}@example.org"], content("forwarded"))
    mail = kept(hosts.right, "forwarded")
    assert mail.recipients == ["bob@right.signed.test"]
    assert mail.sender.startswith("SRS0=") and mail.sender.endswith("=example.net=amy@example.org")
    with stranger(network) as client:
        client.sendmail("", [mail.sender], content("bounced"))
    assert kept(hosts.clear, "bounced").recipients == ["amy@example.net"]


def test_the_server_keeps_mail_for_a_primary(server, network, hosts):
    with stranger(network) as client:
        client.sendmail("amy@example.net", ["info@example.com"], content("backup"))
    assert kept(hosts.primary, "backup").recipients == ["info@example.com"]


FOREIGN = [
    "eve@right.signed.test",
    "eve%right.signed.test@example.org",
    "@example.org:eve@right.signed.test",
    "eve@right.signed.test@example.org",
    '"eve@right.signed.test"@example.org',
    "right.signed.test!eve@example.org",
    "right.signed.test!eve",
    "eve@[192.0.2.25]",
    "SRS0=AAAA=AA=right.signed.test=eve@example.org",
    "SRS1=AAAA=right.signed.test==AAAA=AA=right.signed.test=eve@example.org",
]
SENDERS = ["", "amy@example.net", "root@example.org", "amy@localhost", "amy@mx.example.org", "amy@[127.0.0.1]"]


def test_the_server_relays_nothing_for_strangers(server, network, hosts):
    """A connection for each sender, and not more recipients than are answered without a delay."""
    recipients = itertools.cycle(FOREIGN)
    for sender in SENDERS:
        with stranger(network) as client:
            client.ehlo("localhost")
            for recipient in itertools.islice(recipients, 4):
                assert client.mail(sender)[0] == 250
                code, text = client.rcpt(recipient)
                assert code // 100 == 5, (sender, recipient, text)
                client.rset()


@pytest.mark.parametrize("port", [465, 587])
def test_a_port_of_submission_takes_nothing_from_strangers(server, network, port):
    with network.elsewhere(), connect(port, US, tls=port == 465) as client:
        if port == 587:
            client.starttls(context=careless())
        for sender in ("", "amy@localhost"):
            client.ehlo("localhost")
            assert client.mail(sender)[0] == 530
            assert client.rcpt("eve@right.signed.test")[0] == 503
