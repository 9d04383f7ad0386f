"""The parent's thread for system calls: what it has done comes back to the loop."""

import pytest

from smtpd.ipc.selector_loop import SelectorLoop
from smtpd.parent.blocking_call import BlockingCalls
from tests.stress import WAIT_MAX, hasty_threads, rounds


@pytest.fixture
def loop():
    return SelectorLoop()


def run_until(loop, condition):
    """Turns of the loop; raises TimeoutError when nothing wakes it."""

    def stuck():
        raise TimeoutError(f"nothing has come back for {WAIT_MAX} s")

    watch = loop.call_later(WAIT_MAX, stuck)
    while not condition():
        loop.turn()
    watch.cancel()


def test_what_a_job_returned_or_raised_comes_back(loop):
    worker, outcomes = BlockingCalls(loop), []
    worker.do(lambda: 7, outcomes.append)
    worker.do(lambda: 1 / 0, outcomes.append)
    run_until(loop, lambda: len(outcomes) == 2)
    assert outcomes[0] == 7 and isinstance(outcomes[1], ZeroDivisionError)
    worker.end(1)
    assert worker.waiting == 0


def test_hand_over_no_outcome_of_the_parents_thread_is_left_behind(loop):
    """One job after the other comes while others are done; the loop has nothing else that would wake it."""
    worker, left = BlockingCalls(loop), 0

    def then(_outcome):
        nonlocal left
        left -= 1

    def is_done():
        return not left

    def again(_outcome):
        worker.do(int, then)

    with hasty_threads():
        for _ in rounds(300):
            left = 20
            for _ in range(10):
                worker.do(int, then)
                worker.do(int, again)
            run_until(loop, is_done)
    worker.end(WAIT_MAX)
    assert worker.waiting == 0


def test_hand_over_to_the_parents_thread_ends_with_all_that_was_asked(loop):
    for number in rounds(50):
        worker, outcomes = BlockingCalls(loop), []
        with hasty_threads():
            for _ in range(number % 7):
                worker.do(int, outcomes.append)
            worker.end(WAIT_MAX)
        assert len(outcomes) == number % 7
