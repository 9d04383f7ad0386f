"""The nursery's children, forked for real: what they are, what they may not be, and that nobody waits for them."""

import os
import pwd
import signal
import socket
import subprocess
import sys

import pytest

from smtpd import sandbox
from smtpd.imsg import (
    TABLE,
    AgentEnded,
    AgentForked,
    AgentNotForked,
    ForkAgent,
    KillAgent,
    LookUpUser,
    TakeProgram,
    UserLookedUp,
)
from smtpd.ipc.channel import Channel
from smtpd.ipc.errand import PROMISES
from smtpd.ipc.plain import Loop
from smtpd.nursery import brood as brood_module
from smtpd.nursery import cradle
from smtpd.nursery.brood import Brood
from smtpd.nursery.process import from_parent

ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not ROOT, reason="needs root: becomes another user")
USER = "smtpd-nursery" if ROOT else pwd.getpwuid(os.geteuid()).pw_name


@pytest.fixture(scope="module", autouse=True)
def user(tmp_path_factory):
    """An ordinary user: as root one made for this, otherwise whoever runs the tests."""
    if not ROOT:
        yield USER
        return
    subprocess.run(["useradd", "--home-dir", "/nonexistent", "--shell", "/bin/sh", USER], check=True)
    yield USER
    subprocess.run(["userdel", USER], check=True, stderr=subprocess.DEVNULL)


class Facts:
    """An agent that tells what it is, in answer to whatever it is asked."""

    places = [("/proc", "r")]

    def __init__(self, *told):
        self.told = told

    def serve(self, sock):
        while question := sock.recv(100):
            with open("/proc/self/status") as file:
                status = file.read()
            if question == b"crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if question == b"forbidden":
                os.fork()
            open_ones = os.listdir("/proc/self/fd")
            mask = os.umask(0)
            sock.send(repr((status, self.told, open_ones, mask, os.getsid(0) == os.getpid())).encode())


class World:
    """A nursery in this process, seen by its parent."""

    def __init__(self, prepare=lambda *told: Facts(*told)):
        ours, theirs = socket.socketpair()
        self.loop = Loop()
        self.nursery, self.parent = (
            Channel(ours, TABLE, "nursery", "parent"),
            Channel(theirs, TABLE, "parent", "nursery"),
        )
        self.brood = Brood(self.loop, self.nursery, prepare, None)
        self.heard = []
        self.sockets = []
        for kind, promises in PROMISES.items():
            self.brood.take_program(TakeProgram(kind, sandbox.compile(promises)))
        self.loop.on_signal(signal.SIGCHLD, self.brood.reap)
        self.loop.add(self.nursery, lambda *received: from_parent(self.brood, *received), pytest.fail)
        self.loop.add(self.parent, self.take, pytest.fail)

    def take(self, channel, imsg, descriptor):
        self.heard.append(imsg)
        if descriptor is not None:
            self.sockets.append(socket.socket(fileno=descriptor))

    def answers(self, count):
        """Turn until there are `count` answers; a test that hears nothing fails by pytest's own patience."""
        timer = self.loop.after(20, lambda: pytest.fail(f"heard only {self.heard}"))
        while len(self.heard) < count:
            self.loop.turn()
        timer.cancel()
        heard, self.heard = self.heard, []
        return heard

    def ask(self, imsg):
        self.parent.send(imsg)
        return self.answers(1)[0]

    def close(self):
        for sock in self.sockets:
            sock.close()
        for pid in [*self.brood._young, *self.brood._users]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        self.loop.remove(self.nursery)
        self.loop.remove(self.parent)
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


def test_a_user_is_looked_up_by_a_child(world):
    assert world.ask(LookUpUser(1, USER)) == UserLookedUp(1, "user")
    assert world.ask(LookUpUser(2, "root")) == UserLookedUp(2, "root")
    assert world.ask(LookUpUser(3, "no-such-user-here")) == UserLookedUp(3, "unknown")


@pytest.mark.parametrize("kind", sorted(PROMISES))
def test_an_agent_is_its_user_with_nothing_else(world, kind):
    forked = world.ask(ForkAgent(1, USER, kind, "~/Maildir", True))
    assert isinstance(forked, AgentForked), forked
    status, told, descriptors, mask, own_session = facts(world.sockets[0])
    person = pwd.getpwnam(USER)
    assert told == (kind, "~/Maildir", True, USER, person.pw_dir)
    assert status["Uid"].split() == [str(person.pw_uid)] * 4
    assert status["Gid"].split() == [str(person.pw_gid)] * 4
    if ROOT:
        assert status["Groups"].split() == [str(person.pw_gid)]
        assert int(status["CapBnd"], 16) == 0
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert len(descriptors) == 5  # 0, 1, 2, its socket, and the one that lists them
    assert mask == 0o077 and own_session


def test_the_filter_that_the_parent_made_is_the_one_that_holds(make_world):
    world = make_world()
    world.parent.send(TakeProgram("maildir", sandbox.compile("stdio rpath recvfd")))
    forked = world.ask(ForkAgent(1, USER, "maildir", "", False))
    world.sockets[0].send(b"forbidden")
    assert world.answers(1) == [AgentEnded(forked.pid, signal.SIGSYS)]


@pytest.mark.parametrize("name, verdict", [("root", "root"), ("no-such-user-here", "unknown")])
def test_who_may_not_receive_is_not_become(world, name, verdict):
    refused = world.ask(ForkAgent(1, name, "maildir", "", False))
    assert isinstance(refused, AgentNotForked) and refused.verdict == verdict


@needs_root
@pytest.mark.parametrize("name", ["daemon", "nobody"])
def test_a_daemon_s_user_is_not_become(world, name):
    assert world.ask(ForkAgent(1, name, "maildir", "", False)).verdict == "daemon"


def test_its_end_is_told_however_it_ends(world):
    forked = world.ask(ForkAgent(1, USER, "maildir", "", False))
    world.sockets[0].close()
    assert world.answers(1) == [AgentEnded(forked.pid, 0)]
    forked = world.ask(ForkAgent(2, USER, "maildir", "", False))
    world.sockets[1].send(b"crash")
    assert world.answers(1) == [AgentEnded(forked.pid, signal.SIGSEGV)]


def test_it_is_killed_when_the_parent_says_so_and_nobody_else_is(world):
    forked = world.ask(ForkAgent(1, USER, "maildir", "", False))
    world.parent.send(KillAgent(os.getpid()))
    world.parent.send(KillAgent(1))
    world.parent.send(KillAgent(forked.pid))
    assert world.answers(1) == [AgentEnded(forked.pid, signal.SIGKILL)]


def test_an_agent_that_cannot_be_made_is_later_with_the_reason(make_world):
    def prepare(*told):
        raise OSError(5, "the disk is broken")

    refused = make_world(prepare).ask(ForkAgent(1, USER, "maildir", "", False))
    assert refused.verdict == "later" and "the disk is broken" in refused.reason


def test_a_place_that_is_not_there_is_later(make_world):
    def prepare(*told):
        agent = Facts(*told)
        agent.places = [("/no/such/place", "r")]
        return agent

    refused = make_world(prepare).ask(ForkAgent(1, USER, "maildir", "", False))
    assert refused.verdict == "later" and "/no/such/place" in refused.reason


def test_a_child_that_dies_without_a_word_is_later(make_world):
    def prepare(*told):
        os.kill(os.getpid(), signal.SIGKILL)

    refused = make_world(prepare).ask(ForkAgent(1, USER, "maildir", "", False))
    assert refused == AgentNotForked(1, "later", brood_module.SILENT)


def test_a_child_that_hangs_is_killed_and_others_do_not_wait_for_it(make_world, monkeypatch):
    monkeypatch.setattr(brood_module, "LINE_DEADLINE", 0.3)

    def prepare(*told):
        signal.pause()

    world = make_world(prepare)
    world.parent.send(ForkAgent(1, USER, "maildir", "", False))
    world.parent.send(LookUpUser(2, "root"))
    first, second = world.answers(2)
    assert first == UserLookedUp(2, "root")
    assert second == AgentNotForked(1, "later", brood_module.LATE)
    while world.brood._users:
        world.loop.turn()


def test_what_a_child_says_cannot_forge_an_answer(make_world):
    def prepare(*told):
        raise OSError("line\nok\x00\x1b[2J")

    refused = make_world(prepare).ask(ForkAgent(1, USER, "maildir", "", False))
    assert refused.verdict == "later" and refused.reason.isprintable()


def test_more_than_may_be_at_once_is_later(make_world, monkeypatch):
    monkeypatch.setattr(brood_module, "PER_USER_MAX", 2)
    monkeypatch.setattr(brood_module, "LOOK_UPS_MAX", 0)
    world = make_world()
    for number in (1, 2):
        assert isinstance(world.ask(ForkAgent(number, USER, "maildir", "", False)), AgentForked)
    assert world.ask(ForkAgent(3, USER, "maildir", "", False)) == AgentNotForked(3, "later", "too many agents")
    assert world.ask(LookUpUser(4, "root")) == UserLookedUp(4, "later")


def test_when_no_process_can_be_made_it_is_later(make_world, monkeypatch):
    def no_fork():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(cradle.os, "fork", no_fork)
    world = make_world()
    assert world.ask(ForkAgent(1, USER, "maildir", "", False)).verdict == "later"
    assert world.ask(LookUpUser(1, "root")).verdict == "later"
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()  # the next child's end is heard of


@needs_root
def test_who_asks_the_name_service_is_not_root():
    """The modules of a name service read what a directory server answers."""
    program = (
        "import os; from smtpd.nursery import cradle; from smtpd.sandbox import Ids\n"
        "cradle.find_person = lambda name: os.write(2, b'%d %d' % (os.getuid(), os.geteuid())) and None\n"
        "cradle.look_up('alice', Ids(12345, 12345), 1)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"unknown\n", b"12345 12345")


def test_a_memory_limit_only_ever_goes_down():
    program = (
        "import resource; from smtpd.nursery import cradle\n"
        "for hard in (2**32, 2**28):\n"
        "    resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))\n"
        "    cradle._limit_memory()\n"
        "    print(resource.getrlimit(resource.RLIMIT_DATA)[1])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert [int(line) for line in done.stdout.split()] == [cradle.MEMORY_MAX, 2**28]
