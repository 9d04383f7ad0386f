"""Where the mail goes: what each server is told, how it is sent, when all of it has arrived.

place     the servers' way there                      all has arrived when
maildir   one system user, ~/Maildir                  so many files lie in new/
mbox      one system user, the system's mailbox       so many lines "From " stand in it
lmtp      one user of a Dovecot that runs beside      so many files lie in that user's new/
users     200 system users, ~/Maildir                 each of them has his share
flood     as maildir, with many mails
coded     as maildir, beside smtpd with a queue that is compressed, or encrypted
relay     another host, an smtp-sink that runs beside   it has taken so many mails, and ends
domains   1000 domains, the MX of each one of 50 hosts  as relay: it has the addresses of all hosts

starttls  none: sessions that encrypt and leave (handshake.py), the certificate of an RSA key of 2048 bits
p256      the same with an ECDSA key
"""

import contextlib
import os
import re
import subprocess
from dataclasses import dataclass

import pytest

from tests.bench.handshake import Attempts
from tests.bench.load import Load, environment
from tests.bench.many_domains import ZONE, domain
from tests.bench.testbed import PEERS, POPULATION, RECIPIENT, Unavailable
from tests.live import dovecot
from tests.live.name_servers import NameServers
from tests.live.network import Network

LMTP_PORT = 2424
SINK_PORT = 2626
DOMAINS = 1000
MX_ADDRESSES = [f"192.0.2.{number}" for number in range(101, 151)]


@dataclass(frozen=True)
class Source:
    """One run of smtp-source, or of many_domains.py."""

    recipient: str
    messages: int
    sessions: int
    numbered: bool = False  # each mail to another recipient: a number before the name
    domains: int = 0  # so many, of many_domains.py


class Scenario:
    NAME = LABEL = ""
    MESSAGES = 2000  # a round
    AGAINST = ("smtpd", "postfix", "opensmtpd")
    ACTION, FOR = "maildir", 'domain "here.test"'  # of smtpd and OpenSMTPD
    POSTFIX = "home_mailbox = Maildir/"
    KEY = ""  # the kind of the server's key; empty: no TLS

    def __init__(self, testbed):
        """Fresh, for one start of a server."""
        self.testbed = testbed

    @classmethod
    def load(cls, options):
        return Load(options.messages or cls.MESSAGES, options.size, options.sessions, options.kept)

    def sources(self, load):
        return [Source(RECIPIENT, load.messages, load.sessions)]

    def missing(self, server, count):
        """How many of `count` mails have not arrived.  Looks as seldom and as little as it can: it costs what it
        measures."""
        raise NotImplementedError

    def close(self):
        pass


class Maildir(Scenario):
    NAME, LABEL = "maildir", "one user's Maildir"

    def __init__(self, testbed):
        super().__init__(testbed)
        self.maildir = testbed.new_maildir(RECIPIENT)

    def missing(self, server, count):
        return count - files_in(self.maildir / "new")


class Flood(Maildir):
    NAME, LABEL = "flood", "one user's Maildir"
    MESSAGES = 10_000
    AGAINST = ("smtpd", "postfix")


class Coded(Maildir):
    NAME = "coded"
    AGAINST = ("smtpd", "compressed", "encrypted")


class Mbox(Scenario):
    NAME, LABEL = "mbox", "one user's mailbox"
    ACTION = "mbox"
    POSTFIX = "mail_spool_directory = {mail}"
    LINE = re.compile(rb"^From ", re.MULTILINE)

    def __init__(self, testbed):
        super().__init__(testbed)
        self.read = self.found = 0

    def missing(self, server, count):
        """Reads on where it stopped, up to the last end of a line."""
        path = server.mail / RECIPIENT
        if path.exists():
            with path.open("rb") as mailbox:
                mailbox.seek(self.read)
                lines, end, _ = mailbox.read().rpartition(b"\n")
            self.found += len(self.LINE.findall(lines))
            self.read += len(lines + end)
        return count - self.found


class Lmtp(Scenario):
    NAME, LABEL = "lmtp", "one user of a Dovecot, by LMTP"
    AGAINST = ("smtpd", "postfix")
    ACTION = f'lmtp "127.0.0.1:{LMTP_PORT}"'
    POSTFIX = f"local_transport = lmtp:inet:127.0.0.1:{LMTP_PORT}"

    def __init__(self, testbed):
        super().__init__(testbed)
        if dovecot.MISSING:
            raise Unavailable(dovecot.MISSING)
        self.dovecot = dovecot.Dovecot(testbed.next_run("dovecot"), LMTP_PORT, RECIPIENT)
        self.dovecot.add_user(RECIPIENT)
        self.dovecot.start()

    def missing(self, server, count):
        return count - files_in(self.dovecot.homes / RECIPIENT / "Maildir/new")

    def close(self):
        self.dovecot.kill()


class Users(Scenario):
    NAME, LABEL = "users", f"the Maildirs of {len(POPULATION)} users"
    MESSAGES = 1000

    def __init__(self, testbed):
        super().__init__(testbed)
        self.waiting = [testbed.new_maildir(name) for name in POPULATION]

    def sources(self, load):
        """Each sends one mail to everybody, one after the other; --sessions does not count here."""
        numbered = POPULATION[0].lstrip("0123456789")
        return [Source(numbered, len(POPULATION), 1, True)] * max(1, load.messages // len(POPULATION))

    def missing(self, server, count):
        """Looks only at the first one who still waits; how many the others wait for, it does not know."""
        share = count // len(POPULATION)
        while self.waiting and files_in(self.waiting[0] / "new") >= share:
            self.waiting.pop(0)
        return len(self.waiting)


class Relay(Scenario):
    NAME, LABEL = "relay", "relayed to one host"
    ACTION = f"relay host smtp+notls://127.0.0.1:{SINK_PORT}"
    POSTFIX = f"mydestination =\nrelayhost = [127.0.0.1]:{SINK_PORT}"
    sink = None

    def sources(self, load):
        """Each server says so many mails over a connection as it likes."""
        self.start_sink(load, f"127.0.0.1:{SINK_PORT}")
        return super().sources(load)

    def start_sink(self, load, address):
        program = PEERS / "postfix/usr/sbin/smtp-sink"
        command = [program, "-4", "-u", "postfix", "-M", str(load.messages), address, "1024"]
        self.sink = subprocess.Popen(command, env=environment())

    def missing(self, server, count):
        return count if self.sink.poll() is None else 0

    def close(self):
        if self.sink is not None:
            self.sink.kill()
            self.sink.wait()


class Domains(Relay):
    NAME, LABEL = "domains", f"relayed to {DOMAINS} domains at {len(MX_ADDRESSES)} hosts"
    MESSAGES = 10_000
    AGAINST = ("smtpd", "postfix")
    ACTION, FOR = "relay", "any"
    POSTFIX = "mydestination ="

    def __init__(self, testbed):
        """The hosts are in a network of their own, as no server relays to an MX that is itself.  The name servers know
        nothing of the domains when a round begins."""
        super().__init__(testbed)
        self.stack = contextlib.ExitStack()
        zone = [f"mx{number} A {address}\n" for number, address in enumerate(MX_ADDRESSES)]
        zone += [f"{domain(number)}. MX 10 mx{number % len(MX_ADDRESSES)}\n" for number in range(DOMAINS)]
        try:
            self.network = self.stack.enter_context(Network())
            self.network.connect("eth0", "192.0.2.1/24", *(f"{address}/24" for address in MX_ADDRESSES))
            names = NameServers(testbed.next_run("dns"), {"signed.test": ""}, {ZONE: "".join(zone)}, "signed.test")
            self.stack.enter_context(names)
        except (AssertionError, pytest.skip.Exception) as missing:
            self.close()
            raise Unavailable(str(missing)) from None

    def sources(self, load):
        with self.network.elsewhere():
            self.start_sink(load, "0.0.0.0:25")
        return [Source("", load.messages, load.sessions, domains=DOMAINS)]

    def close(self):
        super().close()
        self.stack.close()


class Starttls(Maildir):
    NAME, LABEL = "starttls", "RSA-2048"
    KEY = "rsa"
    AGAINST = ("smtpd", "postfix")  # OpenSMTPD 6.8 and OpenSSL 3: "EVP lib", and no signature

    @classmethod
    def load(cls, options):
        return Attempts(options.rate, options.clients, options.seconds)


class P256(Starttls):
    NAME, LABEL = "p256", "ECDSA, P-256"
    KEY = "p256"


def files_in(directory):
    return len(os.listdir(directory)) if directory.is_dir() else 0


OF_MAIL = {place.NAME: place for place in (Maildir, Mbox, Lmtp, Users, Flood, Relay, Domains)}
SCENARIOS = OF_MAIL | {place.NAME: place for place in (Coded, Starttls, P256)}
