"""Commands of all agents together: never more than the limit, and every agent has a turn."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from smtpd.envelope import Duty
from smtpd.queue.agents.command_slots import CommandSlots
from smtpd.queue.agents.slots import AgentKey

KEYS = [AgentKey(user, "run", Duty.DELIVER) for user in ("amy", "bob", "eve")]


def test_a_slot_that_becomes_free_goes_to_the_agent_that_waited_longest():
    slots = CommandSlots(1)
    amy, bob, eve = KEYS
    assert slots.take(eve)
    assert not any(slots.take(key) for key in (eve, bob, amy))
    slots.give_back()
    assert slots.next() == eve and not slots.take(bob)
    assert slots.take(eve) and not slots.take(eve)
    slots.give_back()
    assert slots.next() == bob and slots.take(bob)


def test_an_agent_without_use_for_its_turn_loses_it():
    slots = CommandSlots(1)
    amy, bob, _ = KEYS
    slots.take(amy)
    slots.take(bob)
    slots.take(amy)
    slots.give_back()
    slots.forget(bob)
    assert slots.next() == amy


@given(st.integers(1, 4), st.lists(st.tuples(st.booleans(), st.sampled_from(KEYS)), max_size=60))
def test_never_more_than_the_limit_and_none_waits_while_one_is_free(limit, steps):
    slots, running = CommandSlots(limit), Counter()
    for begins, key in steps:
        if begins:
            running[key] += slots.take(key)
        elif running[key]:
            running[key] -= 1
            slots.give_back()
        while (turn := slots.next()) is not None:
            assert slots.take(turn)
            running[turn] += 1
        assert running.total() <= limit
