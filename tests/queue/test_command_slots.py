"""Commands of all agents together: never more than so many, and everybody has a turn."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from smtpd.envelope import Duty
from smtpd.queue.agents.command_slots import CommandSlots
from smtpd.queue.agents.slots import AgentKey

KEYS = [AgentKey(user, "run", Duty.DELIVER) for user in ("amy", "bob", "eve")]


def test_a_session_that_becomes_free_goes_to_who_waited_longest():
    sessions = CommandSlots(1)
    amy, bob, eve = KEYS
    assert sessions.take(eve)
    assert not any(sessions.take(key) for key in (eve, bob, amy))
    sessions.give_back()
    assert sessions.next() == eve and not sessions.take(bob)
    assert sessions.take(eve) and not sessions.take(eve)
    sessions.give_back()
    assert sessions.next() == bob and sessions.take(bob)


def test_who_has_no_use_for_a_turn_loses_it():
    sessions = CommandSlots(1)
    amy, bob, _ = KEYS
    sessions.take(amy)
    sessions.take(bob)
    sessions.take(amy)
    sessions.give_back()
    sessions.forget(bob)
    assert sessions.next() == amy


@given(st.integers(1, 4), st.lists(st.tuples(st.booleans(), st.sampled_from(KEYS)), max_size=60))
def test_never_more_than_the_limit_and_nobody_waits_while_one_is_free(limit, steps):
    sessions, running = CommandSlots(limit), Counter()
    for begins, key in steps:
        if begins:
            running[key] += sessions.take(key)
        elif running[key]:
            running[key] -= 1
            sessions.give_back()
        while (turn := sessions.next()) is not None:
            assert sessions.take(turn)
            running[turn] += 1
        assert running.total() <= limit
