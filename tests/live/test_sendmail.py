"""Programs of this host hand in mail."""

import os
import pwd
import re
import socket
import subprocess
import sys
from email import message_from_bytes

import pytest

from smtpctl.__main__ import main
from smtpctl.connection import Connection
from smtpd.ipc import query
from tests.live.conftest import PYTHON, become, empty_maildir, mails, running, until

MAIL = b"Subject: x\nBcc: {bob}\nTo: {alice}\n\nhello\n.\nyou\n"

SOCKET = """
listen on 127.0.0.1 port {port}
listen on socket tag "here" mask-src no-dsn
action "local" maildir
match tag "here" from socket for local action "local"
"""


def sendmail(daemon, name, *words, mail=MAIL):
    """As that user: the exit status, and what it has said."""
    said = daemon.directory / "said"
    said.touch(0o666)
    said.chmod(0o666)
    letter = daemon.directory / "letter"
    letter.write_bytes(mail)

    def run():
        for number, path, flags in ((0, letter, os.O_RDONLY), (1, said, os.O_WRONLY | os.O_TRUNC)):
            os.dup2(os.open(path, flags), number)
        os.dup2(1, 2)
        sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115  (it is about to end)
        os.environ["HOME"] = pwd.getpwnam(name).pw_dir
        try:
            return main(["sendmail", "--state", str(daemon.state), *words])
        finally:
            sys.stdout.flush()
            sys.stderr.flush()

    return become(name, run), said.read_text()


def delivered(users, name, count=1):
    until(lambda: len(mails(users.home(name))) == count, what="delivery")
    return mails(users.home(name))


@pytest.fixture(scope="module")
def daemon(ground, users):
    with running(ground) as made:
        yield made


@pytest.fixture
def homes(users, alice, bob):
    for name in (alice, bob):
        empty_maildir(users.home(name))
        for path in users.home(name).glob("dead.letter*"):
            path.unlink()


def test_a_users_mail(daemon, users, alice, bob, homes):
    mail = MAIL.replace(b"{alice}", alice.encode()).replace(b"{bob}", bob.encode())
    assert sendmail(daemon, alice, "-t", "-oi", "-F", "Älice", mail=mail) == (0, "")
    (content,) = delivered(users, alice)
    (copy,) = delivered(users, bob)
    text = content.decode()
    assert re.search(
        r"\nReceived: from localhost \(\S+ \[local\]\)\n\tby \S+ \(smtpd\) with ESMTPA id [0-9a-f]{8};\n", text
    )
    assert re.search(
        rf"\nFrom: =\?utf-8\?\S+ <{alice}@\S+>\nSubject: x\nTo: {alice}@\S+\nDate: .*\nMessage-ID: <.*>\n", text
    )
    assert text.endswith("\n\nhello\n.\nyou\n") and b"Bcc" not in content + copy
    uid = pwd.getpwnam(alice).pw_uid
    assert re.search(rf"smtp connected address=local host=\S+ uid={uid}\n", daemon.log)
    assert "smtp.session.local=0" in daemon.smtpctl("show", "stats").stdout


def test_roots_mail_with_a_sender_of_its_own(daemon, users, alice, homes):
    command = [PYTHON, "-m", "smtpctl", "sendmail", "--state", str(daemon.state), "-f", "amy@there.test", "-v", alice]
    done = subprocess.run(command, input=b"hello\n", capture_output=True, timeout=60, cwd="/")
    assert done.returncode == 0, done.stderr
    assert b">>> MAIL FROM:<amy@there.test> SIZE=7\n" in done.stdout
    (content,) = delivered(users, alice)
    assert content.startswith(b"Return-Path: <amy@there.test>\n") and content.endswith(b"\n\nhello\n")


def test_a_large_mail_with_long_lines(daemon, users, alice, homes):
    body = b"0123456789" * 20_000 + b"\n"
    assert sendmail(daemon, alice, alice, mail=b"Subject: long\n\n" + body * 10) == (0, "")
    (content,) = delivered(users, alice)
    assert b"\nContent-Transfer-Encoding: quoted-printable\n" in content and len(content) > 2_000_000


def test_what_is_refused_is_in_the_users_dead_letter(daemon, users, alice, homes):
    status, said = sendmail(daemon, alice, alice, "nobody-at-all", mail=b"Subject: x\n\nhello\n")
    assert status == 70 and re.match(r"sendmail: nobody-at-all: 550 \S+ ", said)
    letter = users.home(alice) / "dead.letter"
    assert said.endswith(f"sendmail: so it was not sent to any\nsendmail: the mail is not sent; it is in {letter}\n")
    assert letter.read_bytes() == b"Subject: x\n\nhello\n" and letter.stat().st_uid == pwd.getpwnam(alice).pw_uid
    assert mails(users.home(alice)) == []


def test_nul_is_encoded(daemon, users, alice, homes):
    assert sendmail(daemon, alice, alice, mail=b"Subject: x\n\na\0b\n") == (0, "")
    (content,) = delivered(users, alice)
    assert message_from_bytes(content).get_payload(decode=True) == b"a\0b\n"


def test_bs(daemon, users, alice, homes):
    dialogue = f"EHLO x\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<{alice}>\r\nDATA\r\n".encode()
    status, said = sendmail(daemon, alice, "-bs", mail=dialogue)
    assert status == 65 and said.splitlines()[-2].startswith("354 ")
    with subprocess.Popen(
        [PYTHON, "-m", "smtpctl", "sendmail", "--state", str(daemon.state), "-bs"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd="/",
    ) as process:
        process.stdin.write(dialogue)
        process.stdin.flush()
        assert any(line.startswith(b"354 ") for line in process.stdout)
        process.stdin.write(b"Subject: x\r\n\r\nhello\r\n.\r\nQUIT\r\n")
        process.stdin.flush()
        assert [line[:4] for line in process.stdout] == [b"250 ", b"221 "]
    assert delivered(users, alice)[0].endswith(b"\n\nhello\n")


def test_the_sentence_marks_what_comes_by_the_socket(make_daemon, users, alice, homes):
    daemon = make_daemon(SOCKET).start()
    with daemon.client() as client:
        client.ehlo()
        client.mail("a@b.test")
        assert client.rcpt(alice)[0] == 550
    assert sendmail(daemon, alice, "-N", "never", alice, mail=b"hello\n") == (0, "")
    (content,) = delivered(users, alice)
    assert re.search(rb"\nReceived: by \S+ \(smtpd\) with ESMTPA ", content)
    assert daemon.stop() == 0


def test_with_several_dispatchers(make_daemon, users, alice, homes):
    daemon = make_daemon("dispatchers 3\n" + SOCKET).start()
    assert [sendmail(daemon, alice, alice, mail=b"hello\n") for _ in range(4)] == [(0, "")] * 4
    delivered(users, alice, 4)
    assert daemon.stop() == 0


def test_paused_and_stopped(make_daemon, alice, homes):
    daemon = make_daemon().start()
    daemon.smtpctl("pause", "smtp")
    status, said = sendmail(daemon, alice, alice)
    assert status == 69 and said.startswith("sendmail: no new sessions for now\n") and said.endswith("/dead.letter\n")
    assert daemon.stop() == 0
    status, said = sendmail(daemon, alice, "--online", alice)
    assert status == 75 and said.startswith("sendmail: smtpd doesn't seem to be running\n")
    assert said.endswith("/dead.letter.1\n")


def occupy(path, others):
    """Take every session that one user can get, and have `others` go on meanwhile."""
    held = []
    while len(held) <= 100:
        answer = Connection(path).ask_query(query.SESSION)
        if not answer.granted:
            break
        held.append(answer.descriptor)
    others()
    return 0 if len(held) == 100 and answer.text == "too many sessions of this user" else 1


def test_a_user_cannot_take_the_sessions_of_others(daemon, users, alice, bob, homes):
    mine, theirs = socket.socketpair()

    def others():
        theirs.send(b"x")
        theirs.recv(1)

    holder = in_child(lambda: become(alice, lambda: occupy(str(daemon.state / "smtpd.sock"), others)))
    assert mine.recv(1)
    assert sendmail(daemon, bob, bob, mail=b"hello\n") == (0, "")
    with daemon.client() as client:
        assert client.noop()[0] == 250
    mine.send(b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(holder, 0)[1]) == 0
    mine.close()
    theirs.close()
    delivered(users, bob)
    uid = pwd.getpwnam(alice).pw_uid
    assert f'smtp refused address=local uid={uid} reason="too many sessions of this user"' in daemon.log


def in_child(work):
    """The pid of a child that exits with what `work` returns."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(work())
        finally:
            os._exit(70)
    return pid
