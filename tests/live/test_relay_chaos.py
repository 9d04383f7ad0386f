"""kill -9 of the daemon, or of one of its processes, while it relays to hosts of which most are slow, refuse, or die.

Each message that was accepted is delivered, or in the queue with its reason; a second copy has an explanation; and a
message to a healthy host is there soon, whatever the others do.  The short form has two kills.
SMTPD_CHAOS_MESSAGES=10000 makes it ten thousand messages with a kill every 20 s; `-s` prints the report.
"""

import collections
import contextlib
import itertools
import os
import random
import re
import shutil
import signal
import smtplib
import statistics
import threading
import time

from tests.live.chaos_hosts import LATER, NEVER, SLOW, Hosts, Kind
from tests.live.conftest import COMPLETE, ROLES, mails, running, until
from tests.live.kill_load import Background
from tests.live.recipient import envelopes
from tests.unique import free_port

MESSAGES = int(os.environ.get("SMTPD_CHAOS_MESSAGES", "200"))
SEED = int(os.environ.get("SMTPD_CHAOS_SEED", "1"))
IS_LONG = MESSAGES > 1000
RATE = 50.0  # messages a second that are handed in, if the daemon takes as many
INTERVAL = 20.0 if IS_LONG else MESSAGES / RATE / 3  # seconds between two kills
CLIENTS = 4
KINDS = [*[Kind.HEALTHY] * 20, *[Kind.SLOW] * 10, *[Kind.REFUSES] * 10, *[Kind.DIES] * 10]
SOON = 2.0  # seconds, at the median
LATE = 30.0  # seconds in which a delivery that was made is known for good, on a busy machine
EMPTY = 300.0  # seconds in which the rest has to be delivered when all hosts are there
CONF = """
smtp limit max-mails 100000
listen on 127.0.0.1 port {{port}}
table hosts file:{hosts}
action "local" maildir
action "out" relay domain <hosts> helo relay.test
match from any for domain "back.test" action "local"
match from any for any action "out"
"""


class Clients:
    """Hand in all messages, at RATE.  What gets no 250 is handed in again, with another subject."""

    def __init__(self, daemon, hosts, sender):
        self.daemon, self.hosts, self.sender = daemon, hosts, sender
        self.accepted = {}  # subject -> when, host
        self.refused = 0
        self._left = collections.deque(range(MESSAGES))
        self._tries = itertools.count(1)
        self._begun = time.monotonic()
        self.done = threading.Event()

    def step(self):
        with contextlib.suppress(OSError, smtplib.SMTPException), self.daemon.client(20) as client:
            client.ehlo()
            while self._left:
                self._send(client, self._left.popleft())
        if not self._left and len(self.accepted) >= MESSAGES:
            self.done.set()
        time.sleep(0.1)

    def _send(self, client, number):
        time.sleep(max(0.0, self._begun + number / RATE - time.monotonic()))
        host, subject = self.hosts[number % len(self.hosts)], f"{number}.{next(self._tries)}"
        content = COMPLETE + f"Subject: {subject}\r\n\r\n".encode() + b"text\r\n" * (1 if number % 10 else 5000)
        try:
            client.sendmail(self.sender, [f"bob@{host.domain}"], content)
        except (OSError, smtplib.SMTPException):
            self.refused += 1
            self._left.append(number)
            raise
        self.accepted[subject] = time.time(), host


class Killer:
    """All of the daemon, or one process of it: it ends then."""

    def __init__(self, daemon):
        self.daemon, self.random = daemon, random.Random(SEED)
        self.kills = []  # when, when it was there again, what

    def kill(self):
        what, when = "all" if len(self.kills) % 2 == 0 else self.random.choice([*ROLES, "parent"]), time.time()
        if what == "all":
            self.daemon.kill()
        else:
            os.kill(self.daemon.pids()[what], signal.SIGKILL)
            self.daemon.ended()
            until(lambda: not self.daemon.descendants(), what="the end of all")
        self.daemon.start()
        self.kills.append((when, time.time(), what))


def explanation(first, second, kills):
    """Why there is a second copy: what happened before the first delivery can have been written down."""
    for when, _, what in kills:
        if first.when - SLOW <= when <= min(second.when, first.when + LATE):
            return f"kill of {what} {when - first.when:+.2f} s"
    for when in first.host.deaths:
        if first.when - 0.1 <= when <= min(second.when, first.when + LATE):
            return f"death of the host {when - first.when:+.2f} s"
    return ""


def rows_of(daemon):
    """Recipient, and reason, of all that is in the queue, by message."""
    return [(row[6].partition("@")[2], row[13]) for row in envelopes(daemon)]


def deliver_the_rest(daemon):
    """Until only what is refused for now is left: the sender has been told of what is refused for good."""

    def is_done():
        daemon.smtpctl("schedule", "all")
        time.sleep(1)
        return all(domain.startswith(Kind.REFUSES) for domain, _ in rows_of(daemon))

    return until(is_done, EMPTY, what="the delivery of all that is not refused")


def test_no_message_is_lost_and_the_healthy_hosts_have_theirs_soon(ground, users, tmp_path):
    path, user = ground / "chaos-hosts", users.make("smtpd-chaos")
    with Hosts(KINDS, free_port()) as hosts:
        path.write_text("".join(f"{host.domain} smtp://{host.address}:{host.port}\n" for host in hosts.all))
        healthy = {host for host in hosts.all if host.kind is Kind.HEALTHY}
        with running(ground, CONF.format(hosts=path)) as daemon:
            begun = time.monotonic()
            clients, killer = Clients(daemon, hosts.all, f"{user}@back.test"), Killer(daemon)
            background = Background(clients.step, CLIENTS)
            try:
                while not clients.done.wait(INTERVAL):
                    killer.kill()
            finally:
                background.stop()
            seconds = time.monotonic() - begun
            hosts.heal()
            deliver_the_rest(daemon)
            until(lambda: all(reason for _, reason in rows_of(daemon)), what="a reason for all that is left")
            left = rows_of(daemon)
            notices = [mail.decode() for mail in mails(users.home(user))]
            shutil.copy(daemon.log_path, tmp_path / "log")
            log = daemon.log
    refused = {subject for subject, (_, host) in clients.accepted.items() if host.kind is Kind.REFUSES}
    refused_for_good = {subject for subject in refused if clients.accepted[subject][1].refusal == NEVER}
    lost = [subject for subject in clients.accepted if subject not in refused and not hosts.copies[subject]]
    waits = [
        hosts.copies[subject][0].when - when
        for subject, (when, host) in clients.accepted.items()
        if host in healthy and hosts.copies[subject]
    ]
    doubles = {
        subject: [explanation(first, second, killer.kills) for first, second in itertools.pairwise(copies)]
        for subject, copies in hosts.copies.items()
        if len(copies) > 1
    }
    print(
        "",
        f"{len(clients.accepted)} accepted, {clients.refused} refused, in {seconds:.0f} s; {len(killer.kills)} kills",
        f"healthy hosts: median {statistics.median(waits):.2f} s, 90 % {sorted(waits)[len(waits) * 9 // 10]:.2f} s",
        f"{len(notices)} notices, {len(left)} in the queue; {len(doubles)} of {len(hosts.copies)} came more than once:",
        *(f"  {subject} of {hosts.copies[subject][0].host.domain}: {why}" for subject, why in doubles.items()),
        sep="\n",
    )
    assert not lost
    told = collections.Counter(re.findall(r"^Subject: ([0-9.]+)$", "".join(notices), re.MULTILINE))
    # What the client did not hear the 250 of may have been accepted all the same, and be refused, too.
    assert refused_for_good <= told.keys() and set(told.values()) <= {1}
    assert len(left) >= len(refused) - len(refused_for_good) and all(LATER in reason for _, reason in left)
    assert all(NEVER in notice for notice in notices)
    assert all(all(why) for why in doubles.values()), doubles
    assert "Traceback" not in log
    assert statistics.median(waits) < SOON
