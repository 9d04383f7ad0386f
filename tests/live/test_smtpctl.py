"""Steering a running daemon."""

import json
import os
import re
import shutil
import socket

import pytest

from smtpctl.__main__ import main
from smtpd.imsg import TABLE
from smtpd.ipc.frame import HEADER
from tests.live.conftest import become, empty_maildir, mails, running, until


@pytest.fixture(scope="module")
def daemon(ground, users):
    with running(ground) as made:
        yield made


@pytest.fixture
def waiting(daemon, users, alice):
    """A mail that waits, as deliveries are paused: its envelope id.  At the end the queue is empty and nothing is
    paused."""
    empty_maildir(users.home(alice))
    daemon.smtpctl("pause", "mda")
    daemon.send(f"{alice}@here.test", b"Subject: waiting\r\n\r\nx\r\n")
    yield daemon.smtpctl("show", "queue").stdout.split("|")[0]
    daemon.smtpctl("remove", "all", check=False)  # there may be none
    until(lambda: daemon.smtpctl("show", "queue").stdout == "", what="an empty queue")
    daemon.smtpctl("resume", "mda", check=False)  # the test may have done it


def test_show_queue_has_the_fourteen_fields(daemon, alice, waiting):
    (line,) = daemon.smtpctl("show", "queue").stdout.splitlines()
    fields = line.split("|")
    assert len(fields) == 14
    assert re.fullmatch("[0-9a-f]{16}", fields[0])
    assert fields[1:3] == ["inet4", "mda"]
    assert fields[4:7] == ["amy@there.test", f"{alice}@here.test", f"{alice}@here.test"]
    assert int(fields[8]) - int(fields[7]) == 4 * 86400
    assert fields[11] == "pending"


def test_a_sender_cannot_make_a_field_of_show_queue(daemon, alice, waiting):
    daemon.send(f"{alice}@here.test", b"x: y\r\n\r\n", sender='"a|b\\\\c"@there.test')
    lines = daemon.smtpctl("show", "queue").stdout.splitlines()
    assert [line.count("|") for line in lines] == [13, 13]
    assert any(r"a\174b" in line for line in lines)


def test_show_queue_of_one_message(daemon, waiting):
    assert daemon.smtpctl("show", "queue", waiting[:8]).stdout.startswith(waiting)


def test_show_envelope_and_message(daemon, alice, waiting):
    assert f"rcpt: {alice}@here.test" in daemon.smtpctl("show", "envelope", waiting).stdout
    content = daemon.smtpctl("show", "message", waiting).stdout
    assert content.startswith("Received: ") and content.endswith("\nSubject: waiting\n\nx\n")


def test_a_selection_is_shown_held_released_and_removed(daemon, users, alice, waiting):
    daemon.send(f"{alice}@here.test", b"Subject: spam\r\n\r\nx\r\n", sender="eve@spam.test")
    shown = daemon.smtpctl("-n", "remove", "from", "@SPAM.test", "to", f"{alice}@*", "is", "untried").stdout
    (spam,) = [line.split("|")[0] for line in shown.splitlines()]
    assert spam != waiting
    assert daemon.smtpctl("hold", "from", "@spam.test").stdout == "1 envelope paused\n"
    assert [line.split("|")[0] for line in daemon.smtpctl("show", "queue", "is", "paused").stdout.splitlines()] == [
        spam
    ]
    assert daemon.smtpctl("release", "is", "paused").stdout == "1 envelope released\n"
    assert daemon.smtpctl("show", "queue", "is", "paused").stdout == ""
    assert daemon.smtpctl("remove", "from", "*@spam.test", "from", "nobody").stdout == "1 envelope removed\n"
    until(lambda: daemon.smtpctl("show", "queue").stdout.startswith(waiting), what="one envelope")
    assert daemon.smtpctl("show", "queue").stdout.count("\n") == 1
    assert daemon.smtpctl("remove", "older", "1d").stdout == "0 envelopes removed\n"
    assert daemon.smtpctl("remove", "older", "x", check=False).returncode == 255


def test_pause_and_resume_of_an_envelope(daemon, users, alice, waiting):
    assert "1 envelope" in daemon.smtpctl("pause", "envelope", waiting).stdout
    daemon.smtpctl("resume", "mda")
    daemon.smtpctl("schedule", "all")
    assert "suspend" in daemon.smtpctl("show", "queue").stdout
    assert "1 envelope" in daemon.smtpctl("resume", "envelope", waiting).stdout
    until(lambda: mails(users.home(alice)), what="delivery")


def test_remove(daemon, users, alice, waiting):
    assert "1 envelope" in daemon.smtpctl("remove", waiting).stdout
    until(lambda: daemon.smtpctl("show", "queue").stdout == "", what="an empty queue")
    daemon.smtpctl("resume", "mda")
    assert mails(users.home(alice)) == []


def test_what_is_removed_while_it_is_tried_is_gone_also_when_the_daemon_dies(daemon, users):
    alice = users.make("alice")  # lookup remembers for a while that another one has no .forward
    home = users.home(alice)
    forward, begun = home / ".forward", home / "begun"
    forward.write_text(f'"|touch {begun}; exec sleep 5"\n')
    shutil.chown(forward, alice, alice)
    forward.chmod(0o600)
    try:
        daemon.send(f"{alice}@here.test", b"Subject: slow\r\n\r\nx\r\n")
        until(begun.exists, what="the command")
        (line,) = daemon.smtpctl("show", "queue").stdout.splitlines()
        assert "1 envelope" in daemon.smtpctl("remove", line.split("|")[0]).stdout
        until(lambda: daemon.smtpctl("show", "queue").stdout == "", what="an empty queue")
        daemon.kill()
        daemon.start()
        assert daemon.smtpctl("show", "queue").stdout == ""
    finally:
        forward.unlink()
        begun.unlink(missing_ok=True)


def test_pause_fails_when_it_is_so_already(daemon, waiting):
    done = daemon.smtpctl("pause", "mda", check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "smtpctl: command failed: mda is already paused\n"


def test_each_command_says_that_an_id_does_not_exist(daemon, waiting):
    commands = (
        "show message",
        "show envelope",
        "show queue",
        "schedule",
        "remove",
        "pause envelope",
        "resume envelope",
    )
    ids = ("80000000", "7fffffff", "00000000", "8000000000000001", "7fffffff00000001")
    for words, id in ((words, id) for words in commands for id in ids):
        if (words, len(id)) in (("show envelope", 8), ("show queue", 16)):
            continue  # not in the grammar
        done = daemon.smtpctl(*words.split(), id, check=False)
        what = "message" if len(id) == 8 else "envelope"
        assert (done.returncode, done.stdout, done.stderr) == (1, "", f"smtpctl: no {what} {id}\n")


def test_what_is_delivered_is_not_shown_any_more(daemon, users, alice, waiting):
    """Also when it was read from the disk for the attempt that delivered it."""
    assert "Subject: waiting" in daemon.smtpctl("show", "message", waiting).stdout
    daemon.smtpctl("schedule", "all")
    daemon.smtpctl("resume", "mda")
    until(lambda: mails(users.home(alice)), what="delivery")
    until(lambda: daemon.smtpctl("show", "queue").stdout == "", what="an empty queue")
    done = daemon.smtpctl("show", "message", waiting, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"smtpctl: no envelope {waiting}\n")
    assert daemon.statistics()["queue.evpcache.size"] == 0


def test_show_queue_says_why_mail_waits(daemon, waiting):
    def why():
        return daemon.smtpctl("show", "queue").stdout.rstrip("\n").rpartition("|")[2]

    assert why() == "mda is paused"
    assert daemon.smtpctl("pause", "envelope", waiting).stdout == "1 envelope paused\n"
    until(lambda: why() == "paused by administrator", what="the mark of a paused envelope")
    again = daemon.smtpctl("pause", "envelope", waiting)
    assert (again.stdout, again.stderr) == ("0 envelopes paused\n", "smtpctl: already paused\n")
    (shown,) = map(json.loads, daemon.smtpctl("-j", "show", "queue").stdout.splitlines())
    assert (shown["flags"], shown["reason"]) == (["suspend"], "paused by administrator")


def test_status_and_statistics(daemon, waiting):
    status = daemon.smtpctl("show", "status").stdout
    assert "MDA paused" in status and "SMTP running" in status
    statistics = dict(line.split("=", 1) for line in daemon.smtpctl("show", "stats").stdout.splitlines())
    assert statistics["scheduler.envelope"] == "1" and int(statistics["uptime"]) >= 0


def test_json(daemon, waiting):
    text = daemon.smtpctl("-j", "show", "queue").stdout
    assert json.loads(text)


def test_pause_smtp_makes_clients_wait(daemon):
    daemon.smtpctl("pause", "smtp")
    with socket.create_connection(("127.0.0.1", daemon.port)) as sock:
        sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            sock.recv(100)
        daemon.smtpctl("resume", "smtp")
        sock.settimeout(30)
        assert sock.recv(100).startswith(b"220")


@pytest.mark.parametrize("what, said", [("mda", "MDA paused"), ("mta", "MTA paused"), ("smtp", "SMTP paused")])
def test_a_daemon_may_begin_paused(make_daemon, what, said):
    daemon = make_daemon().start("-P", what)
    assert said in daemon.smtpctl("show", "status").stdout
    with socket.create_connection(("127.0.0.1", daemon.port)) as sock:
        if what == "smtp":
            sock.settimeout(0.3)
            with pytest.raises(TimeoutError):
                sock.recv(100)
            daemon.smtpctl("resume", "smtp")
        sock.settimeout(30)
        assert sock.recv(100).startswith(b"220")
    assert daemon.stop() == 0


def break_the_rules(daemon):
    """As a client of the right version; how often that has been logged, when the answer is there."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(daemon.state / "smtpd.sock"))
        sock.sendall(HEADER.pack(0xFFFF, 0, HEADER.size, TABLE.digest(), 0))
        assert sock.recv(100) == b""
    return daemon.log.count("debug: control client")


def test_the_log_is_verbose_until_it_is_brief_again(daemon):
    daemon.smtpctl("log", "verbose")
    assert until(lambda: break_the_rules(daemon), what="a line of debugging")
    daemon.smtpctl("log", "brief")
    before = break_the_rules(daemon)
    break_the_rules(daemon)
    daemon.smtpctl("show", "status")  # by now all that went before has been written
    assert daemon.log.count("debug: control client") == before


def test_an_unknown_word_shows_what_is_possible(daemon):
    done = daemon.smtpctl("show", "elephants", check=False)
    assert done.returncode == 255
    assert done.stderr.startswith("smtpctl: unknown word: elephants\npossibilities are:\n")


def test_without_a_daemon_it_says_so(make_daemon):
    done = make_daemon().smtpctl("show", "queue", check=False)
    assert done.returncode == 1 and "doesn't seem to be running" in done.stderr


def harass(path):
    """What any local user could send to the socket."""
    for piece in (b"", b"\0" * 16, b"\xff" * 16, os.urandom(4096), b"\0\1\0\0\xff\xff\xff\xff" + b"\0" * 8):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            try:
                sock.sendall(piece)
                sock.shutdown(socket.SHUT_WR)
                sock.recv(100)
            except OSError:
                pass
    held = []
    for _ in range(200):
        held.append(socket.socket(socket.AF_UNIX))
        held[-1].settimeout(1)
        try:
            held[-1].connect(path)
            socket.send_fds(held[-1], [b"\0" * 16], [0, 0, 0])
        except OSError:
            pass
    return 0


def test_malformed_input_of_a_local_user_changes_nothing_for_others(daemon, alice, waiting):
    assert become(alice, lambda: harass(str(daemon.state / "smtpd.sock"))) == 0
    assert daemon.running()
    assert waiting in daemon.smtpctl("show", "queue").stdout


def run_smtpctl(daemon, *words):
    """For a child that has become somebody else."""
    try:
        return main(["--state", str(daemon.state), *words]) or 0
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1


@pytest.mark.parametrize(
    "words", ["remove all", "schedule all", "pause mda", "show queue", "log verbose", "show stats"]
)
def test_an_unprivileged_user_is_denied(daemon, alice, waiting, words):
    assert become(alice, lambda: run_smtpctl(daemon, *words.format(id=waiting).split())) == 1
    assert "MDA paused" in daemon.smtpctl("show", "status").stdout
    assert waiting in daemon.smtpctl("show", "queue").stdout
