"""Mail for an mbox: nothing goes to the agent but under a lock that the parent has taken for it."""

import pytest

from smtpd.envelope import Outcome
from smtpd.imsg import EndAgent, LockMailbox, MailboxLocked, MailboxNotLocked, PostponeEnvelopes, UnlockMailbox
from smtpd.ipc.channel import Violation
from smtpd.queue import process
from smtpd.queue.agents.mailbox_lock import LOCK_TIME
from smtpd.queue.agents.slots import IDLE_TIMEOUT
from tests.queue.conftest import recipient
from tests.queue.test_agent_pool import all_tried, closed

BOX = recipient("bob", "box")


def locked(house, number, agent=1):
    """Play the parent: the lock of the mailbox of `agent` is taken."""
    asked = house.hear("parent", LockMailbox)
    assert asked.agent == agent
    house.say("parent", MailboxLocked(asked.request, number))


def unlocked(house, number):
    assert house.hear("parent", UnlockMailbox) == UnlockMailbox(number)


def nothing_comes(house, agent):
    house.turn()
    with pytest.raises(BlockingIOError):
        agent.recv(1)


@pytest.fixture
def agent(house):
    """Of bob, with three mails waiting for it."""
    house.envelopes = house.store_due(BOX, BOX, BOX)
    return house.start_agent()[1]


def test_no_mail_goes_to_a_mailbox_that_is_not_locked(house, agent):
    asked = house.hear("parent", LockMailbox)
    nothing_comes(house, agent)
    house.say("parent", MailboxLocked(asked.request, 7))
    assert house.receive(agent).lock == 7


def test_what_is_there_goes_under_one_lock_which_ends_with_the_last_answer(house, agent):
    locked(house, 7)
    errands = [house.receive(agent) for _ in range(3)]
    assert {errand.lock for errand in errands} == {7}
    for errand in errands[:2]:
        house.answer(agent, errand)
    all_tried(house, 2)
    assert not house.mail["parent"]
    house.answer(agent, errands[2])
    unlocked(house, 7)
    all_tried(house, 1)


def test_what_comes_while_it_is_locked_goes_under_the_same_lock(house, agent):
    locked(house, 7)
    errands = [house.receive(agent) for _ in range(3)]
    house.store_due(BOX)
    errands.append(house.receive(agent))
    assert errands[3].lock == 7
    for errand in errands:
        house.answer(agent, errand)
    unlocked(house, 7)


def test_the_next_mail_has_a_lock_of_its_own(house, agent):
    for number in (7, 8):
        locked(house, number)
        for _ in range(3 if number == 7 else 1):
            assert house.deliver(agent).lock == number
        unlocked(house, number)
        if number == 7:
            all_tried(house, 3)
            house.store_due(BOX)


def test_a_lock_is_given_up_after_a_while_though_mail_keeps_coming(house, agent):
    locked(house, 7)
    errands = [house.receive(agent) for _ in range(3)]
    house.now += LOCK_TIME
    house.store_due(BOX)
    for errand in errands:
        nothing_comes(house, agent)
        assert not house.mail["parent"]  # the lock is kept as long as a mail is under way under it
        house.answer(agent, errand)
    unlocked(house, 7)
    locked(house, 8)
    assert house.deliver(agent).lock == 8
    unlocked(house, 8)


def test_a_mailbox_that_another_program_has_locked_defers_what_waits(house, agent):
    asked = house.hear("parent", LockMailbox)
    house.say("parent", MailboxNotLocked(asked.request, False, "another program has locked it"))
    assert all_tried(house, 3) == (set(), set(house.envelopes), set())
    house.say("scheduler", PostponeEnvelopes([(id, 5) for id in house.envelopes]))
    house.until(lambda: all(row.error for row in house.queue.disk.store.load(house.envelopes)))
    assert {row.error for row in house.queue.disk.store.load(house.envelopes)} == {"another program has locked it"}
    assert not any(row.perhaps_delivered for row in house.queue.disk.store.load(house.envelopes))
    house.store_due(BOX)
    locked(house, 8)
    assert house.deliver(agent).lock == 8


def test_a_mailbox_that_is_none_fails_what_waits(house, agent):
    asked = house.hear("parent", LockMailbox)
    house.say("parent", MailboxNotLocked(asked.request, True, "it is a fifo"))
    failed = []
    while len(failed) < 3:
        failed += house.failed()
    assert sorted(failed) == sorted(house.envelopes)
    assert {house.owed(envelope).reason for envelope in house.envelopes} == {"it is a fifo"}


def test_an_agent_that_dies_leaves_its_lock_to_the_parent(house, agent):
    locked(house, 7)
    house.deliver(agent)
    agent.close()
    assert all_tried(house, 3)[1] == set(house.envelopes[1:])
    assert house.hear("parent", EndAgent).agent == 1
    house.turn()
    assert not house.mail["parent"]


def test_a_lock_that_comes_for_an_agent_that_has_ended_is_not_used(house, agent):
    asked = house.hear("parent", LockMailbox)
    agent.close()
    all_tried(house, 3)
    house.hear("parent", EndAgent)
    house.say("parent", MailboxLocked(asked.request, 7))
    house.turn()
    assert not house.mail["parent"]


def test_an_agent_that_waits_for_its_lock_does_not_leave_as_one_without_work(house, agent):
    asked = house.hear("parent", LockMailbox)
    house.pass_time(2 * IDLE_TIMEOUT)
    assert not closed(agent)
    house.say("parent", MailboxLocked(asked.request, 7))
    for _ in range(3):
        house.deliver(agent)
    unlocked(house, 7)
    house.turn()
    house.pass_time(IDLE_TIMEOUT)
    assert closed(agent)


def test_nothing_new_is_locked_while_we_stop(house, agent):
    asked = house.hear("parent", LockMailbox)
    house.queue.agents.stop()
    house.say("parent", MailboxLocked(asked.request, 7))
    unlocked(house, 7)
    nothing_comes(house, agent)


def test_a_deferred_answer_frees_the_lock_too(house, agent):
    locked(house, 7)
    for errand in [house.receive(agent) for _ in range(3)]:
        house.answer(agent, errand, Outcome.DEFERRED, "disk quota exceeded")
    unlocked(house, 7)


def test_a_lock_without_a_question_is_fatal(house):
    with pytest.raises(Violation):
        process.from_parent(house.queue, house.near["parent", 0], MailboxLocked(5, 7), None)
