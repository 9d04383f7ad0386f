"""Agent slots: fairness without a process."""

from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.envelope import Duty
from smtpd.queue.agents.slots import (
    AGENT_BYTES,
    IDLE_TIMEOUT,
    LEAVE_TIMEOUT,
    MANY_AGENTS,
    READER_IDLE_TIMEOUT,
    SLOTS_MAX,
    SLOTS_MIN,
    WORK_TIME,
    AgentKey,
    AgentSlots,
    slots_for_memory,
)


def key(user, action="local"):
    return AgentKey(user, action, Duty.DELIVER)


def start(slots, *keys, now=0.0):
    for one in keys:
        slots.want(one)
    granted = []
    while (one := slots.grant(now)) is not None:
        slots.busy(one, now)
        granted.append(one)
    return granted


def test_slots_are_granted_in_the_order_of_wanting():
    slots = AgentSlots(count=3)
    users = [key(name) for name in ("dave", "amy", "carol", "bob")]
    assert start(slots, *users) == users[:3]
    slots.leave(key("amy"))
    assert start(slots) == [key("bob")]


def test_one_user_cannot_take_all_slots():
    slots = AgentSlots(count=10, per_user=2)
    many = [key("eve", f"action{n}") for n in range(8)]
    assert start(slots, *many, key("bob")) == [*many[:2], key("bob")]


def test_a_user_at_the_limit_waits_for_an_agent_of_their_own():
    slots = AgentSlots(count=10, per_user=2)
    one, two, three = (key("eve", f"action{n}") for n in range(3))
    start(slots, key("bob"), one, two, three)
    for idle in (key("bob"), two):
        slots.idle(idle, 1.0)
    assert slots.choose_leaving(1.0) == [two]
    slots.leave(two)
    assert start(slots) == [three]


def test_a_user_of_several_actions_has_an_agent_for_each_of_them():
    slots = AgentSlots(count=10, per_user=2, shared={"vmail"})
    many = [key("vmail", f"action{n}") for n in range(5)]
    assert start(slots, *many) == many


def test_the_one_that_was_idle_longest_leaves_first():
    slots = AgentSlots(count=3)
    one, two, three = key("one"), key("two"), key("three")
    start(slots, one, two, three)
    for idle, when in ((two, 1.0), (one, 2.0), (three, 3.0)):
        slots.idle(idle, when)
    slots.busy(two, 4.0)
    slots.want(key("four"))
    assert slots.choose_leaving(4.0) == [one]


def test_an_agent_that_has_read_a_forward_leaves_before_all_others_and_soon():
    """lookup remembers what it said for longer than the agent would stay."""
    slots = AgentSlots(count=3)
    reader, two, three = AgentKey("one", "", Duty.READ), key("two"), key("three")
    start(slots, reader, two, three)
    for idle in (two, reader, three):
        slots.idle(idle, 1.0)
    assert slots.idle_too_long(1.0 + READER_IDLE_TIMEOUT) == [reader]
    slots.want(key("four"))
    slots.want(key("five"))
    assert slots.choose_leaving(1.0) == [reader, two]


def test_there_are_as_many_slots_as_a_quarter_of_the_memory_has_room_for():
    assert slots_for_memory(4 * AGENT_BYTES * 100) == 100
    assert (slots_for_memory(0), slots_for_memory(2**50)) == (SLOTS_MIN, SLOTS_MAX)


def test_there_are_many_agents_above_the_number_and_not_at_it():
    slots = AgentSlots(count=MANY_AGENTS + 1)
    start(slots, *(key(f"user{number}") for number in range(MANY_AGENTS)))
    assert not slots.has_many
    start(slots, key("one more"))
    assert slots.has_many


def test_no_agent_leaves_when_none_waits():
    slots = AgentSlots(count=1)
    start(slots, key("one"))
    slots.idle(key("one"), 0.0)
    assert slots.choose_leaving(0.5) == []
    assert slots.idle_too_long(IDLE_TIMEOUT - 0.1) == []
    assert slots.idle_too_long(IDLE_TIMEOUT) == [key("one")]


def test_when_all_are_busy_those_that_had_their_turn_leave():
    slots = AgentSlots(count=2)
    one, two = key("one"), key("two")
    start(slots, one, now=0.0)
    start(slots, two, now=0.5)
    for name in ("three", "four", "five"):
        slots.want(key(name))
    assert slots.choose_leaving(WORK_TIME - 0.1) == []
    assert slots.choose_leaving(WORK_TIME) == [one]
    assert slots.choose_leaving(WORK_TIME) == []
    assert slots.choose_leaving(WORK_TIME + 0.5) == [two]


def test_the_agent_that_has_worked_longest_without_a_pause_leaves_first():
    slots = AgentSlots(count=2)
    one, two = key("one"), key("two")
    start(slots, one, two)
    slots.idle(one, 1.0)
    slots.busy(one, 2.0)
    slots.busy(two, 3.0)  # it was all the time
    slots.want(key("three"))
    assert slots.choose_leaving(9.0) == [two]


def test_a_user_is_counted_until_the_last_of_their_agents_has_left():
    slots = AgentSlots(count=4)
    one, other = key("bob"), key("bob", "other")
    start(slots, one, other, key("amy"))
    slots.leave(one)
    assert slots.users == {"amy", "bob"}
    slots.leave(other)
    slots.leave(other)  # again: it has no slot any more
    assert slots.users == {"amy"}


def test_one_that_does_not_come_to_an_end_is_silent():
    slots = AgentSlots(count=1)
    start(slots, key("one"))
    slots.want(key("two"))
    assert slots.choose_leaving(WORK_TIME) == [key("one")]
    assert slots.leaving_too_long(WORK_TIME + LEAVE_TIMEOUT - 0.1) == []
    assert slots.leaving_too_long(WORK_TIME + LEAVE_TIMEOUT) == [key("one")]


KEYS = [key(user, action) for user in "abcd" for action in "xy"]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["want", "finish", "work", "leave"]), st.sampled_from(KEYS)), max_size=80))
def test_limits_hold_and_every_agent_that_waits_has_a_slot_in_the_end(steps):
    slots, now = AgentSlots(count=3, per_user=2), 0.0
    lines, alive = set(), {}

    def settle():
        for one in slots.choose_leaving(now):
            if alive[one] == "idle":
                stop(one)
            else:
                alive[one] = "leaving"
        while (one := slots.grant(now)) is not None:
            assert one in lines and one not in alive
            slots.busy(one, now)
            alive[one] = "busy"
        assert len(alive) <= 3
        assert all(sum(k.user == user for k in alive) <= 2 for user in "abcd")

    def stop(one):
        del alive[one]
        slots.leave(one)
        lines.discard(one)

    for what, one in steps:
        now += 0.7
        if what == "want" and one not in lines:
            lines.add(one)
            slots.want(one)
        elif what == "finish" and alive.get(one) == "busy":
            alive[one] = "idle"
            slots.idle(one, now)
        elif what == "work" and alive.get(one) == "idle":
            alive[one] = "busy"
            slots.busy(one, now)
        elif what == "leave" and one in alive:
            stop(one)
        settle()
    for _ in range(60):  # all come to an end when they are asked to
        now += WORK_TIME
        for one in [one for one, state in alive.items() if state == "leaving"]:
            stop(one)
        settle()
    assert lines == set(alive)


def test_an_agent_that_is_not_wanted_any_more_gets_no_slot():
    slots = AgentSlots(count=1)
    slots.want(key("bob"))
    slots.leave(key("bob"))
    assert slots.grant(0.0) is None and not slots.choose_leaving(0.0)


def test_no_more_agents_leave_than_are_waited_for_however_often_that_is_asked():
    slots = AgentSlots(count=3)
    start(slots, key("amy"), key("bob"), key("carol"), key("dave"))
    assert slots.choose_leaving(WORK_TIME) == [key("amy")]
    assert slots.choose_leaving(WORK_TIME) == []
    slots.want(key("erin"))
    assert slots.choose_leaving(WORK_TIME) == [key("bob")]
