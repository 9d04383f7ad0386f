"""The daemon as an init script starts it: in the background, its log to syslog."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import threading
import time
from functools import partial
from pathlib import Path

import pytest

from tests.live.conftest import PYTHON, mails, until
from tests.namespace import unshare
from tests.trusted import OPTIONS
from tests.unique import MARK

LOG = Path("/dev/log")


class Syslog:
    """A syslogd that remembers, and reads at once: a socket like this one holds no more than ten lines."""

    def __init__(self):
        self.lines = []
        self.begin()

    def begin(self):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(LOG))
        LOG.chmod(0o666)
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self):
        while line := self.socket.recv(8192):
            self.lines.append(line.decode())

    def end(self):
        LOG.unlink()
        self.socket.shutdown(socket.SHUT_RD)
        self.reader.join()
        self.socket.close()

    def has(self, pattern):
        """Whether a line of that form has come by now."""
        return any(re.search(pattern, line) for line in self.lines)

    def wait_for(self, pattern):
        until(lambda: self.has(pattern), what=f"a line like {pattern}")


@pytest.fixture
def syslog():
    if LOG.exists():
        pytest.skip(f"there is a syslogd at {LOG}, and this is no test of it")
    made = Syslog()
    yield made
    made.end()


@contextlib.contextmanager
def in_background(daemon):
    """That daemon, whose first process has returned; `pid` is its parent's."""
    command = [PYTHON, "-m", "smtpd", "--state", str(daemon.state), "-f", str(daemon.conf), *OPTIONS]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", timeout=30)
    assert done.returncode == 0, done.stderr
    daemon.pid = int((daemon.state / "smtpd.pid").read_text())
    try:
        yield daemon
    finally:
        if lives(daemon.pid):
            os.kill(daemon.pid, signal.SIGTERM)
            until(lambda: not lives(daemon.pid), what="its end")


def without_syslog():
    """Words before a command: /dev/log is nothing that could be connected to, whatever there is on this machine."""
    hide = 'mount --bind /dev/null "$0" && exec "$@"'
    return [*unshare(), "sh", "-c", hide, str(LOG)] if LOG.exists() else []


@pytest.mark.parametrize("round", range(3))
def test_a_start_without_syslog_succeeds_whatever_comes_first(make_daemon, users, alice, round):
    """Control asks for syslog at the moment when it says that its sandbox holds: a parent that was not scheduled in
    between reads both at once."""
    daemon = make_daemon()
    command = [*without_syslog(), PYTHON, "-m", "smtpd", "-F", "--state", str(daemon.state)]
    daemon.process = subprocess.Popen([*command, "-f", str(daemon.conf), *OPTIONS], cwd="/")
    until(lambda: {"control", "scheduler"} <= set(daemon.pids()), what="the start of the processes")
    os.kill(daemon.process.pid, signal.SIGSTOP)
    until(partial(sleeps_in_its_sandbox, daemon.pids()["control"]), what="control's loop")
    os.kill(daemon.process.pid, signal.SIGCONT)
    until(lambda: daemon.smtpctl("show", "status", check=False).returncode == 0, what="an answer of smtpctl")
    before = len(mails(users.home(alice)))
    daemon.send(f"{alice}@here.test", b"Subject: x\r\n\r\nx\r\n")
    until(lambda: len(mails(users.home(alice))) > before, what="delivery")
    assert daemon.stop() == 0


def sleeps_in_its_sandbox(pid):
    """It has entered its sandbox, and has done nothing else since the last look."""
    status = Path(f"/proc/{pid}/status").read_text()
    used = Path(f"/proc/{pid}/schedstat").read_text()
    time.sleep(0.2)
    return "Seccomp:\t2" in status and used == Path(f"/proc/{pid}/schedstat").read_text()


def test_a_signal_during_the_start_leaves_nothing_behind(make_daemon):
    daemon = make_daemon()
    command = [PYTHON, "-m", "smtpd", "-d", "--state", str(daemon.state), "-f", str(daemon.conf), *OPTIONS]
    daemon.process = subprocess.Popen(command, cwd="/", stderr=subprocess.PIPE, text=True)
    until(lambda: "control" in daemon.pids(), what="the start of control")
    os.kill(daemon.process.pid, signal.SIGTERM)
    _, said = daemon.process.communicate(timeout=60)
    assert daemon.process.returncode == 0, said
    assert "info: SIGTERM: the start is given up\n" in said or "info: exiting\n" in said
    assert {path.name for path in daemon.state.iterdir()} == {"empty", "offline", "spool"}


def test_a_log_without_a_reader_is_reported_where_the_daemon_was_started(make_daemon):
    daemon = make_daemon()
    command = [*without_syslog(), PYTHON, "-m", "smtpd", "--state", str(daemon.state), "-f", str(daemon.conf)]
    done = subprocess.run([*command, *OPTIONS], capture_output=True, text=True, cwd="/", timeout=60)
    pid = int((daemon.state / "smtpd.pid").read_text())
    os.kill(pid, signal.SIGTERM)
    until(lambda: not lives(pid), what="its end")
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr == "smtpd: warn: no syslogd listens at /dev/log yet: start one, or smtpd with -d\n"


@pytest.fixture
def background(make_daemon, syslog):
    with in_background(make_daemon()) as daemon:
        yield daemon


def lives(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"smtpd: parent")
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(daemon):
    """Title -> pid."""
    pids = Path(f"/proc/{daemon.pid}/task/{daemon.pid}/children").read_text().split()
    titles = {Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(): int(pid) for pid in pids}
    return {title.removeprefix("smtpd: "): pid for title, pid in titles.items()}


def test_when_the_command_returns_mail_is_taken_and_delivered(background, syslog, users, alice):
    before = len(mails(users.home(alice)))
    background.send(f"{alice}@here.test", b"Subject: x\r\n\r\nx\r\n")
    until(lambda: len(mails(users.home(alice))) > before, what="delivery")
    assert "SMTP running" in background.smtpctl("show", "status").stdout
    mail_info = "<22>"  # RFC 3164: facility mail, severity informational
    stamp, parent = r"[A-Z][a-z]{2} [ 123]\d [\d:]{8}", rf"smtpd\[{background.pid}\]"
    for text in ("listening on 127.0.0.1 port", "processes: parent", "ready", "sandbox: "):
        syslog.wait_for(rf"^{mail_info}{stamp} {parent}: info: {text}")
    pids, id = children_of(background), "[0-9a-f]{16}"
    dispatcher, queue = (rf"smtpd\[{pids[role]}\]" for role in ("dispatcher", "queue"))
    syslog.wait_for(rf"^{mail_info}{stamp} {dispatcher}: {id} smtp connected address=127.0.0.1")
    syslog.wait_for(rf"^{mail_info}{stamp} {queue}: {id} mda delivery .* result=Ok stat=Delivered")
    assert os.getsid(background.pid) == background.pid


def test_its_end_by_a_signal_is_in_order(background, syslog):
    os.kill(background.pid, signal.SIGTERM)
    until(lambda: not lives(background.pid), what="its end")
    syslog.wait_for(r"smtpd\[\d+\]: info: stopping")
    assert not (background.state / "smtpd.pid").exists() and not (background.state / "smtpd.sock").exists()


def test_a_client_cannot_make_a_line_of_the_log(background, syslog):
    with socket.create_connection(("127.0.0.1", background.port), timeout=30) as sock:
        sock.recv(1000)
        sock.sendall(b"HELO x\x1b[2J\x7f <22>Nov 21 smtpd[1]: forged\r\n")
        sock.recv(1000)
        sock.sendall(b"QUIT\r\n")
        assert sock.recv(1000).startswith(b"221")
    syslog.wait_for(r"smtpd\[\d+\]: .* smtp failed-command ")
    assert not syslog.has(r"^<\d+>.{15} smtpd\[1\]: forged") and not syslog.has("\x1b")


LYING = """
listen on 127.0.0.1 port {port}
action "local" maildir alias <lies>
match from any for any action "local"
"""

LIAR = """#!/bin/sh
echo "warn: fatal: nursery broke the rules" >&2
while :; do read -r line || sleep 1; done
"""


def test_a_program_of_a_table_is_named_in_the_log_whatever_it_says(make_daemon, syslog):
    """It lives on when its socket is closed, and the daemon's end does not wait for it."""
    path = Path(f"/usr/local/libexec/smtpd/table-liar{MARK}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(LIAR)
    path.chmod(0o755)
    try:
        with in_background(make_daemon(f"table lies {path.name.removeprefix('table-')}:/etc/passwd\n{LYING}")):
            syslog.wait_for(r"smtpd\[\d+\]: table lies: warn: fatal: nursery broke the rules")
            assert not syslog.has(r"smtpd\[\d+\]: warn: fatal")  # of ours: it may warn of this interpreter
    finally:
        path.unlink()
        with contextlib.suppress(OSError):  # not empty
            path.parent.rmdir()


def test_the_log_goes_on_when_syslogd_comes_back(background, syslog):
    syslog.end()
    with background.client() as client:
        client.noop()
    syslog.begin()
    with background.client() as client:
        client.helo("after.test")
    syslog.wait_for(r"smtpd\[\d+\]: .* smtp connected ")


def test_the_death_of_a_process_has_its_last_word_in_syslog(background, syslog):
    os.kill(children_of(background)["control"], signal.SIGKILL)  # whoever would have passed it on
    until(lambda: not lives(background.pid), what="the end of all")
    syslog.wait_for(r"fatal: lost child: control, pid \d+, killed by SIGKILL")
