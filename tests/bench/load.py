"""One measurement: mail goes in, a place fills up; the clocks of the machine before and after."""

import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.bench.testbed import PEERS, TOP, Unavailable

LONGEST = 600.0  # seconds that a round may take, on a busy machine too
TICK = 1000 / os.sysconf("SC_CLK_TCK")  # ms


@dataclass(frozen=True)
class Load:
    messages: int
    size: int
    sessions: int
    kept: bool

    def short(self):
        return replace(self, messages=min(self.messages, 200))

    def run(self, server):
        return run(server, self)

    def __str__(self):
        connections = "kept connections" if self.kept else "one mail a connection"
        return f"{self.messages} mails of {self.size} bytes, {self.sessions} sessions, {connections}"

    def command(self, source, port):
        if source.domains:
            counts = [str(count) for count in (port, source.messages, source.sessions, self.size, source.domains)]
            return [sys.executable, "-P", "-m", "tests.bench.many_domains", *counts, *(["kept"] if self.kept else [])]
        counts = ["-s", str(source.sessions), "-m", str(source.messages), "-l", str(self.size)]
        kept = ["-d"] if self.kept else []
        numbered = ["-N"] if source.numbered else []
        addresses = ["-f", "amy@there.test", "-t", f"{source.recipient}@here.test"]
        program = str(PEERS / "postfix/usr/sbin/smtp-source")
        return [program, "-4", *counts, *kept, *numbered, *addresses, f"127.0.0.1:{port}"]


@dataclass(frozen=True)
class Measure:
    rate: float  # mails a second
    cpu: float  # ms a mail, of all processors
    own: float  # ms a mail, of the server's processes: what others do on the machine is not in it
    shares: list = field(default_factory=list)  # (process, ms a mail)

    HEADING = f"{'mails/s':>9}{'ms CPU':>9}{'its own':>9}"
    UNIT = "mail"

    def __str__(self):
        return f"{self.rate:6.0f} mails/s {self.cpu:6.2f} ms CPU a mail, {self.own:.2f} its own"

    def cells(self):
        return f"{self.rate:9.0f}{self.cpu:9.2f}{self.own:9.2f}"

    @classmethod
    def middle(cls, measures):
        names = ("rate", "cpu", "own")
        rate, cpu, own = (statistics.median(getattr(measure, name) for measure in measures) for name in names)
        return cls(rate, cpu, own, shares_of(measures))


def shares_of(measures):
    """The median of each process's share, the largest first."""
    told = [dict(measure.shares) for measure in measures]
    middle = {
        role: statistics.median(one.get(role, 0) for one in told) for role in {role for one in told for role in one}
    }
    return sorted(middle.items(), key=lambda share: -share[1])


def run(server, load):
    os.sync()
    commands = [load.command(source, server.PORT) for source in server.place.sources(load)]
    shares = server.times()
    busy, own, start = busy_time(), ticks_of(server.process.pid), time.monotonic()
    send(commands, server)
    wait_for(server, load.messages, start + LONGEST)
    seconds, busy, own = time.monotonic() - start, busy_time() - busy, ticks_of(server.process.pid) - own
    shares = of_each_process(server, shares, load.messages)
    return Measure(load.messages / seconds, busy * TICK / load.messages, own * TICK / load.messages, shares)


def of_each_process(server, before, count):
    """(process, ms of each of `count`), since it had used what stands in `before`."""
    return [(role, (ticks - before.get(role, 0)) * TICK / count) for role, ticks in server.times().items()]


def send(commands, server):
    """All of them at once, to their end."""
    running = [subprocess.Popen(each, env=environment(), stderr=subprocess.PIPE, text=True) for each in commands]
    deadline = time.monotonic() + LONGEST
    try:
        for process in running:
            _, errors = process.communicate(timeout=max(0, deadline - time.monotonic()))
            if process.returncode != 0:
                raise Unavailable(f"{errors}{server.last_words()}")
    except subprocess.TimeoutExpired:
        raise Unavailable(f"does not take the mail in {LONGEST:.0f} s: {server.last_words()}") from None
    finally:
        for process in running:
            process.kill()


def environment():
    libraries = f"{PEERS}/postfix/usr/lib/postfix:{PEERS}/postfix/usr/lib/x86_64-linux-gnu"
    return {"PATH": os.environ["PATH"], "LD_LIBRARY_PATH": libraries, "PYTHONPATH": str(TOP)}


def wait_for(server, count, deadline):
    missing = count
    while time.monotonic() < deadline:
        missing = server.place.missing(server, count)
        if missing <= 0:
            return
        time.sleep(0.02)
    raise Unavailable(f"of {count} mails {missing} have not arrived in {LONGEST:.0f} s: {server.last_words()}")


def busy_time():
    """Ticks that any processor has worked since the start of the machine."""
    with open("/proc/stat") as file:
        user, nice, system, _idle, _wait, irq, softirq, *_ = map(int, file.readline().split()[1:])
    return user + nice + system + irq + softirq


def ticks_of(ancestor):
    """What a process and all below it have used, those that have ended and were waited for among them."""
    parents, ticks = {}, {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        pid = int(status.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), sum(map(int, fields[11:15]))
    return sum(used for pid, used in ticks.items() if is_below(pid, ancestor, parents))


def is_below(pid, ancestor, parents):
    while pid and pid != ancestor:
        pid = parents.get(pid, 0)
    return pid == ancestor
