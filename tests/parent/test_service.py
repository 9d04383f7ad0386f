"""What may be asked of root: each service on real channels, the other ends of which are lookup, queue and nursery."""

import os
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.config.slice import MaildirSlice, ParentSlice
from smtpd.imsg import (
    TABLE,
    AgentEnded,
    AgentForked,
    AgentNotForked,
    AgentRefused,
    AgentStarted,
    EndAgent,
    FindUser,
    ForkAgent,
    KillAgent,
    LookUpUser,
    StartAgent,
    UserFound,
    UserLookedUp,
)
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.plain import Loop
from smtpd.parent import service
from smtpd.parent.process import from_lookup, from_nursery, from_queue
from smtpd.parent.service import AGENTS_PER_USER_MAX, SERVICES, Services

LOCAL = MaildirSlice("local", "~/Maildir", True)


def ends(one, other):
    """A channel's two ends: the parent's, and the one of `other`."""
    ours, theirs = socket.socketpair()
    return Channel(ours, TABLE, one, other), Channel(theirs, TABLE, other, one)


class World:
    """A parent that runs, as seen by three of its children."""

    def __init__(self, actions=(LOCAL,)):
        self.loop = Loop()
        self.to_lookup, self.lookup = ends("parent", "lookup")
        self.to_queue, self.queue = ends("parent", "queue")
        self.to_nursery, self.nursery = ends("parent", "nursery")
        configuration = ParentSlice((), actions, (), 1, None, "here.test")
        self.services = Services(self.loop, self.to_nursery, configuration)

    def say(self, who, imsg, descriptor=None):
        """`who` sends `imsg`; the parent takes it, and answers."""
        end = {"lookup": self.lookup, "queue": self.queue, "nursery": self.nursery}[who]
        to = {"lookup": self.to_lookup, "queue": self.to_queue, "nursery": self.to_nursery}[who]
        handler = {"lookup": from_lookup, "queue": from_queue, "nursery": from_nursery}[who]
        end.send(imsg, descriptor)
        end.flush()
        for received, taken in to.receive():
            handler(self, to, received, taken)

    def hears(self, who):
        end = {"lookup": self.lookup, "queue": self.queue, "nursery": self.nursery}[who]
        to = {"lookup": self.to_lookup, "queue": self.to_queue, "nursery": self.to_nursery}[who]
        to.flush()
        received = end.receive()
        for _, descriptor in received:
            if descriptor is not None:
                os.close(descriptor)
        return [imsg for imsg, _ in received]

    def start_agent(self, request, user="alice", action="local", pid=None):
        """A whole start; the nursery answers with `pid`."""
        self.say("queue", StartAgent(request, user, action))
        (asked,) = self.hears("nursery")
        self.say("nursery", AgentForked(asked.request, pid or 1000 + request), os.open("/dev/null", os.O_RDONLY))
        return self.hears("queue")

    def wait(self, seconds):
        """Let the clock of the loop run ahead, and what is due happen."""
        self.loop._timers = [(when - seconds, order, timer) for when, order, timer in self.loop._timers]
        self.loop._act_on_time()

    def close(self):
        for end in (self.lookup, self.queue, self.nursery, self.to_lookup, self.to_queue, self.to_nursery):
            end.close()


@pytest.fixture
def world():
    made = World()
    yield made
    made.close()


# -- FindUser ------------------------------------------------------------------


@pytest.mark.parametrize("verdict", ["user", "unknown", "root", "daemon", "later"])
def test_a_verdict_is_the_nursery_s(world, verdict):
    world.say("lookup", FindUser(7, "alice"))
    (asked,) = world.hears("nursery")
    assert asked == LookUpUser(asked.request, "alice")
    world.say("nursery", UserLookedUp(asked.request, verdict))
    assert world.hears("lookup") == [UserFound(7, verdict)]


NAMES = ["", "/", "a/b", "../alice", "..", ".", "-rf", "a b", "a\u00e4", "a:b", "$HOME", "a;b", "a" * 64, ".hidden"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_could_be_more_than_a_name_reaches_nobody(world, name):
    world.say("lookup", FindUser(1, name))
    assert world.hears("lookup") == [UserFound(1, "unknown")]
    world.say("queue", StartAgent(1, name, "local"))
    assert world.hears("queue") == [AgentRefused(1, True, "no such user")]
    assert world.hears("nursery") == []


@given(st.text(max_size=80))
@settings(max_examples=100)
def test_what_is_taken_for_a_name_is_one_plain_word(name):
    if service.USER_NAME.fullmatch(name):
        assert name.isascii() and name.isprintable() and not set(name) & set(" /:;$`'\"|&<>*?()\\")
        assert name[0] not in ".-" and len(name) < 64


def test_a_name_with_a_control_character_is_the_end_of_lookup(world):
    with pytest.raises(Violation):
        world.say("lookup", FindUser(1, "alice\n"))


def test_a_verdict_is_kept_for_a_minute_also_when_there_is_no_such_user(world, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(service.time, "monotonic", lambda: now)
    world.say("lookup", FindUser(1, "nobody"))
    (asked,) = world.hears("nursery")
    world.say("nursery", UserLookedUp(asked.request, "unknown"))
    now += service.CACHE_SECONDS - 1
    world.say("lookup", FindUser(2, "nobody"))
    assert world.hears("lookup") == [UserFound(1, "unknown"), UserFound(2, "unknown")]
    now += 2
    world.say("lookup", FindUser(3, "nobody"))
    assert world.hears("nursery") == [LookUpUser(asked.request + 1, "nobody")]


def test_later_is_not_kept(world):
    world.say("lookup", FindUser(1, "alice"))
    (asked,) = world.hears("nursery")
    world.say("nursery", UserLookedUp(asked.request, "later"))
    world.say("lookup", FindUser(2, "alice"))
    assert world.hears("nursery") == [LookUpUser(asked.request + 1, "alice")]


def test_what_is_kept_is_bounded(world, monkeypatch):
    monkeypatch.setattr(service, "CACHE_MAX", 3)
    for number, name in enumerate(["a", "b", "c", "d"]):
        world.say("lookup", FindUser(number, name))
        (asked,) = world.hears("nursery")
        world.say("nursery", UserLookedUp(asked.request, "unknown"))
    world.say("lookup", FindUser(9, "a"))
    assert [imsg.name for imsg in world.hears("nursery")] == ["a"]
    world.say("lookup", FindUser(10, "d"))
    assert world.hears("nursery") == []


def test_the_same_question_twice_is_asked_once(world):
    world.say("lookup", FindUser(1, "alice"))
    world.say("lookup", FindUser(2, "alice"))
    (asked,) = world.hears("nursery")
    world.say("nursery", UserLookedUp(asked.request, "user"))
    assert world.hears("lookup") == [UserFound(1, "user"), UserFound(2, "user")]


def test_few_are_asked_at_once_the_others_wait_and_too_many_come_later(world):
    limits = SERVICES[FindUser]
    for number in range(limits.at_once + limits.waiting + 5):
        world.say("lookup", FindUser(number, f"user{number}"))
    assert len(world.hears("nursery")) == limits.at_once
    assert [imsg.verdict for imsg in world.hears("lookup")] == ["later"] * 5


def test_a_nursery_that_is_silent_makes_it_later_and_its_late_answer_harms_nobody(world):
    world.say("lookup", FindUser(1, "alice"))
    (asked,) = world.hears("nursery")
    world.wait(SERVICES[FindUser].deadline + 1)
    assert world.hears("lookup") == [UserFound(1, "later")]
    world.say("nursery", UserLookedUp(asked.request, "user"))
    assert world.hears("lookup") == []


# -- StartAgent ------------------------------------------------------------------


def test_an_agent_is_forked_with_the_path_of_the_configuration(world):
    world.say("queue", StartAgent(3, "alice", "local"))
    (asked,) = world.hears("nursery")
    assert asked == ForkAgent(asked.request, "alice", "maildir", "~/Maildir", True)
    world.say("nursery", AgentForked(asked.request, 4711), os.open("/dev/null", os.O_RDONLY))
    assert world.hears("queue") == [AgentStarted(3, 1)]


def test_reading_a_forward_names_no_action(world):
    world.say("queue", StartAgent(3, "alice", ""))
    (asked,) = world.hears("nursery")
    assert asked == ForkAgent(asked.request, "alice", "forward", "", False)


@pytest.mark.parametrize("verdict, permanent", [("unknown", True), ("root", True), ("daemon", True), ("later", False)])
def test_who_may_not_receive_is_refused_for_good_and_trouble_for_now(world, verdict, permanent):
    world.say("queue", StartAgent(3, "alice", "local"))
    (asked,) = world.hears("nursery")
    world.say("nursery", AgentNotForked(asked.request, verdict, "why"))
    ((refused),) = world.hears("queue")
    assert (refused.request, refused.permanent) == (3, permanent)


def test_one_user_has_few_agents_and_does_not_use_up_the_others(world):
    for number in range(AGENTS_PER_USER_MAX):
        assert world.start_agent(number) == [AgentStarted(number, number + 1)]
    world.say("queue", StartAgent(90, "alice", "local"))
    assert world.hears("queue") == [AgentRefused(90, False, "too many agents")]
    assert world.start_agent(91, "bob") == [AgentStarted(91, AGENTS_PER_USER_MAX + 1)]
    world.say("nursery", AgentEnded(1000, 0))
    assert world.start_agent(92) == [AgentStarted(92, AGENTS_PER_USER_MAX + 2)]


def test_all_together_they_are_bounded(world, monkeypatch):
    monkeypatch.setattr(service, "AGENTS_MAX", 2)
    world.start_agent(1, "a")
    world.start_agent(2, "b")
    world.say("queue", StartAgent(3, "c", "local"))
    assert world.hears("queue") == [AgentRefused(3, False, "too many agents")]


def test_a_refused_agent_is_not_counted(world, monkeypatch):
    monkeypatch.setattr(service, "AGENTS_MAX", 1)
    for number in range(3):
        world.say("queue", StartAgent(number, "alice", "local"))
        (asked,) = world.hears("nursery")
        world.say("nursery", AgentNotForked(asked.request, "later", "why"))
        assert world.hears("queue") == [AgentRefused(number, False, "why")]


def test_an_agent_that_comes_too_late_is_killed(world):
    world.say("queue", StartAgent(3, "alice", "local"))
    (asked,) = world.hears("nursery")
    world.wait(SERVICES[StartAgent].deadline + 1)
    ((refused),) = world.hears("queue")
    assert not refused.permanent
    world.say("nursery", AgentForked(asked.request, 4711), os.open("/dev/null", os.O_RDONLY))
    assert world.hears("nursery") == [KillAgent(4711)]
    assert world.hears("queue") == []


def test_an_agent_that_was_still_in_line_when_it_became_too_late_is_not_counted(world, monkeypatch):
    monkeypatch.setattr(service, "AGENTS_MAX", SERVICES[StartAgent].at_once + 1)
    for number in range(SERVICES[StartAgent].at_once + 1):
        world.say("queue", StartAgent(number, f"user{number}", "local"))
    world.wait(SERVICES[StartAgent].deadline + 1)
    for asked in world.hears("nursery"):
        world.say("nursery", AgentNotForked(asked.request, "later", "why"))
    world.hears("queue")
    world.say("queue", StartAgent(99, "zoe", "local"))
    assert [imsg.user for imsg in world.hears("nursery")] == ["zoe"]


# -- EndAgent ---------------------------------------------------------------------


def test_an_agent_is_killed_by_its_number(world):
    world.start_agent(1, pid=4711)
    world.say("queue", EndAgent(1))
    assert world.hears("nursery") == [KillAgent(4711)]


def test_one_that_has_ended_in_the_meantime_is_nobody_s_fault(world):
    world.start_agent(1, pid=4711)
    world.say("nursery", AgentEnded(4711, 9))
    world.say("queue", EndAgent(1))
    assert world.hears("nursery") == []


# -- forged --------------------------------------------------------------------------


def test_a_service_that_the_configuration_does_not_enable_is_fatal_when_asked():
    world = World(actions=())
    for who, imsg in (("lookup", FindUser(1, "alice")), ("queue", StartAgent(1, "a", "local")), ("queue", EndAgent(1))):
        with pytest.raises(Violation, match="does not enable"):
            world.say(who, imsg)
    world.close()


def test_an_action_that_is_not_configured_is_fatal(world):
    with pytest.raises(Violation, match="not configured"):
        world.say("queue", StartAgent(1, "alice", "other"))


@pytest.mark.parametrize("number", [0, -1, 2, 2**40])
def test_an_agent_that_there_never_was_is_fatal(world, number):
    world.start_agent(1)
    with pytest.raises(Violation, match="never was"):
        world.say("queue", EndAgent(number))


@pytest.mark.parametrize(
    "imsg, descriptor",
    [
        (UserLookedUp(99, "user"), False),
        (AgentForked(99, 4711), True),
        (AgentNotForked(99, "later", ""), False),
        (AgentEnded(4711, 0), False),
    ],
)
def test_an_answer_to_no_question_is_fatal(world, imsg, descriptor):
    with pytest.raises(Violation):
        world.say("nursery", imsg, os.open("/dev/null", os.O_RDONLY) if descriptor else None)


def test_an_answer_of_the_wrong_kind_is_fatal(world):
    world.say("lookup", FindUser(1, "alice"))
    (asked,) = world.hears("nursery")
    with pytest.raises(Violation):
        world.say("nursery", AgentNotForked(asked.request, "later", ""))


@pytest.mark.parametrize("who, imsg", [("lookup", StartAgent(1, "alice", "local")), ("queue", FindUser(1, "alice"))])
def test_nobody_asks_what_is_another_s(world, who, imsg):
    """At the sending end too: a process that was not taken over cannot even say it."""
    with pytest.raises(Violation, match="may not send"):
        world.say(who, imsg)
    number = TABLE.by_class[type(imsg)].number
    end, to = (world.lookup, world.to_lookup) if who == "lookup" else (world.queue, world.to_queue)
    end.sock.send(number.to_bytes(2, "big") + b"\0\0" + (16).to_bytes(4, "big") + bytes(8))
    with pytest.raises(Violation, match="may not send"):
        to.receive()
