"""The errands of one agent: what may be begun beside what, what waits for too long, and in which order they go."""

import pytest

from smtpd.envelope import Duty
from smtpd.queue.agents.agent_queue import NOT_BEGUN_TIMEOUT, AgentQueue
from smtpd.queue.agents.agent_socket import Errand
from smtpd.queue.agents.agent_state import AgentState
from smtpd.queue.agents.routing import QUICK_LIMITS, READER_LIMITS, SLOW_LIMITS
from smtpd.queue.agents.slots import AgentKey, AgentSlots

SLOW, QUICK = SLOW_LIMITS._replace(concurrency=4), QUICK_LIMITS


class Something(Errand):
    deadline = 100.0

    def __init__(self, number, alone=False):
        self.number, self.alone = number, alone

    def begin(self, log_id, lock, ready):
        pass

    def answered(self, answer):
        pass

    def failed(self, reason, *, sent=False, permanent=False):
        pass


def queue(limits=QUICK, state=AgentState.BUSY, now=0.0):
    made = AgentQueue(AgentKey("bob", "local", Duty.DELIVER), limits, AgentSlots(), now)
    made.state = state
    return made


def begun(made, *errands, now=0.0):
    for errand in errands:
        made.join(errand, now)
    return [made.begin(now) for _ in errands]


@pytest.mark.parametrize(
    "limits, alone, with_one", [(QUICK, False, True), (QUICK, True, False), (READER_LIMITS, False, False)]
)
def test_an_agent_has_room_for_one_errand_and_for_a_second_unless_one_must_be_alone(limits, alone, with_one):
    made = queue(limits)
    assert made.has_room
    begun(made, Something(1, alone))
    assert made.has_room is with_one
    assert not queue(limits, AgentState.LEAVING).has_room


def test_what_waits_for_a_slow_agent_does_not_wait_longer_as_more_comes():
    made = queue(SLOW, AgentState.WAITING_FOR_SLOT)
    for now in (0.0, SLOW.patience / 2, SLOW.patience - 1):
        made.join(Something(int(now)), now)
    assert not made.is_stalled(SLOW.patience - 1)
    assert made.is_stalled(SLOW.patience)
    assert len(made.take_late(SLOW.patience)) == 3 and not made.waiting


def test_an_agent_with_nothing_to_do_keeps_nothing_waiting():
    assert not queue(SLOW, AgentState.STARTING).is_stalled(10 * SLOW.patience)


def test_the_silence_of_an_agent_counts_from_the_first_errand_that_it_was_given():
    made = queue()
    made.join(Something(1), 0.0)
    made.begin(50.0)
    assert not made.is_stalled(50.0 + QUICK.patience - 1)
    begun(made, Something(2), now=55.0)
    assert made.is_stalled(50.0 + QUICK.patience)


def test_a_slow_agent_may_keep_an_errand_that_it_has_not_begun():
    (slow,), (quick,) = begun(queue(SLOW), Something(1)), begun(queue(), Something(1))
    assert (slow.until, quick.until) == (NOT_BEGUN_TIMEOUT, Something.deadline)


def test_what_was_not_sent_waits_again_in_its_order_before_the_others():
    made = queue()
    sent, *_ = begun(made, *map(Something, (1, 2, 3)))
    sent.sent = True
    made.join(Something(4), 0.0)
    assert made.lose_agent() == [sent]
    assert [errand.number for errand in made.waiting] == [2, 3, 4] and not made.begun


@pytest.mark.parametrize("waits", [True, False])
def test_the_silence_of_an_agent_that_had_nothing_counts_from_its_next_errand(waits):
    made = queue(SLOW, AgentState.IDLE)
    made.join(Something(1), 1000.0)
    if not waits:
        made.begin(1000.0)
    assert not made.is_stalled(1000.0 + SLOW.patience - 1)
    assert made.is_stalled(1000.0 + SLOW.patience)


def test_an_agent_that_has_all_that_it_may_has_no_room():
    made = queue(SLOW)
    begun(made, *(Something(number) for number in range(SLOW.concurrency)))
    assert not made.has_room


def test_errands_of_a_higher_priority_go_before_the_others_and_behind_their_like():
    made = queue(state=AgentState.WAITING_FOR_SLOT)
    for number, priority in ((1, 0), (2, 1), (3, 0), (4, 1), (5, 2)):
        errand = Something(number)
        errand.priority = priority
        made.join(errand, 0.0)
    assert [errand.number for errand in made.take_waiting()] == [5, 2, 4, 1, 3]


def test_the_word_that_an_agent_is_at_work_ends_its_silence():
    made = queue(SLOW)
    (one,) = begun(made, Something(1))
    made.in_progress(one, SLOW.patience - 1)
    assert not made.is_stalled(SLOW.patience)
    assert made.is_stalled(2 * SLOW.patience - 1)


def test_a_slow_agent_that_is_at_work_with_nothing_is_late_from_the_errand_that_it_has_had_longest():
    made = queue(SLOW)
    one, two, _ = begun(made, *(Something(number) for number in (1, 2, 3)))
    assert not made.is_late(10 * SLOW.patience)  # none of them has been handed to it
    one.handed, two.handed = 30.0, 20.0
    assert not made.is_late(20.0 + SLOW.patience - 1)
    assert made.is_late(20.0 + SLOW.patience)
