"""kill -9 of one process, several, all, the parent, an agent, a command, under a mixed load that never ends.

What got its 250 is exactly once in a Maildir and at least once elsewhere, and nothing is stuck at the end.  The short
form is a few kills; SMTPD_KILLS=1000 makes it a thousand, SMTPD_KILL_SEED another run.  At about a second a kill and
more on a busy machine; with `-s` all doubles are printed, and what explains each.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.live.conftest import ROLES, lives, running, until
from tests.live.kill_load import CONF, Background, Clients, Editors, Reader, lmtp, places_of
from tests.live.kill_verdict import Kill, arrivals, judge
from tests.live.recipient import envelopes

KILLS = int(os.environ.get("SMTPD_KILLS", "6"))
SEED = int(os.environ.get("SMTPD_KILL_SEED", "1"))
CLIENTS = 6
ALONE = 15.0 if KILLS > 100 else 1.0  # seconds that the queue has before an administrator schedules all of it
STUCK = 240.0  # seconds without a mail that is accepted, on a busy machine
EMPTY = 180.0  # seconds after the last kill in which the queue has to be empty
CHOICES = {"agent": 70, "command": 30, "several": 2, "all": 2, "delivery": 12, "parent": 2, "nursery": 1}
CHOICES |= dict.fromkeys(ROLES, 1)
FIRST = ("agent", "parent", "command", "all", "delivery", "queue")  # those of the short form
VITAL = {*ROLES, "parent", "nursery"}


class Killer:
    """Kills, starts again what has ended, and keeps what the log says of it."""

    def __init__(self, daemon, places, server, source):
        self.daemon, self.places, self.server, self.random = daemon, places, server, source
        self.kills, self.troubles, self.starts = [], [], 0
        self._read = 0  # bytes of the log

    def processes(self):
        """(title, pid) of everything; "other" for commands and what the nursery has just forked."""
        titles, found = set(), []
        for pid in [self.daemon.process.pid, *self.daemon.descendants()]:
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
                title = line.removeprefix("smtpd: ") if line.startswith("smtpd: ") else "other"
                if title in VITAL and title in titles:
                    title = "other"
                titles.add(title)
                found.append((title, pid))
        return found

    def kill(self):
        if not self.daemon.running():
            self.check()
            self.start()
        (kind,) = self.random.choices([*CHOICES], [*CHOICES.values()])
        if len(self.kills) < len(FIRST):
            kind = FIRST[len(self.kills)]
        if kind == "delivery":
            self._wait_for_delivery()
        processes = self.processes()
        victims = self._victims(kind, processes)
        if not victims:
            return
        self.kills.append(Kill(time.time(), kind, victims, any(title in VITAL for title, _ in victims)))
        for _, pid in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.kills[-1].vital:
            self.daemon.ended()
            until(lambda: not any(lives(pid) for _, pid in processes), what="the end of all")
        self.kills[-1].over = time.time()
        self.check()
        if not self.daemon.running():
            self.start()

    def _victims(self, kind, processes):
        vital = [one for one in processes if one[0] in VITAL]
        others = [one for one in processes if one[0] not in VITAL]
        match kind:
            case "agent":
                return self._some([one for one in others if one[0] != "other"], 1)
            case "command":
                return self._some([one for one in others if one[0] == "other"], 2)
            case "several":
                return self._some(processes, self.random.randint(2, 5))
            case "all":
                return processes
            case "delivery":
                one = self.random.choice([vital, others, others])
                return self.random.choice([one, self._some(one, 1)])
        return [one for one in vital if one[0] == kind]

    def _some(self, processes, count):
        return self.random.sample(processes, min(count, len(processes)))

    def _wait_for_delivery(self):
        """At most half a second, until something has just been delivered somewhere."""
        before, end = self._delivered(), time.monotonic() + 0.5
        while time.monotonic() < end and self._delivered() == before:
            time.sleep(0.001)

    def _delivered(self):
        found = [len(self.server.mails)]
        for place in self.places.values():
            for path in ("Maildir/new", "Maildir/tmp", "ran"):
                with contextlib.suppress(FileNotFoundError, TypeError):
                    found.append((place.home / path).stat().st_mtime_ns)
        return found

    def standing(self):
        """What each process does, twice: state, processor time, and where it waits."""
        lines = []
        for _ in range(2):
            for title, pid in self.processes():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                    place = Path(f"/proc/{pid}/wchan").read_text()
                    lines.append(f"{title}, pid {pid}: {fields[0]} {fields[11]}+{fields[12]} {place}")
            time.sleep(3)
        return lines

    def start(self):
        """Again when it ends at once, which is a trouble all the same: what it has accepted is still to be found.

        As if some minutes had passed: a dot-lock that a killed parent has left behind counts no more.
        """
        self.starts += 1
        for left in (self.daemon.state / "mail").glob("*.lock"):
            os.utime(left, (0, time.time() - 600))
        try:
            self.daemon.start()
        except (AssertionError, subprocess.TimeoutExpired):
            self.troubles += ["the daemon has not started:", *self.daemon.log.splitlines()[-5:]]
            self.daemon.start()

    def check(self):
        """The log since the last time: nobody ends but whom we have killed, and nothing of ours is raised."""
        with self.daemon.log_path.open("rb") as log:
            log.seek(self._read)
            text = log.read()
        self._read += len(text)
        ours = {pid for kill in self.kills[-3:] for _, pid in kill.victims}
        lines = text.decode(errors="replace").splitlines()
        for line in lines:
            if "lost child: " in line and int(line.partition(", pid ")[2].split(",")[0]) not in ours:
                self.troubles.append(line)
            if "Traceback" in line:
                self.troubles += [*lines[lines.index(line) :][:30]]
        if not self.daemon.running() and not (self.kills and self.kills[-1].vital):
            self.troubles += ["the daemon has ended by itself:", *lines[-20:]]


@pytest.fixture
def places(users):
    return places_of(users, [users.make(f"smtpd-kill{number}") for number in range(5)])


def emptied(daemon):
    """What was held, and what was still there after a while; the queue is empty then."""
    end = time.monotonic() + EMPTY
    until(lambda: not envelopes(daemon) or time.monotonic() > end - EMPTY + ALONE, 60)
    left = envelopes(daemon)
    while envelopes(daemon) and time.monotonic() < end:
        daemon.smtpctl("schedule", "all", check=False)
        time.sleep(1)
    return left


def test_nothing_is_lost_or_stuck_and_a_maildir_has_it_once(ground, users, places, tmp_path):
    source = random.Random(SEED)
    server = lmtp()
    owner = places["maildir"].home.stat()
    conf = CONF.format(lmtp=server.target, uid=owner.st_uid, gid=owner.st_gid)
    reader, editors = Reader(places), Editors(places)
    with running(ground, conf) as daemon:
        clients = Clients(daemon, places, SEED)
        killer = Killer(daemon, places, server, source)
        backgrounds = [Background(clients.step, CLIENTS), Background(editors.step), Background(reader.step)]
        begun = time.monotonic()
        try:
            while len(killer.kills) < KILLS:
                goal = len(clients.accepted) + source.randint(0, 6)
                until(lambda goal=goal: len(clients.accepted) >= goal, STUCK, what="progress")
                killer.kill()
        except AssertionError as error:  # the rest of the report is wanted all the same
            killer.troubles += [str(error)[-2000:], *killer.standing(), *daemon.log.splitlines()[-20:]]
            if not daemon.running():
                daemon.start()
        finally:
            for background in backgrounds:
                background.stop()
        took = time.monotonic() - begun
        left = emptied(daemon)
        stuck = envelopes(daemon)
        killer.check()
        found = arrivals(places, reader, server, daemon.state / "mail")
        verdict = judge(clients, places, found, killer.kills)
        shutil.copy(daemon.log_path, tmp_path / "log")
        (tmp_path / "queue").write_text("\n".join(map(str, [*left, "", *stuck])))
        spooled = [str(path) for path in (daemon.state / "spool").rglob("*") if path.is_file()]
    troubles = killer.troubles + [line for background in backgrounds for line in background.troubles]
    report = [
        f"{len(killer.kills)} kills and {killer.starts} starts in {took:.0f} s",
        f"{Counter(kill.kind for kill in killer.kills)}",
        f"{len(clients.accepted)} accepted, {len(clients.unheard)} unheard, {clients.refused} refused",
        f"{editors.edits} edits; {reader.moved} moved by the reader, {reader.deleted} of them deleted",
        f"{len(left)} waited {ALONE:.0f} s after the end: {Counter((row[3], row[13]) for row in left)}",
        str(dict(verdict.counts)),
    ]
    print("", f"the daemon's log is in {tmp_path}", *report, *verdict.doubles, *troubles, *verdict.violations, sep="\n")
    assert not verdict.violations
    assert not troubles
    assert not stuck
    assert [path for path in spooled if "queue.db" not in path and "lock" not in path] == []
