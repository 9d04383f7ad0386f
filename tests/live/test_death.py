"""What happens when a process dies: the daemon stops, and says who and why.  Nothing that was accepted is lost."""

import os
import random
import shutil
import signal
import smtplib
import subprocess
import threading
import uuid

import pytest

from tests.live.conftest import ROLES, Daemon, empty_maildir, mails, until


@pytest.mark.parametrize("role", [*ROLES, "nursery"])
def test_the_death_of_a_process_stops_the_daemon_and_is_said(make_daemon, role):
    daemon = make_daemon().start()
    everybody = daemon.descendants()
    os.kill(daemon.pids()[role], signal.SIGKILL)
    assert daemon.process.wait(20) != 0
    assert role in daemon.log and "SIGKILL" in daemon.log
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in everybody), what="the end of all others")


def test_nothing_survives_the_parent(make_daemon):
    daemon = make_daemon().start()
    everybody = daemon.descendants()
    daemon.process.kill()
    daemon.process.wait()
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in everybody), what="the end of all others")


@pytest.mark.skipif(not shutil.which("gdb"), reason="gdb is not installed")
def test_a_forbidden_system_call_is_named(make_daemon):
    """A dispatcher that is made to ask for a shell: it dies, and the log names process and system call."""
    daemon = make_daemon().start()
    pid = daemon.pids()["dispatcher"]
    command = ["gdb", "-batch", "-nx", "-p", str(pid), "-ex", "call (int)execve(0, 0, 0)"]
    subprocess.run(command, capture_output=True, timeout=60)
    assert daemon.process.wait(20) != 0
    assert "dispatcher" in daemon.log and "SIGSYS" in daemon.log and "execve" in daemon.log, daemon.log


class Senders:
    """Clients that never stop sending, and remember the token of every mail that got its 250."""

    def __init__(self, daemon, recipient, count):
        self.daemon, self.recipient = daemon, recipient
        self.accepted = set()
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=self._send, daemon=True) for _ in range(count)]
        for thread in self.threads:
            thread.start()

    def _send(self):
        while not self.ended.is_set():
            try:
                with smtplib.SMTP("127.0.0.1", self.daemon.port, local_hostname="c.test", timeout=10) as client:
                    for _ in range(5):
                        self._one(client)
            except (OSError, smtplib.SMTPException):
                self.ended.wait(0.05)

    def _one(self, client):
        token = uuid.uuid4().hex
        size = random.choice([10, 2000, 40_000])
        client.sendmail("a@there.test", [self.recipient], f"Subject: {token}\r\n\r\n{'x' * 60}\r\n" * (1 + size // 100))
        with self.lock:
            self.accepted.add(token)

    def stop(self):
        self.ended.set()
        for thread in self.threads:
            thread.join(15)


def tokens(home):
    return [mail.partition(b"Subject: ")[2][:32].decode() for mail in mails(home)]


@pytest.mark.parametrize("dispatchers", [1, 2])
def test_never_lost_and_never_250_too_early(ground, users, alice, dispatchers):
    """Twenty kills, of one process or of all: each mail that got its 250 is in the Maildir exactly once."""
    home = users.home(alice)
    empty_maildir(home)
    conf = f"dispatchers {dispatchers}\n" + (
        'listen on 127.0.0.1 port {port}\naction "local" maildir\nmatch from any for any action "local"\n'
    )
    daemon = Daemon(ground, conf).start()
    senders = Senders(daemon, f"{alice}@here.test", 50)
    source = random.Random(dispatchers)
    try:
        for _ in range(20):
            before = len(senders.accepted)
            until(lambda before=before: len(senders.accepted) > before + 20, 60, what="progress")
            victim = source.choice([*ROLES, "nursery", "everything"])
            if victim == "everything":
                daemon.kill()
            else:
                title = source.choice([title for title in daemon.pids() if title.startswith(victim)])
                os.kill(daemon.pids()[title], signal.SIGKILL)
                assert daemon.process.wait(20) != 0
            daemon.start()
        senders.stop()
        until(lambda: daemon.smtpctl("show", "queue").stdout == "", 120, what="an empty queue")
    finally:
        senders.stop()
        daemon.kill()
    found = tokens(home)
    assert len(senders.accepted) > 400
    missing = senders.accepted - set(found)
    assert not missing, f"{len(missing)} of {len(senders.accepted)} are lost"
    twice = {token for token in found if found.count(token) > 1}
    assert not twice, f"{len(twice)} of {len(found)} came twice"
    shutil.rmtree(daemon.directory)
