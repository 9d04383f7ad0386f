"""Who asks the name service: real children, whose name service is ours."""

import os
import signal
import socket
from pathlib import Path

import pytest

from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.nursery import child_main, user_lookup
from smtpd.nursery.account import Account, UserDatabaseError
from smtpd.nursery.user_lookup import CHILDREN_MAX, WAITING_MAX, UserLookups
from smtpd.sandbox import Ids

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user")

ME = os.geteuid()


def names(name):
    """What NSS says here."""
    match name:
        case "hangs":
            signal.pause()
        case "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        case "away":
            raise UserDatabaseError
        case "who":
            return None if 0 in (os.getuid(), os.geteuid()) else Account("who", 1000, 1000, "/")
    return Account(name, ME or 1000, 1000, "/") if name.startswith("user") else None


class World:
    def __init__(self, us=None):
        self.loop = SelectorLoop()
        self.time = 0.0
        self.lookups = UserLookups(self.loop, us, {4711}, lambda: self.time)
        self.seen = set()  # pids of all children
        self.loop.on_signal(signal.SIGCHLD, self.reap)

    def reap(self):
        while self.seen:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            self.seen.discard(pid)
            self.lookups.ended(pid)

    def begin(self, *asked):
        """The verdicts, as far as they have come."""
        verdicts = {}
        for name in asked:
            self.lookups.look_up(name, lambda verdict, name=name: verdicts.setdefault(name, verdict))
            self.seen |= {*self.lookups._children}
        return verdicts

    def until(self, condition):
        timer = self.loop.call_later(20, lambda: pytest.fail("this will never be"))
        while not condition():
            self.loop.turn()
        timer.cancel()

    def ask(self, *asked):
        verdicts = self.begin(*asked)
        self.until(lambda: len(verdicts) == len(asked))
        return verdicts

    def close(self):
        for pid in self.lookups._children:
            os.kill(pid, signal.SIGKILL)
        self.lookups.stop()
        self.until(lambda: not self.seen)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


@pytest.fixture
def make_world(monkeypatch):
    monkeypatch.setattr(child_main, "find_account", names)
    made = []

    def make(**more):
        made.append(World(**more))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(make_world):
    return make_world()


def test_one_child_answers_for_one_name_after_another(world):
    for _ in range(3):
        assert world.ask("user1") == {"user1": "user"}
        assert world.ask("nobody-here") == {"nobody-here": "unknown"}
        assert world.ask("away") == {"away": "later"}
    assert len(world.seen) == 1


def test_a_dictionary_costs_a_few_children(world):
    asked = [f"user{number}" for number in range(WAITING_MAX)]
    assert world.ask(*asked) == dict.fromkeys(asked, "user")
    assert len(world.seen) <= CHILDREN_MAX


def test_more_names_than_may_wait_are_later(world):
    verdicts = world.begin(*(f"user{number}" for number in range(CHILDREN_MAX + WAITING_MAX + 2)))
    assert list(verdicts.values()) == ["later"] * 2
    world.until(lambda: len(verdicts) == CHILDREN_MAX + WAITING_MAX + 2)
    assert list(verdicts.values()).count("later") == 2


def test_a_name_that_hangs_is_later_and_keeps_no_other_waiting(world, monkeypatch):
    monkeypatch.setattr(user_lookup, "LOOKUP_TIMEOUT", 1.0)
    verdicts = world.begin("hangs", "user1", "user2", "user3", "user4")
    world.until(lambda: len(verdicts) == 4)
    assert set(verdicts.values()) == {"user"}
    world.until(lambda: verdicts.get("hangs") == "later")
    assert world.ask("user5") == {"user5": "user"}
    world.until(lambda: len(world.seen) == len(world.lookups._children))  # killed and waited for


def test_when_all_children_hang_the_others_get_new_ones(world, monkeypatch):
    monkeypatch.setattr(user_lookup, "LOOKUP_TIMEOUT", 0.2)
    hanging = world.begin(*["hangs"] * CHILDREN_MAX)
    assert world.ask("user1") == {"user1": "user"}
    assert hanging == {"hangs": "later"}


def test_a_child_that_dies_costs_one_name(world):
    assert world.ask("dies", "user1") == {"dies": "later", "user1": "user"}


def test_a_process_that_died_while_idle_is_not_asked_any_more(world):
    world.ask("user1")
    (pid,) = world.seen
    os.kill(pid, signal.SIGKILL)
    world.until(lambda: not world.seen)
    assert world.ask("user1") == {"user1": "user"}


def test_a_child_has_nothing_but_its_socket(world, monkeypatch):
    secret = os.dup(0)
    monkeypatch.setattr(child_main, "find_account", lambda _: _only(len(os.listdir("/proc/self/fd")) == 5))
    assert world.ask("user1") == {"user1": "user"}  # 0, 1, 2, its socket, and what lists them
    os.close(secret)


def _only(condition):
    return names("user1") if condition else None


def test_it_leaves_when_there_is_nothing_to_do(world, monkeypatch):
    monkeypatch.setattr(user_lookup, "IDLE_TIMEOUT", 0.05)
    world.ask("user1", "user2")
    world.until(lambda: not world.seen)
    assert not world.lookups._children


def test_it_leaves_after_its_time_however_much_there_is_to_do(world):
    world.ask("user1")
    (first,) = world.seen
    world.time = user_lookup.LIFETIME
    assert world.ask("user2") == {"user2": "user"}
    world.until(lambda: first not in world.seen)
    assert world.ask("user3") == {"user3": "user"}


@pytest.mark.parametrize("said", [b"user\n", b"ok", b"user root", b"\xff", b"later" * 100])
def test_an_answer_that_is_no_verdict_ends_its_process(world, monkeypatch, said):
    def speak(_us, _ours, descriptor):
        with socket.socket(fileno=descriptor) as sock:
            sock.recv(100)
            sock.send(said)
            signal.pause()

    monkeypatch.setattr(user_lookup, "run_user_lookup", speak)
    assert world.ask("user1") == {"user1": "later"}
    world.until(lambda: not world.seen)


def test_an_answer_without_a_question_answers_nothing(world, monkeypatch):
    """It would be taken for the answer about the next name."""

    def speak(_us, _ours, descriptor):
        with socket.socket(fileno=descriptor) as sock:
            sock.recv(100)
            sock.send(b"unknown")
            sock.send(b"user")
            signal.pause()

    monkeypatch.setattr(user_lookup, "run_user_lookup", speak)
    assert world.ask("user1") == {"user1": "unknown"}
    world.until(lambda: not world.seen)


def test_when_no_process_can_be_made_it_is_later(world, monkeypatch):
    def no_fork():
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(child_main.os, "fork", no_fork)
    assert world.begin("user1", "user2") == {"user1": "later", "user2": "later"}


@needs_root
def test_the_process_that_asks_the_name_service_is_not_root(make_world):
    """The modules of a name service read what a directory server answers."""
    world = make_world(us=Ids(12345, 12345))
    assert world.ask("who") == {"who": "user"}
    (pid,) = world.seen
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert (status["Uid"].split(), status["Gid"].split()) == (["12345"] * 4, ["12345"] * 4)
    assert int(status["CapPrm"], 16) == int(status["CapBnd"], 16) == 0
    assert (status["Groups"].split(), status["NoNewPrivs"]) == (["12345"], "1")
