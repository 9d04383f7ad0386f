"""Who may have an agent: fairness without a process."""

from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.envelope import Duty
from smtpd.queue.agents.slots import (
    AGENT_BYTES,
    IDLE_TIMEOUT,
    LEAVE_TIMEOUT,
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


def start(places, *keys, now=0.0):
    for one in keys:
        places.want(one)
    granted = []
    while (one := places.grant(now)) is not None:
        places.busy(one, now)
        granted.append(one)
    return granted


def test_places_are_given_in_the_order_of_wanting():
    places = AgentSlots(count=3)
    users = [key(name) for name in ("dave", "amy", "carol", "bob")]
    assert start(places, *users) == users[:3]
    places.leave(key("amy"))
    assert start(places) == [key("bob")]


def test_one_user_cannot_take_all_places():
    places = AgentSlots(count=10, per_user=2)
    many = [key("eve", f"action{n}") for n in range(8)]
    assert start(places, *many, key("bob")) == [*many[:2], key("bob")]


def test_a_user_at_the_limit_waits_for_an_agent_of_their_own():
    places = AgentSlots(count=10, per_user=2)
    one, two, three = (key("eve", f"action{n}") for n in range(3))
    start(places, key("bob"), one, two, three)
    for idle in (key("bob"), two):
        places.idle(idle, 1.0)
    assert places.choose_leaving(1.0) == [two]
    places.leave(two)
    assert start(places) == [three]


def test_a_user_whom_actions_name_has_an_agent_for_each_of_them():
    places = AgentSlots(count=10, per_user=2, shared={"vmail"})
    many = [key("vmail", f"action{n}") for n in range(5)]
    assert start(places, *many) == many


def test_the_one_that_was_idle_longest_leaves_first():
    places = AgentSlots(count=3)
    one, two, three = key("one"), key("two"), key("three")
    start(places, one, two, three)
    for idle, when in ((two, 1.0), (one, 2.0), (three, 3.0)):
        places.idle(idle, when)
    places.busy(two, 4.0)
    places.want(key("four"))
    assert places.choose_leaving(4.0) == [one]


def test_who_has_read_a_forward_leaves_before_all_others_and_soon():
    """lookup remembers what it said for longer than the agent would stay."""
    places = AgentSlots(count=3)
    reader, two, three = AgentKey("one", "", Duty.READ), key("two"), key("three")
    start(places, reader, two, three)
    for idle in (two, reader, three):
        places.idle(idle, 1.0)
    assert places.idle_too_long(1.0 + READER_IDLE_TIMEOUT) == [reader]
    places.want(key("four"))
    places.want(key("five"))
    assert places.choose_leaving(1.0) == [reader, two]


def test_there_are_as_many_places_as_a_quarter_of_the_memory_has_room_for():
    assert slots_for_memory(4 * AGENT_BYTES * 100) == 100
    assert (slots_for_memory(0), slots_for_memory(2**50)) == (SLOTS_MIN, SLOTS_MAX)


def test_nobody_leaves_when_nobody_waits():
    places = AgentSlots(count=1)
    start(places, key("one"))
    places.idle(key("one"), 0.0)
    assert places.choose_leaving(0.5) == []
    assert places.idle_too_long(IDLE_TIMEOUT - 0.1) == []
    assert places.idle_too_long(IDLE_TIMEOUT) == [key("one")]


def test_when_all_are_busy_those_that_had_their_turn_leave():
    places = AgentSlots(count=2)
    one, two = key("one"), key("two")
    start(places, one, now=0.0)
    start(places, two, now=0.5)
    for name in ("three", "four", "five"):
        places.want(key(name))
    assert places.choose_leaving(WORK_TIME - 0.1) == []
    assert places.choose_leaving(WORK_TIME) == [one]
    assert places.choose_leaving(WORK_TIME) == []
    assert places.choose_leaving(WORK_TIME + 0.5) == [two]


def test_one_that_does_not_come_to_an_end_is_silent():
    places = AgentSlots(count=1)
    start(places, key("one"))
    places.want(key("two"))
    assert places.choose_leaving(WORK_TIME) == [key("one")]
    assert places.leaving_too_long(WORK_TIME + LEAVE_TIMEOUT - 0.1) == []
    assert places.leaving_too_long(WORK_TIME + LEAVE_TIMEOUT) == [key("one")]


KEYS = [key(user, action) for user in "abcd" for action in "xy"]


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(["want", "finish", "work", "leave"]), st.sampled_from(KEYS)), max_size=80))
def test_limits_hold_and_whoever_waits_has_a_place_in_the_end(steps):
    places, now = AgentSlots(count=3, per_user=2), 0.0
    lines, alive = set(), {}

    def settle():
        for one in places.choose_leaving(now):
            if alive[one] == "idle":
                stop(one)
            else:
                alive[one] = "leaving"
        while (one := places.grant(now)) is not None:
            assert one in lines and one not in alive
            places.busy(one, now)
            alive[one] = "busy"
        assert len(alive) <= 3
        assert all(sum(k.user == user for k in alive) <= 2 for user in "abcd")

    def stop(one):
        del alive[one]
        places.leave(one)
        lines.discard(one)

    for what, one in steps:
        now += 0.7
        if what == "want" and one not in lines:
            lines.add(one)
            places.want(one)
        elif what == "finish" and alive.get(one) == "busy":
            alive[one] = "idle"
            places.idle(one, now)
        elif what == "work" and alive.get(one) == "idle":
            alive[one] = "busy"
            places.busy(one, now)
        elif what == "leave" and one in alive:
            stop(one)
        settle()
    for _ in range(60):  # all come to an end when they are asked to
        now += WORK_TIME
        for one in [one for one, state in alive.items() if state == "leaving"]:
            stop(one)
        settle()
    assert lines == set(alive)
