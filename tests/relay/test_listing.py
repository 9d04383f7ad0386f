"""What administrators see of the relay, and what they may order: pages, routes, paused source addresses."""

from hypothesis import given
from hypothesis import strategies as st

from smtpd.envelope import Outcome
from smtpd.relay import domain_status, listing
from smtpd.relay.domain_status import DomainStatuses
from smtpd.relay.listing import page
from smtpd.relay_entry import NEVER, HostEntry
from tests.relay.play import NOW, Play, hop


def listed(play, of="relays", after=None):
    after = (("", 0) if of == "hosts" else 0) if after is None else after
    return getattr(play.destinations.listing, of)(after, play.now)[0]


def test_a_destination_is_listed_with_its_messages_connections_and_hosts(play):
    play.add(5, hop(port=587))
    play.add(5)
    (relay,) = listed(play)
    assert (relay.key, relay.domain, relay.action, relay.port) == (10, "there.test", "relay", 587)
    assert (relay.waiting, relay.running, relay.connections, relay.mx) == (2, 0, 2, True)
    play.greeted(play.open[0])
    play.now += 7
    (relay,) = listed(play)
    assert (relay.waiting, relay.running, relay.connected, relay.delayed) == (1, 1, 7, 0)
    assert [(each.source, each.connections, each.connected) for each in relay.connectors] == [("", 2, 7)]


def test_a_destination_whose_hosts_are_looked_up_or_that_is_delayed_says_so(play):
    play.add(1)
    assert listed(play)[0].resolving and listed(play)[0].connected == NEVER
    play.found(1, hop())
    play.fail(play.open[0])
    (relay,) = listed(play)
    assert relay.delayed > 0 and "connection refused" in relay.reason and not relay.resolving


def test_a_route_is_listed_while_it_has_connections_or_has_failed(play):
    play.add(1, hop())
    (route,) = listed(play, "routes")
    assert (route.address, route.port, route.host, route.connections) == ("192.0.2.1", 25, "mx1.there.test", 1)
    assert not route.worked and not route.resting
    number = play.open[0]
    play.greeted(number)
    play.answer(number)
    assert listed(play, "routes")[0].worked
    play.fail(number)
    assert listed(play, "routes") == []
    play.add(1)
    play.fail(play.open[0])
    (route,) = listed(play, "routes")
    assert (route.connections, route.failures, route.worked) == (0, 1, False) and route.resting > 0


def test_a_route_keeps_its_number_when_it_fails_and_is_used_again(play):
    play.add(1, hop())
    (before,) = listed(play, "routes")
    play.fail(play.open[0])
    (after,) = listed(play, "routes")
    play.wait(20)
    play.add(1)
    (again,) = listed(play, "routes")
    assert before.key == after.key == again.key and again.connections


def test_a_route_that_rests_can_be_resumed_and_its_destinations_go_on(play):
    play.add(1, hop())
    play.add(2, hop(), domain="other.test")
    play.fail(play.open[0])
    play.fail(play.open[0])
    (route,) = listed(play, "routes")
    changed, actions = play.destinations.resume_route(route.key, play.now)
    play.obey(actions)
    assert changed and set(play.resumed) == {1, 2}
    assert listed(play, "routes")[0].resting == 0
    assert play.destinations.resume_route(route.key, play.now) == (False, [])
    assert play.destinations.resume_route(999, play.now) == (False, [])


def test_hosts_are_listed_with_what_they_bear(play):
    play.add(1, hop())
    play.now += 3
    assert listed(play, "hosts") == [HostEntry("192.0.2.1", 25, "mx1.there.test", 1, 1, 2, 3)]


def test_gauges_count_what_is_there(play):
    play.add(1, hop())
    play.greeted(play.open[0])
    gauges = play.destinations.listing.gauges()
    names = ("relay", "domain", "route", "host", "session", "task.running")
    assert {name: gauges[f"mta.{name}"] for name in names} == dict.fromkeys(names, 1)


# -- pages --------------------------------------------------------------------------------------------


@given(st.integers(0, 3000))
def test_pages_have_every_row_once_and_in_order(count):
    rows, after, more = [], -1, True
    while more:
        some, more = page([key for key in range(count) if key > after], lambda key: key)
        assert len(some) <= listing.ROWS_MAX and (some or not more)
        rows += some
        after = rows[-1] if rows else after
    assert rows == [*range(count)]


def test_a_page_of_large_rows_is_bounded_by_bytes():
    rows, more = page(range(1000), lambda _: "x" * 10_000)
    assert more and len(rows) * 10_000 <= listing.ROW_BYTES_MAX + 10_000


def test_ten_thousand_destinations_are_listed_once_each(play):
    for number in range(1, 10_001):
        play.add(number, domain=f"d{number}.test")
    found, after, more = [], 0, True
    while more:
        rows, more = play.destinations.listing.relays(after, play.now)
        after = rows[-1].key
        found += [row.domain for row in rows]
    assert len(found) == len(set(found)) == 10_000


# -- the status of domains ----------------------------------------------------------------------------


def test_the_last_status_of_a_domain_counts_and_is_forgotten():
    statuses = DomainStatuses(most=2)
    for number, domain in enumerate(("a", "b", "a", "c")):
        statuses.note(domain, f"{number}" + "x" * 1000, NOW + number)
    rows, more = statuses.page("", NOW + 10)
    assert [(row.domain, row.time, row.status[0]) for row in rows] == [("a", NOW + 2, "2"), ("c", NOW + 3, "3")]
    assert not more and len(rows[0].status) == domain_status.STATUS_MAX
    assert statuses.page("a", NOW)[0] == rows[1:]
    assert statuses.page("", NOW + 3 + domain_status.MEMORY_TIME)[0] == rows[1:]


# -- paused source addresses --------------------------------------------------------------------------

OURS = ("198.51.100.1", "198.51.100.2")


def pause(play, source, destination=0, paused=True):
    play.obey(play.destinations.pause_source(source, destination, paused, play.now))


def used(play):
    return {play.connections[number].path.source for number in play.open}


def test_a_paused_source_address_is_not_connected_from():
    play = Play(sources=OURS)
    pause(play, OURS[0])
    play.add(1, hop())
    play.add(2, hop(), domain="other.test")
    assert used(play) == {OURS[1]}


def test_a_source_address_is_paused_for_one_destination_only():
    play = Play(sources=OURS[:1])
    pause(play, OURS[0], 1)
    play.add(1, hop())
    play.add(2, hop(), domain="other.test")
    assert [play.connections[number].destination for number in play.open] == [2]
    assert "paused by administrator" in play.delays[0].reason


def test_a_destination_without_another_source_is_delayed_until_it_is_resumed():
    play = Play(sources=OURS[:1])
    pause(play, OURS[0])
    play.add(1, hop())
    assert len(play.returned) == 1 and play.delays and not play.open
    pause(play, OURS[0], paused=False)
    assert play.resumed == [1]
    play.add(1)
    assert used(play) == {OURS[0]}


def test_a_connection_from_a_paused_address_ends_after_its_message():
    play = Play(sources=OURS[:1])
    play.add(1, hop())
    number = play.open[0]
    play.greeted(number)
    pause(play, OURS[0])
    assert play.quitting == [] and number in play.given
    play.add(1)
    play.answer(number, Outcome.DELIVERED)
    assert number in play.quitting and number not in play.given


def test_an_idle_connection_from_a_paused_address_ends_at_once():
    play = Play(sources=OURS[:1])
    play.add(1, hop())
    play.greeted(play.open[0])
    play.answer(play.open[0])
    pause(play, OURS[0])
    assert play.quitting == play.open
