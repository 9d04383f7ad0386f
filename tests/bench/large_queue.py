"""A large queue: what a start with it takes, and what it costs the mail beside it.  Not part of `make bench`.

    python -m tests.bench.large_queue --envelopes 1000000 --domains 1000

    rows, written by the store itself --> start: seconds to the banner, a new mail delivered, the first old one tried
                                      --> all scanned: CPU of all processes while nothing comes, memory
                                      --> smtpctl: seconds of each command, and of a mail meanwhile
                                      --> new mail: CPU a mail;  the same before, with an empty queue

Old mail is for domains whose next hops are ports of this machine where nothing listens.  Needs root; everything happens
in namespaces of its own and below one directory that is removed.
"""

import argparse
import contextlib
import hashlib
import os
import shutil
import smtplib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from smtpd.envelope import Kind, MailParameters, Origin, Recipient, envelope_id
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import Add, Message, untried
from tests.bench.server import Smtpd
from tests.bench.testbed import RECIPIENT, TOP, USERS, Testbed, inside, unshared

CONFIGURATION = """
smtp limit max-mails 1000000
table routes file:{routes}
listen on 127.0.0.1 port {port} hostname here.test
action "local" maildir
action "routed" relay domain <routes>
match from any for domain "here.test" action "local"
match from any for any action "routed"
"""
DEAD_PORTS = range(20_000, 20_100)  # nothing listens there
FIRST_MESSAGE = 0x10000000
PAGE = 5000  # messages of one transaction
WEEK = 7 * 86400  # seconds
CONTENT = b"Subject: old\n\nold\n"
LONGEST = 600.0  # seconds
TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds


class Large(Smtpd):
    """smtpd with a queue that is filled before its start."""

    def __init__(self, testbed, domains):
        self.testbed = testbed
        self.directory = testbed.next_run(self.NAME)
        self.state, self.log = self.directory / "state", self.directory / "log"
        routes = (f"d{n}.dead.test smtp://127.0.0.1:{DEAD_PORTS[n % len(DEAD_PORTS)]}\n" for n in range(domains))
        (self.directory / "routes").write_text("".join(routes))
        self.domains = domains

    def configuration(self):
        conf = self.directory / "smtpd.conf"
        conf.write_text(CONFIGURATION.format(port=self.PORT, routes=self.directory / "routes"))
        return conf

    def fill(self, envelopes):
        """So many messages of one envelope each, as an earlier run would have left them."""
        spool = self.state / "spool"
        store = SQLiteStore(str(spool))
        now = int(time.time())
        origin = Origin("amy@there.test", "127.0.0.1", "localhost", "there.test", "here.test", "", True)
        digest = hashlib.sha256(CONTENT).digest()
        for first in range(0, envelopes, PAGE):
            changes = []
            for number in range(first, min(first + PAGE, envelopes)):
                message, address = FIRST_MESSAGE + number, f"u{number}@d{number % self.domains}.dead.test"
                recipient = Recipient(address, address, "routed", Kind.MTA, "", "")
                envelope = untried(
                    envelope_id(message, 1), store.run, now - 3600, now + WEEK, origin, recipient, MailParameters()
                )
                changes.append(Add(Message(message, len(CONTENT), digest, CONTENT), [envelope]))
            store.apply(changes)
            store.settle()
        store.close()
        for path in spool.glob("queue.db*"):
            os.chown(path, USERS["_smtpq"], USERS["_smtpq"])

    def smtpctl(self, *words):
        """The seconds that it took, and what it printed."""
        command = [sys.executable, "-P", "-m", "smtpctl", "--state", str(self.state), *words]
        begun = time.monotonic()
        done = subprocess.run(command, capture_output=True, text=True, cwd="/", env=self.environment(), timeout=LONGEST)
        return time.monotonic() - begun, done.stdout + done.stderr

    def statistics(self):
        pairs = (line.split("=", 1) for line in self.smtpctl("show", "stats")[1].splitlines() if "=" in line)
        return {name: int(value) for name, value in pairs if value.isdecimal()}

    def cpu(self):
        """Seconds that all its processes have used."""
        return sum(self.times().values()) * TICK

    def memory(self):
        """Title -> MiB that only this process has."""
        found = {}
        for rollup in Path("/proc").glob("[0-9]*/smaps_rollup"):
            with contextlib.suppress(OSError):
                title = (rollup.parent / "cmdline").read_bytes().rstrip(b"\0").decode()
                if title.startswith("smtpd: "):
                    private = [line.split()[1] for line in rollup.read_text().splitlines() if line[:8] == "Private_"]
                    found[title.removeprefix("smtpd: ")] = sum(map(int, private)) // 1024
        return found


def send(server, count=1):
    with smtplib.SMTP("127.0.0.1", server.PORT, local_hostname="client.test", timeout=LONGEST) as client:
        for _ in range(count):
            client.sendmail("amy@there.test", [f"{RECIPIENT}@here.test"], "Subject: new\r\n\r\n" + "x" * 4000 + "\r\n")


def wait(condition, pause=0.05):
    """Seconds until it holds."""
    begun = time.monotonic()
    while not condition():
        if time.monotonic() - begun > LONGEST:
            raise SystemExit(f"large_queue: {condition.__name__} takes too long")
        time.sleep(pause)
    return time.monotonic() - begun


def new_mail(server, maildir, count):
    """CPU of all processes of the server, ms a mail, until all have arrived; and mails a second."""
    before, used, begun = len(os.listdir(maildir / "new")), server.times(), time.monotonic()
    send(server, count)
    wait(lambda: len(os.listdir(maildir / "new")) >= before + count)
    seconds = time.monotonic() - begun
    shares = {role: (ticks - used.get(role, 0)) * TICK * 1000 / count for role, ticks in server.times().items()}
    parts = ", ".join(f"{role} {share:.2f}" for role, share in shares.items() if share)
    return f"{sum(shares.values()):.2f} ms CPU a mail, {count / seconds:.0f} mails/s: {parts}"


def measure(options):
    testbed = Testbed(Path(options.testbed))
    server = Large(testbed, options.domains)
    server.start()
    maildir = testbed.new_maildir(RECIPIENT)
    send(server)
    wait(lambda: (maildir / "new").is_dir() and os.listdir(maildir / "new"))
    for _ in range(3):
        say("new mail, empty queue", new_mail(server, maildir, options.mails))
    empty = server.memory()
    server.stop()

    begun = time.monotonic()
    server.fill(options.envelopes)
    say("filled", f"{time.monotonic() - begun:.0f} s, {(server.state / 'spool/queue.db').stat().st_size >> 20} MiB")
    before, log_bytes, begun = len(os.listdir(maildir / "new")), server.log.stat().st_size, time.monotonic()
    server.start()
    say("banner", f"{time.monotonic() - begun:.1f} s")
    send(server)
    say("a new mail accepted", f"{time.monotonic() - begun:.1f} s")
    wait(lambda: len(os.listdir(maildir / "new")) > before)
    say("a new mail delivered", f"{time.monotonic() - begun:.1f} s")
    wait(lambda: b"dead.test" in server.log.read_bytes()[log_bytes:])
    say("an old mail tried", f"{time.monotonic() - begun:.1f} s")
    wait(lambda: server.statistics().get("scheduler.envelope", 0) >= options.envelopes, pause=2)
    say("all scanned", f"{time.monotonic() - begun:.0f} s")
    time.sleep(options.settle)
    for title, private in server.memory().items():
        say(f"memory of {title}", f"{private} MiB, {private - empty.get(title, 0)} more than with an empty queue")
    used, begun = server.times(), time.monotonic()
    time.sleep(options.rest)
    seconds, after = time.monotonic() - begun, server.times()
    shares = {role: (after[role] - used.get(role, 0)) * TICK / seconds for role in after}
    parts = ", ".join(f"{role} {share:.2%}" for role, share in shares.items() if share)
    say("CPU at rest", f"{sum(shares.values()):.2%}: {parts}")
    for _ in range(3):
        say("new mail, large queue", new_mail(server, maildir, options.mails))
    domain = "d0.dead.test"
    orders = [
        ("show", "queue"),
        ("show", "relays"),
        ("show", "hosts"),
        ("show", "stats"),
        ("schedule", "all"),
        ("remove", "destination", domain),
    ]
    for words in orders:
        used = server.cpu()
        before = len(os.listdir(maildir / "new"))
        process_begun = time.monotonic()
        command = [sys.executable, "-P", "-m", "smtpctl", "--state", str(server.state), *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/", env=server.environment(), text=True) as order:
            send(server)
            wait(lambda before=before: len(os.listdir(maildir / "new")) > before)
            beside = time.monotonic() - process_begun
            output, _ = order.communicate(timeout=LONGEST)
        took = time.monotonic() - process_begun
        lines = output.splitlines()
        last = lines[-1][:60] if len(lines) == 1 else f"{len(lines)} lines"
        say(
            " ".join(words),
            f"{took:.1f} s, CPU of smtpd {server.cpu() - used:.1f} s, a mail beside it {beside:.2f} s: {last}",
        )
    server.stop()


def say(what, how):
    print(f"{what:>32}  {how}", flush=True)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.bench.large_queue", description="A large queue.")
    parser.add_argument("--envelopes", type=int, default=100_000)
    parser.add_argument("--domains", type=int, default=1, help="dead ones (default 1)")
    parser.add_argument("--mails", type=int, default=500, help="new ones of a round (default 500)")
    parser.add_argument("--settle", type=float, default=30, help="seconds before the rest is measured (default 30)")
    parser.add_argument("--rest", type=float, default=60, help="seconds of the measurement at rest (default 60)")
    parser.add_argument("--directory", default="/var/tmp", help="on the disk to measure on (default /var/tmp)")
    parser.add_argument("--testbed", help=argparse.SUPPRESS)  # the directory, for the part in the namespaces
    options = parser.parse_args()
    if options.testbed:
        inside()
        measure(options)
        return 0
    directory = tempfile.mkdtemp(prefix="smtpd-large-", dir=options.directory)
    try:
        words = [*sys.argv[1:], "--testbed", directory]
        return subprocess.run(unshared(words, "tests.bench.large_queue"), cwd=TOP).returncode
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
