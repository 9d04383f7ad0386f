"""Mail that was under way when the daemon ended: who of it is to blame."""

import pytest

from smtpd.imsg import AgentRefused, PostponeEnvelopes, ReportStatistics, StartAgent, StatisticsReported
from smtpd.queue.delivery import deliveries
from tests.queue.conftest import add
from tests.queue.ram_store import RAMStore


@pytest.fixture
def start(make_house):
    """The daemon's next life: `start(store)`."""

    def start(store):
        store.run += 1
        return make_house(store)

    return start


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(deliveries, "SUSPECT_DELAY", 0.0)


def first(message):
    return message << 32 | 1


def test_mail_that_was_under_way_at_the_end_is_tried_alone_in_its_queue(start):
    store = RAMStore()
    store.apply([add(1, run=1, troubles=1), add(2, run=1), add(3, run=1, troubles=1), add(4, run=1)])
    house = start(store)
    house.due(*(first(message) for message in (1, 2, 3, 4)))
    _, agent = house.start_agent()
    assert house.deliver(agent).envelope == first(1)
    errand = house.receive(agent)
    assert errand.envelope == first(2)
    house.turn()
    assert store.load([first(3)])[0].troubles == 1  # has not begun beside another one
    house.answer(agent, errand)
    assert house.deliver(agent).envelope == first(3)
    assert house.deliver(agent).envelope == first(4)


def test_the_neighbours_of_a_mail_that_brings_us_down_are_not_held_with_it(start, at_once):
    """Begun together they are all suspect; from then on each answers for itself."""
    store = RAMStore()
    store.apply([add(message, run=1) for message in range(1, 6)])
    house = start(store)
    house.due(*map(first, range(1, 6)))
    _, agent = house.start_agent()
    for message in range(1, 6):
        assert house.receive(agent).envelope == first(message)
    for _ in range(2):  # more lives, each ended by the third mail
        house = start(store)
        left = [row.id for row in store.envelopes(0, 2**63 - 1, 100)]
        house.due(*left)
        _, agent = house.start_agent()
        for envelope in left[: left.index(first(3))]:
            assert house.deliver(agent).envelope == envelope
        assert house.receive(agent).envelope == first(3)
    house = start(store)
    house.due(*map(first, (3, 4, 5)))
    _, agent = house.start_agent()
    assert [house.deliver(agent).envelope for _ in range(2)] == [first(4), first(5)]
    house.until(lambda: [row.id for row in store.envelopes(0, 2**63 - 1, 100)] == [first(3)])
    assert store.load([first(3)])[0].held


def test_ends_in_quick_succession_hold_no_envelope(start):
    """Whoever is first in the line would be under way each time."""
    store = RAMStore()
    store.apply([add(1, run=1)])
    for _ in range(2):
        house = start(store)
        house.due(first(1))
        _, agent = house.start_agent()
        house.receive(agent)
    for _ in range(5):
        house = start(store)
        house.due(first(1))
        house.say("control", ReportStatistics(1))
        assert house.hear("control", StatisticsReported).counters["mda.envelope"] == 1
        assert not house.mail["parent"]
    assert (store.load([first(1)])[0].troubles, store.load([first(1)])[0].held) == (2, False)


def test_one_that_no_agent_had_stays_suspect(start, at_once):
    """Otherwise it could bring down each life after two refusals, and would never be held."""
    store = RAMStore()
    store.apply([add(1, run=1, troubles=2)])
    house = start(store)
    for _ in range(2):
        house.due(first(1))
        house.say("parent", AgentRefused(house.hear("parent", StartAgent).request, False, "too many agents"))
        assert house.tried() == ([], [first(1)], [])
        house.say("scheduler", PostponeEnvelopes([(first(1), 5)]))
        house.until(lambda: house.queue.disk.commits.idle and store.load([first(1)])[0].error == "too many agents")
        assert store.load([first(1)])[0].troubles == 2
    house.due(first(1))
    _, agent = house.start_agent()
    house.receive(agent)
    assert store.load([first(1)])[0].troubles == 3


def test_one_that_makes_our_code_raise_when_its_last_chance_comes_is_held(start, monkeypatch):
    monkeypatch.setattr(deliveries, "SUSPECT_DELAY", 0.1)
    store = RAMStore()
    store.apply([add(1, run=1, troubles=2)])
    house = start(store)

    def raising(_key, _flight):
        raise KeyError("a mistake of ours")

    monkeypatch.setattr(house.queue.agents, "give", raising)
    house.due(first(1))
    assert house.tried() == ([], [], [first(1)])


def test_a_mail_has_its_last_chance_when_the_daemon_has_stood_for_a_while(start, monkeypatch):
    monkeypatch.setattr(deliveries, "SUSPECT_DELAY", 0.2)
    store = RAMStore()
    store.apply([add(1, run=1, troubles=2)])
    house = start(store)
    house.due(first(1))
    _, agent = house.start_agent()
    house.deliver(agent)
    assert house.tried() == ([first(1)], [], [])
