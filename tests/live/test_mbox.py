"""The action mbox: what lies in the mailbox, who else may use it, and what is no mailbox."""

import collections
import fcntl
import itertools
import os
import pwd
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.live import reader
from tests.live.competitor import mail, unquoted
from tests.live.conftest import TOP, running, until
from tests.live.recipient import envelopes

COMPETITOR = Path(__file__).with_name("competitor.py")
CONF = """
smtp limit max-mails 100000
listen on 127.0.0.1 port {port}
action "box" mbox
match from any for domain "here.test" action "box"
"""


@pytest.fixture(scope="module")
def daemon(ground, users):
    with running(ground, CONF) as made:
        yield made


@pytest.fixture
def box(daemon, alice):
    """Alice's mailbox; there is none yet."""
    path = daemon.state / "mail" / alice
    remove(path)
    yield path
    remove(path)


def remove(path):
    if path.is_dir() and not path.is_symlink():
        path.rmdir()
    path.unlink(missing_ok=True)


def in_box(path):
    return reader.by_python(path) if path.is_file() else []


def send(daemon, name, subject):
    daemon.send(f"{name}@here.test", f"Subject: {subject}\r\n\r\nx\r\n".encode())


def test_a_mailbox_begins_each_mail_with_its_envelope(daemon, alice, box):
    daemon.send(f"{alice}@here.test", b"Subject: a\r\n\r\n", sender="amy@there.test")
    daemon.send(f"{alice}+tag@here.test", b"Subject: b\r\n\r\n", sender="")
    until(lambda: len(in_box(box)) == 2, what="both")
    first, second = (part.splitlines() for part in box.read_bytes().split(b"\nFrom "))
    assert first[0].startswith(b"From amy@there.test ") and first[1] == b"Return-Path: <amy@there.test>"
    assert second[0].startswith(b"MAILER-DAEMON ") and second[1] == b"Return-Path: <>"
    assert second[2] == f"Delivered-To: {alice}+tag@here.test".encode()


# -- what is no mailbox ----------------------------------------------------------------------------------------------


def a_link(path, users, bob):
    target = users.home(bob) / "target"
    target.write_bytes(b"")
    path.symlink_to(target)
    return target


def a_hard_link(path, users, bob):
    """To a file of her own: somebody else may have made the link."""
    target = users.ground / "target"
    target.write_bytes(b"alice's own\n")
    shutil.chown(target, path.name)
    os.link(target, path)
    return target


def a_fifo(path, users, bob):
    os.mkfifo(path)


def a_directory(path, users, bob):
    path.mkdir()


def a_device(path, users, bob):
    os.mknod(path, 0o600 | 0o020000, os.makedev(1, 3))


def somebody_elses(path, users, bob):
    path.write_bytes(b"bob's own\n")
    shutil.chown(path, bob)
    return path


def roots(path, users, bob):
    path.write_bytes(b"root's own\n")
    return path


@pytest.mark.parametrize("make", [a_link, a_hard_link, a_fifo, a_directory, a_device, somebody_elses, roots])
def test_what_is_no_mailbox_of_the_user_gets_nothing(daemon, users, alice, bob, box, make):
    """The mail is kept, for whoever mends it, and bob has his all the same."""
    before = len(in_box(box.with_name(bob)))
    send(daemon, bob, "first")  # his mailbox is there then
    until(lambda: len(in_box(box.with_name(bob))) == before + 1, what="bob's mail")
    target = make(box, users, bob)
    content = target.read_bytes() if target else b""
    send(daemon, alice, make.__name__)
    (row,) = until(lambda: [row for row in envelopes(daemon) if "mailbox" in row[-1]], what="its refusal")
    assert not target or target.read_bytes() == content
    send(daemon, bob, "second")
    until(lambda: len(in_box(box.with_name(bob))) == before + 2, what="bob's next mail")
    remove(box)
    daemon.smtpctl("schedule", row[0])
    until(lambda: [subject for subject, _ in in_box(box)] == [make.__name__], what="the mail, after all")


# -- who else has it -------------------------------------------------------------------------------------------------


def hold(path):
    """Lock it as a mail reader does."""
    opened = path.open("r+b")
    fcntl.lockf(opened, fcntl.LOCK_EX)
    return opened


def test_a_reader_that_holds_its_lock_delays_its_own_mail_only(daemon, alice, bob, box):
    send(daemon, alice, "before")
    until(lambda: in_box(box), what="the first mail")
    count = len(in_box(box.with_name(bob)))
    with hold(box):
        size = box.stat().st_size
        for number in range(5):
            send(daemon, alice, f"{number}")
            send(daemon, bob, f"{number}")
        until(lambda: len(in_box(box.with_name(bob))) == count + 5, what="bob's mails")
        assert box.stat().st_size == size
        assert len(envelopes(daemon)) == 5
    until(lambda: len(in_box(box)) == 6, what="alice's mails")
    until(lambda: envelopes(daemon) == [], what="an empty queue")


def test_a_dot_lock_of_another_program_is_waited_for(daemon, alice, box):
    lock = box.with_name(f"{alice}.lock")
    lock.touch()
    send(daemon, alice, "waits")
    until(lambda: box.exists(), what="the mailbox")
    assert box.stat().st_size == 0
    lock.unlink()
    until(lambda: len(in_box(box)) == 1, what="the mail")
    until(lambda: not lock.exists(), what="the end of the daemon's own lock")


def test_a_stale_dot_lock_is_removed(daemon, alice, box):
    lock = box.with_name(f"{alice}.lock")
    lock.touch()
    os.utime(lock, (time.time() - 600,) * 2)
    send(daemon, alice, "at once")
    until(lambda: len(in_box(box)) == 1, what="the mail")
    until(lambda: not lock.exists(), what="the end of the daemon's own lock")


def compete(role, directory, user, name, count):
    command = [sys.executable, str(COMPETITOR), role, str(directory), user, name, str(count)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(TOP)}, cwd="/")


def keep_sending(daemon, recipient, name, numbers):
    with daemon.client(timeout=60) as client:
        for number in numbers:
            client.sendmail("amy@there.test", recipient, unquoted(name, number).replace(b"\n", b"\r\n"))


def test_ten_thousand_mails_of_four_writers_and_a_reader_none_lost_none_torn(daemon, alice, box):
    """One of the writers is the daemon, in several sessions; the others are programs with locks of their own."""
    send(daemon, alice, "makes the mailbox")
    until(lambda: in_box(box), what="it")
    box.write_bytes(b"")
    share, taken = 2500, daemon.directory / "taken"
    taken.touch()
    shutil.chown(taken, alice)
    writers = ("local", "user", "mboxfile")
    others = [compete(role, box.parent, alice, role, share) for role in writers]
    others.append(compete("reader", box.parent, alice, str(taken), 4 * share))
    try:
        numbers = iter(range(share))  # next() of it is atomic
        sessions = [
            threading.Thread(target=keep_sending, args=(daemon, f"{alice}@here.test", "daemon", numbers))
            for _ in range(4)
        ]
        for session in sessions:
            session.start()
        for session in sessions:
            session.join()
        assert [process.wait(60) for process in others] == [0] * 4
    finally:
        for process in others:
            process.kill()
            process.wait()
    found = collections.Counter(reader.by_python(taken))
    sent = itertools.product((*writers, "daemon"), range(share))
    assert found == collections.Counter(reader.subject_and_body(mail(*each)) for each in sent)
    assert in_box(box) == [] and pwd.getpwnam(alice).pw_uid == box.stat().st_uid
