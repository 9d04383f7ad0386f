"""The life of an agent: its table, and a pool that goes through every pair of state and event in it."""

import itertools
import socket
from types import SimpleNamespace

import pytest

from smtpd import errand as frames
from smtpd.envelope import Duty, Outcome
from smtpd.imsg import AgentRefused, AgentStarted, EndAgent, MailboxLocked, MailboxNotLocked
from smtpd.queue.agents.agent_queue import AgentQueue
from smtpd.queue.agents.agent_socket import Errand
from smtpd.queue.agents.agent_state import BEGINNING, RESERVING, RUNNING, TRANSITIONS, AgentEvent, AgentState
from smtpd.queue.agents.pool import RESTART_DELAY, AgentPool
from smtpd.queue.agents.routing import LMTP_LIMITS, QUICK_LIMITS, SLOW_LIMITS, AgentRouting
from smtpd.queue.agents.slots import IDLE_TIMEOUT, LEAVE_TIMEOUT, WORK_TIME, AgentKey, AgentSlots
from smtpd.slice import DeliveryLimits
from tests.queue.conftest import configuration

PAIRS = [(state, event) for state in AgentState for event in AgentEvent]
BOB, EVE = (AgentKey(user, "local", Duty.DELIVER) for user in ("bob", "eve"))
BOBS_BOX = AgentKey("bob", "box", Duty.DELIVER)
BOBS_COMMAND, EVES_COMMAND = (AgentKey(user, "run", Duty.DELIVER) for user in ("bob", "eve"))


# -- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state, event", PAIRS)
def test_an_event_changes_the_state_as_the_table_says_or_is_a_bug(state, event):
    queue = AgentQueue(BOB, QUICK_LIMITS, AgentSlots(), 0.0)
    queue.state = state
    if event in TRANSITIONS[state]:
        assert queue.enter(event) is state
        assert queue.state is TRANSITIONS[state][event]
    else:
        with pytest.raises(AssertionError, match=f"{event.name} while {state.name}"):
            queue.enter(event)
        assert queue.state is state


def test_every_state_is_in_the_table_and_every_event_means_something():
    assert TRANSITIONS.keys() == set(AgentState)
    assert {event for events in TRANSITIONS.values() for event in events} == set(AgentEvent)


def after(state):
    """The states that may come after `state`."""
    found, new = set(), [state]
    while new:
        for following in TRANSITIONS[new.pop()].values():
            if following not in found:
                found.add(following)
                new.append(following)
    return found


@pytest.mark.parametrize("state", AgentState)
def test_every_life_begins_and_ends_without_an_agent(state):
    assert state in after(AgentState.ABSENT)
    assert AgentState.ABSENT in after(state)


@pytest.mark.parametrize("state", sorted(RUNNING, key=lambda state: state.name))
def test_an_agent_may_end_at_any_time(state):
    assert TRANSITIONS[state][AgentEvent.ENDED] is AgentState.ABSENT
    assert TRANSITIONS[state][AgentEvent.USELESS] is AgentState.BLOCKED


def test_errands_are_begun_by_agents_that_run_and_commands_reserved_for_those_that_do_not_yet():
    assert BEGINNING < RUNNING
    assert not RESERVING & RUNNING


# -- a pool, in each state, and whatever may happen to it -------------------------------------------------------------


class Work(Errand):
    """An errand that counts its ends."""

    number = 0

    def __init__(self, deadline):
        Work.number += 1
        self.number, self.deadline = Work.number, deadline
        self.ends = []

    def begin(self, log_id, lock, ready):
        ready(frames.encode(frames.ReadForward(self.number)), None)

    def answered(self, answer):
        self.ends.append("answered")

    def failed(self, reason, *, sent=False, permanent=False):
        self.ends.append(reason)


class Loop:
    """Reads when the test says so."""

    def __init__(self):
        self.readers = {}

    def add_reader(self, descriptor, call):
        self.readers[descriptor] = call

    def remove_reader(self, descriptor):
        self.readers.pop(descriptor, None)

    def remove_writer(self, descriptor):
        pass


class Parent:
    """What the pool asks the parent for, and tells it."""

    def __init__(self):
        self.asked = []
        self.told = []
        self.channel = SimpleNamespace(send=self.told.append)

    def ask(self, make, answered):
        self.asked.append((make(len(self.asked)), answered))


class Bench:
    """A pool with one slot for a quick agent, two for slow ones, and one for commands."""

    def __init__(self):
        self.now = 1000.0
        self.loop, self.starts, self.locks = Loop(), Parent(), Parent()
        limits = DeliveryLimits(max_session=1, max_session_per_user=1)
        routing = AgentRouting(configuration(delivery_limits=limits))
        self.pool = AgentPool(self.loop, self.starts, self.locks, routing, lambda: self.now)
        self.pool.quick._count, self.pool.slow._count = 1, 2
        self.work, self.agents = [], {}
        self.walked = set()

    def give(self, key):
        self.work.append(Work(self.pool._routing.limits(key).deadline))
        self.pool.give(key, self.work[-1])

    def state(self, key):
        queue = self.pool.queues.get(key) or self.pool._blocked.get(key)
        return AgentState.ABSENT if queue is None else queue.state

    # -- what the parent does

    def start(self, refuse=False):
        if not self.starts.asked:
            return
        asked, answered = self.starts.asked.pop(0)
        if refuse:
            answered(AgentRefused(asked.request, refuse == "for good", "no"))
            return
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        far.setblocking(False)
        number = len(self.agents) + 1
        self.agents[number] = far
        answered(AgentStarted(asked.request, number), near.detach())

    def lock(self, refuse=False):
        if not self.locks.asked:
            return
        asked, answered = self.locks.asked.pop(0)
        answered(MailboxNotLocked(asked.request, False, "no") if refuse else MailboxLocked(asked.request, 7))

    # -- what agents do

    def alive(self):
        ended = {imsg.agent for imsg in self.starts.told if isinstance(imsg, EndAgent)}
        return [sock for number, sock in self.agents.items() if number not in ended]

    def read(self):
        for call in [*self.loop.readers.values()]:
            call()

    def answer(self):
        for sock in self.alive():
            while True:
                try:
                    packet = sock.recv(frames.PACKET_MAX)
                except BlockingIOError:
                    break
                number = frames.decode(packet).request
                sock.send(frames.encode(frames.Result(number, Outcome.DELIVERED, "")))
        self.read()

    def die(self):
        for sock in self.alive():
            sock.close()
        self.read()

    def break_protocol(self):
        for sock in self.alive():
            sock.send(b"250 2.0.0 Ok")
        self.read()

    def answer_and_die(self):
        self.answer()
        self.die()

    # -- time

    def wait(self, seconds):
        self.now += seconds
        self.pool.tick()

    def settle(self):
        """The parent and all agents do what is wanted, until nothing is wanted any more."""
        for _ in range(50):
            if all(work.ends for work in self.work) and not (self.pool.queues or self.pool._blocked):
                return
            while self.starts.asked or self.locks.asked:
                self.start()
                self.lock()
            self.answer()
            self.wait(RESTART_DELAY)

    def close(self):
        self.pool.stop()
        self.pool.end()
        for sock in self.agents.values():
            sock.close()


def absent(bench):
    return BOB


def waiting_for_command(bench):
    bench.give(EVES_COMMAND)
    bench.give(BOBS_COMMAND)
    return BOBS_COMMAND


def waiting_for_slot(bench):
    bench.give(EVE)
    bench.give(BOB)
    return BOB


def starting(bench):
    bench.give(BOB)
    return BOB


def starting_for_command(bench):
    bench.give(BOBS_COMMAND)
    return BOBS_COMMAND


def idle(bench):
    bench.give(BOB)
    bench.start()
    bench.answer()
    return BOB


def locking(bench):
    bench.give(BOBS_BOX)
    bench.start()
    return BOBS_BOX


def locking_again(bench):
    locking(bench)
    bench.lock()
    bench.answer()
    bench.give(BOBS_BOX)
    return BOBS_BOX


def idle_for_want_of_a_command_slot(bench):
    bench.give(BOBS_COMMAND)
    bench.wait(SLOW_LIMITS.patience)
    bench.start()
    bench.give(EVES_COMMAND)
    bench.give(BOBS_COMMAND)
    return BOBS_COMMAND


def busy(bench):
    bench.give(BOB)
    bench.start()
    return BOB


def busy_with_command(bench):
    bench.give(BOBS_COMMAND)
    bench.start()
    bench.give(EVES_COMMAND)
    return BOBS_COMMAND


def busy_under_lock(bench):
    locking(bench)
    bench.lock()
    bench.give(BOBS_BOX)
    return BOBS_BOX


def leaving(bench):
    bench.give(BOB)
    bench.start()
    bench.now += WORK_TIME
    bench.give(EVE)
    return BOB


def leaving_after_an_answer(bench):
    idle(bench)
    bench.give(BOB)
    bench.now += WORK_TIME
    bench.give(EVE)
    return BOB


def blocked(bench):
    busy(bench)
    bench.die()
    return BOB


STATES = {
    absent: AgentState.ABSENT,
    waiting_for_command: AgentState.WAITING_FOR_COMMAND,
    waiting_for_slot: AgentState.WAITING_FOR_SLOT,
    starting: AgentState.STARTING,
    starting_for_command: AgentState.STARTING,
    idle: AgentState.IDLE,
    idle_for_want_of_a_command_slot: AgentState.IDLE,
    locking: AgentState.LOCKING,
    locking_again: AgentState.LOCKING,
    busy: AgentState.BUSY,
    busy_with_command: AgentState.BUSY,
    busy_under_lock: AgentState.BUSY,
    leaving: AgentState.LEAVING,
    leaving_after_an_answer: AgentState.LEAVING,
    blocked: AgentState.BLOCKED,
}
HAPPENINGS = {
    "another errand": lambda bench, key: bench.give(key),
    "an errand of another user": lambda bench, key: bench.give(key._replace(user="dave")),
    "errands of others, who have waited": lambda bench, key: (
        bench.give(key._replace(user="dave")),
        bench.wait(WORK_TIME),
        bench.give(key._replace(user="zoe")),
    ),
    "started": lambda bench, key: bench.start(),
    "refused": lambda bench, key: bench.start(refuse="for now"),
    "refused for good": lambda bench, key: bench.start(refuse="for good"),
    "locked": lambda bench, key: bench.lock(),
    "not locked": lambda bench, key: bench.lock(refuse=True),
    "answered": lambda bench, key: bench.answer(),
    "dead": lambda bench, key: bench.die(),
    "dead after an answer": lambda bench, key: bench.answer_and_die(),
    "out of protocol": lambda bench, key: bench.break_protocol(),
    "idle for long": lambda bench, key: bench.wait(IDLE_TIMEOUT),
    "silent": lambda bench, key: bench.wait(QUICK_LIMITS.patience),
    "silent for long": lambda bench, key: bench.wait(SLOW_LIMITS.patience),
    "late": lambda bench, key: bench.wait(QUICK_LIMITS.deadline),
    "late for a command": lambda bench, key: bench.wait(SLOW_LIMITS.deadline + LMTP_LIMITS.most),
    "slow to leave": lambda bench, key: bench.wait(LEAVE_TIMEOUT),
    "no time at all": lambda bench, key: bench.wait(0.0),
}


def check(bench):
    """What holds between any two events."""
    pool = bench.pool
    for queue in pool.queues.values():
        assert (queue.agent is not None) is (queue.state in RUNNING)
        assert not queue.begun or queue.state in (AgentState.BUSY, AgentState.LEAVING)
        assert queue.state not in (AgentState.ABSENT, AgentState.BLOCKED)
        assert queue.waiting or queue.begun or queue.state in {*RUNNING, *RESERVING}
    taken = {AgentState.STARTING, *RUNNING}
    for slots in (pool.quick, pool.slow):
        states = [queue.state for queue in pool.queues.values() if queue.slots is slots]
        assert len(slots) == sum(state in taken for state in states) <= slots._count
    commands = [queue for queue in pool.queues.values() if queue.limits.command]
    used = sum(len(queue.begun) + queue.reserves_command for queue in commands)
    assert used + pool._commands._free == 1
    assert len(bench.alive()) == sum(queue.state in RUNNING for queue in pool.queues.values())
    assert all(len(work.ends) <= 1 for work in bench.work)


def play(reach, *happenings):
    """Reach a state, let things happen, and settle.  Every errand has one end, and nothing is left."""
    bench = Bench()
    try:
        key = reach(bench)
        assert bench.state(key) is STATES[reach]
        check(bench)
        for name in happenings:
            HAPPENINGS[name](bench, key)
            check(bench)
        bench.settle()
        check(bench)
        assert all(len(work.ends) == 1 for work in bench.work)
        bench.wait(RESTART_DELAY + IDLE_TIMEOUT)
        assert not bench.pool.queues and not bench.pool._blocked and not bench.alive()
    finally:
        bench.close()


def test_whatever_happens_in_whichever_state_every_errand_has_one_end(monkeypatch):
    """Any two happenings, one after the other, in each state: they walk through every pair of the table."""
    walked, enter = set(), AgentQueue.enter

    def entering(queue, event):
        before = enter(queue, event)
        walked.add((before, event))
        return before

    monkeypatch.setattr(AgentQueue, "enter", entering)
    for reach, first, second in itertools.product(STATES, HAPPENINGS, HAPPENINGS):
        try:
            play(reach, first, second)
        except Exception as error:
            raise AssertionError(f"{reach.__name__}, {first}, {second}") from error
    assert walked == {(state, event) for state, events in TRANSITIONS.items() for event in events}
