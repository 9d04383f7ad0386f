"""The nursery's children, forked for real: what they are, what they may not be, and that nobody waits for them."""

import ast
import errno
import gc
import os
import pwd
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from smtpd import sandbox
from smtpd.errand import PROMISES, AgentSpec
from smtpd.imsg import (
    TABLE,
    AgentEnded,
    AgentForked,
    AgentMailboxSocket,
    AgentNotForked,
    ForkAgent,
    ForkPassword,
    ForkTableProgram,
    KillAgent,
    LookUpUser,
    PasswordTried,
    Stop,
    TableProgramEnded,
    TableProgramForked,
    TableProgramNotForked,
    TakeSeccompFilter,
    TryPassword,
    UserLookedUp,
)
from smtpd.ipc.channel import Channel
from smtpd.ipc.channel_set import ChannelSet
from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.nursery import child_main
from smtpd.nursery import children as children_module
from smtpd.nursery.children import Children
from smtpd.nursery.process import from_parent
from smtpd.parent.start.check import USERS
from smtpd.sandbox.privilege import CAPABILITIES
from smtpd.slice import LMTP_USER, OUR_USERS, PROGRAM_USER
from tests.unique import MARK

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: becomes another user")
USER = f"smtpd-nursery-{MARK}" if ROOT else pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture(scope="module", autouse=True)
def user(tmp_path_factory):
    """An ordinary user: as root one made for this, otherwise whoever runs the tests."""
    if not ROOT:
        yield USER
        return
    subprocess.run(["useradd", "--home-dir", "/nonexistent", "--shell", "/bin/sh", USER], check=True)
    yield USER
    subprocess.run(["userdel", USER], check=True, stderr=subprocess.DEVNULL)


RESERVED_UIDS = {4711}  # uids of the daemon's own users


def agent(request, user, kind="maildir", *, account=None, target="", wrapper="", junk=False, rcpt_to=False, files=()):
    return ForkAgent(request, user, account, kind, target, wrapper, junk, rcpt_to, "+", list(files))


class Facts:
    """An agent that tells what it is, in answer to whatever it is asked."""

    visible_paths = [("/proc", "r")]

    def __init__(self, *told):
        self.told = told

    def serve(self, sock, mailbox_socket):
        while question := sock.recv(100):
            if question == b"mailbox_socket":
                sock.send(mailbox_socket.recv(100))
                continue
            if question == b"limit":
                sock.send(repr(resource.getrlimit(resource.RLIMIT_NPROC)).encode())
                continue
            if question == b"fork" and os.fork() == 0:
                os._exit(0)
            with open("/proc/self/status") as file:
                status = file.read()
            if question == b"crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if question == b"stay":
                signal.signal(signal.SIGTERM, lambda *_: sock.send(b"asked to end"))
                sock.send(b"staying")
                continue
            open_ones = os.listdir("/proc/self/fd")
            mask = os.umask(0)
            sock.send(repr((status, self.told, open_ones, mask, os.getsid(0) == os.getpid())).encode())


class World:
    """A nursery in this process, seen by its parent."""

    def __init__(self, prepare=lambda *told: Facts(*told), offline=None):
        ours, theirs = socket.socketpair()
        self.loop = SelectorLoop()
        self.channels = ChannelSet(self.loop)
        self.nursery, self.parent = (
            Channel(ours, TABLE, "nursery", "parent"),
            Channel(theirs, TABLE, "parent", "nursery"),
        )
        self.children = Children(self.loop, self.nursery, prepare, offline, None, RESERVED_UIDS)
        self.finished = []
        self.sockets = []
        for kind, promises in PROMISES.items():
            if promises is not None:
                self.children.take_seccomp_filter(TakeSeccompFilter(kind, sandbox.compile(promises)))
        self.loop.on_signal(signal.SIGCHLD, self.children.reap)
        self.channels.add(self.nursery, lambda *received: from_parent(self.children, *received), pytest.fail)
        self.channels.add(self.parent, self.take, pytest.fail)

    def take(self, channel, imsg, descriptor):
        self.finished.append(imsg)
        if descriptor is not None:
            self.sockets.append(socket.socket(fileno=descriptor))

    def answers(self, count):
        """Turn until there are `count` answers; a test that hears nothing fails by pytest's own patience."""
        timer = self.loop.call_later(20, lambda: pytest.fail(f"heard only {self.finished}"))
        while len(self.finished) < count:
            self.loop.turn()
        timer.cancel()
        finished, self.finished = self.finished, []
        return finished

    def ask(self, imsg, descriptor=None):
        self.parent.send(imsg, descriptor)
        return self.answers(1)[0]

    def ask_for_agent(self, imsg):
        """What is told of it, without its mailbox_socket."""
        self.parent.send(imsg)
        return self.answers(2 if imsg.kind == "mbox" else 1)[-1]

    def close(self):
        for sock in self.sockets:
            sock.close()
        children = self.children
        for pid in {
            *children._lookups._children,
            *children._starting,
            *children._agents,
            *children._programs,
            *children._passwords,
        }:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.children._lookups.stop()
        self.channels.remove(self.nursery)
        self.channels.remove(self.parent)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@pytest.fixture
def make_world():
    made = []

    def make(*arguments):
        made.append(World(*arguments))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world):
    return make_world()


def facts(sock):
    sock.send(b"what are you?")
    status, told, descriptors, mask, own_session = eval(sock.recv(65536))
    return (
        dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line),
        told,
        descriptors,
        mask,
        own_session,
    )


def own(field):
    """A line of our own status."""
    return dict(line.split(":\t", 1) for line in Path("/proc/self/status").read_text().splitlines())[field]


def test_a_user_is_looked_up_by_a_child(world):
    assert world.ask(LookUpUser(1, USER)) == UserLookedUp(1, "user")
    assert world.ask(LookUpUser(2, "root")) == UserLookedUp(2, "root")
    assert world.ask(LookUpUser(3, "no-such-user-here")) == UserLookedUp(3, "unknown")


WITH_PROMISES = sorted(kind for kind, promises in PROMISES.items() if promises is not None)
WITH_COMMANDS = sorted(set(PROMISES) - set(WITH_PROMISES))


@pytest.mark.parametrize("kind", ["forward", "maildir"])  # these may look at themselves
def test_an_agent_is_its_user_with_nothing_else(world, kind):
    files = ["/etc/aliases"]
    forked = world.ask(agent(1, USER, kind, target="~/Maildir", wrapper="w", junk=True, rcpt_to=True, files=files))
    assert isinstance(forked, AgentForked), forked
    status, told, descriptors, mask, own_session = facts(world.sockets[0])
    account = pwd.getpwnam(USER)
    post = AgentSpec(
        kind, "~/Maildir", "w", junk=True, rcpt_to=True, delimiter="+", files=("/etc/aliases",), owner=os.geteuid()
    )
    assert told == (post, USER, account.pw_dir)
    assert forked == AgentForked(1, forked.pid, account.pw_uid, account.pw_gid)
    assert status["Uid"].split() == [str(account.pw_uid)] * 4
    assert status["Gid"].split() == [str(account.pw_gid)] * 4
    if ROOT:
        assert status["Groups"].split() == [str(account.pw_gid)]
        assert int(status["CapBnd"], 16) == 0
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert len(descriptors) == 5  # 0, 1, 2, its socket, and the one that lists them
    assert mask == 0o077 and own_session


@needs_root
@pytest.mark.parametrize("home, directory", [("/var/tmp", "/var/tmp"), ("/nonexistent", "/")])
def test_an_agent_begins_at_home_and_where_there_is_none_at_the_root(make_world, home, directory):
    world = make_world(lambda post, user, home: Facts(os.getcwd()))
    world.ask(agent(1, "carl", account=(54321, 54322, home)))
    _, told, *_ = facts(world.sockets[0])
    assert told == (directory,)


@pytest.mark.parametrize("kind", WITH_COMMANDS)
def test_an_agent_with_commands_has_no_more_rights_than_its_user_and_no_fewer(world, kind):
    forked = world.ask(agent(1, USER, kind))
    status, *_ = facts(world.sockets[0])
    assert status["Uid"].split() == [str(pwd.getpwnam(USER).pw_uid)] * 4
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    if ROOT:
        assert int(status["CapBnd"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", own("Seccomp"))
    world.sockets[0].send(b"fork")
    assert world.sockets[0].recv(65536)  # it lives
    assert world.children._agents[forked.pid].has_commands


def test_few_of_root_s_descriptors_wait_in_the_mailbox_socket_of_an_agent_that_takes_none(world):
    world.ask_for_agent(agent(1, USER, "mbox"))
    mailbox_socket = world.sockets[0]
    mailbox_socket.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while sent < 100:
            socket.send_fds(mailbox_socket, [b"8 bytes."], [0])
            sent += 1
    assert 2 <= sent < 20


@pytest.mark.parametrize("kind", WITH_COMMANDS)
def test_a_user_s_fork_bomb_leaves_processes_for_others(world, kind):
    world.ask(agent(1, USER, kind))
    world.sockets[0].send(b"limit")
    soft, hard = ast.literal_eval(world.sockets[0].recv(100).decode())
    assert 0 < soft == hard <= child_main.PROCESSES_MAX


@pytest.mark.parametrize("kind", WITH_PROMISES)
def test_every_other_kind_of_child_is_killed_for_starting_a_process(world, kind):
    forked = world.ask_for_agent(agent(1, USER, kind))
    world.sockets[-1].send(b"fork")
    assert world.answers(1) == [AgentEnded(forked.pid, signal.SIGSYS)]


def test_an_agent_of_mailboxes_has_a_second_socket_that_the_parent_is_handed_first(world):
    world.parent.send(agent(1, USER, "mbox"))
    mailbox_socket, forked = world.answers(2)
    assert mailbox_socket == AgentMailboxSocket(forked.pid)
    world.sockets[0].send(b"a mailbox")
    world.sockets[1].send(b"mailbox_socket")
    assert world.sockets[1].recv(100) == b"a mailbox"


def test_the_filter_that_the_parent_made_is_the_one_that_holds(make_world):
    world = make_world()
    world.parent.send(TakeSeccompFilter("maildir", sandbox.compile("stdio rpath recvfd")))
    forked = world.ask(agent(1, USER))
    world.sockets[0].send(b"fork")
    assert world.answers(1) == [AgentEnded(forked.pid, signal.SIGSYS)]


@pytest.mark.parametrize("name, verdict", [("root", "root"), ("no-such-user-here", "unknown")])
def test_no_child_becomes_a_user_who_may_not_receive(world, name, verdict):
    refused = world.ask(agent(1, name))
    assert isinstance(refused, AgentNotForked) and refused.verdict == verdict


@needs_root
@pytest.mark.parametrize("name", ["daemon", "nobody"])
def test_a_daemon_s_user_is_not_become(world, name):
    assert world.ask(agent(1, name)).verdict == "daemon"


# -- users of a userbase --------------------------------------------------------------


@needs_root
def test_a_user_of_a_userbase_is_its_uid_and_gid_whatever_the_system_calls_him(world):
    forked = world.ask(agent(1, "root", "forward", account=(54321, 54322, "/")))
    assert forked == AgentForked(1, forked.pid, 54321, 54322)
    status, told, *_ = facts(world.sockets[0])
    assert (status["Uid"].split(), status["Gid"].split()) == (["54321"] * 4, ["54322"] * 4)
    assert told[1:] == ("root", "/")


@needs_root
@pytest.mark.parametrize(
    "uid, gid, verdict",
    [(0, 54321, "root"), (54321, 0, "daemon"), (1, 54321, "daemon"), (65534, 54321, "daemon"), (4711, 9, "daemon")],
    ids=["root", "root's group", "a daemon", "nobody", "one of ours"],
)
def test_a_userbase_makes_no_user_root_or_a_daemon(world, uid, gid, verdict):
    assert world.ask(agent(1, "alice", account=(uid, gid, "/"))) == AgentNotForked(1, verdict, "")


@pytest.mark.skipif(ROOT, reason="root becomes others")
def test_a_userbase_gives_an_ordinary_user_no_other_uid(world):
    assert world.ask(agent(1, "alice", account=(os.geteuid() + 1, os.getegid(), "/"))).verdict == "unknown"


# -- our own users, who deliver for many ------------------------------------------------


@pytest.mark.parametrize("kind", sorted(PROMISES))
def test_the_user_of_lmtp_delivers_over_lmtp_and_does_nothing_else(world, kind):
    told = world.ask(agent(1, LMTP_USER, kind))
    if kind not in ("lmtp", "lmtp-unix"):
        assert isinstance(told, AgentNotForked) and told.verdict == ("daemon" if ROOT else "unknown")
        return
    assert isinstance(told, AgentForked), told
    assert told.uid == (pwd.getpwnam(LMTP_USER).pw_uid if ROOT else os.geteuid())


@needs_root
@pytest.mark.parametrize("name", sorted({*OUR_USERS} - {LMTP_USER}))
def test_none_of_the_others_of_ours_is_become(world, name):
    assert world.ask(agent(1, name, "lmtp")).verdict in ("daemon", "unknown")


def test_our_users_are_known_by_their_names():
    assert set(OUR_USERS) == set(USERS)
    assert {LMTP_USER, PROGRAM_USER} < set(OUR_USERS)


# -- the end of agents ---------------------------------------------------------------------


def test_its_end_is_told_however_it_ends(world):
    forked = world.ask(agent(1, USER))
    world.sockets[0].close()
    assert world.answers(1) == [AgentEnded(forked.pid, 0)]
    forked = world.ask(agent(2, USER))
    world.sockets[1].send(b"crash")
    assert world.answers(1) == [AgentEnded(forked.pid, signal.SIGSEGV)]


def test_only_the_child_that_the_parent_names_is_killed(world):
    forked = world.ask(agent(1, USER))
    world.parent.send(KillAgent(os.getpid()))
    world.parent.send(KillAgent(1))
    world.parent.send(KillAgent(forked.pid))
    assert world.answers(1) == [AgentEnded(forked.pid, signal.SIGKILL)]


@pytest.mark.parametrize("kind", WITH_COMMANDS)
def test_one_with_commands_is_asked_to_end_them_and_killed_when_it_does_not(world, kind, monkeypatch):
    monkeypatch.setattr(children_module, "COMMANDS_EXIT_TIMEOUT", 0.2)
    forked = world.ask(agent(1, USER, kind))
    (sock,) = world.sockets
    sock.send(b"stay")
    assert sock.recv(100) == b"staying"
    world.parent.send(KillAgent(forked.pid))
    assert world.answers(1) == [AgentEnded(forked.pid, signal.SIGKILL)]
    assert sock.recv(100) == b"asked to end"


@pytest.mark.parametrize("kind", WITH_COMMANDS)
def test_commands_do_not_outlive_the_daemon(world, kind):
    forked = world.ask(agent(1, USER, kind))
    world.parent.send(Stop())
    assert world.answers(1) == [AgentEnded(forked.pid, signal.SIGTERM)]


def test_a_pid_that_came_back_is_not_killed_for_another_s_sake(world):
    old = children_module.Agent(os.getpid(), True)  # ended, and its pid is that of this process now
    world.children._kill(old)


# -- programs -------------------------------------------------------------------------------

TELL = (  # a shell, as any user may run it; a line, as all words of an imsg are
    'while IFS= read -r line; do echo "$line"; done </proc/$$/status; '  # by itself: it blocks signals to fork
    "echo --; tr '\\0' '\\n' </proc/$$/environ; echo --; "
    "for number in 0 1 2; do readlink /proc/$$/fd/$number; done; echo --; ls -C /proc/$$/fd; pwd; echo $*; echo --; "
    "read word; exit 3"
)


@pytest.fixture
def record():
    """The end of a log to write to."""
    reading, writing = os.pipe2(os.O_NONBLOCK)
    yield writing
    os.close(reading)
    os.close(writing)


def program(request, *words, user=PROGRAM_USER):
    return ForkTableProgram(request, user, list(words))


def test_a_program_has_its_socket_a_log_of_its_own_and_nothing_else(world, record):
    forked = world.ask(program(1, "/bin/sh", "-c", TELL, "table", "/etc/table.conf"), os.dup(record))
    assert isinstance(forked, TableProgramForked), forked
    told = ""
    while told.count("--\n") < 4:
        told += world.sockets[0].recv(65536).decode()
    lines, environment, descriptors, rest = (part.splitlines() for part in told.split("--\n")[:4])
    status = dict(line.split(":\t", 1) for line in lines)
    uid = pwd.getpwnam(PROGRAM_USER).pw_uid if ROOT else os.geteuid()
    assert status["Uid"].split() == [str(uid)] * 4
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    if ROOT:
        assert int(status["CapBnd"], 16) == 0
    assert {int(status[mask], 16) & ~(3 << 31) for mask in ("SigBlk", "SigIgn")} == {0}  # 32 and 33 are the library's
    assert status["NoNewPrivs"] == "1"
    assert {line.partition("=")[0] for line in environment} <= {"PATH", "LANG", "TZ"}
    assert descriptors[0] == descriptors[1] and descriptors[0].startswith("socket:")
    assert descriptors[2] == os.readlink(f"/proc/self/fd/{record}") != os.readlink("/proc/self/fd/2")
    assert [line.split() for line in rest] == [["0", "1", "2"], ["/"], ["/etc/table.conf"]]
    assert os.getsid(forked.pid) == forked.pid
    world.sockets[0].send(b"\n")
    assert world.answers(1) == [TableProgramEnded(forked.pid, 3 << 8)]


def test_a_program_that_is_not_there_is_said(world, record):
    before = set(os.listdir("/proc/self/fd"))
    refused = world.ask(program(1, "/no/such/program"), os.dup(record))
    assert set(os.listdir("/proc/self/fd")) <= before
    assert isinstance(refused, TableProgramNotForked) and "/no/such/program" in refused.reason


@needs_root
@pytest.mark.parametrize("name", ["root", "daemon", *sorted({*OUR_USERS} - {PROGRAM_USER})])
def test_no_program_runs_as_root_or_a_daemon(world, record, name):
    refused = world.ask(program(1, "/bin/true", user=name), os.dup(record))
    assert isinstance(refused, TableProgramNotForked) and f"user {name}" in refused.reason


def test_a_program_is_no_agent_and_is_not_killed_as_one(world, record):
    forked = world.ask(program(1, "/bin/cat"), os.dup(record))
    world.parent.send(KillAgent(forked.pid))
    world.sockets[0].send(b"still there")
    world.ask(LookUpUser(2, "root"))
    assert world.sockets[0].recv(100) == b"still there"


# -- passwords ----------------------------------------------------------------------------------


@pytest.fixture
def process(world):
    """The parent's end of the channel of a process that asks PAM."""
    ours, theirs = socket.socketpair()
    world.parent.send(ForkPassword(), theirs.detach())
    channel = Channel(ours, TABLE, "parent", "password")
    world.channels.add(channel, world.take, lambda *_: world.finished.append("the end"))
    yield channel
    world.channels.remove(channel)


def test_a_process_that_asks_PAM_has_a_channel_and_one_answer(world, process):
    process.send(TryPassword("no-such-user-here", "x", "192.0.2.1"))
    answer, end = world.answers(2)
    assert isinstance(answer, PasswordTried) and answer.verdict != "yes" and end == "the end"


def test_one_that_hangs_is_killed(make_world, monkeypatch):
    monkeypatch.setattr(children_module, "PASSWORD_TIMEOUT", 0.3)
    world = make_world()
    ours, theirs = socket.socketpair()
    world.parent.send(ForkPassword(), theirs.detach())
    with ours:
        ours.settimeout(20)
        timer = world.loop.call_later(20, lambda: pytest.fail("it lives"))
        while not world.children._passwords:
            world.loop.turn()
        while world.children._passwords:
            world.loop.turn()
        timer.cancel()
        assert ours.recv(1) == b""


@needs_root
def test_the_process_that_asks_PAM_stays_root_with_two_capabilities(world, process):
    while not world.children._passwords:
        world.loop.turn()
    (pid,) = world.children._passwords
    while pid in world.children._starting:  # until it has been executed
        world.loop.turn()
    with open(f"/proc/{pid}/status") as file:
        status = dict(line.split(":", 1) for line in file.read().splitlines())
    wanted = sum(1 << CAPABILITIES.index(name) for name in ("audit_write", "dac_read_search"))
    assert status["Uid"].split() == ["0"] * 4
    assert int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == wanted and int(status["CapInh"], 16) == 0


# -- what goes wrong -------------------------------------------------------------------------


def test_an_agent_that_cannot_be_made_is_later_with_the_reason(make_world):
    def prepare(*told):
        raise OSError(5, "the disk is broken")

    refused = make_world(prepare).ask(agent(1, USER))
    assert refused.verdict == "later" and "the disk is broken" in refused.reason


def test_a_place_that_is_not_there_is_later(make_world):
    def prepare(*told):
        agent = Facts(*told)
        agent.visible_paths = [("/no/such/place", "r")]
        return agent

    refused = make_world(prepare).ask(agent(1, USER))
    assert refused.verdict == "later" and "/no/such/place" in refused.reason


def test_a_child_that_dies_without_a_word_is_later(make_world):
    def prepare(*told):
        os.kill(os.getpid(), signal.SIGKILL)

    refused = make_world(prepare).ask(agent(1, USER))
    assert refused == AgentNotForked(1, "later", children_module.NO_REPORT)


def test_a_child_that_hangs_is_killed_and_others_do_not_wait_for_it(make_world, monkeypatch):
    monkeypatch.setattr(children_module, "START_TIMEOUT", 0.3)

    def prepare(*told):
        signal.pause()

    world = make_world(prepare)
    world.parent.send(agent(1, USER))
    world.parent.send(LookUpUser(2, "root"))
    first, second = world.answers(2)
    assert first == UserLookedUp(2, "root")
    assert second == AgentNotForked(1, "later", children_module.TOO_LATE)
    while world.children._agents:
        world.loop.turn()


def test_what_a_child_says_cannot_forge_an_answer(make_world):
    def prepare(*told):
        raise OSError("line\nok\x00\x1b[2J")

    refused = make_world(prepare).ask(agent(1, USER))
    assert refused.verdict == "later" and refused.reason.isprintable()


def test_what_a_child_says_when_it_is_its_user_does_not_make_it_another(make_world):
    """The pipe is the child's until it closes it; whom it was to become is settled before."""

    def prepare(*told):
        os.write(max(int(name) for name in os.listdir("/proc/self/fd")) - 1, b"ids 0 0\n")
        return Facts(*told)

    told = make_world(prepare).ask(agent(1, USER, "forward"))
    assert told.verdict == "later"


@pytest.mark.parametrize("line", ["ids", "ids 0", "ids -1 0", "ids a b", "ids ٣ 1", "ids 1 2 3"])
def test_only_numbers_are_ids(line):
    assert children_module._ids_in(line) is None


def test_more_than_may_be_at_once_is_later(make_world, monkeypatch):
    monkeypatch.setattr(children_module, "AGENTS_MAX", 2)
    world = make_world()
    for number in (1, 2):
        assert isinstance(world.ask(agent(number, USER)), AgentForked)
    assert world.ask(agent(3, USER)) == AgentNotForked(3, "later", "too many agents")


def test_when_no_process_can_be_made_it_is_later(make_world, monkeypatch):
    def no_fork():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(child_main.os, "fork", no_fork)
    world = make_world()
    assert world.ask(agent(1, USER)).verdict == "later"
    assert world.ask(LookUpUser(1, "root")).verdict == "later"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()  # the next child's end is heard of


@pytest.mark.parametrize("call", ["os.pipe2", "socket.socketpair"])
def test_when_no_descriptor_can_be_had_it_is_later_and_none_is_lost(make_world, monkeypatch, record, call):
    """Of this process or of the whole system: no reason to end."""
    world = make_world()
    room, name = {"os": os, "socket": socket}[call.partition(".")[0]], call.partition(".")[2]
    gc.collect()  # worlds of tests before this one
    before = len(os.listdir("/proc/self/fd"))
    with monkeypatch.context() as patched:
        patched.setattr(room, name, _scarce(getattr(room, name), 0))
        assert isinstance(world.ask(agent(1, USER)), AgentNotForked)
        assert isinstance(world.ask(LookUpUser(2, "root")), UserLookedUp)
        assert isinstance(world.ask(program(3, "/bin/true"), os.dup(record)), TableProgramNotForked)
        patched.setattr(room, name, _scarce(getattr(room, name), 1 if name == "socketpair" else 0))
        assert isinstance(world.ask(agent(4, USER, "mbox")), AgentNotForked)
    world.children._lookups.stop()
    assert len(os.listdir("/proc/self/fd")) == before
    assert isinstance(world.ask(agent(5, USER)), AgentForked)


def _scarce(call, left):
    """The call, which fails after so many times."""
    counts = iter(range(left))

    def scarce(*arguments):
        if next(counts, None) is None:
            raise OSError(errno.ENFILE, "Too many open files in system")
        return call(*arguments)

    return scarce


def test_a_memory_limit_only_ever_goes_down():
    program = (
        "import resource; from smtpd.nursery import child_main\n"
        "for hard in (2**32, 2**28):\n"
        "    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))\n"
        "    child_main._limit(resource.RLIMIT_DATA, child_main.MEMORY_MAX)\n"
        "    print(resource.getrlimit(resource.RLIMIT_DATA)[1])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [int(line) for line in done.stdout.split()] == [child_main.MEMORY_MAX, 2**28]


@pytest.mark.parametrize("line", [b"later a\x01b\tc", b"later " + b"\xff" * 990, b"\x1b[2J", b"daemon \xe2\x80\xa8\r"])
def test_what_a_child_says_is_never_more_than_the_parent_can_read(monkeypatch, line):
    """The parent ends the daemon over an imsg that does not fit."""
    monkeypatch.setattr(children_module, "run_table_program", lambda *more: os.write(more[-1], line + b"\n"))
    monkeypatch.setattr(children_module, "run_agent", lambda *more: os.write(more[-1], line + b"\n"))
    world = World()
    try:
        world.children.fork_program(ForkTableProgram(1, "x" * 256, ["/bin/true"]), os.open("/dev/null", os.O_WRONLY))
        world.children.fork_agent(agent(2, "bob"))
        assert {type(imsg) for imsg in world.answers(2)} == {TableProgramNotForked, AgentNotForked}
    finally:
        world.close()
