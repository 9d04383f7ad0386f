"""A user against his own agent: his mail waits, nobody else notices."""

import fcntl
import os
import pwd
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.conftest import empty_maildir, mails, until


def agents_of(daemon, name):
    uid = str(pwd.getpwnam(name).pw_uid)
    return [pid for pid in daemon.descendants() if uid_of(pid) == uid]


def uid_of(pid):
    try:
        return re.search(r"^Uid:\t(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.fixture
def boxes(daemon, users, alice, bob):
    for name in (alice, bob):
        empty_maildir(users.home(name))
    return {name: users.home(name) for name in (alice, bob)}


def send(daemon, name, subject):
    daemon.send(f"{name}@here.test", f"Subject: {subject}\r\n\r\nx\r\n".encode())


def awaken(daemon, name):
    """An agent of that user that runs."""
    send(daemon, name, "first")
    return until(lambda: agents_of(daemon, name), what="an agent")


def others_go_on(daemon, boxes, bob):
    before = len(mails(boxes[bob]))
    for number in range(5):
        send(daemon, bob, f"to bob {number}")
    until(lambda: len(mails(boxes[bob])) == before + 5, 10, what="bob's mail")
    assert daemon.running()


def as_user(name, program, *arguments):
    """Run Python code as that user, outside of any sandbox."""
    entry = pwd.getpwnam(name)
    return subprocess.Popen(
        [
            "/usr/bin/setpriv",
            f"--reuid={entry.pw_uid}",
            f"--regid={entry.pw_gid}",
            "--clear-groups",
            "/usr/bin/python3",
            "-I",
            "-c",
            program,
            *arguments,
        ],
        stdout=subprocess.PIPE,
        stdin=subprocess.PIPE,
    )


def test_a_user_kills_his_agents(daemon, boxes, alice, bob):
    for _ in range(10):
        for pid in awaken(daemon, alice):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
    others_go_on(daemon, boxes, bob)
    daemon.smtpctl("schedule", "all")
    until(lambda: len(mails(boxes[alice])) == 10, 30, what="alice's mail")


def test_a_user_stops_his_agents(daemon, boxes, alice, bob):
    stopped = awaken(daemon, alice)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    for number in range(20):
        try:
            send(daemon, alice, f"to alice {number}")
        except Exception:  # a 4xx for this user is as good: his .forward cannot be read now
            pass
    others_go_on(daemon, boxes, bob)
    for pid in stopped:
        os.kill(pid, signal.SIGKILL)
    others_go_on(daemon, boxes, bob)


def test_a_user_limits_his_agents(daemon, boxes, alice, bob):
    for pid in awaken(daemon, alice):
        for what in (resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE, resource.RLIMIT_AS):
            resource.prlimit(pid, what, (0, 0))
    for number in range(5):
        send_or_wait(daemon, alice, number)
    others_go_on(daemon, boxes, bob)


def send_or_wait(daemon, name, number):
    try:
        send(daemon, name, number)
    except Exception as error:  # noqa: BLE001  (a 4xx is what this user asked for)
        assert "45" in str(error) or "42" in str(error), error


def test_a_user_holds_a_lease_on_his_forward(daemon, boxes, users, alice, bob):
    forward = boxes[alice] / ".forward"
    forward.write_text("\\" + alice + "\n")
    shutil.chown(forward, alice, alice)
    forward.chmod(0o600)
    program = (
        "import fcntl, os, signal, sys\n"
        "signal.signal(signal.SIGIO, signal.SIG_IGN)\n"
        "f = open(sys.argv[1], 'r+')\n"
        "fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    holder = as_user(alice, program, str(forward))
    try:
        assert holder.stdout.readline() == b"held\n"
        send_or_wait(daemon, alice, 1)
        others_go_on(daemon, boxes, bob)
    finally:
        holder.communicate(b"")
        forward.unlink()


def test_a_maildir_that_is_a_link_to_somebody_elses_gets_nothing(daemon, boxes, users, alice, bob):
    empty_maildir(boxes[alice])
    send(daemon, bob, "makes bob's Maildir")
    until(lambda: mails(boxes[bob]), what="bob's Maildir")
    os.symlink(boxes[bob] / "Maildir", boxes[alice] / "Maildir")
    os.lchown(boxes[alice] / "Maildir", pwd.getpwnam(alice).pw_uid, pwd.getpwnam(alice).pw_gid)
    try:
        before = len(mails(boxes[bob]))
        send_or_wait(daemon, alice, 1)
        others_go_on(daemon, boxes, bob)
        assert len(mails(boxes[bob])) == before + 5
    finally:
        (boxes[alice] / "Maildir").unlink()


def test_a_home_that_is_gone_defers_or_holds_and_harms_nobody(daemon, boxes, users, bob):
    name = users.make("smtpd-homeless")
    shutil.rmtree(users.home(name))
    send_or_wait(daemon, name, 1)
    others_go_on(daemon, boxes, bob)


def test_the_lease_test_can_fail(tmp_path):
    """A lease is something that this system has: without it the test above would show nothing."""
    path = tmp_path / "f"
    path.write_text("x")
    with path.open("r+") as file:
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        assert fcntl.fcntl(file, fcntl.F_GETLEASE) == fcntl.F_WRLCK
    assert sys.platform == "linux"
