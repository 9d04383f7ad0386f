"""TLS policy and choice of hosts of the running daemon, with a DNS, MX hosts and policy hosts of a private internet.

One daemon and one mail for each case, all of which are sent at the beginning; each test waits for the end of its own.
The domains of the cases are below `signed.test`, whose zone is secure, and `plain.test`, whose zone is not.
"""

import contextlib
import hashlib
import shutil
import sqlite3
import time

import pytest
from cryptography.hazmat.primitives import serialization

from tests.live.certificate import Authority
from tests.live.conftest import COMPLETE, Daemon, until
from tests.live.encrypted import careless
from tests.live.name_servers import NameServers
from tests.live.network import Network
from tests.live.next_hop import server_context
from tests.live.recipient import envelopes, logged
from tests.live.relay_bed import SILENT6, UNREACHABLE6, MxHost, Others, PolicyHost, policy

CONF = """
pki mx.here.test cert "{directory}/mx.crt"
pki mx.here.test key "{directory}/mx.key"
listen on 127.0.0.1 port {port} tls pki mx.here.test
action "out" relay
action "verified" relay tls
action "careless" relay tls no-verify
match from any for domain {{ "verified.plain.test", "verified-not.plain.test" }} action "verified"
match from any for domain "careless.signed.test" action "careless"
match from any for any action "out"
"""
# RFC 7672: TLSA records of `right` are of its certificate, those of `wrong` of none.
DIGEST = "00" * 32
BROKEN_DS = f"DS 4711 13 2 {DIGEST}"


class World:
    """`signed`, `plain`: records of the zones."""

    def __init__(self, others, directory):
        self.others, self.directory = others, directory
        self.signed, self.plain = "ns A 127.0.0.1\n", ""
        self.hosts = {}
        self.authority, self.stranger = Authority("ours"), Authority("theirs")
        self.anchor = self.stranger.below("between")
        self.policies = {}

    def mx(self, name, *, by=None, names=(), starttls=True, records=True, **more):
        """A host `name`.signed.test, whose certificate is for that name; below an authority that nothing trusts, unless
        `by` says another one."""
        tls = None
        if starttls:
            identity = (by or self.stranger).issue(*(names or (f"{name}.signed.test",)))
            self.identity = identity
            tls = server_context(identity, self.directory, name)
        host = self.hosts[name] = self.others.serve(MxHost(self.others.address(), tls, **more))
        if records:
            self.signed += f"{name} A {host.address}\n"
        return host

    def tlsa(self, name, record):
        self.signed += f"_25._tcp.{name} TLSA {record}\n"

    def ee(self):
        """DANE-EE(3) SPKI(1) SHA2-256(1), RFC 7672 3.1.1, of the certificate that was made last."""
        public = self.identity.certificate.public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        return f"3 1 1 {hashlib.sha256(public.public_bytes(serialization.Encoding.DER, form)).hexdigest()}"

    def ta(self):
        """DANE-TA(2) Cert(0) SHA2-256(1), RFC 7672 3.1.2, of an authority that is part of the chain."""
        der = self.anchor.certificate.public_bytes(serialization.Encoding.DER)
        return f"2 0 1 {hashlib.sha256(der).hexdigest()}"

    # -- domains --------------------------------------------------------------------------------------

    def route(self, domain, *hosts, zone="signed"):
        """MX records of `domain`.`zone`.test, the first host the best."""
        lines = "".join(f"{domain} MX {10 * (at + 1)} {host}.signed.test.\n" for at, host in enumerate(hosts))
        setattr(self, zone, getattr(self, zone) + lines)

    def sts(self, domain, answer, host="policy"):
        """RFC 8461 3.1, 3.3"""
        self.plain += f'_mta-sts.{domain} TXT "v=STSv1; id=1;"\nmta-sts.{domain} A {self.hosts[host].address}\n'
        self.policies[f"mta-sts.{domain}.plain.test"] = answer


def dane(world):
    world.mx("right")
    world.tlsa("right", world.ee())
    world.mx("wrong")
    world.tlsa("wrong", f"3 1 1 {DIGEST}")
    world.mx("bogus")
    world.signed += f"_tcp.bogus NS ns\n_tcp.bogus {BROKEN_DS}\n"
    world.mx("unusable")
    world.tlsa("unusable", f"1 1 1 {DIGEST}")
    world.mx("no-starttls", starttls=False)
    world.tlsa("no-starttls", f"3 1 1 {DIGEST}")
    world.mx("target")
    world.tlsa("target", world.ee())
    world.signed += "alias CNAME target\n"
    world.mx("ta", by=world.anchor)
    world.tlsa("ta", world.ta())
    world.mx("ta-name", by=world.anchor, names=("other.test",))
    world.tlsa("ta-name", world.ta())
    for name in ("right", "wrong", "bogus", "unusable", "no-starttls", "alias", "ta", "ta-name"):
        world.route(f"dane-{name}", name)
    world.route("dane-wrong-right", "wrong", "right")
    world.route("dane-insecure", "wrong", zone="plain")
    world.route("careless", "wrong")


def mta_sts(world):
    names = ("good", "bad", "unnamed", "testing", "none", "redirect", "long", "kept", "over")
    identity = world.authority.issue(*(f"mta-sts.sts-{name}.plain.test" for name in names))
    context = server_context(identity, world.directory, "policy")
    world.hosts["policy"] = world.others.serve(PolicyHost(world.others.address(), context), 443, context)
    broken = server_context(world.stranger.issue("mta-sts.sts-broken.plain.test"), world.directory, "broken")
    world.hosts["policy-broken"] = world.others.serve(PolicyHost(world.others.address(), broken), 443, broken)
    world.mx("trusted", by=world.authority, keywords=("REQUIRETLS",))
    world.mx("untrusted")
    hosts = {"good": "trusted"}
    enforced = policy("enforce", "*.signed.test")
    for name in (*names, "broken"):
        world.route(f"sts-{name}", hosts.get(name, "untrusted"), zone="plain")
    world.sts("sts-good", enforced)
    world.sts("sts-bad", enforced)
    world.sts("sts-unnamed", policy("enforce", "other.signed.test"))
    world.sts("sts-testing", policy("testing", "other.signed.test"))
    world.sts("sts-none", policy("none"))
    world.sts("sts-redirect", b"HTTP/1.1 301 Moved\r\nLocation: https://elsewhere.test/\r\nContent-Length: 0\r\n\r\n")
    world.sts("sts-long", b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n" + b"x" * 100_000)
    world.sts("sts-broken", enforced, "policy-broken")
    for host in ("policy", "policy-broken"):
        world.hosts[host].answers = world.policies


def levels(world):
    world.mx("clear", starttls=False)
    world.mx("failing", starttls=False, broken=True)
    world.mx("memory")
    for name, host in (
        ("clear", "clear"),
        ("encrypted", "untrusted"),
        ("failing", "failing"),
        ("verified", "trusted"),
        ("verified-not", "untrusted"),
        ("memory", "memory"),
        ("requiretls-insecure", "trusted"),
    ):
        world.route(name, host, zone="plain")
    world.route("requiretls", "trusted")
    world.route("requiretls-absent", "right")


def hosts_of_domains(world):
    world.mx("first", starttls=False)
    world.mx("second", starttls=False)
    dead = world.others.address()
    world.signed += f"dead A {dead}\n"
    world.route("order", "first", "second")
    world.route("dead-first", "dead", "second")
    world.route("null", zone="plain")
    world.plain += "null MX 0 .\n"
    for number in range(1, 31):
        world.signed += f"plenty MX {number} plenty{number}\n"
        world.signed += f"plenty{number} A {world.hosts['first'].address if number == 20 else dead}\n"
    for name, address in (("unreachable", UNREACHABLE6), ("silent", SILENT6)):
        host = world.mx(f"{name}6", starttls=False)
        assert host
        world.signed += f"{name}6 AAAA {address}\n"
        world.route(name, f"{name}6")
        world.route(f"{name}-again", f"{name}6")
    world.signed += f"servfail NS ns\nservfail {BROKEN_DS}\n"


REQUIRETLS = ("requiretls", "requiretls-absent", "requiretls-insecure")
LATER = {"sts-kept", "sts-over", "memory", "silent-again", "unreachable-again"}  # mails that the tests send


@pytest.fixture(scope="module")
def world(ground, users, tmp_path_factory):
    directory = tmp_path_factory.mktemp("internet")
    with contextlib.ExitStack() as stack:
        stack.enter_context(Network())
        here = World(stack.enter_context(Others()), directory)
        for part in (dane, mta_sts, levels, hosts_of_domains):
            part(here)
        bad = {
            "_tcp.bogus.signed.test": f"_25 TLSA 3 1 1 {DIGEST}\n",
            "servfail.signed.test": "@ MX 10 first.signed.test.\n",
        }
        zones = {"signed.test": here.signed} | bad
        options = {"silent": ["silent.test"], "lost": ["lost.test"]}
        stack.enter_context(NameServers(directory, zones, {"plain.test": here.plain}, "signed.test", **options))
        here.daemon = Daemon(ground, CONF)
        stack.callback(shutil.rmtree, here.daemon.directory)
        here.stranger.issue("mx.here.test").write(here.daemon.directory, "mx")
        (directory / "resolv.conf").write_text("nameserver 127.0.0.1\n")
        here.authority.write(directory, "system")
        start(here)
        stack.callback(lambda: here.daemon.running() and here.daemon.kill())
        send_all(here)
        yield here
        assert here.daemon.stop() == 0, here.daemon.log


def start(world):
    """With the name server and the authorities of the private internet."""
    mounts = {"resolv.conf": "/etc/resolv.conf", "system.ca": "/etc/ssl/certs/ca-certificates.crt"}
    script = "".join(f"mount --bind {world.directory}/{name} {path} && " for name, path in mounts.items())
    world.daemon.start(prefix=("unshare", "--mount", "sh", "-c", script + 'exec "$0" "$@"'))


def send_all(world):
    zones = {"signed": world.signed, "plain": world.plain}
    domains = {
        f"{line.split()[0]}.{zone}.test"
        for zone, records in zones.items()
        for line in records.splitlines()
        if " MX " in line
    }
    domains |= {"servfail.signed.test", "silent.test", "lost.test", "nowhere.plain.test"}
    with client(world) as session:
        for domain in sorted(domains):
            name = domain.partition(".")[0]
            if name not in LATER:
                send(session, domain, name in REQUIRETLS)


@contextlib.contextmanager
def client(world):
    with world.daemon.client() as session:
        session.starttls(context=careless())
        yield session


def send(session, domain, require_tls=False):
    options = ["REQUIRETLS"] if require_tls else []
    assert not session.sendmail("amy@here.test", [f"bob@{domain}"], COMPLETE + b"\r\nx\r\n", options)


def mail_to(world, domain):
    with client(world) as session:
        send(session, domain)


# -- what became of a mail ---------------------------------------------------------------------------------


class Delivery:
    """A line of the log about a mail, and those of its connection."""

    def __init__(self, world, line):
        self.line = line
        session = line.partition(" ")[0]
        self.lines = [one for one in world.daemon.log.splitlines() if one.startswith(session)]
        self.tls = next((one for one in self.lines if " mta tls " in one), "")
        self.policy = next((one for one in self.lines if " policy=" in one), "").partition("policy=")[2].strip('"')
        self.valid = any('cert-check result="valid"' in one for one in self.lines)
        self.host = line.partition('relay="')[2].partition(")")[0].partition("(")[2].partition(".")[0]


def delivered(world, domain, count=1):
    try:
        words = (" mta delivery ", f"to=<bob@{domain}>", 'result="Ok"')
        found = until(lambda: (lines := logged(world.daemon, *words)) and len(lines) >= count and lines, 40, domain)
        return Delivery(world, found[-1])
    except AssertionError:
        raise AssertionError(f"{domain}:\n{about(world, domain)}") from None


def delayed(world, domain, *words):
    """The destination waits, for this reason, and nothing was delivered."""
    try:
        lines = until(lambda: logged(world.daemon, f"relay: {domain} delayed for ", *words), 40, f"{domain} {words}")
    except AssertionError:
        raise AssertionError(f"{domain}: {words}\n{about(world, domain)}") from None
    assert not logged(world.daemon, " mta delivery ", f"to=<bob@{domain}>", 'result="Ok"')
    return lines[0]


def failed(world, domain, *words):
    """The sender is told that the mail has failed, with this reason."""
    try:
        until(lambda: logged(world.daemon, "bounce: failed for ", f"rcpt=<bob@{domain}>", *words), 40, f"{words}")
    except AssertionError:
        raise AssertionError(f"{domain}: {words}\n{about(world, domain)}\n{envelopes(world.daemon)}") from None


def about(world, domain):
    lines = world.daemon.log.splitlines()
    return "\n".join([line for line in lines if domain in line] + lines[-30:])


# -- DANE, RFC 7672 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["right", "alias", "ta"])
def test_dane_that_matches(world, name):
    """RFC 7672 2.2: DANE-EE without an authority; 2.2.2: an MX host that is an alias, with records at its target;
    3.1.2: DANE-TA."""
    mail = delivered(world, f"dane-{name}.signed.test")
    assert (mail.policy, mail.valid) == ("DANE", True), mail.lines


@pytest.mark.parametrize(
    "name, reason",
    [
        ("wrong", "no TLSA record matches"),  # RFC 7672 2.2: the host is not used
        ("bogus", "TLSA lookup of bogus.signed.test failed"),  # RFC 7672 2.1.2
        ("no-starttls", "STARTTLS"),  # RFC 7672 2.2: TLS is mandatory
        ("ta-name", "ostname mismatch"),  # RFC 7672 3.2.2: of DANE-TA the name counts
    ],
)
def test_dane_that_does_not(world, name, reason):
    delayed(world, f"dane-{name}.signed.test", reason)
    assert not [to for to, *_ in world.hosts[name].mails if to == f"bob@dane-{name}.signed.test"]


def test_dane_without_a_usable_record(world):
    """RFC 7672 2.2: TLS is mandatory, authentication is not possible."""
    mail = delivered(world, "dane-unusable.signed.test")
    assert mail.policy == "DANE without a usable TLSA record" and mail.tls and not mail.valid


def test_dane_of_the_next_mx_host(world):
    """RFC 7672 2.2: "the SMTP client … MUST NOT deliver mail to" a host that fails, and tries the others."""
    assert delivered(world, "dane-wrong-right.signed.test").host == "right"


def test_dane_needs_a_secure_mx_answer(world):
    """RFC 7672 2.2.1"""
    mail = delivered(world, "dane-insecure.plain.test")
    assert "DANE" not in mail.policy and mail.tls


def test_an_exception_of_the_administrator(world):
    mail = delivered(world, "careless.signed.test")
    assert mail.policy == "action says no-verify" and mail.tls


# -- MTA-STS, RFC 8461 ---------------------------------------------------------------------------------------


def test_mta_sts_enforce(world):
    """RFC 8461 5: "enforce"."""
    mail = delivered(world, "sts-good.plain.test")
    assert (mail.policy, mail.valid) == ("MTA-STS policy of sts-good.plain.test", True)


def test_mta_sts_enforce_and_a_certificate_that_does_not_verify(world):
    """RFC 8461 4.2"""
    delayed(world, "sts-bad.plain.test", "certificate of the server")


def test_mta_sts_enforce_and_a_host_that_is_not_named(world):
    """RFC 8461 4.1"""
    delayed(world, "sts-unnamed.plain.test", "does not name untrusted.signed.test")


def test_mta_sts_testing(world):
    """RFC 8461 5: "testing": mail is delivered as without a policy."""
    mail = delivered(world, "sts-testing.plain.test")
    assert mail.policy.endswith("MTA-STS policy of sts-testing.plain.test in testing mode") and mail.tls


def test_mta_sts_none(world):
    """RFC 8461 5: "none"."""
    assert "MTA-STS" not in delivered(world, "sts-none.plain.test").policy


@pytest.mark.parametrize(
    "name, reason",
    [
        ("broken", "TLS: certificate of the server: "),
        ("redirect", "status 301"),
        ("long", "body is longer than 65536 bytes"),
    ],
)
def test_mta_sts_that_cannot_be_fetched(world, name, reason):
    """RFC 8461 3.3: the certificate of the policy host, redirects, size; 5.1: without a policy mail goes as it does."""
    assert "MTA-STS" not in delivered(world, f"sts-{name}.plain.test").policy
    assert logged(world.daemon, f"MTA-STS policy of sts-{name}.plain.test cannot be fetched: {reason}")


# -- levels ------------------------------------------------------------------------------------------------------


def test_opportunistic(world):
    """RFC 7435: any certificate is better than clear text."""
    assert delivered(world, "encrypted.plain.test").tls
    assert not delivered(world, "clear.plain.test").tls


def test_opportunistic_tls_that_does_not_work(world):
    """RFC 7435 3: clear text, over another connection."""
    assert not delivered(world, "failing.plain.test").tls
    assert world.hosts["failing"].connections >= 2


def test_an_action_that_wants_verified_tls(world):
    mail = delivered(world, "verified.plain.test")
    assert (mail.policy, mail.valid) == ("action requires verified TLS", True)
    delayed(world, "verified-not.plain.test", "certificate of the server")


def test_requiretls(world):
    """RFC 8689 4.2.1: MX secured by DNSSEC, a certificate that verifies, and the keyword; it is passed on."""
    assert delivered(world, "requiretls.signed.test").valid
    assert any("REQUIRETLS" in mail for to, _, mail in world.hosts["trusted"].mails if "requiretls" in to)


@pytest.mark.parametrize("domain", ["requiretls-absent.signed.test", "requiretls-insecure.plain.test"])
def test_requiretls_that_cannot_be(world, domain):
    """RFC 8689 4.2.1, 5: without the keyword, or without a secure MX answer, it fails at once."""
    failed(world, domain, "REQUIRETLS")


# -- hosts, RFC 5321 5.1 --------------------------------------------------------------------------------------


def test_the_best_mx_host_is_tried_first(world):
    assert delivered(world, "order.signed.test").host == "first"


def test_a_dead_first_mx_host(world):
    assert delivered(world, "dead-first.signed.test").host == "second"


def test_thirty_mx_hosts(world):
    """RFC 5321 5.1: there may be a limit; the twentieth is within it."""
    assert delivered(world, "plenty.signed.test").host == "plenty20"


def test_null_mx(world):
    """RFC 7505 3"""
    failed(world, "null.plain.test", "does not accept mail")


def test_a_domain_that_does_not_exist(world):
    failed(world, "nowhere.plain.test", "nowhere.plain.test")


@pytest.mark.parametrize("domain", ["servfail.signed.test", "lost.test"])
def test_servfail(world, domain):
    """RFC 5321 5.1: temporary; a bogus answer is SERVFAIL too, RFC 4035 5.5."""
    delayed(world, domain, f"MX lookup of {domain}: the name server answered SERVFAIL")


def test_a_time_out(world):
    delayed(world, "silent.test", "MX lookup of silent.test: ")


@pytest.mark.parametrize("name", ["unreachable", "silent"])
def test_a_dead_family(world, name):
    """RFC 8305 5: the other family is tried a moment later, and in the same attempt; 4: that is remembered."""
    mail = delivered(world, f"{name}.signed.test")
    assert f'relay="{world.hosts[f"{name}6"].address} ' in mail.line
    tried = logged(world.daemon, " mta connecting ", f"host={name}6.signed.test")
    assert "[2001:" in tried[0] and "[2001:" not in tried[1] and len(tried) == 2
    mail_to(world, f"{name}-again.signed.test")
    delivered(world, f"{name}-again.signed.test")
    assert "[2001:" not in logged(world.daemon, " mta connecting ", f"host={name}6.signed.test")[2]


# -- over a restart: the last tests, in their order ------------------------------------------------------------


def test_a_host_that_has_offered_tls_and_does_not_any_more(world):
    """Over a restart: an attacker who hides STARTTLS has not only to wait for one."""
    mail_to(world, "memory.plain.test")
    assert delivered(world, "memory.plain.test").tls
    world.hosts["memory"].tls = None
    assert world.daemon.stop() == 0
    edit_kept_policies(world)
    start(world)
    mail_to(world, "memory.plain.test")
    until(lambda: logged(world.daemon, "relay: memory.plain.test delayed for ", "STARTTLS"), 40)
    assert len(world.hosts["memory"].mails) == 1


def edit_kept_policies(world):
    """What fetches of an earlier time have left: a policy that holds, and one that is over."""
    now = int(time.time())
    enforced = (
        "INSERT INTO sts_policy (domain, id, mode, mx, max_age, fetched) VALUES (?, '1', 'enforce', 'a.test', ?, ?)"
    )
    with sqlite3.connect(world.daemon.state / "spool/queue.db") as database:
        assert ("sts-good.plain.test", "enforce") in database.execute("SELECT domain, mode FROM sts_policy").fetchall()
        database.execute(enforced, ("sts-kept.plain.test", 86_400, now - 1000))
        database.execute(enforced, ("sts-over.plain.test", 900, now - 1000))
    database.close()


def test_a_policy_that_is_kept_holds_although_it_cannot_be_fetched(world):
    """RFC 8461 3.3, 5.1: over a restart, and without a TXT record."""
    mail_to(world, "sts-kept.plain.test")
    delayed(world, "sts-kept.plain.test", "MTA-STS policy of sts-kept.plain.test does not name untrusted.signed.test")


def test_a_policy_that_is_over(world):
    """RFC 8461 3.2: max_age."""
    mail_to(world, "sts-over.plain.test")
    assert "MTA-STS" not in delivered(world, "sts-over.plain.test").policy
