"""Mailboxes for agents: locked, passed on, given up; and what a queue that was taken over would ask for."""

import mailbox as standard_library
import os
import socket
import stat
import subprocess
import sys
import threading
import time

import pytest

from mail_local import mailbox
from smtpd.imsg import (
    AgentEnded,
    EndAgent,
    KillAgent,
    LockMailbox,
    MailboxLocked,
    MailboxNotLocked,
    UnlockMailbox,
)
from smtpd.ipc.channel import Violation
from smtpd.parent.mailbox import LOCK_MAX
from smtpd.parent.privileged_request import PRIVILEGED_REQUESTS
from tests.parent.conftest import LOCAL, MBOX

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives files away")


@pytest.fixture
def directory(tmp_path):
    made = tmp_path / "mail"
    made.mkdir(mode=0o755)
    return made


@pytest.fixture
def world(make_world, directory):
    return make_world(LOCAL, MBOX, mailboxes=directory)


def ask(world, request, agent, **more):
    world.say("queue", LockMailbox(request, agent))
    return answer(world)


def answer(world):
    heard = []

    def has_heard():
        heard.extend(world.hears("queue"))
        return heard

    world.turn_until(has_heard)
    (told,) = heard
    return told


def take(world, pid):
    """What the agent finds in its mailbox_socket: the number of a lock, and the mailbox."""
    data, descriptors, _, _ = socket.recv_fds(world.mailbox_sockets[pid], 100, 4)
    (descriptor,) = descriptors
    return int.from_bytes(data, "big"), descriptor


def settled(world):
    """The thread has done all that it was asked for."""
    world.turn_until(lambda: world.mailboxes._worker.waiting == 0)


def start(world, request=1, user="alice"):
    """An agent for mailboxes; its number and pid."""
    (told,) = world.start_agent(request, user, "mbox")
    return told.agent, 1000 + request


def is_locked(path):
    """By anybody, as another program finds it."""
    code = "import fcntl, sys\nfcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    return subprocess.run([sys.executable, "-c", code, path], stderr=subprocess.DEVNULL).returncode != 0


# -- the way of a lock ---------------------------------------------------------------------


def test_a_mailbox_is_made_locked_and_passed_to_the_agent_and_given_up_in_the_end(world, directory):
    agent, pid = start(world)
    assert ask(world, 7, agent) == MailboxLocked(7, 1)
    number, descriptor = take(world, pid)
    assert number == 1 and is_locked(directory / "alice") and (directory / "alice.lock").exists()
    assert os.write(descriptor, b"From a mail\n")  # open for writing
    world.say("queue", UnlockMailbox(1))
    settled(world)
    assert sorted(os.listdir(directory)) == ["alice"]
    assert not is_locked(directory / "alice")  # though the agent has its copy still
    os.close(descriptor)


def test_the_next_lock_has_the_next_number(world, directory):
    agent, pid = start(world)
    for number in (1, 2, 3):
        assert ask(world, 7, agent) == MailboxLocked(7, number)
        taken, descriptor = take(world, pid)
        assert taken == number
        os.close(descriptor)
        world.say("queue", UnlockMailbox(number))


@needs_root
def test_a_new_mailbox_belongs_to_its_user_and_is_private(make_world, directory):
    world = make_world(MBOX, mailboxes=directory)
    (told,) = world.start_agent(1, "alice", "mbox", ids=(54321, 54322))
    assert isinstance(ask(world, 1, told.agent), MailboxLocked)
    status = (directory / "alice").stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (54321, 54322, 0o600)


@needs_root
@pytest.mark.parametrize("group, mode", [("mail", 0o2775), ("root", 0o755)], ids=["Debian", "OpenBSD"])
def test_the_mail_directories_of_both_worlds_will_do(make_world, directory, group, mode):
    import grp

    os.chown(directory, 0, grp.getgrnam(group).gr_gid)
    directory.chmod(mode)
    os.close(mailbox.open_directory(str(directory)))
    world = make_world(MBOX, mailboxes=directory)
    (told,) = world.start_agent(1, "alice", "mbox", ids=(54321, 54322))
    assert ask(world, 1, told.agent) == MailboxLocked(1, 1)
    assert (directory / "alice").stat().st_gid == 54322


# -- what is no mailbox ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda path: path.symlink_to("/etc/passwd"), "symbolic link"),
        (os.mkfifo, "not a regular file"),
        (lambda path: path.mkdir(), "not a regular file"),
    ],
    ids=["link", "fifo", "directory"],
)
def test_what_is_no_mailbox_is_refused_until_it_is_mended(world, directory, make, reason):
    make(directory / "alice")
    agent, _ = start(world)
    refused = ask(world, 1, agent)
    assert isinstance(refused, MailboxNotLocked) and not refused.permanent
    assert refused.reason.startswith(f"{directory}/alice: ") and reason in refused.reason
    (directory / "alice").rename(directory / "aside")
    assert isinstance(ask(world, 2, agent), MailboxLocked)


def test_a_user_whose_name_is_another_one_s_lock_has_no_mailbox(world, directory):
    agent, _ = start(world, user="alice.lock")
    assert ask(world, 1, agent).permanent
    assert os.listdir(directory) == []


@needs_root
def test_a_mailbox_of_another_user_is_refused(world, directory):
    (directory / "alice").write_text("secret")
    os.chown(directory / "alice", 54321, 54321)
    agent, _ = start(world)
    refused = ask(world, 1, agent)
    assert not refused.permanent
    assert refused.reason == f"{directory}/alice: the mailbox belongs to uid 54321, expected uid 1000"


def test_a_directory_that_is_gone_is_trouble_and_not_for_good(world, directory):
    agent, _ = start(world)
    directory.rmdir()
    refused = ask(world, 1, agent)
    assert not refused.permanent and refused.reason == f"{directory}/alice: No such file or directory"


# -- somebody else has it ---------------------------------------------------------------------


def test_a_reader_that_has_locked_is_waited_for(world, directory):
    (directory / "alice").touch()
    reader = standard_library.mbox(directory / "alice")
    reader.lock()
    agent, _ = start(world)
    world.say("queue", LockMailbox(1, agent))
    settled(world)
    assert world.hears("queue") == []
    reader.unlock()
    reader.close()
    assert answer(world) == MailboxLocked(1, 1)


def test_a_lock_that_is_held_for_too_long_is_a_temporary_failure(world, directory):
    (directory / "alice.lock").touch()
    agent, _ = start(world)
    world.say("queue", LockMailbox(1, agent))
    settled(world)
    world.wait(PRIVILEGED_REQUESTS[LockMailbox].deadline + 1)
    assert world.hears("queue") == [MailboxNotLocked(1, False, mailbox.LOCKED_REASON)]
    settled(world)
    assert not is_locked(directory / "alice")
    assert sorted(os.listdir(directory)) == ["alice", "alice.lock"]  # which is theirs


def test_two_agents_of_one_user_take_turns(world, directory):
    """Of two actions; the lock belongs to the open file, so one process may well be in its own way."""
    first, _ = start(world, 1)
    second, _ = start(world, 2)
    assert ask(world, 1, first) == MailboxLocked(1, 1)
    world.say("queue", LockMailbox(2, second))
    settled(world)
    assert world.hears("queue") == []
    world.say("queue", UnlockMailbox(1))
    assert answer(world) == MailboxLocked(2, 2)


def test_a_user_who_keeps_a_lock_delays_no_other_user(world, directory):
    (directory / "alice.lock").touch()
    alice, _ = start(world, 1)
    bob, _ = start(world, 2, "bob")
    world.say("queue", LockMailbox(1, alice))
    assert ask(world, 2, bob) == MailboxLocked(2, 1)


@pytest.mark.parametrize("age", [mailbox.STALE_LOCK_AGE + 1, -2 * mailbox.STALE_LOCK_AGE])
def test_a_dot_lock_that_a_crash_left_counts_for_its_time_and_no_longer(world, directory, age):
    (directory / "alice.lock").touch()
    os.utime(directory / "alice.lock", (time.time() - age,) * 2)
    agent, _ = start(world)
    assert ask(world, 1, agent) == MailboxLocked(1, 1)


# -- agents that end, or do not -----------------------------------------------------------------


def test_a_dead_agent_holds_nothing(world, directory):
    agent, pid = start(world)
    ask(world, 1, agent)
    world.say("nursery", AgentEnded(pid, 9))
    settled(world)
    assert os.listdir(directory) == ["alice"] and not is_locked(directory / "alice")
    world.say("queue", UnlockMailbox(1))  # it did not know yet
    assert ask(world, 2, agent) == MailboxNotLocked(2, False, "the agent has ended")


def test_an_agent_that_ends_while_its_mailbox_is_locked_for_it_gets_none(world, directory):
    agent, pid = start(world)
    world.say("queue", LockMailbox(1, agent))
    world.say("nursery", AgentEnded(pid, 9))
    assert answer(world) == MailboxNotLocked(1, False, "the agent has ended")
    settled(world)
    assert not (directory / "alice.lock").exists()


def test_an_agent_that_does_not_let_go_is_killed_and_only_then_unlocked(world, directory):
    agent, pid = start(world)
    ask(world, 1, agent)
    world.wait(LOCK_MAX - 1)
    assert world.hears("nursery") == []
    world.wait(2)
    assert world.hears("nursery") == [KillAgent(pid)]
    assert is_locked(directory / "alice")
    world.say("nursery", AgentEnded(pid, 9))
    settled(world)
    assert not is_locked(directory / "alice")


def test_an_agent_that_took_its_mailbox_and_gave_it_up_is_not_killed(world):
    agent, _ = start(world)
    ask(world, 1, agent)
    world.say("queue", UnlockMailbox(1))
    world.wait(2 * LOCK_MAX)
    assert world.hears("nursery") == []


def test_an_agent_that_takes_nothing_out_of_its_mailbox_socket_is_later(world, directory):
    """Stopped by its user; the parent does not wait for it."""
    agent, pid = start(world)
    world.agents.find(agent).mailbox_socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)
    told = ask(world, 1, agent)
    for request in range(2, 2000):
        if not isinstance(told, MailboxLocked):
            break
        world.say("queue", UnlockMailbox(told.lock))
        told = ask(world, request, agent)
    assert not told.permanent and "does not take its mailbox" in told.reason
    settled(world)
    assert not (directory / "alice.lock").exists()


def test_at_the_end_of_the_daemon_nothing_stays_locked(make_world, directory):
    world = make_world(MBOX, mailboxes=directory)
    agents = [start(world, number, user)[0] for number, user in enumerate(["alice", "bob", "carol"], 1)]
    ask(world, 1, agents[0])
    ask(world, 2, agents[1])
    world.say("queue", LockMailbox(3, agents[2]))  # is being locked just now
    world.close()
    assert not [name for name in os.listdir(directory) if name.endswith(".lock")]


# -- a file system that hangs ----------------------------------------------------------------------


@pytest.fixture
def hanging(monkeypatch):
    """A file system on which alice's mailbox hangs until the test lets it go."""
    let_go = threading.Event()
    plain = mailbox.openat2.stat

    def stat(name, **more):
        if name == "alice":
            assert let_go.wait(20)
        return plain(name, **more)

    monkeypatch.setattr(mailbox.openat2, "stat", stat)
    yield let_go
    let_go.set()


def test_a_system_call_that_hangs_defers_the_locks_and_stops_no_process(world, directory, hanging):
    alice, _ = start(world, 1)
    bob, _ = start(world, 2, "bob")
    world.say("queue", LockMailbox(1, alice))
    world.say("queue", LockMailbox(2, bob))
    world.wait(PRIVILEGED_REQUESTS[LockMailbox].deadline + 1)
    heard = world.hears("queue")
    assert heard == [MailboxNotLocked(number, False, "the mail directory does not answer") for number in (1, 2)]
    hanging.set()
    settled(world)
    assert not [name for name in os.listdir(directory) if name.endswith(".lock")]
    assert ask(world, 3, bob) == MailboxLocked(3, 1)


def test_what_waits_for_a_system_call_that_hangs_is_bounded(world, hanging, monkeypatch):
    monkeypatch.setattr(world.mailboxes._worker, "waiting", PRIVILEGED_REQUESTS[LockMailbox].waiting)
    agent, _ = start(world)
    assert ask(world, 1, agent) == MailboxNotLocked(1, False, "too many mailboxes are waited for")
    monkeypatch.undo()


# -- forged --------------------------------------------------------------------------------------


def test_a_mailbox_for_an_agent_that_stores_elsewhere_is_fatal(world, directory):
    (told,) = world.start_agent(1, "alice", "local")
    with pytest.raises(Violation, match="needs none"):
        world.say("queue", LockMailbox(1, told.agent))
    assert os.listdir(directory) == []


@pytest.mark.parametrize("number", [0, -1, 2, 2**40])
def test_a_mailbox_for_an_agent_that_there_never_was_is_fatal(world, number):
    start(world)
    with pytest.raises(Violation, match="unknown"):
        world.say("queue", LockMailbox(1, number))


@pytest.mark.parametrize("number", [0, -1, 2, 2**40])
def test_giving_up_a_lock_that_there_never_was_is_fatal(world, number):
    agent, _ = start(world)
    ask(world, 1, agent)
    with pytest.raises(Violation, match="unknown"):
        world.say("queue", UnlockMailbox(number))


def test_a_second_mailbox_for_the_same_agent_is_fatal(world):
    agent, _ = start(world)
    ask(world, 1, agent)
    with pytest.raises(Violation, match="has one"):
        world.say("queue", LockMailbox(2, agent))
    other, _ = start(world, 2, "bob")
    world.say("queue", LockMailbox(3, other))
    with pytest.raises(Violation, match="has one"):
        world.say("queue", LockMailbox(4, other))


def test_a_lock_is_given_up_once(world, directory):
    """What a late second word of queue unlocks is nobody's, and never the next one's."""
    agent, _ = start(world)
    ask(world, 1, agent)
    world.say("queue", UnlockMailbox(1))
    ask(world, 2, agent)
    world.say("queue", UnlockMailbox(1))
    settled(world)
    assert is_locked(directory / "alice")
    world.say("queue", EndAgent(agent))


# -- confined as the parent is ---------------------------------------------------------------------

CONFINED = """
import os, sys
from contextlib import ExitStack
from smtpd import sandbox
from smtpd.sandbox import landlock
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.parent.blocking_call import BlockingCalls
from mail_local import mailbox
directory, capabilities = sys.argv[1], sys.argv[2].split()
descriptor = mailbox.open_directory(directory)
sandbox.deny()
sandbox.limit_capabilities(capabilities)
landlock.restrict([(directory, "rwc")])
loop, told = SelectorLoop(), []
worker = BlockingCalls(loop)
def lock(name):
    with ExitStack() as held:
        return mailbox.maybe_lock(descriptor, name, 54321, 54322, held) is not None
for name in ("old", "new"):
    worker.do(lambda name=name: lock(name), told.append)
worker.do(lambda: open("/etc/passwd"), told.append)
while len(told) < 3:
    loop.turn()
print(*[one if one is True else type(one).__name__ for one in told])
"""


@needs_root
@pytest.mark.parametrize(
    "capabilities, told",
    [
        ("kill chown dac_override", "True True PermissionError"),
        ("kill dac_override", "True PermissionError PermissionError"),
        ("kill chown", "PermissionError True PermissionError"),
    ],
)
def test_the_parent_keeps_what_mailboxes_need_and_no_more(directory, capabilities, told):
    (directory / "old").touch(0o600)
    os.chown(directory / "old", 54321, 54322)
    command = [sys.executable, "-c", CONFINED, directory, capabilities]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == told, done.stderr
