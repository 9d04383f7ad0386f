"""The action lmtp, with a real Dovecot: over TCP and over a socket of the file system."""

import collections
import contextlib
import os
import re
import signal
import threading
from pathlib import Path

import pytest

from tests.live import dovecot as peer
from tests.live import reader
from tests.live.conftest import empty_maildir, mails, running, until
from tests.live.recipient import envelopes, logged
from tests.unique import free_port

pytestmark = pytest.mark.skipif(peer.MISSING is not None, reason=str(peer.MISSING))

CONF = """
smtp limit max-mails 10000
listen on 127.0.0.1 port {{port}}
table people {{{{ {people} }}}}
action "tcp" lmtp "127.0.0.1:{lmtp}" userbase <people>
action "unix" lmtp "{socket}" userbase <people>
action "whole" lmtp "{socket}" rcpt-to userbase <people>
action "local" maildir
match from any for domain "tcp.test" action "tcp"
match from any for domain "unix.test" action "unix"
match from any for domain "whole.test" action "whole"
match from any for domain "here.test" action "local"
"""
WORKERS = 4  # conversations of one agent with the server, with a mail each: so many may be under way
PEOPLE = ("carol", "dave", "erin", "frank")  # erin is nobody to Dovecot


@pytest.fixture(scope="module")
def vmail(users):
    return users.make("smtpd-vmail")


@pytest.fixture(scope="module")
def dovecot(ground, vmail):
    server = peer.Dovecot(ground / "dovecot", free_port(), vmail)
    server.add_user("carol")
    server.add_user("dave", quota=3000)
    server.add_user("frank")
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def daemon(ground, users, dovecot):
    owner = dovecot.owner
    people = ", ".join(f'"{name}" = "{owner.pw_uid}:{owner.pw_gid}:/nonexistent"' for name in PEOPLE)
    conf = CONF.format(lmtp=dovecot.port, socket=dovecot.socket, people=people)
    with running(ground, conf) as made:
        yield made


def subjects(dovecot, name):
    return [subject for subject, _ in reader.by_dovecot(dovecot, name)]


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_a_mail_is_handed_to_the_server(daemon, dovecot, way):
    body = "Grüße\r\n.\r\n..\r\nFrom here\r\n".encode() + b"z" * 5000 + b"\r\n"
    daemon.send(f"carol@{way}.test", f"Subject: by {way}\r\n\r\n".encode() + body)
    until(lambda: f"by {way}" in subjects(dovecot, "carol"), what="delivery")
    (mail,) = (mail for mail in dovecot.mails("carol") if f"by {way}".encode() in mail)
    assert reader.subject_and_body(mail)[1] == body.replace(b"\r\n", b"\n").rstrip(b"\n")
    assert b"Return-Path: <amy@there.test>\n" in mail and f"Delivered-To: carol@{way}.test\n".encode() in mail


def test_rcpt_to_hands_over_the_address(daemon, dovecot):
    daemon.send("frank+detail@whole.test", b"Subject: whole\r\n\r\nx\r\n")
    until(lambda: subjects(dovecot, "frank") == ["whole"], what="delivery")
    (mail,) = dovecot.mails("frank")
    assert b"Delivered-To: frank+detail@whole.test\n" in mail


@pytest.mark.parametrize("way", ["tcp", "unix"])
def test_of_two_recipients_one_over_quota_the_other_has_the_mail(daemon, dovecot, way):
    """In one transaction, with an answer for each; and a third one is refused already by name."""
    recipients = [f"{name}@{way}.test" for name in ("carol", "dave", "erin")]
    with daemon.client() as client:
        client.sendmail("amy@there.test", recipients, f"Subject: two {way}\r\n\r\n".encode() + b"z" * 4000 + b"\r\n")
    until(lambda: f"two {way}" in subjects(dovecot, "carol"), what="delivery to carol")
    assert dovecot.mails("dave") == []
    told = {
        name: until(
            lambda name=name: logged(daemon, "bounce: failed for ", f"rcpt=<{name}@{way}.test>"), what="results"
        )
        for name in ("dave", "erin")
    }
    assert "Quota exceeded" in told["dave"][0] and "User doesn't exist" in told["erin"][0]
    saved = re.findall(r"lmtp\((\w+)\)<\d+><([^>]+?)(?::R\d+)?>: Info: .*save", dovecot.log)
    sessions = dict(saved[-2:])
    assert set(sessions) == {"carol", "dave"} and len(set(sessions.values())) == 1
    (notice,) = until(lambda: [row for row in envelopes(daemon) if row[3] == "bounce,hold"], what="one for both")
    assert notice[5] == "amy@there.test"  # whom no rule is for
    daemon.smtpctl("remove", notice[0])
    until(lambda: not envelopes(daemon), what="an empty queue")


def test_connections_are_kept_for_the_next_mails(daemon, dovecot):
    before, there = dovecot.log.count("Connect from"), dovecot.count("frank")
    with daemon.client() as client:
        for number in range(50):
            client.sendmail("amy@there.test", "frank@tcp.test", f"Subject: kept {number}\r\n\r\nx\r\n".encode())
    until(lambda: dovecot.count("frank") == there + 50, what="all of them")
    assert dovecot.log.count("Connect from") - before <= WORKERS


def test_an_absent_server_delays_no_other_mail(daemon, dovecot, users, alice):
    empty_maildir(users.home(alice))
    before = dovecot.count("frank")
    dovecot.stop()
    try:
        for way in ("tcp", "unix"):
            daemon.send(f"frank@{way}.test", b"Subject: later\r\n\r\nx\r\n")
        daemon.send(f"{alice}@here.test", b"Subject: now\r\n\r\nx\r\n")
        until(lambda: mails(users.home(alice)), what="the other mail")
        rows = until(lambda: [row for row in envelopes(daemon) if row[-1]], what="its reason")
        assert all("refused" in row[-1] or "No such file" in row[-1] for row in rows), rows
        assert not logged(daemon, f"<{alice}@here.test>", "result=TempFail")  # it was no second attempt
    finally:
        dovecot.start()

    def arrived():
        daemon.smtpctl("schedule", "all")
        return dovecot.count("frank") == before + 2

    until(arrived, what="the late ones")


# -- restarts under load -----------------------------------------------------------------------------------------------


def keep_sending(daemon, way, name, sent, enough):
    """Now and then, so that what has to wait for the server stays little."""
    with daemon.client(timeout=60) as client:
        while not enough.is_set():
            subject = f"{name}-{len(sent)}"
            client.sendmail("amy@there.test", f"carol@{way}.test", f"Subject: {subject}\r\n\r\nx\r\n".encode())
            sent.append(subject)
            enough.wait(0.01)


def restart(dovecot):
    dovecot.stop()
    dovecot.start()


def kill_workers(dovecot):
    """In the middle of whatever they are doing; their master starts others."""
    children = Path(f"/proc/{dovecot.process.pid}/task/{dovecot.process.pid}/children").read_text().split()
    for pid in children:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):
            if Path(f"/proc/{pid}/comm").read_text() == "lmtp\n":
                os.kill(int(pid), signal.SIGKILL)
    # What they held would be respected for two minutes by whoever comes after them, readers too.
    for lock in dovecot.homes.glob("*/Maildir/*.lock"):
        lock.unlink(missing_ok=True)


@pytest.mark.parametrize("way, disturb", [("tcp", restart), ("unix", kill_workers)])
def test_a_server_that_restarts_under_load_has_every_mail_and_few_twice(daemon, dovecot, way, disturb):
    """Twice is only what it had taken, and could not say so any more."""
    times, sent, enough = 3, ([], []), threading.Event()
    senders = [
        threading.Thread(target=keep_sending, args=(daemon, way, f"{disturb.__name__}-{number}", sent[number], enough))
        for number in range(2)
    ]
    for sender in senders:
        sender.start()
    try:
        for _ in range(times):
            count = dovecot.count("carol")
            until(lambda count=count: dovecot.count("carol") >= count + 20, what="mail on its way")
            disturb(dovecot)
            daemon.smtpctl("schedule", "all")
    finally:
        enough.set()
        for sender in senders:
            sender.join()

    def empty():
        daemon.smtpctl("schedule", "all")
        return envelopes(daemon) == []

    until(empty, what="an empty queue")
    found = collections.Counter(subject for subject in subjects(dovecot, "carol") if disturb.__name__ in subject)
    assert set(found) == {*sent[0], *sent[1]} and len(found) >= times * 20
    assert sum(found.values()) - len(found) <= times * WORKERS
