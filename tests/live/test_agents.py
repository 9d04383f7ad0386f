"""A user against his own agents: his mail waits, nobody else notices."""

import array
import contextlib
import ctypes
import fcntl
import os
import pwd
import re
import shutil
import signal
import smtplib
import socket
import subprocess
from pathlib import Path

import pytest

from smtpd.envelope import Outcome
from smtpd.errand import PACKET_MAX, ForwardText, Result, encode
from tests.live.conftest import become, mails, pids_of, running, until
from tests.live.descriptors import sockets
from tests.live.recipient import logged


@pytest.fixture(scope="module")
def daemon(ground, users):
    with running(ground) as made:
        yield made


# Users of each test's own: the daemon knows for a while what was in a .forward, and keeps agents that are at rest.
@pytest.fixture
def alice(users):
    return users.make("smtpd-alice")


@pytest.fixture
def bob(users):
    return users.make("smtpd-bob")


@pytest.fixture
def boxes(daemon, users, alice, bob):
    """The homes; no mail of an earlier test waits."""
    daemon.smtpctl("remove", "all", check=False)  # there may be none
    until(lambda: daemon.smtpctl("show", "queue").stdout == "", what="an empty queue")
    return {name: users.home(name) for name in (alice, bob)}


def agents_of(daemon, name):
    """Processes of the daemon that are that user, not those who are just becoming it."""
    found = []
    for pid in set(pids_of(name)) & set(daemon.descendants()):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # one that has read a .forward leaves soon
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"smtpd: agent"):
                found.append(pid)
    return found


def send(daemon, name, subject):
    daemon.send(f"{name}@here.test", f"Subject: {subject}\r\n\r\nx\r\n".encode())


def was_taken(daemon, name, subject):
    """False when the client was told to come again; anything else but yes is an error."""
    try:
        send(daemon, name, subject)
    except smtplib.SMTPRecipientsRefused as refused:
        ((code, reply),) = refused.recipients.values()
        assert code in (424, 451), reply
        return False
    return True


def subjects(home):
    return [re.search(rb"^Subject: (.*)$", mail, re.MULTILINE)[1].decode() for mail in mails(home)]


def awaken(daemon, boxes, name):
    """The agents of that user, at rest: one has read the .forward, one has stored a mail."""
    send(daemon, name, "first")
    until(lambda: subjects(boxes[name]) == ["first"], what="a delivery")
    agents = agents_of(daemon, name)
    assert len(agents) == 2
    return agents


def others_go_on(daemon, boxes, bob):
    before = len(mails(boxes[bob]))
    for number in range(5):
        send(daemon, bob, f"to bob {number}")
    until(lambda: len(mails(boxes[bob])) == before + 5, what="bob's mail")
    assert not logged(daemon, f"<{bob}@here.test>", "result=TempFail")  # none of them was a second attempt
    assert daemon.running()


def all_arrive(daemon, home, expected):
    """Each of them once, as soon as nobody stands in the way any more; whoever was told to come again does so."""

    def arrived():
        daemon.smtpctl("schedule", "all")
        return sorted(subjects(home)) == sorted(expected)

    until(arrived, what=f"the arrival of {expected}")


def as_user(name, *command, check=True):
    """Run a program as that user, outside of any sandbox."""
    entry = pwd.getpwnam(name)
    become = ["setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
    return subprocess.run([*become, *command], check=check, capture_output=True, text=True, timeout=60)


def signal_as(name, kind, pids, check=True):
    """By the shell: not every machine has the program kill."""
    return as_user(name, "sh", "-c", f'kill -{kind} "$@"', "sh", *map(str, pids), check=check)


def end(pids):
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def test_a_user_kills_his_agents(daemon, boxes, alice, bob):
    sent = [f"number {number}" for number in range(10)]
    for subject in sent:
        until(lambda subject=subject: was_taken(daemon, alice, subject), what="a mail taken")
        end(agents_of(daemon, alice))
    others_go_on(daemon, boxes, bob)
    all_arrive(daemon, boxes[alice], sent)


def test_a_user_stops_his_agents(daemon, boxes, alice, bob):
    stopped = awaken(daemon, boxes, alice)
    signal_as(alice, "STOP", stopped)
    sent = [subject for subject in map(str, range(20)) if was_taken(daemon, alice, subject)]
    others_go_on(daemon, boxes, bob)
    signal_as(alice, "CONT", stopped, check=False)  # the queue may have parted with them
    all_arrive(daemon, boxes[alice], ["first", *sent])


def test_a_user_stops_his_agents_for_good(make_daemon, boxes, alice, bob):
    """When the daemon stops they are not waited for, or not for long."""
    daemon = make_daemon().start()
    signal_as(alice, "STOP", awaken(daemon, boxes, alice))
    was_taken(daemon, alice, "second")
    others_go_on(daemon, boxes, bob)
    stopped = agents_of(daemon, alice)
    assert daemon.stop() == 0
    until(lambda: not pids_of(alice), what=f"the end of {stopped}")


@pytest.mark.parametrize("limit", ["--fsize=0", "--nofile=0", "--as=0", "--data=0", "--nproc=0", "--cpu=0"])
def test_a_user_limits_his_agents(daemon, boxes, alice, bob, limit):
    limited = awaken(daemon, boxes, alice)
    for pid in limited:
        as_user(alice, "prlimit", f"--pid={pid}", limit, check=False)  # some of these may end it in between
    sent = [subject for subject in map(str, range(5)) if was_taken(daemon, alice, subject)]
    others_go_on(daemon, boxes, bob)
    end(limited)
    all_arrive(daemon, boxes[alice], ["first", *sent])


def test_a_user_holds_a_lease_on_his_forward(daemon, boxes, users, alice, bob):
    forward = boxes[alice] / ".forward"
    forward.write_text(f"\\{alice}\n")
    shutil.chown(forward, alice, alice)
    forward.chmod(0o600)
    try:
        with forward.open("r+") as held:
            before = signal.signal(signal.SIGIO, signal.SIG_IGN)
            fcntl.fcntl(held, fcntl.F_SETLEASE, fcntl.F_WRLCK)
            assert fcntl.fcntl(held, fcntl.F_GETLEASE) == fcntl.F_WRLCK
            assert not was_taken(daemon, alice, "held")
            others_go_on(daemon, boxes, bob)
        signal.signal(signal.SIGIO, before)
        until(lambda: was_taken(daemon, alice, "let go"), what="a mail taken")
        all_arrive(daemon, boxes[alice], ["let go"])
    finally:
        forward.unlink()


def test_a_user_cannot_look_into_or_change_his_agents(daemon, boxes, alice):
    ptrace_attach = 16
    for pid in awaken(daemon, boxes, alice):
        for file in ("mem", "environ", "maps"):
            assert as_user(alice, "head", "-c1", f"/proc/{pid}/{file}", check=False).returncode != 0, file
        assert as_user(alice, "ls", f"/proc/{pid}/fd", check=False).returncode != 0
        assert become(alice, lambda pid=pid: ctypes.CDLL(None).ptrace(ptrace_attach, pid, 0, 0) == 0) == 0


# -- an agent whose bytes were replaced all the same -------------------------------------------


def sockets_of(pid):
    """Root can have the sockets of an agent, and say whatever it would say if its bytes were somebody else's."""
    pidfd_getfd = 438
    process = os.pidfd_open(pid)
    held = [socket.socket(fileno=ctypes.CDLL(None).syscall(pidfd_getfd, process, number, 0)) for number in sockets(pid)]
    os.close(process)
    return held


def say(pid, packets):
    """False: it has ended meanwhile, as agents do that have nothing to do."""
    try:
        taken = sockets_of(pid)
    except (FileNotFoundError, ProcessLookupError):
        return False
    for sock in taken:
        with sock, contextlib.suppress(ConnectionError):  # its first words may have been enough
            for packet in packets:
                sock.send(packet)
    return True


LIES = {
    "nothing": [b""],
    "zeros": [b"\0" * 100],
    "ones": [b"\xff" * 100],
    "too much": [b"\1" * PACKET_MAX],
    "a result of no errand": [encode(Result(1 << 32 | 1, Outcome.DELIVERED, ""))],
    "a forward that nobody reads": [encode(ForwardText(7, "text", b"root\n"))],
}


@pytest.mark.parametrize("lie", LIES)
def test_an_agent_that_talks_nonsense_is_dropped(daemon, boxes, alice, bob, lie):
    (agent, *_) = awaken(daemon, boxes, alice)
    say(agent, LIES[lie])
    until(lambda: agent not in agents_of(daemon, alice), what="its end")
    others_go_on(daemon, boxes, bob)
    until(lambda: was_taken(daemon, alice, "second"), what="a mail taken")
    all_arrive(daemon, boxes[alice], ["first", "second"])


def test_an_agent_cannot_speak_for_another_users_mail(daemon, boxes, alice, bob):
    """It says that bob's mail, which waits for his agent, is delivered."""
    agents = awaken(daemon, boxes, alice)
    for pid in awaken(daemon, boxes, bob):
        os.kill(pid, signal.SIGSTOP)
    send(daemon, bob, "for bob's eyes")
    (line,) = daemon.smtpctl("show", "queue").stdout.splitlines()
    lie = encode(Result(int(line.partition("|")[0], 16), Outcome.DELIVERED, ""))
    assert any([say(agent, [lie]) for agent in agents])
    until(lambda: not agents_of(daemon, alice), what="their end")
    end(agents_of(daemon, bob))
    all_arrive(daemon, boxes[bob], ["first", "for bob's eyes"])


def test_an_agent_that_floods_the_queue_with_descriptors_and_packets_is_dropped(daemon, boxes, alice, bob):
    (agent, *_) = awaken(daemon, boxes, alice)
    descriptors = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0] * 200))]
    packet = encode(ForwardText(7, "none", b""))
    for sock in sockets_of(agent):
        with sock:
            sock.setblocking(False)
            try:
                while True:
                    sock.sendmsg([packet], descriptors)
            except OSError:
                pass  # nobody is there any more, or too many are under way
    others_go_on(daemon, boxes, bob)
    assert len(os.listdir(f"/proc/{daemon.pids()['queue']}/fd")) < 100


# -- what he can do to his home ------------------------------------------------------------------


def test_a_maildir_that_is_a_link_to_that_of_another_user_gets_nothing(daemon, boxes, users, alice, bob):
    maildir = boxes[alice] / "Maildir"
    shutil.rmtree(maildir, ignore_errors=True)
    send(daemon, bob, "makes bob's Maildir")
    until(lambda: mails(boxes[bob]), what="bob's Maildir")
    maildir.symlink_to(boxes[bob] / "Maildir")
    assert was_taken(daemon, alice, "mine")
    others_go_on(daemon, boxes, bob)
    assert "mine" not in subjects(boxes[bob])
    maildir.unlink()
    all_arrive(daemon, boxes[alice], ["mine"])


def test_a_maildir_that_goes_while_its_agent_is_there_is_made_again(daemon, boxes, alice):
    awaken(daemon, boxes, alice)
    shutil.rmtree(boxes[alice] / "Maildir")
    assert was_taken(daemon, alice, "second")
    all_arrive(daemon, boxes[alice], ["second"])


def test_a_missing_home_defers_the_mail_of_that_user_only(daemon, boxes, users, bob):
    name = users.make("smtpd-homeless")
    home = users.home(name)
    shutil.rmtree(home)
    assert was_taken(daemon, name, "where")
    others_go_on(daemon, boxes, bob)
    home.mkdir(mode=0o700)
    shutil.chown(home, name, name)
    all_arrive(daemon, home, ["where"])
