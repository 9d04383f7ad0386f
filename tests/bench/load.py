"""One measurement: smtp-source in, a Maildir that fills up, the clocks of the machine before and after."""

import os
import subprocess
import time
from dataclasses import dataclass, field, replace

from tests.bench.ground import PEERS, RECIPIENT, Unavailable

LONGEST = 300.0  # seconds that a round may take
TICK = 1000 / os.sysconf("SC_CLK_TCK")  # ms


@dataclass(frozen=True)
class Load:
    messages: int
    size: int
    sessions: int
    kept: bool

    def short(self):
        return replace(self, messages=min(self.messages, 200))

    def __str__(self):
        connections = "kept connections" if self.kept else "one mail a connection"
        return f"{self.messages} mails of {self.size} bytes into one Maildir, {self.sessions} sessions, {connections}"

    def command(self, port):
        counts = ["-s", str(self.sessions), "-m", str(self.messages), "-l", str(self.size)]
        kept = ["-d"] if self.kept else []
        addresses = ["-f", "amy@there.test", "-t", f"{RECIPIENT}@here.test"]
        return [str(PEERS / "postfix/usr/sbin/smtp-source"), "-4", *counts, *kept, *addresses, f"127.0.0.1:{port}"]


@dataclass(frozen=True)
class Measure:
    rate: float  # mails a second
    cpu: float  # ms a mail, of all processors
    shares: list = field(default_factory=list)  # (process, ms a mail)

    def __str__(self):
        return f"{self.rate:6.0f} mails/s {self.cpu:6.2f} ms CPU a mail"


def run(server, load):
    os.sync()
    shares = server.times()
    busy, start = busy_time(), time.monotonic()
    send(load.command(server.PORT), server)
    wait_for(server.maildir / "new", load.messages, start + LONGEST)
    seconds, busy = time.monotonic() - start, busy_time() - busy
    spent = {role: ticks - shares.get(role, 0) for role, ticks in server.times().items()}
    costs = [(role, ticks * TICK / load.messages) for role, ticks in spent.items()]
    return Measure(load.messages / seconds, busy * TICK / load.messages, costs)


def send(command, server):
    try:
        subprocess.run(command, check=True, env=environment(), timeout=LONGEST, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"{error.stderr}{server.last_words()}") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"does not take the mail in {LONGEST:.0f} s: {server.last_words()}") from None


def environment():
    libraries = f"{PEERS}/postfix/usr/lib/postfix:{PEERS}/postfix/usr/lib/x86_64-linux-gnu"
    return {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": libraries}


def wait_for(directory, count, deadline):
    """Until that many mails lie there.  Looks seldom: it costs what it measures."""
    found = -1
    while time.monotonic() < deadline:
        found = len(os.listdir(directory)) if directory.is_dir() else 0
        if found >= count:
            return
        time.sleep(0.02)
    raise Unavailable(f"{found} of {count} mails have arrived in {LONGEST:.0f} s")


def busy_time():
    """Ticks that any processor has worked since the start of the machine."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, file.readline().split()[1:])
    return user + nice + system + irq + softirq
