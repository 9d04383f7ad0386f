"""Runs in namespaces of its own: a daemon of ours and another mail server, which relay to each other on 127.0.0.1.

    stdin   {"directory", "peer", "count"}       directory: root's, empty; peer: of PEERS; count: mails each way
    stdout  {"sent", "arrived", "reports", "seconds", "ours", "theirs"}; contents in base64, logs

    client --2500--> smtpd    --a port for each case--> peer, into the Maildir of READER        domain CASE.to.test
    client --2600--> the peer --a port for each case--> smtpd, into the Maildir of READER       domain CASE.from.test

A case is what TLS and which extensions are used on the way between the two.  Mails are told by a field X-Number; what
stands before it is the trace of the way, what follows is what was sent.  `reports`: the envelope ids of notices that
the peer has sent to SENDER, at its own domain, for NOTIFY=SUCCESS, and of those that were asked for.
"""

import base64
import json
import re
import shutil
import smtplib
import sys
import time
from pathlib import Path

from tests.bench.server import OpenSMTPD, Postfix, Smtpd
from tests.bench.testbed import PEERS as PROGRAMS
from tests.bench.testbed import POPULATION, RECIPIENT, TOP, Testbed, inside
from tests.live.certificate import Authority
from tests.live.postfix import show
from tests.trusted import OPTIONS

READER, SENDER = RECIPIENT, POPULATION[0]
WAIT_MAX = 40.0  # seconds without a mail that arrives
OURS, THEIRS = 2500, 2600
# What a port of the peer lacks; all but "clear" and "bare" have TLS.
KEYWORDS = {"nodsn": "dsn", "no8bit": "8bitmime", "noutf8": "smtputf8", "nopipe": "pipelining", "nochunk": "chunking"}
FLAVOURS = ("full", "clear", "smtps", *KEYWORDS, "bare")
THEIR_PORT = {flavour: THEIRS + 1 + number for number, flavour in enumerate(FLAVOURS)}
OUR_PORT = {name: OURS + 1 + number for number, name in enumerate(("clear", "tls", "required", "smtps", "nodsn"))}

# Our actions: the flavour of the peer's port, protocol, options.
TO = {
    "off": ("full", "smtp+notls", ""),
    "clear": ("clear", "smtp", ""),
    "may": ("full", "smtp", ""),
    "required": ("full", "smtp", "tls no-verify"),
    "verified": ("full", "smtp+tls", "ca own"),
    "smtps": ("smtps", "smtps", "ca own"),
    **{flavour: (flavour, "smtp", "") for flavour in (*KEYWORDS, "bare")},
}
# The peer's ways to us: our port.
FROM = {
    "off": "tls",
    "clear": "clear",
    "may": "tls",
    "required": "required",
    "verified": "tls",
    "smtps": "smtps",
    "nodsn": "nodsn",
    **dict.fromkeys(("no8bit", "noutf8", "nopipe", "nochunk", "bare"), "tls"),
}
NO_DSN = ("nodsn", "bare")
CONVERTED = ("no8bit", "bare")  # cases in which 8-bit content is encoded on the way
HEADER = "X-Number: {number}\nDate: Mon, 30 Nov 2026 10:00:00 +0000\nMessage-ID: <{number}@there.test>\n"
HEADER += "From: amy@there.test\nTo: bob@here.test\nSubject: {subject}\n"
MIME = "MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: {}\n\n"
KINDS = {
    "text": ("plain", MIME.format("7bit") + ".\n..\n.dots\n\nFrom here\n \n\n"),
    "8bit": ("eight", MIME.format("8bit") + "Grüße aus Łódź ☃\n" * 40),
    "long": ("long lines", "\n" + f"{'x' * 998}\n" * 3 + "end\n"),
    "file": ("a file of the spool", MIME.format("8bit") + "0123456789 äöü\n" * 3000),
    "utf8": ("Grüße ☃", MIME.format("8bit") + "Schöne Grüße\n"),
    "dsn": ("notify me", "\nwith parameters\n"),
    "empty": ("no body", "\n"),
}


class Mail:
    def __init__(self, number, way, case, kind):
        self.number, self.way, self.case, self.kind = f"{way}-{number}", way, case, kind
        subject, rest = KINDS[kind]
        self.content = (HEADER.format(number=self.number, subject=subject) + rest).encode()

    def send(self, client):
        sender, terms, recipient_terms = "amy@there.test", [], []
        if not self.content.isascii():
            terms.append("BODY=8BITMIME")
        if self.kind == "utf8":
            terms.append("SMTPUTF8")
        if self.kind == "dsn":
            terms += ["RET=HDRS", f"ENVID={self.number}"]
            recipient_terms = ["NOTIFY=SUCCESS,FAILURE", "ORCPT=rfc822;orig@there.test"]
            sender = f"{SENDER}@{self.case}.to.test"
        recipient = f"{READER}@{self.case}.{self.way}.test"
        client.sendmail(sender, [recipient], self.content.replace(b"\n", b"\r\n"), terms, recipient_terms)


class OurServer(Smtpd):
    PORT = OURS

    def configuration(self):
        cert, key = self.place.certificate
        lines = [
            "smtp limit max-mails 1000000",
            f'pki here.test cert "{cert}" key "{key}"',
            f'ca own cert "{self.place.authority}"',
            f'ca other cert "{self.place.other}"',
            f"listen on 127.0.0.1 port {OURS} hostname here.test",
        ]
        words = {"tls": "tls", "required": "tls-require", "smtps": "smtps", "nodsn": "tls no-dsn", "clear": ""}
        for name, port in OUR_PORT.items():
            tls = f"{words[name]} pki here.test" if words[name] else ""
            lines.append(f"listen on 127.0.0.1 port {port} hostname here.test {tls}")
        cases = {**self.place.cases, "untrusted": ("full", "smtp+tls", "ca other")}
        for case, (flavour, protocol, options) in cases.items():
            lines.append(f'action "{case}" relay host {protocol}://127.0.0.1:{THEIR_PORT[flavour]} {options}')
            lines.append(f'match from any for domain "{case}.to.test" action "{case}"')
        lines += ['action "local" maildir', 'match from any for domain "*.from.test" action "local"']
        conf = self.directory / "smtpd.conf"
        conf.write_text("\n".join(lines) + "\n")
        return conf

    def command(self):
        return [*super().command(), *OPTIONS]


class PostfixPeer(Postfix):
    PORT = THEIRS
    TO, FROM, UTF8, REPORTS = tuple(TO), tuple(FROM), True, True
    CLIENT = {
        "off": "smtp_tls_security_level=none",
        "clear": "smtp_tls_security_level=may",
        "may": "smtp_tls_security_level=may",
        "required": "smtp_tls_security_level=encrypt",
        "verified": "smtp_tls_security_level=secure",
        "smtps": "smtp_tls_security_level=encrypt -o smtp_tls_wrappermode=yes",
        "nodsn": "smtp_tls_security_level=may",
        **{case: f"smtp_discard_ehlo_keywords={word}" for case, word in KEYWORDS.items() if case != "nodsn"},
        "bare": f"smtp_discard_ehlo_keywords={','.join(KEYWORDS.values())}",
    }

    @property
    def SERVICES(self):
        lines = [super().SERVICES]
        for flavour, port in THEIR_PORT.items():
            tls = "none" if flavour in ("clear", "bare") else "may"
            options = f"-o smtpd_tls_security_level={tls}"
            if flavour == "smtps":
                options += " -o smtpd_tls_wrappermode=yes"
            if lacks := ",".join(KEYWORDS.values()) if flavour == "bare" else KEYWORDS.get(flavour):
                options += f" -o smtpd_discard_ehlo_keywords={lacks}"
            lines.append(f"127.0.0.1:{port} inet n - n - - smtpd {options}")
        lines += [f"{case} unix - - n - - smtp -o {options}" for case, options in self.CLIENT.items()]
        return "\n".join(lines) + "\n"

    def command(self):
        cert, key = self.place.certificate
        domains = ", ".join(f"{case}.to.test" for case in self.TO)
        ways = " ".join(f"{{{{{case}.from.test = {case}:[127.0.0.1]:{OUR_PORT[FROM[case]]}}}}}" for case in self.FROM)
        self.place.POSTFIX = (
            "home_mailbox = Maildir/\nmessage_size_limit = 50000000\nline_length_limit = 2048\n"
            f"smtpd_tls_cert_file = {cert}\nsmtpd_tls_key_file = {key}\nmydestination = {domains}\n"
            f"smtp_tls_CAfile = {self.place.authority}\nsmtp_tls_secure_cert_match = here.test\n"
            f"transport_maps = inline:{{{{{ways}}}}}\nqueue_run_delay = 5s\nminimal_backoff_time = 5s\n"
            "default_process_limit = 20\nin_flow_delay = 0\n"
        )
        return super().command()


class EximPeer(Postfix):
    """8BITMIME is offered at all its ports: its option has no condition."""

    NAME = LABEL = "exim"
    PORT, TREE = THEIRS, PROGRAMS / "exim4-daemon-light"
    TO = tuple(case for case in TO if case not in CONVERTED)
    FROM = tuple(case for case in FROM if case not in (*CONVERTED, "noutf8"))
    UTF8 = REPORTS = True
    CLIENT = {
        "off": "hosts_avoid_tls = *",
        "required": "hosts_require_tls = *",
        "verified": "hosts_require_tls = *\n tls_verify_hosts = *\n tls_verify_certificates = {ca}",
        "smtps": "protocol = smtps",
        "nopipe": "hosts_avoid_pipelining = *",
        "nochunk": "hosts_try_chunking =",
    }
    SETTINGS = """
primary_hostname = here.test
exim_path = {tree}/usr/sbin/exim4
spool_directory = {directory}/spool
log_file_path = {directory}/log-%s
pid_file_path = {directory}/pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {ports}
tls_on_connect_ports = {smtps}
tls_certificate = {cert}
tls_privatekey = {key}
tls_advertise_hosts = ${{if or{{{{={{$received_port}}{{{clear}}}}}{{={{$received_port}}{{{port}}}}}}}{{}}{{*}}}}
dsn_advertise_hosts = ${{if ={{$received_port}}{{{nodsn}}}{{}}{{*}}}}
smtputf8_advertise_hosts = ${{if ={{$received_port}}{{{noutf8}}}{{}}{{*}}}}
pipelining_advertise_hosts = ${{if ={{$received_port}}{{{nopipe}}}{{}}{{*}}}}
chunking_advertise_hosts = ${{if ={{$received_port}}{{{nochunk}}}{{}}{{*}}}}
acl_smtp_rcpt = accept_all
smtp_accept_max = 0
smtp_accept_queue_per_connection = 0
host_lookup =
keep_environment =
begin acl
accept_all:
 accept
begin routers
{routers}
here:
 driver = accept
 domains = {domains}
 check_local_user
 transport = maildir
begin transports
maildir:
 driver = appendfile
 directory = $home/Maildir
 maildir_format
{transports}
begin retry
* * F,1h,5s
"""

    def command(self):
        if not (self.TREE / "usr/sbin/exim4").exists():
            raise SystemExit("exim is not here (tests/peers.sh)")
        cert, key = self.place.certificate
        names = {name: THEIR_PORT[name] for name in FLAVOURS}
        own_key = self.directory / "key"
        own_key.touch(0o640)
        own_key.write_bytes(key.read_bytes())
        shutil.chown(own_key, group="Debian-exim")
        routers, transports = [], []
        for case in self.FROM:
            options = self.CLIENT.get(case, "").format(ca=self.place.authority)
            routers.append(
                f"{case}:\n driver = manualroute\n domains = {case}.from.test\n transport = {case}\n"
                " route_list = * localhost byname\n self = send\n host_find_failed = defer"
            )
            transports.append(
                f"{case}:\n driver = smtp\n port = {OUR_PORT[FROM[case]]}\n allow_localhost\n"
                f" dnssec_request_domains =\n hosts_try_dane =\n interface = 127.0.0.1\n {options}"
            )
        more = {
            "tree": self.TREE, "directory": self.directory, "port": THEIRS, "cert": cert, "key": own_key,
            "ports": " : ".join(str(port) for port in (THEIRS, *names.values())),
            "domains": " : ".join(f"{case}.to.test" for case in self.TO),
            "routers": "\n".join(routers), "transports": "\n".join(transports),
        }  # fmt: skip
        conf = self.testbed.directory / "etc/exim4"
        conf.mkdir()
        (conf / "exim4.conf").write_text(self.SETTINGS.format(**more, **names))
        self.testbed.make(f"{self.directory.name}/spool", "Debian-exim", 0o750)
        self.directory.chmod(0o777)
        return [str(self.TREE / "usr/sbin/exim4"), "-bdf", "-q5s"]


class OpenSMTPDPeer(OpenSMTPD):
    """It has neither SMTPUTF8 nor CHUNKING, PIPELINING nor options about them.  OpenSMTPD 6.8 with OpenSSL 3 offers TLS
    and cannot sign ("EVP lib"), so what does not require TLS arrives in the clear."""

    PORT = THEIRS
    TO = ("off", "clear", "may", "nodsn")
    FROM = ("off", "clear", "may", "required", "verified", "smtps", "nodsn")
    UTF8, REPORTS = False, False
    CLIENT = {"off": "smtp+notls", "required": "smtp+tls", "verified": "smtp+tls", "smtps": "smtps"}

    def configuration(self):
        cert, key = self.place.certificate
        words = {"full": "tls", "smtps": "smtps", "nodsn": "tls no-dsn", "clear": ""}
        lines = [f'pki here.test cert "{cert}"', f'pki here.test key "{key}"', "smtp limit max-mails 1000000"]
        delays = ("host", "route", "source", "connector", "relay", "domain")
        lines.append(f"mta limit {' '.join(f'conn-delay-{of} 0' for of in delays)}")
        lines.append(f"listen on 127.0.0.1 port {THEIRS} hostname here.test")
        for flavour, word in words.items():
            pki = "pki here.test" if word else ""
            word, _, more = word.partition(" ")
            lines.append(f"listen on 127.0.0.1 port {THEIR_PORT[flavour]} hostname here.test {word} {pki} {more}")
        lines.append('action "local" maildir')
        for case in self.FROM:
            verify = "tls no-verify" if case in ("required", "smtps") else ""
            url = f"{self.CLIENT.get(case, 'smtp')}://localhost:{OUR_PORT[FROM[case]]}"
            lines.append(f'action "{case}" relay host "{url}" {verify}')
            lines.append(f'match from any for domain "{case}.from.test" action "{case}"')
        for case in self.TO:
            lines.append(f'match from any for domain "{case}.to.test" action "local"')
        (self.directory / "smtpd.conf").write_text("\n".join(lines) + "\n")


PEERS = {"postfix": PostfixPeer, "exim": EximPeer, "opensmtpd": OpenSMTPDPeer}


class Place:
    """What both configurations name."""

    KEY = ""

    def __init__(self, ground, cases):
        own = Authority("own")
        directory = ground.make("identity", mode=0o755)
        self.certificate = own.issue("here.test", "localhost", "127.0.0.1", kind="rsa").write(directory, "here.test")
        self.authority, self.other = own.write(directory, "own"), Authority("other").write(directory, "other")
        self.cases = {case: TO[case] for case in cases}
        trusted = ground.directory / "etc/ssl/certs"
        trusted.mkdir(parents=True)
        (trusted / "ca-certificates.crt").write_bytes(self.authority.read_bytes())


def mails_of(peer, count):
    """`count` each way, over all cases and kinds in turn."""
    for way, cases in (("to", peer.TO), ("from", peer.FROM)):
        for number in range(count):
            case = cases[number % len(cases)]
            kind = list(KINDS)[(number + number // len(cases)) % len(KINDS)]
            if kind == "utf8" and not (peer.UTF8 and case not in ("noutf8", *CONVERTED)):
                kind = "text"
            yield Mail(number, way, case, kind)


def send(mails, port):
    with smtplib.SMTP("127.0.0.1", port, local_hostname="client.test", timeout=60) as client:
        for mail in mails:
            mail.send(client)


def maildir(ground, name):
    return [path.read_bytes() for path in (ground.homes[name] / "Maildir").glob("new/*")]


def arrived(ground):
    """Of each number, all contents from X-Number on."""
    found = {}
    for content in maildir(ground, READER):
        at = content.find(b"X-Number: ")
        number = content[at:].partition(b"\n")[0].decode().removeprefix("X-Number: ").strip()
        found.setdefault(number, []).append(content[at:])
    return found


def wait_for(ground, expected):
    seen, since = 0, time.monotonic()
    while seen < expected and time.monotonic() - since < WAIT_MAX:
        time.sleep(0.2)
        now = sum(1 for _ in (ground.homes[READER] / "Maildir").glob("new/*"))
        if now != seen:
            seen, since = now, time.monotonic()


def reports(ground, expected):
    """Envelope ids in notices to SENDER."""
    until, found = time.monotonic() + (20 if expected else 0), set()
    while len(found) < expected and time.monotonic() < until:
        time.sleep(0.2)
        for content in maildir(ground, SENDER):
            found |= set(re.findall(r"(?mi)^Original-Envelope-Id: (\S+)", content.decode(errors="replace")))
    return sorted(found)


def is_told(mail):
    """Whether the peer sends a notice: it has delivered the mail, or given it to a port that does not offer DSN."""
    return TO[mail.case][0] not in NO_DSN if mail.way == "to" else mail.case in NO_DSN


def main():
    order = json.load(sys.stdin)
    kind = PEERS[order["peer"]]
    inside()
    ground = Testbed(Path(order["directory"]))
    for number, path in enumerate((Path(sys.base_prefix), TOP)):
        show(path, ground.make(f"aside-{number}"))
    for name in (READER, SENDER):
        ground.new_maildir(name)
    place = Place(ground, kind.TO)
    peer, ours = kind(ground, place), OurServer(ground, place)
    mails = list(mails_of(kind, order["count"]))
    peer.start()
    try:
        ours.start()
        try:
            begun = time.monotonic()
            send([mail for mail in mails if mail.way == "to"], OURS)
            send([Mail("untrusted", "to", "untrusted", "text")], OURS)
            send([mail for mail in mails if mail.way == "from"], THEIRS)
            wait_for(ground, len(mails))
            seconds = time.monotonic() - begun
            asked = [mail for mail in mails if mail.kind == "dsn" and is_told(mail)]
            told = reports(ground, len(asked) if kind.REPORTS else 0)
        finally:
            ours.stop()
    finally:
        peer.stop()
    logs = [path.read_text(errors="replace") for path in sorted(peer.directory.glob("*log*")) if path.is_file()]
    result = {
        "sent": {mail.number: [mail.case, mail.kind, encode(mail.content)] for mail in mails},
        "arrived": {number: [encode(one) for one in contents] for number, contents in arrived(ground).items()},
        "reports": [told, sorted(mail.number for mail in asked)],
        "seconds": seconds,
        "ours": ours.log.read_text(errors="replace"),
        "theirs": "".join(logs)[-20_000:],
    }
    json.dump(result, sys.stdout)


def encode(content):
    return base64.b64encode(content).decode()


if __name__ == "__main__":
    main()
