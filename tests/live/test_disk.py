"""A disk that is full: 4xx for those concerned, nothing lost, nothing done twice, and on it goes when there is room."""

import os
import smtplib
import subprocess

import pytest

from tests.live.conftest import empty_maildir, mails, until

SIZE = 96 * 1024 * 1024  # bytes; the daemon keeps a reserve of 64 MiB of it for results of deliveries


@pytest.fixture
def small_disk(make_daemon):
    """A daemon whose state lies on a small tmpfs."""
    daemon = make_daemon()
    daemon.state.mkdir(mode=0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=755", "tmpfs", str(daemon.state)], check=True)
    yield daemon
    if daemon.running():
        daemon.kill()
    subprocess.run(["umount", "-l", str(daemon.state)], check=True)


def fill(daemon, leave):
    """A file that leaves `leave` bytes."""
    facts = os.statvfs(daemon.state)
    path = daemon.state / "filler"
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, facts.f_bavail * facts.f_frsize - leave))
    return path


def accepted(daemon, name, subject, size=1000):
    try:
        daemon.send(
            f"{name}@here.test", f"Subject: {subject}\r\n\r\n".encode() + b"y" * 70 * 0 + b"line\r\n" * (size // 6)
        )
        return True
    except smtplib.SMTPResponseException as error:
        assert 400 <= error.smtp_code < 500, error
        return False
    except smtplib.SMTPRecipientsRefused as error:
        assert all(400 <= code < 500 for code, _ in error.recipients.values()), error
        return False


def test_below_the_reserve_new_mail_gets_452_and_old_mail_is_delivered(small_disk, users, alice):
    empty_maildir(users.home(alice))
    daemon = small_disk.start()
    daemon.smtpctl("pause", "mda")
    assert accepted(daemon, alice, "before")
    filler = fill(daemon, 8 * 1024 * 1024)
    until(lambda: not accepted(daemon, alice, "during"), 10, what="a refusal")
    daemon.smtpctl("resume", "mda")
    until(lambda: any(b"Subject: before" in mail for mail in mails(users.home(alice))), what="the old mail")
    filler.unlink()
    until(lambda: accepted(daemon, alice, "after"), 10, what="new mail")
    until(lambda: any(b"Subject: after" in mail for mail in mails(users.home(alice))), what="its delivery")
    assert daemon.stop() == 0


def test_a_disk_without_a_byte_repeats_no_delivery(small_disk, users, alice):
    empty_maildir(users.home(alice))
    daemon = small_disk.start()
    daemon.smtpctl("pause", "mda")
    for number in range(10):
        assert accepted(daemon, alice, f"number {number}")
    filler = fill(daemon, 0)
    daemon.smtpctl("resume", "mda")
    until(lambda: len(mails(users.home(alice))) == 10, what="ten deliveries")
    assert not accepted(daemon, alice, "during")
    filler.unlink()
    until(lambda: daemon.smtpctl("show", "queue").stdout == "", 30, what="an empty queue")
    until(lambda: accepted(daemon, alice, "after"), 10, what="new mail")
    until(lambda: len(mails(users.home(alice))) == 11, what="its delivery")
    assert daemon.stop() == 0


def test_a_large_mail_that_does_not_fit_is_refused_and_leaves_nothing(small_disk, users, alice):
    empty_maildir(users.home(alice))
    daemon = small_disk.start()
    filler = fill(daemon, 66 * 1024 * 1024)
    assert not accepted(daemon, alice, "too large", 30 * 1024 * 1024) or mails(users.home(alice))
    filler.unlink()
    assert accepted(daemon, alice, "small")
    until(lambda: any(b"Subject: small" in mail for mail in mails(users.home(alice))), what="delivery")
    assert daemon.stop() == 0
