"""The next envelope is of the highest priority, and now and then of a lower one."""

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.scheduler.priority_queue import LOWER_PRIORITY_INTERVAL, PriorityQueue

PRIORITIES = st.integers(-9, 9)


@settings(max_examples=100)
@given(st.lists(st.one_of(PRIORITIES, st.none()), max_size=200))
def test_each_that_joins_leaves_once_and_equals_in_their_order(steps):
    """A step is somebody of that priority who joins, or somebody who leaves."""
    line, waiting = PriorityQueue(), {}
    priorities = {}
    for number, step in enumerate(steps):
        if step is not None:
            line.join(number, step)
            priorities[number] = step
            waiting.setdefault(step, deque()).append(number)
        elif line:
            left = line.leave()
            assert waiting[priorities[left]].popleft() == left
        assert bool(line) == any(waiting.values())


@settings(max_examples=100)
@given(st.lists(PRIORITIES, min_size=2, max_size=30, unique=True))
def test_a_key_waits_at_most_one_turn_of_all_others(priorities):
    """Whatever keeps coming with the highest one, and with all between."""
    line = PriorityQueue()
    for priority in priorities:
        line.join(priority, priority)
    served = set()
    for _ in range(LOWER_PRIORITY_INTERVAL * (len(priorities) - 1)):
        left = line.leave()
        line.join(left, left)
        served.add(left)
    assert served == {*priorities}


@given(st.lists(PRIORITIES, min_size=1, max_size=LOWER_PRIORITY_INTERVAL - 1))
def test_before_that_the_highest_goes_first(priorities):
    line = PriorityQueue()
    for number, priority in enumerate(priorities):
        line.join(number, priority)
    left = [priorities[line.leave()] for _ in priorities]
    assert left == sorted(priorities, reverse=True)
