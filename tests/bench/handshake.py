"""One measurement of a server that encrypts: clients that come and go, and one in the clear that wants to be answered.

    client.py, two processes    EHLO, STARTTLS, handshake, EHLO, QUIT     as many as are asked for, as many as it can
    here                        NOOP, every 50 ms                         how long until its answer

CPU is the server's alone: its processes with all they have started.  What the clients need is of no account, but they
want processors too: a machine that is full answers late.
"""

import json
import os
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace

from tests.bench.load import TICK, of_each_process, shares_of, ticks_of
from tests.bench.testbed import TOP, Unavailable

PROCESSES = 2  # of clients
EVERY = 0.05  # seconds
WAIT_MAX = 30.0  # seconds that the clients may take longer
NOOPS = 50  # of one session: servers count those that bring no mail


@dataclass(frozen=True)
class Attempts:
    """A load."""

    rate: int
    clients: int
    seconds: float

    def short(self):
        return replace(self, seconds=2)

    def __str__(self):
        return f"{self.rate} handshakes a second asked for, by {self.clients} clients, for {self.seconds:.0f} s"

    def run(self, server):
        shares, ticks = server.times(), ticks_of(server.process.pid)
        running = [self._start(server.PORT) for _ in range(PROCESSES)]
        try:
            end = time.monotonic() + self.seconds + WAIT_MAX
            waits = answer_times(server.PORT, lambda: time.monotonic() < end and running[0].poll() is None)
            told = [json.loads(process.communicate(timeout=WAIT_MAX)[0]) for process in running]
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"{error!r}: {server.last_words()}") from None
        finally:
            for process in running:
                process.kill()
        done, failed = (sum(one[count] for one in told) for count in ("done", "failed"))
        if failed > done / 100:
            raise Unavailable(f"{failed} of {done + failed} failed: {told[0]['complaint']}: {server.last_words()}")
        cpu = (ticks_of(server.process.pid) - ticks) * TICK / done
        rate = done / max(one["seconds"] for one in told)
        return Handshakes(rate, cpu, *told_in_short(waits), of_each_process(server, shares, done))

    def _start(self, port):
        counts = [str(number) for number in (port, self.clients // PROCESSES, self.rate / PROCESSES, self.seconds)]
        command = [sys.executable, "-P", "-m", "tests.bench.client", *counts]
        environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(TOP)}
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


@dataclass(frozen=True)
class Handshakes:
    """A measure."""

    rate: float  # a second
    cpu: float  # ms a handshake, of the server
    median: float  # ms until NOOP is answered
    late: float  # the 99th of a hundred
    latest: float
    shares: list = field(default_factory=list)  # (process, ms a handshake)

    HEADING = f"{'done/s':>9}{'ms CPU':>9}   NOOP ms: median   99 %    max"
    UNIT = "handshake"

    def __str__(self):
        return f"{self.rate:6.0f} handshakes/s {self.cpu:6.2f} ms CPU of the server, NOOP within {self.latest:.0f} ms"

    def cells(self):
        return f"{self.rate:9.0f}{self.cpu:9.2f}{self.median:18.1f}{self.late:7.1f}{self.latest:7.1f}"

    @classmethod
    def middle(cls, measures):
        """Of the times only that until most NOOPs are answered: how late the others came is no matter of luck."""
        rate, cpu, typical = (
            statistics.median(getattr(m, name) for m in measures) for name in ("rate", "cpu", "median")
        )
        late, latest = (max(getattr(m, name) for m in measures) for name in ("late", "latest"))
        return cls(rate, cpu, typical, late, latest, shares_of(measures))


def told_in_short(waits):
    ordered = sorted(waits)
    return 1000 * statistics.median(ordered), 1000 * ordered[int(len(ordered) * 0.99)], 1000 * ordered[-1]


def answer_times(port, go_on):
    """Seconds, of each NOOP."""
    waits = []
    while go_on():
        with socket.create_connection(("127.0.0.1", port), 30) as sock:
            ask(sock, b"", b"220")
            ask(sock, b"EHLO probe.test\r\n", b"250")
            for _ in range(NOOPS):
                if not go_on():
                    break
                begin = time.monotonic()
                ask(sock, b"NOOP\r\n", b"250")
                waits.append(time.monotonic() - begin)
                time.sleep(max(0, EVERY - waits[-1]))
            ask(sock, b"QUIT\r\n", b"221")
    return waits


def ask(sock, line, code):
    sock.sendall(line)
    answer = b""
    while not answer.endswith(b"\r\n") or answer.splitlines()[-1][3:4] == b"-":
        data = sock.recv(4096)
        if not data:
            raise ConnectionError(f"closed behind {line!r}")
        answer += data
    if not answer.startswith(code):
        raise ConnectionError(f"{answer!r} for {line!r}")
