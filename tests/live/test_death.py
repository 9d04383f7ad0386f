"""What happens when a process dies: the daemon stops, and says who and why.  Nothing that was accepted is lost."""

import contextlib
import os
import random
import shutil
import signal
import smtplib
import subprocess
import threading
import uuid
from collections import Counter

import pytest

from smtpd import sandbox
from tests.live.conftest import COMPLETE, CONF, ROLES, empty_maildir, lives, mails, running, until


def awaken(daemon, users, name):
    """The pid of an agent of that user."""
    empty_maildir(users.home(name))
    daemon.send(f"{name}@here.test", b"Subject: x\r\n\r\nx\r\n")
    return until(lambda: daemon.pids().get(f"agent of {name}"), what="an agent")


@pytest.mark.parametrize("role", [*ROLES, "nursery"])
def test_the_death_of_a_process_stops_the_daemon_and_is_said(make_daemon, users, alice, role):
    daemon = make_daemon().start()
    awaken(daemon, users, alice)
    everybody, pid = daemon.descendants(), daemon.pids()[role]
    os.kill(pid, signal.SIGKILL)
    assert daemon.ended() != 0
    assert f"lost child: {role}, pid {pid}, killed by SIGKILL" in daemon.log
    until(lambda: not any(lives(pid) for pid in everybody), what="the end of all others")


def test_nothing_survives_the_parent(make_daemon, users, alice):
    """Not even what its user has stopped, and so hears of nothing."""
    daemon = make_daemon().start()
    os.kill(awaken(daemon, users, alice), signal.SIGSTOP)
    everybody = daemon.descendants()
    daemon.process.kill()
    daemon.process.wait()
    until(lambda: not any(lives(pid) for pid in everybody), what="the end of all others")


def test_one_that_hears_nothing_does_not_keep_a_stop_waiting_for_ever(make_daemon):
    daemon = make_daemon().start()
    os.kill(daemon.pids()["scheduler"], signal.SIGSTOP)
    assert daemon.stop() != 0
    assert "scheduler does not end, and is killed" in daemon.log


@pytest.mark.skipif(not shutil.which("gdb"), reason="gdb is not installed")
def test_a_forbidden_system_call_is_named(make_daemon):
    """A dispatcher that is made to ask for a shell: it dies, and the log names process and system call."""
    unknown = "the kernel's log does not tell which"
    call = unknown if sandbox.open_kernel_log() is None else "execve"
    for _ in range(5):  # the kernel leaves lines out where others are killed at the same time, ten in five seconds
        daemon = make_daemon().start()
        pid = daemon.pids()["dispatcher"]
        command = ["gdb", "-batch", "-nx", "-p", str(pid), "-ex", "call (int)execve(0, 0, 0)"]
        subprocess.run(command, capture_output=True, timeout=60)
        assert daemon.ended() != 0
        said = f"lost child: dispatcher, pid {pid}, killed by SIGSYS, forbidden system call: "
        assert said + unknown in daemon.log or said + call in daemon.log
        if said + call in daemon.log:
            return
    raise AssertionError(daemon.log)


class Senders:
    """Clients that never stop sending, and remember every mail that got its 250, by its token."""

    def __init__(self, daemon, recipient, count):
        self.daemon, self.recipient = daemon, recipient
        self.accepted = {}
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self._send, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _send(self):
        while not self.ended.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", self.daemon.port, local_hostname="c.test", timeout=20) as client:
                    for _ in range(5):
                        if not self.ended.is_set():
                            self._one(client)
            except (OSError, smtplib.SMTPException):
                self.ended.wait(0.05)

    def _one(self, client):
        token = uuid.uuid4().hex
        # In the database, in a spool file, and what of it is in a spool file when the process dies.
        lines = f"{'x' * 60}\r\n" * random.choice([1, 30, 600, 3000])
        client.sendmail("a@there.test", [self.recipient], COMPLETE + f"Subject: {token}\r\n\r\n{lines}".encode())
        self.accepted[token] = lines.replace("\r\n", "\n")

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join()


def delivered(home):
    """(token, body) of every mail in the Maildir."""
    parts = [mail.decode().partition("\nSubject: ")[2].partition("\n\n") for mail in mails(home)]
    return [(token, body) for token, _, body in parts]


def kill_one(daemon, source):
    """Any process of the daemon, an agent, or all at once.  Starts it again where that was its end."""
    victim = source.choice([*ROLES, "parent", "nursery", "agent", "everything"])
    if victim == "everything":
        daemon.kill()
    else:
        pids = [pid for title, pid in daemon.pids().items() if title.split()[0] == victim]
        for pid in source.sample(pids, min(1, len(pids))):
            with contextlib.suppress(ProcessLookupError):  # an agent may have left
                os.kill(pid, signal.SIGKILL)
        if victim == "agent":
            return
        assert daemon.ended() != 0
    daemon.start()


@pytest.mark.parametrize("dispatchers", [1, 2])
def test_never_lost_and_never_250_too_early(ground, users, alice, dispatchers):
    """Twenty-four kills, of one process, of an agent, or of all: what got its 250 is in the Maildir exactly once."""
    home = users.home(alice)
    empty_maildir(home)
    source = random.Random(dispatchers)
    with running(ground, f"dispatchers {dispatchers}\n{CONF}") as daemon:
        senders = Senders(daemon, f"{alice}@here.test", 50)
        try:
            for _ in range(24):
                goal = len(senders.accepted) + source.randint(1, 60)
                until(lambda goal=goal: len(senders.accepted) >= goal, what="progress")
                kill_one(daemon, source)
        finally:
            senders.stop()
        until(lambda: daemon.smtpctl("show", "queue").stdout == "", 120, what="an empty queue")
    found = delivered(home)
    assert len(senders.accepted) > 400
    wrong = [token for token, body in found if body != senders.accepted.get(token, body)]
    assert not wrong, f"{len(wrong)} of {len(found)} are not what was sent"
    lost = senders.accepted.keys() - {token for token, _ in found}
    assert not lost, f"{len(lost)} of {len(senders.accepted)} are lost"
    twice = [token for token, count in Counter(token for token, _ in found).items() if count > 1]
    assert not twice, f"{len(twice)} of {len(found)} came twice"
