"""The end: what was accepted is safe, what is under way has its time."""

import pytest

from smtpd.envelope import Outcome
from smtpd.imsg import Begin, EndAgent, MessageStored, PostponeEnvelopes, Stop
from smtpd.queue import commit, delivery, state
from smtpd.queue.ram import RAMStore
from smtpd.queue.store import Full
from tests.queue.conftest import add, command, recipient
from tests.queue.fault import Faulty, refuse


def run_to_the_end(house):
    house.loop.call_later(10, house.loop.stop)
    began = house.loop.time()
    house.loop.run_forever()
    assert house.loop.time() - began < 9
    assert house.queue.disk.store.called("close")


@pytest.fixture
def watched(make_house):
    return make_house(Faulty(RAMStore()))


def test_an_idle_queue_stops_at_once(watched):
    watched.say("parent", Begin())
    watched.say("parent", Stop())
    run_to_the_end(watched)


def test_what_is_being_stored_is_stored_and_answered_first(watched):
    message = watched.reserve()[0]
    watched.submit(message)
    watched.say("parent", Stop())
    run_to_the_end(watched)
    assert watched.hear("dispatcher0", MessageStored)


def test_what_is_with_an_agent_may_end(watched, monkeypatch):
    (envelope,) = watched.store()
    watched.due(envelope)
    _, agent = watched.start_agent()
    errand = watched.receive(agent)
    watched.say("parent", Stop())
    watched.loop.call_later(0.05, watched.answer, agent, errand)
    run_to_the_end(watched)
    assert not watched.queue.disk.store.load([envelope])


def test_orderly_stops_while_a_long_command_runs_hold_nobody(make_house, monkeypatch):
    """A try that began and did not end is suspicious only when the daemon has died of it."""
    monkeypatch.setattr(state, "LEAVE", 0.05)
    monkeypatch.setattr(delivery, "CALM", 0.0)
    store = Faulty(RAMStore())
    store.apply([add(1, run=0, recipient=command("bob"))])
    for run in (1, 2, 3, 4):
        store.real.run = run
        house = make_house(store)
        house.due(1 << 32 | 1)
        _, agent = house.start_agent()
        assert house.receive(agent).perhaps_delivered
        house.say("parent", Stop())
        run_to_the_end(house)
        (row,) = store.load([1 << 32 | 1])
        assert (row.held, row.troubles, row.perhaps_delivered, row.error) == (False, 0, True, "the daemon was stopped")


def test_an_agent_that_does_not_end_is_not_waited_for_long(watched, monkeypatch):
    monkeypatch.setattr(state, "LEAVE", 0.05)
    (envelope,) = watched.store()
    watched.due(envelope)
    _, agent = watched.start_agent()
    watched.receive(agent)
    watched.say("parent", Stop())
    run_to_the_end(watched)
    assert watched.queue.disk.store.load([envelope])


def test_a_full_disk_does_not_keep_us_from_stopping(watched, monkeypatch):
    monkeypatch.setattr(state, "LEAVE", 0.05)
    monkeypatch.setattr(commit, "AGAIN", 60)
    (envelope,) = watched.store()
    watched.queue.disk.store.faults["apply"] = refuse(Full)
    watched.due(envelope)
    _, agent = watched.start_agent()
    watched.deliver(agent)
    watched.until(lambda: watched.queue.disk.commits.waits_for_room)
    watched.say("parent", Stop())
    run_to_the_end(watched)


def test_nothing_new_is_begun_while_we_stop(watched, monkeypatch):
    monkeypatch.setattr(state, "LEAVE", 0.05)
    one, two = watched.store([recipient("bob"), recipient("amy")])
    watched.due(one)
    _, agent = watched.start_agent()
    errand = watched.receive(agent)
    watched.say("parent", Stop())
    watched.until(lambda: watched.queue.agents._stopping)
    watched.due(two)
    run_to_the_end(watched)
    assert [imsg for imsg, _ in watched.mail["parent"]] == [EndAgent(1)]
    assert errand.envelope == one


def test_answers_of_the_scheduler_are_written_before_the_end(watched):
    (envelope,) = watched.store()
    watched.due(envelope)
    _, agent = watched.start_agent()
    watched.answer(agent, watched.receive(agent), Outcome.DEFERRED, "later")
    watched.tried()
    watched.say("scheduler", PostponeEnvelopes([(envelope, 77)]))
    watched.until(lambda: watched.queue.disk.store.called("apply")[1:])
    watched.say("parent", Stop())
    run_to_the_end(watched)
    assert watched.queue.disk.store.load([envelope])[0].next_try == 77
