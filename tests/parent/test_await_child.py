"""The receive loop of the start: what children answer, what they ask meanwhile, and what they may not send."""

import os
import signal
import socket
import threading
import time

import pytest

from smtpd.envelope import Duty
from smtpd.imsg import TABLE, FindUser, KeyTaken, ReopenSyslog, SandboxEntered, StartAgent
from smtpd.ipc.channel import Channel
from smtpd.parent.child import Child
from smtpd.parent.start.await_child import REQUESTS_MAX, CannotStart, ChildAnswers, StartInterrupted

ENTERED = SandboxEntered([], [])


class World:
    """Children that have no process: `theirs` are their ends of the channels."""

    def __init__(self, *roles):
        self.children, self.theirs = [], {}
        for role in roles:
            ours, theirs = socket.socketpair()
            self.children.append(Child(role, 0, 0, Channel(ours, TABLE, "parent", role), status=256))
            self.theirs[role] = Channel(theirs, TABLE, role, "parent")
        self.answers = ChildAnswers(self.children, None)

    def child(self, role):
        return next(child for child in self.children if child.role == role)

    def say(self, role, *imsgs):
        """In one piece, as a parent that has been busy reads it."""
        for imsg in imsgs:
            self.theirs[role].send(imsg)
        self.theirs[role].flush()

    def expect(self, kind, *roles):
        for role in roles:
            self.answers.expect(self.child(role), kind)

    def next_of(self, *roles, seconds=10.0):
        child, imsg = self.answers.next_of(map(self.child, roles), time.monotonic() + seconds)
        return child.role, imsg

    def requests(self, role):
        return [imsg for imsg, _ in self.answers.requests_of(self.child(role))]

    def close(self):
        for channel in [*self.theirs.values(), *(child.channel for child in self.children)]:
            if not channel.closed:
                channel.close()


@pytest.fixture
def make_world():
    made = []

    def make(*roles):
        made.append(World(*roles))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.mark.parametrize("imsgs", [(ENTERED, ReopenSyslog()), (ReopenSyslog(), ENTERED), (ENTERED,)])
def test_a_child_may_ask_in_the_same_moment_as_it_answers(make_world, imsgs):
    world = make_world("control", "queue")
    world.expect(SandboxEntered, "control", "queue")
    world.say("control", *imsgs)
    assert world.next_of("control", "queue") == ("control", ENTERED)
    assert world.requests("control") == [imsg for imsg in imsgs if imsg is not ENTERED]


def test_requests_of_all_children_are_kept_in_order_while_one_is_waited_for(make_world):
    world = make_world("lookup", "queue", "crypto")
    world.expect(KeyTaken, "crypto")
    world.say("lookup", FindUser(1, "alice"), FindUser(2, "bob"))
    world.say("queue", StartAgent(1, "alice", "local", Duty.DELIVER))
    world.say("crypto", KeyTaken("a.test", "", "no"))
    assert world.next_of("crypto")[0] == "crypto"
    assert [imsg.request for imsg in world.requests("lookup")] == [1, 2]
    assert [type(imsg) for imsg in world.requests("queue")] == [StartAgent]
    assert world.requests("crypto") == []


def test_an_answer_that_comes_while_another_is_waited_for_is_kept(make_world):
    world = make_world("nursery", "queue")
    world.expect(SandboxEntered, "nursery", "queue")
    world.say("nursery", ENTERED)
    with pytest.raises(CannotStart, match="^queue did not answer in time$"):
        world.next_of("queue", seconds=0.01)
    world.say("queue", ENTERED)
    assert world.next_of("queue")[0] == "queue"
    assert world.next_of("nursery", seconds=0)[0] == "nursery"


@pytest.mark.parametrize(
    "role, imsg", [("control", ENTERED), ("crypto", KeyTaken("a.test", "", ""))], ids=["sandbox", "key"]
)
def test_an_answer_without_a_question_is_a_violation(make_world, role, imsg):
    world = make_world(role)
    world.say(role, imsg)
    with pytest.raises(CannotStart, match=f"{role} broke the rules: answers {type(imsg).__name__} without a request"):
        world.next_of(role)


def test_an_answer_is_given_once(make_world):
    world = make_world("control")
    world.expect(SandboxEntered, "control")
    world.say("control", ENTERED, ENTERED)
    with pytest.raises(CannotStart, match="control broke the rules: answers SandboxEntered"):
        world.next_of("control")


def test_an_answer_of_another_kind_is_a_violation(make_world):
    world = make_world("crypto")
    world.expect(KeyTaken, "crypto")
    world.say("crypto", ENTERED)
    with pytest.raises(CannotStart, match="crypto broke the rules"):
        world.next_of("crypto")


def test_requests_have_a_bound(make_world):
    world = make_world("lookup")
    world.expect(SandboxEntered, "lookup")
    world.say("lookup", *[FindUser(number, "alice") for number in range(REQUESTS_MAX)], ENTERED)
    assert world.next_of("lookup") == ("lookup", ENTERED)
    assert len(world.requests("lookup")) == REQUESTS_MAX
    world.expect(SandboxEntered, "lookup")
    world.say("lookup", FindUser(REQUESTS_MAX, "alice"), ENTERED)
    with pytest.raises(CannotStart, match=f"lookup broke the rules: more than {REQUESTS_MAX} requests"):
        world.next_of("lookup")


def test_the_death_of_any_child_ends_a_wait(make_world):
    world = make_world("queue", "scheduler")
    world.expect(SandboxEntered, "scheduler")
    world.theirs["queue"].close()
    with pytest.raises(CannotStart, match="^queue exited with status 1$"):
        world.next_of("scheduler")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_wait_and_is_not_lost_before_it(make_world, number):
    world = make_world("queue")
    world.expect(SandboxEntered, "queue")
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [number])  # as settle does
    try:
        signal.pthread_kill(threading.get_ident(), number)
        with pytest.raises(StartInterrupted, match=number.name):
            world.next_of("queue")
        assert signal.sigwait([number]) == number
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_what_is_no_imsg_is_a_violation(make_world):
    world = make_world("control")
    world.expect(SandboxEntered, "control")
    world.theirs["control"].sock.send(os.urandom(64))
    with pytest.raises(CannotStart, match="control broke the rules"):
        world.next_of("control")
