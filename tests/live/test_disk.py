"""What the disk has to do with an answer: it has a mail before there is a 250; full, it is a 4xx for those concerned.

Nothing is lost, nothing is done twice, and on it goes when there is room.
"""

import os
import pwd
import re
import shutil
import signal
import smtplib
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.live.conftest import empty_maildir, mails, until

STRACE = shutil.which("strace")
MIB = 1024 * 1024
SIZE = 40 * MIB  # of the small disk
RESERVE = SIZE // 2  # that the daemon keeps of it, for the results of deliveries


@contextmanager
def small_disk(path, size, options="mode=755"):
    """`path` is a file system of its own."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},{options}", "tmpfs", str(path)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture
def cramped(make_daemon, users, alice):
    """A daemon whose state lies on a small disk."""
    empty_maildir(users.home(alice))
    daemon = make_daemon()
    daemon.state.mkdir(mode=0o755)
    with small_disk(daemon.state, SIZE):
        daemon.start()
        yield daemon
        if daemon.running():
            daemon.kill()


@contextmanager
def traced(pid, directory):
    """What that process syncs and sends meanwhile, as a list that is filled at the end: (system call, file)."""
    calls, output = [], directory / "trace"
    command = [STRACE, "-f", "-y", "-e", "trace=fsync,fdatasync,sendmsg", "-o", output, "-p", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
        threads = Path(f"/proc/{pid}/task")
        until(
            lambda: all("TracerPid:\t0\n" not in (t / "status").read_text() for t in threads.iterdir()), what="strace"
        )
        try:
            yield calls
        finally:
            tracer.send_signal(signal.SIGINT)
    calls += re.findall(r"^\d+ +(\w+)\(\d+<(.*?)>", output.read_text(), re.MULTILINE)


def is_traced(thread):
    return "\nTracerPid:\t0\n" not in (thread / "status").read_text()


def fill(path, leave):
    """A file that leaves `leave` bytes of the disk that holds `path`."""
    facts = os.statvfs(path)
    filler = path / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, facts.f_bavail * facts.f_frsize - leave))
    return filler


def is_accepted(daemon, name, subject, size=1000):
    """A refusal must be one of the disk, and for now."""
    try:
        daemon.send(f"{name}@here.test", f"Subject: {subject}\r\n\r\n".encode() + b"line\r\n" * (size // 6))
    except smtplib.SMTPResponseException as error:
        assert (error.smtp_code, error.smtp_error[:5]) == (452, b"4.3.1"), error
        return False
    return True


def has_arrived(users, name, subject):
    return any(f"\nSubject: {subject}\n".encode() in mail for mail in mails(users.home(name)))


def spool_files(daemon):
    return list((daemon.state / "spool/content").iterdir())


@contextmanager
def mail_under_way(daemon, name, subject):
    """A client that has said DATA and the header."""
    with daemon.client() as client:
        client.ehlo()
        client.mail("amy@there.test")
        client.rcpt(f"{name}@here.test")
        assert client.docmd("DATA")[0] == 354
        client.send(f"Subject: {subject}\r\n\r\n".encode())
        yield client


@pytest.mark.skipif(not STRACE, reason="strace is not installed")
@pytest.mark.parametrize("size", [100, 100_000])
def test_a_mail_is_on_the_disk_before_the_dispatcher_hears_of_it(daemon, alice, size):
    """A small one in the log of the database; a large one also in its file, and that file in its directory."""
    daemon.smtpctl("pause", "mda")
    content = daemon.state / "spool/content"
    with mail_under_way(daemon, alice, "durable") as client:
        client.send(b"line\r\n" * (size // 6))
        files = until(lambda: spool_files(daemon), what="a spool file") if size > 16_384 else []
        with traced(daemon.pids()["queue"], daemon.directory) as calls:
            client.send(b".\r\n")
            assert client.getreply()[0] == 250
    before = {file for _, file in calls[: [call for call, _ in calls].index("sendmsg")]}
    assert before == {str(daemon.state / "spool/queue.db-wal"), *map(str, files), *([str(content)] if files else [])}


def test_below_the_reserve_new_mail_gets_452_and_old_mail_is_delivered(cramped, users, alice):
    cramped.smtpctl("pause", "mda")
    assert is_accepted(cramped, alice, "before")
    filler = fill(cramped.state, RESERVE - 8 * MIB)
    until(lambda: not is_accepted(cramped, alice, "during"), what="a refusal")
    cramped.smtpctl("resume", "mda")
    until(lambda: has_arrived(users, alice, "before"), what="the old mail")
    filler.unlink()
    until(lambda: is_accepted(cramped, alice, "after"), what="new mail")
    until(lambda: has_arrived(users, alice, "after"), what="its delivery")
    assert cramped.stop() == 0


def test_a_disk_without_a_byte_repeats_no_delivery(cramped, users, alice):
    cramped.smtpctl("pause", "mda")
    for number in range(10):
        assert is_accepted(cramped, alice, f"number {number}")
    filler = fill(cramped.state, 0)
    cramped.smtpctl("resume", "mda")
    until(lambda: len(mails(users.home(alice))) == 10, what="ten deliveries")
    assert len(cramped.smtpctl("show", "queue").stdout.splitlines()) == 10  # there is no room to say that they are done
    assert not is_accepted(cramped, alice, "during")
    filler.unlink()
    until(lambda: cramped.smtpctl("show", "queue").stdout == "", what="an empty queue")
    until(lambda: is_accepted(cramped, alice, "after"), what="new mail")
    until(lambda: has_arrived(users, alice, "after"), what="its delivery")
    assert len(mails(users.home(alice))) == 11
    assert cramped.stop() == 0


def test_what_was_delivered_while_the_disk_was_full_is_not_repeated_after_a_crash(cramped, users, alice):
    """The results of these deliveries were never written anywhere."""
    cramped.smtpctl("pause", "mda")
    for number in range(10):
        assert is_accepted(cramped, alice, f"number {number}")
    filler = fill(cramped.state, 0)
    cramped.smtpctl("resume", "mda")
    until(lambda: len(mails(users.home(alice))) == 10, what="ten deliveries")
    assert len(cramped.smtpctl("show", "queue").stdout.splitlines()) == 10  # there is no room to say that they are done
    cramped.kill()
    filler.unlink()
    cramped.start()
    until(lambda: cramped.smtpctl("show", "queue").stdout == "", what="an empty queue")
    assert len(mails(users.home(alice))) == 10
    assert cramped.stop() == 0


def test_a_large_mail_that_would_use_up_the_reserve_is_refused_and_leaves_nothing(cramped, users, alice):
    filler = fill(cramped.state, RESERVE + 4 * MIB)
    assert not is_accepted(cramped, alice, "too large", 6 * MIB)
    until(lambda: not spool_files(cramped), what="the end of the spool file")
    filler.unlink()
    until(lambda: is_accepted(cramped, alice, "large", 6 * MIB), what="new mail")
    until(lambda: has_arrived(users, alice, "large"), what="delivery")
    assert not has_arrived(users, alice, "too large")
    assert cramped.stop() == 0


def test_a_mail_that_finds_the_end_of_the_disk_is_refused_and_leaves_nothing(cramped, users, alice):
    with mail_under_way(cramped, alice, "too large") as client:
        client.send(b"line\r\n" * 4000)
        until(lambda: spool_files(cramped), what="a spool file")
        filler = fill(cramped.state, 10 * MIB)
        client.send(b"line\r\n" * (30 * MIB // 6) + b".\r\n")
        code, text = client.getreply()
        assert (code, text[:5]) == (452, b"4.3.1")
        until(lambda: not spool_files(cramped), what="the end of the spool file")
        filler.unlink()
        until(lambda: is_accepted(cramped, alice, "small"), what="new mail")
        assert client.noop()[0] == 250  # the session goes on
    until(lambda: has_arrived(users, alice, "small"), what="delivery")
    assert not has_arrived(users, alice, "too large")
    assert cramped.stop() == 0


def test_a_user_over_quota_delays_no_other_user(daemon, users, alice, bob):
    home = users.home(alice)
    empty_maildir(users.home(bob))
    with small_disk(home, MIB, f"mode=700,uid={pwd.getpwnam(alice).pw_uid}"):
        filler = fill(home, 0)
        assert is_accepted(daemon, alice, "waits", 20_000)
        until(lambda: "No space left on device" in daemon.smtpctl("show", "queue").stdout, what="a try")
        assert is_accepted(daemon, bob, "goes on")
        until(lambda: has_arrived(users, bob, "goes on"), what="bob's mail")
        filler.unlink()
        daemon.smtpctl("schedule", "all")
        until(lambda: has_arrived(users, alice, "waits"), what="alice's mail")
        assert not list((home / "Maildir/tmp").iterdir())
