"""Agents are processes of users, who may do with them what they like: it costs them, and no other user."""

import errno
import os
import resource
import socket
import threading

import pytest

from smtpd import errand as frames
from smtpd.envelope import Duty, Outcome
from smtpd.imsg import (
    AddEnvelopes,
    AgentRefused,
    AgentStarted,
    EndAgent,
    EnvelopesDue,
    EnvelopesSubmitted,
    EnvelopesTried,
    LockMailbox,
    MailboxNotLocked,
    MessageStored,
    PostponeEnvelopes,
    StartAgent,
    StoreMessage,
)
from smtpd.ipc.channel import FIRST_PAUSE, LONGEST_PAUSE
from smtpd.parent.agent import AGENTS_MAX
from smtpd.queue.agents import slots
from smtpd.queue.agents.pool import RESTART_DELAY, SLOW_SLOTS, SLOW_SLOTS_PER_USER
from smtpd.queue.agents.routing import QUICK_LIMITS, SLOW_LIMITS
from smtpd.queue.agents.slots import (
    IDLE_TIMEOUT,
    LEAVE_TIMEOUT,
    MANY_AGENTS,
    SLOTS,
    SLOTS_MAX,
    SLOTS_PER_USER,
    WORK_TIME,
    AgentKey,
)
from smtpd.slice import DeliverySlice, Method
from tests.ipc.test_refusal import Kernel
from tests.queue.conftest import LIFETIME, ORIGIN, TERMS, WAIT_MAX, add, recipient
from tests.queue.test_incoming import LARGE, spool

UNDER_WAY, STALLED, DEADLINE = QUICK_LIMITS.concurrency, QUICK_LIMITS.patience, QUICK_LIMITS.deadline
BOB = "bob", "local", Duty.DELIVER


def gone(house, number):
    assert house.hear("parent", EndAgent).agent == number


def all_tried(house, count):
    """Results of `count` envelopes, in three sets."""
    delivered, deferred, held = set(), set(), set()
    while len(delivered) + len(deferred) + len(held) < count:
        told = house.hear("scheduler", EnvelopesTried)
        delivered.update(told.delivered)
        deferred.update(told.deferred)
        held.update(told.held)
    return delivered, deferred, held


def closed(sock):
    """The other end is closed; what was sent before it is thrown away."""
    try:
        while sock.recv(frames.PACKET_MAX):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    return True


# -- many mails, one life ---------------------------------------------------------------


def test_one_agent_takes_many_mails_side_by_side_and_no_more_than_it_may(house):
    envelopes = house.store([recipient("bob") for _ in range(2 * UNDER_WAY)])
    house.due(*envelopes)
    _, agent = house.start_agent()
    first = [house.receive(agent) for _ in range(UNDER_WAY)]
    house.turn()
    with pytest.raises(BlockingIOError):
        agent.recv(1)
    for errand in first[:5]:
        house.answer(agent, errand)
    second = [house.receive(agent) for _ in range(5)]
    for errand in [*first[5:], *second]:
        house.answer(agent, errand)
    for _ in range(UNDER_WAY - 5):
        house.deliver(agent)
    assert all_tried(house, len(envelopes))[0] == set(envelopes)


def test_an_agent_is_kept_for_the_next_mail(house):
    for _ in range(3):
        (envelope,) = house.store()
        house.due(envelope)
        if not house.agents:
            house.start_agent()
        house.deliver(house.agents[0])
        assert house.tried() == ([envelope], [], [])
    assert not house.mail["parent"]


def test_an_agent_without_mail_leaves_after_a_while(house):
    (envelope,) = house.store()
    house.due(envelope)
    _, agent = house.start_agent(5)
    house.deliver(agent)
    house.tried()
    house.pass_time(IDLE_TIMEOUT - 0.5)
    assert not closed(agent)
    house.pass_time(0.5)
    assert closed(agent)
    gone(house, 5)
    assert not house.queue.agents.queues


def test_users_have_agents_of_their_own(house):
    one, two = house.store([recipient("bob"), recipient("amy")])
    house.due(one, two)
    asked = {}
    for number in (1, 2):
        question, agent = house.start_agent(number)
        asked[question.user] = agent
    assert house.receive(asked["bob"]).envelope == one
    assert house.receive(asked["amy"]).envelope == two


# -- what users do to their agents ---------------------------------------------------------


@pytest.fixture
def two(house):
    """Bob, who behaves, and eve; each with an agent that has a mail."""
    mails = dict(zip(("eve", "bob"), house.store([recipient("eve"), recipient("bob")]), strict=True))
    house.due(*mails.values())
    sockets = {}
    for number in (1, 2):
        asked, agent = house.start_agent(number)
        sockets[asked.user] = agent
    errands = {user: house.receive(sockets[user]) for user in mails}
    return mails, sockets, errands


def bob_is_served(house, two):
    mails, sockets, errands = two
    house.answer(sockets["bob"], errands["bob"])
    assert all_tried(house, 1)[0] == {mails["bob"]}


def test_an_agent_that_is_killed_costs_its_user(house, two):
    mails, sockets, _ = two
    sockets["eve"].close()
    assert house.tried() == ([], [mails["eve"]], [])
    assert house.queue.conclusions._deferred[mails["eve"]].error == "the agent was lost: it has ended"
    gone(house, 1)
    bob_is_served(house, two)


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"x",
        b"junk" * 100,
        bytes(8192),
        os.urandom(90_000),
        frames.encode(frames.ReadForward(1)),
        frames.encode(frames.Result(1 << 32 | 9, Outcome.DELIVERED, "never asked")),
        frames.encode(frames.ForwardText(1, "text", b"root: eve")),
    ],
    ids=["empty", "a byte", "text", "zeros", "noise", "a request", "another's result", "a .forward"],
)
def test_an_agent_that_talks_nonsense_costs_its_user(house, two, junk):
    mails, sockets, _ = two
    sockets["eve"].send(junk)
    assert house.tried() == ([], [mails["eve"]], [])
    gone(house, 1)
    bob_is_served(house, two)


def test_an_agent_that_answers_a_mail_with_a_forward_costs_its_user(house, two):
    mails, sockets, _ = two
    sockets["eve"].send(frames.encode(frames.ForwardText(mails["eve"], "text", b"root: eve")))
    assert house.tried() == ([], [mails["eve"]], [])
    gone(house, 1)
    bob_is_served(house, two)


def test_an_agent_cannot_answer_for_another_user(house, two):
    mails, sockets, errands = two
    house.answer(sockets["eve"], errands["bob"])
    assert house.tried() == ([], [mails["eve"]], [])
    bob_is_served(house, two)


def test_an_agent_cannot_answer_twice(house, two):
    mails, sockets, errands = two
    house.answer(sockets["eve"], errands["eve"])
    house.answer(sockets["eve"], errands["eve"])
    assert house.tried() == ([mails["eve"]], [], [])
    gone(house, 1)
    bob_is_served(house, two)


def test_an_agent_that_floods_us_costs_its_user(house, two):
    mails, sockets, errands = two
    try:
        while True:
            sockets["eve"].send(b"x" * 1000)
    except BlockingIOError:
        pass
    house.answer(sockets["bob"], errands["bob"])
    assert all_tried(house, 2) == ({mails["bob"]}, {mails["eve"]}, set())


def test_an_agent_that_sends_descriptors_leaves_none_with_us(house, two):
    mails, sockets, errands = two
    before = len(os.listdir("/proc/self/fd"))
    packet = frames.encode(frames.Result(mails["eve"], Outcome.DELIVERED, "Delivered"))
    null = os.open("/dev/null", os.O_RDONLY)
    socket.send_fds(sockets["eve"], [packet], [null] * 50)
    os.close(null)
    assert house.tried() == ([mails["eve"]], [], [])
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_agent_that_stands_still_is_ended_at_the_deadline(house, two):
    mails, sockets, _ = two
    bob_is_served(house, two)
    house.pass_time(DEADLINE)
    assert all_tried(house, 1)[1] == {mails["eve"]}
    while house.hear("parent", EndAgent).agent != 1:
        pass


def test_nothing_more_waits_for_an_agent_that_stands_still(house):
    envelopes = house.store([recipient("eve") for _ in range(100)])
    house.due(*envelopes)
    _, agent = house.start_agent()
    house.receive(agent)
    house.pass_time(STALLED)
    assert len(all_tried(house, 100 - UNDER_WAY)[1]) == 100 - UNDER_WAY
    more = house.store([recipient("eve")])
    house.due(*more)
    assert all_tried(house, 1)[1] == set(more)


def test_an_agent_that_does_not_read_blocks_no_other(house):
    """Its socket is full; the mails wait in our memory, and not many of them."""
    envelopes = house.store([recipient("eve") for _ in range(60)], content=bytes(16_000))
    house.due(*envelopes)
    _, agent = house.start_agent()
    agent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    (good,) = house.store([recipient("bob")])
    house.due(good)
    _, other = house.start_agent(2)
    house.deliver(other)
    assert house.tried() == ([good], [], [])
    (line,) = (line for key, line in house.queue.agents.queues.items() if key.user == "eve")
    assert len(line.begun) == UNDER_WAY
    for _ in range(60):
        house.deliver(agent)
    assert all_tried(house, 60)[0] == set(envelopes)


def test_an_agent_that_does_nothing_but_die_is_not_started_over_and_over(house):
    for round in range(2):
        (envelope,) = house.store([recipient("eve")])
        house.due(envelope)
        _, agent = house.start_agent(round + 1)
        agent.close()
        assert house.tried() == ([], [envelope], [])
        gone(house, round + 1)
        (again,) = house.store([recipient("eve")])
        house.due(again)
        assert house.tried() == ([], [again], [])
        assert not house.mail["parent"]
        house.pass_time(RESTART_DELAY)


def test_the_next_mail_after_that_while_is_tried_at_once(house, monkeypatch):
    tick = house.queue.agents.tick
    monkeypatch.setattr(house.queue.agents, "tick", lambda: None)  # not in the next second
    (first,) = house.store_due(recipient("eve"))
    _, agent = house.start_agent(1)
    agent.close()
    assert house.tried() == ([], [first], [])
    gone(house, 1)
    house.now += RESTART_DELAY
    (second,) = house.store_due(recipient("eve"))
    _, agent = house.start_agent(2)
    tick()
    assert len(house.queue.agents.quick) == 1  # the slot of this agent is not taken for that of the one before
    assert house.deliver(agent).envelope == second
    assert house.tried() == ([second], [], [])


def test_what_one_agent_has_answered_is_no_merit_of_the_next(house):
    count = 3 * UNDER_WAY
    house.store_due(*(recipient("eve") for _ in range(count)))
    _, agent = house.start_agent(1)
    house.deliver(agent)
    agent.close()
    gone(house, 1)
    _, agent = house.start_agent(2)
    house.receive(agent)
    agent.close()
    gone(house, 2)
    assert len(all_tried(house, count)[1]) == count - 1
    assert not house.mail["parent"]


def test_what_was_not_sent_yet_goes_to_the_next_agent(house):
    envelopes = house.store([recipient("bob") for _ in range(UNDER_WAY + 10)])
    house.due(*envelopes)
    _, agent = house.start_agent(1)
    house.deliver(agent)
    agent.close()
    delivered, deferred, _ = all_tried(house, UNDER_WAY)
    assert len(delivered) == 1
    gone(house, 1)
    _, other = house.start_agent(2)
    for _ in range(10):
        house.deliver(other)
    assert all_tried(house, 10)[0] | delivered | deferred == set(envelopes)


def test_an_agent_that_leaves_of_its_own_accord_costs_nothing(house):
    (envelope,) = house.store()
    house.due(envelope)
    _, agent = house.start_agent(1)
    house.deliver(agent)
    house.tried()
    agent.close()
    gone(house, 1)
    (envelope,) = house.store()
    house.due(envelope)
    _, other = house.start_agent(2)
    house.deliver(other)
    assert house.tried() == ([envelope], [], [])


def test_an_agent_is_none_the_worse_when_the_kernel_refuses_for_a_while(house):
    """Too many descriptors of ours are under way, to others, who do not read: no fault of this agent's."""
    (envelope,) = house.store()
    house.due(envelope)
    _, agent = house.start_agent()
    house.deliver(agent)
    house.tried()
    (line,) = house.queue.agents.queues.values()
    kernel = line.agent._sock = Kernel(fileno=line.agent._sock.detach())
    kernel.refuses, kernel.times = errno.ETOOMANYREFS, 3
    (second,) = house.store()
    house.due(second)
    house.deliver(agent)
    assert kernel.asked == 4
    assert house.tried() == ([second], [], [])


def test_an_agent_that_goes_while_the_kernel_refuses_had_nothing_yet(house):
    envelopes = house.store([recipient(), recipient()])
    house.due(envelopes[0])
    _, agent = house.start_agent(1)
    house.deliver(agent)
    house.tried()
    (line,) = house.queue.agents.queues.values()
    kernel = line.agent._sock = Kernel(fileno=line.agent._sock.detach())
    kernel.refuses = errno.ENOBUFS
    house.due(envelopes[1])
    house.until(lambda: kernel.asked)
    agent.close()
    gone(house, 1)
    _, other = house.start_agent(2)
    assert not house.deliver(other).perhaps_delivered
    assert house.tried() == ([envelopes[1]], [], [])


def test_the_kernel_is_asked_less_and_less_often_while_it_refuses(house, monkeypatch):
    (first,) = house.store_due(recipient())
    _, agent = house.start_agent()
    house.deliver(agent)
    house.tried()
    (line,) = house.queue.agents.queues.values()
    kernel = line.agent._sock = Kernel(fileno=line.agent._sock.detach())
    kernel.refuses = errno.ENOBUFS
    pauses, later = [], house.loop.call_later
    (second,) = house.store([recipient()])
    with monkeypatch.context() as patched:
        patched.setattr(house.loop, "call_later", lambda pause, *call: (pauses.append(pause), later(3600.0, *call))[1])
        house.queue.deliveries.due(EnvelopesDue([second]))
        while kernel.asked < 12:
            line.agent._flush()
    assert pauses[:3] == [FIRST_PAUSE, 2 * FIRST_PAUSE, 4 * FIRST_PAUSE] and pauses[-1] == LONGEST_PAUSE
    kernel.refuses = 0
    line.agent._flush()
    assert house.deliver(agent).envelope == second
    assert line.agent._pause == 0.0


def test_an_answer_to_what_was_not_sent_yet_costs_its_user(house):
    """An agent may guess the next envelope, and is told of none that is still with us."""
    first, second = house.store([recipient(), recipient()])
    house.due(first)
    _, agent = house.start_agent(1)
    house.deliver(agent)
    house.tried()
    (line,) = house.queue.agents.queues.values()
    kernel = line.agent._sock = Kernel(fileno=line.agent._sock.detach())
    kernel.refuses = errno.ENOBUFS
    house.due(second)
    house.until(lambda: kernel.asked)
    agent.send(frames.encode(frames.Result(second, Outcome.DELIVERED, "Delivered")))
    gone(house, 1)
    _, other = house.start_agent(2)
    assert house.deliver(other).envelope == second
    assert house.tried() == ([second], [], [])


def test_nothing_of_an_agent_that_does_not_read_is_left_with_the_loop(house, monkeypatch):
    add_writer, remove_writer, waiting = house.loop.add_writer, house.loop.remove_writer, set()
    monkeypatch.setattr(house.loop, "add_writer", lambda fd, *call: (waiting.add(fd), add_writer(fd, *call)))
    monkeypatch.setattr(house.loop, "remove_writer", lambda fd: (waiting.discard(fd), remove_writer(fd)))
    house.store_due(*(recipient("eve") for _ in range(40)), content=bytes(16_000))
    _, agent = house.start_agent(1)
    (line,) = house.queue.agents.queues.values()
    house.until(lambda: line.agent and line.agent._outbox)
    descriptor = line.agent._sock.fileno()
    assert descriptor in waiting
    agent.close()
    gone(house, 1)
    assert descriptor not in waiting


def spool_files(house, message):
    """Descriptors of ours of that message's spool file."""
    links = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return [link for link in links if os.path.lexists(link) and f"{message:08x}" in os.readlink(link)]


@pytest.mark.parametrize("when", ["opened", "sent"])
def test_an_agent_that_goes_leaves_no_descriptor_with_us(house, when):
    """While the spool file is opened for it, and while the kernel does not take the descriptor."""
    message = house.reserve()[0]
    spool(house, message)
    house.say("lookup", AddEnvelopes(message, ORIGIN, [recipient()], TERMS))
    house.say("dispatcher0", StoreMessage(7, message, 1, b"", len(LARGE)))
    house.hear("dispatcher0", MessageStored)
    house.hear("scheduler", EnvelopesSubmitted)
    (first,) = house.store_due(recipient())
    _, agent = house.start_agent(1)
    house.deliver(agent)
    house.tried()
    (line,) = house.queue.agents.queues.values()
    kernel = line.agent._sock = Kernel(fileno=line.agent._sock.detach())
    kernel.refuses = errno.ENOBUFS if when == "sent" else 0
    begun, go_on = threading.Event(), threading.Event()
    if when == "opened":
        house.spool.faults["open"] = lambda *_: begun.set() or go_on.wait(WAIT_MAX)
    house.due(message << 32 | 1)
    house.until(begun.is_set if when == "opened" else lambda: kernel.asked)
    agent.close()
    gone(house, 1)
    go_on.set()
    house.until(lambda: house.mail["parent"] and not house.queue.disk._spoolers.under_way)
    house.turn()
    assert not spool_files(house, message)


# -- more users than places ------------------------------------------------------------------


@pytest.fixture
def busy_house(make_house):
    made = make_house()
    made.queue.agents.quick._count = 2
    return made


def test_users_without_a_slot_get_one_when_another_is_idle(busy_house):
    mails = busy_house.store([recipient(f"user{n}") for n in range(6)])
    busy_house.due(*mails)
    for number in range(1, 3):
        busy_house.start_agent(number)
    for number in range(6):
        busy_house.deliver(busy_house.agents[number])
        assert busy_house.hear("scheduler", EnvelopesTried).delivered == [mails[number]]
        if number < 4:
            gone(busy_house, number + 1)
            busy_house.start_agent(number + 3)
    assert all(closed(agent) for agent in busy_house.agents[:4])


def test_an_agent_that_is_always_busy_makes_room(busy_house):
    busy = busy_house.store([recipient(user) for user in ("amy", "bob") for _ in range(100)])
    busy_house.due(*busy)
    for number in (1, 2):
        busy_house.start_agent(number)
    (other,) = busy_house.store([recipient("carol")])
    busy_house.due(other)
    busy_house.turn()
    assert not busy_house.mail["parent"]
    busy_house.pass_time(WORK_TIME)
    for _ in range(UNDER_WAY):
        busy_house.deliver(busy_house.agents[0])
    gone(busy_house, 1)
    asked, carol = busy_house.start_agent(3)
    assert asked.user == "carol"
    busy_house.deliver(carol)
    while other not in busy_house.hear("scheduler", EnvelopesTried).delivered:
        pass
    gone(busy_house, 3)
    assert busy_house.start_agent(4)[0].user == "amy"


def test_a_silent_agent_keeps_others_waiting_for_some_seconds_only(busy_house):
    mails = busy_house.store([recipient(user) for user in ("eve", "mallory", "carol")])
    busy_house.due(*mails)
    for number in (1, 2):
        busy_house.start_agent(number)
        busy_house.receive(busy_house.agents[-1])
    busy_house.pass_time(WORK_TIME)
    busy_house.pass_time(LEAVE_TIMEOUT)
    assert len(all_tried(busy_house, 1)[1]) == 1
    gone(busy_house, 1)
    assert busy_house.start_agent(3)[0].user == "carol"


def test_a_slot_of_an_agent_that_dies_is_given_on_at_once(busy_house, monkeypatch):
    monkeypatch.setattr(busy_house.queue.agents, "tick", lambda: None)  # not in the next second
    mails = busy_house.store([recipient(user) for user in ("amy", "bob", "carol", "amy")])
    busy_house.due(mails[0], mails[3], mails[1], mails[2])
    sockets = {}
    for number in (1, 2):
        asked, agent = busy_house.start_agent(number)
        sockets[asked.user] = agent
    busy_house.deliver(sockets["amy"])
    busy_house.receive(sockets["amy"])
    sockets["amy"].close()
    gone(busy_house, 1)
    assert busy_house.start_agent(3)[0].user == "carol"


@pytest.mark.parametrize("method, count", [(Method.MAILDIR, SLOTS_PER_USER), (Method.LMTP, SLOW_SLOTS_PER_USER)])
def test_a_user_whom_many_actions_name_has_an_agent_for_each_of_them(make_house, method, count):
    names = [f"action{number}" for number in range(count + 2)]
    house = make_house(actions=tuple(DeliverySlice(name, method, "vmail", LIFETIME) for name in names))
    house.store_due(*(recipient(action=name) for name in names))
    assert sorted(house.start_agent(number)[0].action for number in range(1, count + 3)) == names


def test_more_agents_than_slots_are_never_alive(house):
    mails = house.store([recipient(f"user{n}") for n in range(SLOTS + 5)])
    house.due(*mails)
    for number in range(SLOTS):
        house.start_agent(number + 1)
    house.turn()
    assert not house.mail["parent"]
    for agent in house.agents[:5]:
        house.deliver(agent)
    for number in range(5):
        gone(house, number + 1)
        question = house.hear("parent", StartAgent)
        house.say("parent", AgentRefused(question.request, False, "later"))
    for agent in house.agents[5:]:
        house.deliver(agent)
    delivered, deferred, _ = all_tried(house, SLOTS + 5)
    assert deferred == set(mails[SLOTS:])
    assert delivered | deferred == set(mails)


def test_with_many_agents_each_has_fewer_errands_at_a_time(house, monkeypatch):
    monkeypatch.setattr(slots, "MANY_AGENTS", 1)
    house.due(*house.store([recipient("amy")]))
    _, _amy = house.start_agent(1)
    house.due(*house.store([recipient("bob") for _ in range(UNDER_WAY)]))
    _, bob = house.start_agent(2)
    house.receive(bob)
    assert len(house.queue.agents.queues[BOB].begun) == QUICK_LIMITS.concurrency_when_many


def test_an_agent_that_starts_when_nothing_waits_any_more_is_idle(house):
    (envelope,) = house.store()
    house.due(envelope)
    asked = house.hear("parent", StartAgent)
    house.queue.agents.queues[BOB].waiting.clear()
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    other.setblocking(False)
    house.say("parent", AgentStarted(asked.request, 9), one.detach())
    house.until(lambda: house.queue.agents.queues[BOB].agent)
    house.pass_time(IDLE_TIMEOUT)
    assert closed(other)
    gone(house, 9)
    other.close()


# -- suspects -----------------------------------------------------------------------------------


def test_a_suspect_is_alone_with_its_agent(house):
    """Three mails of another run; one has been begun before and never came to an end."""
    house.queue.disk.store.apply([add(n, run=0, troubles=n == 2) for n in (1, 2, 3)])
    house.due(1 << 32 | 1, 2 << 32 | 1, 3 << 32 | 1)
    _, agent = house.start_agent()
    for number in (1, 2, 3):
        errand = house.receive(agent)
        assert errand.envelope >> 32 == number
        house.turn()
        with pytest.raises(BlockingIOError):
            agent.recv(1)
        house.answer(agent, errand)
    assert len(all_tried(house, 3)[0]) == 3


# -- descriptors ----------------------------------------------------------------------------------


@pytest.fixture
def packets_before():
    return packet_sockets()


def test_a_lost_agent_leaves_no_descriptor_behind(packets_before, house, two):
    mails, sockets, _ = two
    bob_is_served(house, two)
    sockets["eve"].close()
    all_tried(house, 1)
    house.say("scheduler", PostponeEnvelopes([(mails["eve"], 5)]))
    house.pass_time(60)
    house.until(lambda: not house.queue.agents.queues)
    assert packet_sockets() <= packets_before | {sock.fileno() for sock in house.agents}


def packet_sockets():
    """Descriptors of this process that an agent could be at the other end of."""
    found = set()
    for descriptor in range(3, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 4096)):
        try:
            link = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if link.startswith("socket:"):
            with socket.socket(fileno=os.dup(descriptor)) as sock:
                if sock.type == socket.SOCK_SEQPACKET:
                    found.add(descriptor)
    return found


def test_constants_leave_room_for_all():
    assert MANY_AGENTS * UNDER_WAY + (SLOTS_MAX - MANY_AGENTS) * QUICK_LIMITS.concurrency_when_many < 5000
    assert SLOTS_MAX + SLOW_SLOTS < AGENTS_MAX
    assert STALLED < DEADLINE
    assert SLOW_LIMITS.patience < SLOW_LIMITS.deadline


def test_an_attempt_that_has_ended_is_not_begun_again_by_the_next_agent(house, monkeypatch):
    """Our own code raises, and before the line hears of it the agent goes."""
    first, second = house.store([recipient(), recipient()])
    house.due(first)
    _, agent = house.start_agent()
    house.deliver(agent)
    assert house.tried() == ([first], [], [])

    def lose_the_agent():
        house.now += DEADLINE
        house.queue.agents.tick()

    def defect(_message, _done):
        house.loop.call_soon(lose_the_agent)
        raise RuntimeError("a defect")

    monkeypatch.setattr(house.queue.disk, "find_message", defect)
    house.due(second)
    assert house.tried() == ([], [second], [])
    gone(house, 1)
    house.turn()
    assert not house.queue.agents.waiting()
    assert not house.mail["parent"]


# -- at once, without waiting for the next second -------------------------------------------


@pytest.fixture
def tickless(busy_house, monkeypatch):
    """Two slots; amy and bob have an agent with a mail each, carol waits for a slot, and no second passes."""
    monkeypatch.setattr(busy_house.queue.agents, "tick", lambda: None)
    busy_house.envelopes = busy_house.store_due(*(recipient(user) for user in ("amy", "bob", "carol")))
    busy_house.sockets = {}
    for number in (1, 2):
        asked, agent = busy_house.start_agent(number)
        busy_house.sockets[asked.user] = agent
    return busy_house


def test_an_agent_that_becomes_idle_makes_room_at_once_and_another_one_comes_for_the_next_mail(tickless):
    tickless.deliver(tickless.sockets["amy"])
    gone(tickless, 1)
    asked, agent = tickless.start_agent(3)
    assert asked.user == "carol"
    tickless.deliver(agent)
    all_tried(tickless, 2)
    (again,) = tickless.store_due(recipient("amy"))
    gone(tickless, 3)
    asked, agent = tickless.start_agent(4)
    assert asked.user == "amy" and tickless.deliver(agent).envelope == again


def test_the_slot_of_an_agent_that_was_no_use_is_given_on_at_once(tickless):
    tickless.sockets["amy"].close()
    gone(tickless, 1)
    assert tickless.start_agent(3)[0].user == "carol"


def test_the_slot_of_an_agent_that_is_refused_is_given_on_at_once(busy_house, monkeypatch):
    monkeypatch.setattr(busy_house.queue.agents, "tick", lambda: None)
    busy_house.store_due(*(recipient(user) for user in ("amy", "bob", "carol")))
    asked = busy_house.hear("parent", StartAgent)
    busy_house.start_agent(2)
    busy_house.say("parent", AgentRefused(asked.request, False, "later"))
    assert busy_house.start_agent(3)[0].user == "carol"


def test_an_agent_whose_mailbox_cannot_be_locked_makes_room_at_once(busy_house, monkeypatch):
    monkeypatch.setattr(busy_house.queue.agents, "tick", lambda: None)
    busy_house.store_due(recipient("amy", "box"), recipient("bob"), recipient("carol"))
    for number in (1, 2):
        busy_house.start_agent(number)
    asked = busy_house.hear("parent", LockMailbox)
    busy_house.say("parent", MailboxNotLocked(asked.request, False, "locked"))
    gone(busy_house, asked.agent)
    assert busy_house.start_agent(3)[0].user == "carol"


def test_an_idle_agent_that_gets_a_mail_is_not_ended_as_one_without_work(house):
    house.store_due(recipient())
    _, agent = house.start_agent()
    house.deliver(agent)
    house.tried()
    (second,) = house.store_due(recipient())
    errand = house.receive(agent)
    house.pass_time(IDLE_TIMEOUT)
    assert not closed(agent)
    house.answer(agent, errand)
    assert house.tried() == ([second], [], [])


def test_what_comes_for_an_agent_that_stands_still_and_has_no_room_fails_at_once(house, monkeypatch):
    monkeypatch.setattr(house.queue.agents, "tick", lambda: None)
    house.store_due(*(recipient() for _ in range(UNDER_WAY)))
    _, agent = house.start_agent()
    for _ in range(UNDER_WAY):
        house.receive(agent)
    house.now += STALLED
    (late,) = house.store_due(recipient())
    assert house.tried() == ([], [late], [])


# -- agents that end without an answer ----------------------------------------------------


def test_an_agent_that_dies_before_its_mailbox_is_locked_is_not_started_over_and_over(house):
    (envelope,) = house.store_due(recipient("bob", "box"))
    _, agent = house.start_agent(1)
    house.hear("parent", LockMailbox)
    agent.close()
    gone(house, 1)
    assert house.tried() == ([], [envelope], [])
    house.turn()
    assert not house.mail["parent"]


def test_what_comes_while_no_agent_is_started_fails_for_the_same_reason_and_no_longer_than_that(house):
    mails = house.store_due(recipient())
    _, agent = house.start_agent(1)
    agent.close()
    gone(house, 1)
    house.tried()
    mails += house.store_due(recipient())
    house.tried()
    reasons = {house.queue.conclusions._deferred[id].error for id in mails}
    assert reasons == {"the agent was lost: it has ended"}
    pool = house.queue.agents
    house.pass_time(RESTART_DELAY - 1)
    assert pool._blocked
    house.pass_time(1)
    assert not pool._blocked  # nothing is kept of a user who gets no more mail


def test_an_agent_that_had_nothing_to_answer_was_not_useless(house, monkeypatch):
    """Its only mail could not be read."""
    monkeypatch.setattr(house.queue.disk, "find_message", lambda _id, found: found(None, OSError(errno.EIO, "error")))
    (first,) = house.store_due(recipient())
    _, agent = house.start_agent(1)
    assert house.tried() == ([], [first], [])
    monkeypatch.undo()
    agent.close()
    gone(house, 1)
    (second,) = house.store_due(recipient())
    _, other = house.start_agent(2)
    house.deliver(other)
    assert house.tried() == ([second], [], [])


# -- the end --------------------------------------------------------------------------------


def test_what_was_not_sent_to_an_agent_that_ends_while_we_stop_is_not_begun_again(house):
    house.store_due(recipient())
    _, agent = house.start_agent(1)
    house.deliver(agent)
    house.tried()
    (line,) = house.queue.agents.queues.values()
    kernel = line.agent._sock = Kernel(fileno=line.agent._sock.detach())
    kernel.refuses = errno.ENOBUFS
    house.store_due(recipient())
    house.until(lambda: kernel.asked)
    house.queue.agents.stop()
    agent.close()
    gone(house, 1)
    house.turn()
    assert not house.mail["parent"] and not house.queue.agents.waiting()


def test_nothing_is_under_way_after_the_end_and_no_errand_ends_twice(house, two):
    pool = house.queue.agents
    over, other = [begun.errand for queue in pool.queues.values() for begun in queue.begun.values()]
    ended = []
    over._attempt.over = True
    over.failed = other.failed = lambda reason, **_more: ended.append(reason)
    pool.stop()
    pool.give(AgentKey("amy", "local", Duty.DELIVER), other)
    assert len(pool.queues) == 2 and not pool.waiting()
    pool.end()
    assert ended == ["the daemon was stopped"] and not pool.under_way()
