"""Relayed mail by destination: fairness, limits, delay; examples, then anything in any order."""

from collections import Counter, defaultdict, deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.envelope import message_of
from smtpd.scheduler.destinations import ALLOWED_FIRST, DELAY_MIN, EXPIRY_INTERVAL, TURN_MAX, Destinations
from smtpd.scheduler.priority_queue import PriorityQueue
from smtpd.scheduler.sender_queue import ENTRY_BYTES, FEW, SenderQueues, envelopes, joined, left, next_tag
from smtpd.scheduler.turns import FORGET_MAX, Turns

NOW = 1_800_000_000
FREE = 3750


def id_of(message, counter=1):
    return message << 32 | counter


def made(*waiting, limit=100):
    """Of (destination, sender, message)."""
    destinations = Destinations(limit)
    for destination, sender, message in waiting:
        destinations.add(destination, sender, id_of(message))
    return destinations


def turn(destinations, free=FREE):
    destination, ids = destinations.next_turn(free)
    if ids:
        destinations.started(destination, len(ids))
    return destination, [message_of(id) for id in ids]


def turns(destinations, free=FREE):
    found = []
    while (one := turn(destinations, free))[1]:
        found.append(one)
    return found


# -- turns --------------------------------------------------------------------------------------------------------


def test_senders_have_turns_each_over_its_destinations():
    destinations = made((1, 7, 1), (1, 7, 2), (1, 7, 3), (1, 8, 4), (2, 7, 5), (2, 7, 6))
    assert turns(destinations) == [(1, [1]), (1, [4]), (2, [5]), (1, [2]), (2, [6]), (1, [3])]


@pytest.mark.parametrize("destination", [1, 777, 20_000, 20_001])
def test_a_sender_with_mail_for_many_destinations_delays_the_mail_of_another_by_one_turn(destination):
    """Also where the other's mail is for one of these."""
    destinations = made(*((number, 7, number) for number in range(1, 20_001)))
    given = [turn(destinations)]
    destinations.add(destination, 8, id_of(30_001))
    given += [turn(destinations), turn(destinations)]
    assert (destination, [30_001]) in given
    assert [messages for _, messages in given if messages != [30_001]] == [[1], [2]]


def test_several_mails_of_a_sender_go_beside_those_of_one_with_many_destinations():
    """The second goes to where the first went, which is a destination of the other's, too."""
    destinations = made(*((number, 7, number) for number in range(1, 1001)))
    for message in (2001, 2002, 2003):
        destinations.add(500, 8, id_of(message))
    given = [turn(destinations)[1] for _ in range(8)]
    assert [given.index([message]) for message in (2001, 2002, 2003)] == [1, 3, 5]


def test_who_had_no_turn_for_long_is_neither_behind_nor_ahead():
    destinations = made(*((number, 7, number) for number in range(1, 101)))
    for _ in range(50):
        turn(destinations)
    for number in range(101, 111):
        destinations.add(number, 8, id_of(number))
    given = [turn(destinations)[1][0] > 100 for _ in range(20)]
    assert given.count(True) == 10 and all(one is not other for one, other in zip(given[1:], given[2:], strict=False))


def test_a_destination_that_could_take_nothing_has_its_turn_when_it_can():
    """Its sender has had others meanwhile, and one is left in the line for a tag that is not its next."""
    destinations = made((1, 7, 1), (1, 7, 2), limit=1)
    assert turn(destinations) == (1, [1]) and turn(destinations) == (0, [])
    destinations.add(1, 8, id_of(3))
    destinations.ended(1, tried=True)
    assert [turn(destinations)] == [(1, [3])]
    destinations.ended(1, tried=True)
    assert turns(destinations) == [(1, [2])]


def test_senders_are_remembered_only_as_long_as_others_would_be_behind():
    order = Turns()
    tags = [order.take(sender) for sender in range(1000)]
    assert tags == [0] * 1000 and len(order) == 1000
    order.given(order.take(1))
    for _ in range(1000 // FORGET_MAX + 1):
        order.given(order.take(1))
    assert len(order) <= 2


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(0, 3)), max_size=150))
def test_turns_are_as_if_all_were_looked_at_each_time(sent):
    """Beside fair queueing as one writes it down: each sender has one turn at a destination until that is given."""
    destinations, waiting, tags, latest = Destinations(1000), {}, {}, 0

    def tag_of(sender):
        tags[sender] = max(latest, tags.get(sender, 0)) + 1
        return tags[sender] - 1

    def give():
        nonlocal latest
        (tag, _, destination, sender), ids = min((first, ids) for first, ids in waiting.values())
        latest = max(latest, tag)
        del waiting[destination, sender]
        id = ids.pop(0)
        if ids:
            waiting[destination, sender] = ((tag_of(sender), len(order), destination, sender), ids)
            order.append(None)
        return tag, destination, id

    order = []
    for number, (sender, destination, count) in enumerate(sent, 1):
        if (destination, sender) not in waiting:
            waiting[destination, sender] = ((tag_of(sender), len(order), destination, sender), [])
            order.append(None)
        waiting[destination, sender][1].append(id_of(number))
        destinations.add(destination, sender, id_of(number))
        for _ in range(min(count, sum(len(ids) for _, ids in waiting.values()))):
            before = [first[0] for first, _ in waiting.values()]
            given_to, (id,) = destinations.next_turn(10**6)
            destinations.started(given_to, 1)
            destinations.ended(given_to, tried=True)
            owner = next(key for key, (_, ids) in waiting.items() if ids[0] == id)
            assert waiting[owner][0][0] == min(before) and owner[0] == given_to
            waiting[owner] = ((min(before), -1, *owner), waiting[owner][1])  # of equals, the one that was taken
            assert give()[1:] == (given_to, id)


def test_one_bulk_sender_delays_the_mail_of_another_by_one_turn():
    destinations = made(*((1, 7, message) for message in range(1, 1001)), (1, 8, 2000))
    assert [messages for _, messages in (turn(destinations), turn(destinations))] == [[1], [2000]]


def test_recipients_of_one_message_share_a_turn():
    destinations = Destinations(100)
    for counter in range(1, 6):
        destinations.add(1, 7, id_of(3, counter))
    destinations.add(1, 7, id_of(4))
    assert turns(destinations) == [(1, [3] * 5), (1, [4])]


@pytest.mark.parametrize("count", [3, FEW, FEW + 1, 200])
def test_a_turn_has_no_more_than_there_is_room_for(count):
    destinations = Destinations(4)
    for counter in range(count):
        destinations.add(1, 7, id_of(3, counter))
    assert turns(destinations) == [(1, [3] * min(count, 4))]


def test_the_higher_priority_of_a_sender_goes_first():
    destinations = Destinations(100)
    for priority in (-4, 0, 3, -1, 2):
        destinations.add(1, 7, id_of(10 + priority), priority)
    assert [messages for _, messages in turns(destinations)] == [[13], [12], [10], [9], [6]]


@pytest.mark.parametrize("count", [3, FEW + 2])
def test_what_was_given_and_not_tried_goes_before_the_others(count):
    destinations = made(*((1, 7, message) for message in range(1, count + 1)), limit=1)
    assert turns(destinations) == [(1, [1])]
    destinations.ended(1, tried=False)
    destinations.add(1, 7, id_of(1), first=True)
    assert turns(destinations) == [(1, [1])]


# -- how many -----------------------------------------------------------------------------------------------------


def test_a_destination_begins_with_a_few_and_has_more_with_each_answer():
    destinations = made(*((1, 7, message) for message in range(1, 1001)))
    assert len(turns(destinations)) == ALLOWED_FIRST
    for answered in range(1, 200):
        destinations.ended(1, tried=True)
        given = turns(destinations)
        assert len(given) == (2 if answered <= 100 - ALLOWED_FIRST else 1)


def test_none_takes_more_than_an_eighth_of_the_free_places_and_one():
    destinations = made(*((1, 7, message) for message in range(1, 20)))
    assert len(turns(destinations, free=16)) == 3


def test_an_envelope_that_comes_back_without_a_try_says_nothing_of_its_destination():
    destinations = made(*((1, 7, message) for message in range(1, 20)))
    destinations.delay(1, NOW, NOW + 15)
    destinations.run_timers(NOW + 15, 100)
    assert len(turns(destinations)) == 1
    destinations.ended(1, tried=False)
    assert len(turns(destinations)) == 1


def test_a_destination_that_was_delayed_is_tried_with_one():
    destinations = made(*((1, 7, message) for message in range(1, 100)))
    destinations.delay(1, NOW, NOW + 15)
    assert turns(destinations) == []
    destinations.run_timers(NOW + 15, 100)
    assert len(turns(destinations)) == 1
    destinations.ended(1, tried=True)
    assert len(turns(destinations)) == ALLOWED_FIRST


def test_however_many_are_slow_there_is_a_place_for_a_new_one():
    """Each would take a hundred of 3 750 places."""
    destinations = Destinations(100)
    inflight = Counter()

    def fill():
        while (one := destinations.next_turn(FREE - inflight.total()))[1]:
            destinations.started(one[0], len(one[1]))
            inflight[one[0]] += len(one[1])

    for destination in range(1, 1001):
        for message in range(300):
            destinations.add(destination, 7, id_of(destination * 1000 + message))
    for _ in range(3):  # each has been answered often, once, and hangs since
        fill()
        for destination in [*inflight]:
            inflight[destination] -= 1
            destinations.ended(destination, tried=True)
    fill()
    assert inflight.total() < FREE
    destinations.add(5000, 8, id_of(1))
    assert destinations.next_turn(FREE - inflight.total()) == (5000, [id_of(1)])


def test_a_destination_that_can_use_no_turn_does_not_stand_in_line_for_one():
    """Otherwise the scheduler would have something to do, each time that an envelope comes."""
    destinations = made(*((1, 7, message) for message in range(1, ALLOWED_FIRST + 3)))
    turns(destinations)
    destinations.add(1, 7, id_of(90))
    assert not destinations
    destinations.ended(1, tried=True)
    assert destinations
    destinations.delay(2, NOW, NOW + 60)
    turns(destinations)
    destinations.add(2, 7, id_of(91))
    assert not destinations


# -- delayed, and paused --------------------------------------------------------------------------------------------


def test_nothing_of_a_delayed_destination_is_given_and_others_go_on():
    destinations = made((1, 7, 1), (2, 7, 2))
    destinations.delay(1, NOW, NOW + 60)
    destinations.add(1, 7, id_of(3))
    assert turns(destinations) == [(2, [2])]
    destinations.run_timers(NOW + 59, 100)
    assert turns(destinations) == []
    destinations.run_timers(NOW + 60, 100)
    assert turns(destinations) == [(1, [1])]


def test_a_delay_may_become_longer_and_shorter():
    destinations = made((1, 7, 1))
    destinations.delay(1, NOW, NOW + 60)
    destinations.delay(1, NOW, NOW + 90)
    destinations.run_timers(NOW + 60, 100)
    assert turns(destinations) == [] and destinations.next_time() == NOW + 90
    destinations.delay(1, NOW + 60, NOW + 70)
    destinations.run_timers(NOW + 70, 100)
    assert turns(destinations) == [(1, [1])]


def test_a_resumed_destination_has_its_turn_at_once():
    destinations = made((1, 7, 1))
    destinations.delay(1, NOW, NOW + 60)
    assert destinations.resume(1) and not destinations.resume(1) and not destinations.resume(2)
    assert turns(destinations) == [(1, [1])]


def test_what_an_administrator_has_paused_no_dispatcher_resumes():
    destinations = made((1, 7, 1))
    assert destinations.pause(1, True) and not destinations.pause(1, True)
    destinations.delay(1, NOW, NOW + 5)
    destinations.resume(1)
    destinations.run_timers(NOW + 5, 100)
    assert turns(destinations) == [] and destinations.is_paused(1)
    assert destinations.pause(1, False) and turns(destinations) == [(1, [1])]


def test_a_destination_is_forgotten_when_nothing_needs_it():
    destinations = made((1, 7, 1))
    turn(destinations)
    destinations.ended(1, tried=True)
    assert len(destinations) == 0
    destinations.delay(2, NOW, NOW + 5)
    assert len(destinations) == 1
    destinations.run_timers(NOW + 5, 100)
    assert len(destinations) == 0 and destinations.next_time() is None


def test_a_destination_is_forgotten_when_all_that_waited_was_removed():
    destinations = made((1, 7, 1))
    destinations.next_turn(FREE)
    destinations.started(1, 0)
    assert len(destinations) == 0


def test_a_destination_without_mail_is_known_only_while_it_is_paused():
    destinations = Destinations(100)
    destinations.pause(1, True)
    assert len(destinations) == 1
    destinations.pause(1, False)
    assert len(destinations) == 0


def test_those_that_are_delayed_are_counted():
    destinations = made((1, 7, 1), (2, 7, 2), (3, 7, 3))
    destinations.delay(1, NOW, NOW + 60)
    destinations.delay(3, NOW, NOW + 60)
    assert destinations.delayed == 2


def test_delays_that_come_all_the_time_do_not_pile_up():
    """A dispatcher that was taken over says so a million times."""
    destinations = made((1, 7, 1))
    for number in range(10_000):
        destinations.delay(1, NOW, NOW + 1 + number * 7919 % 86400)
    assert len(destinations._timers) == 1
    destinations = made((1, 7, 1))
    for _ in range(10_000):
        destinations.delay(1, NOW, NOW + 60)
    assert len(destinations._timers) == 1


def test_a_hundred_thousand_waiting_envelopes_cost_nothing_while_their_destination_is_delayed():
    """Counted: no look at any of them."""
    destinations = made(*((1, 7 + message % 50, message) for message in range(1, 100_001)))
    destinations.delay(1, NOW, NOW + 300)
    looks = 0
    for second in range(300):
        destinations.run_timers(NOW + second, 1000)
        looks += destinations.next_turn(FREE)[1] != []
        looks += len(destinations.look_through(1000))
    assert looks == 0


def test_the_envelopes_of_a_destination_that_stays_delayed_are_looked_through_now_and_then():
    destinations = made(*((1 + message // 40, 7 + message % 3, message) for message in range(1, 101)))
    looked = []
    for destination in (1, 2, 3):
        destinations.delay(destination, NOW, NOW + 2 * EXPIRY_INTERVAL + 5)
    for second in range(2 * EXPIRY_INTERVAL + 5):
        destinations.run_timers(NOW + second, 1000)
        while some := destinations.look_through(7):
            assert len(some) <= 7
            looked += some
    assert Counter(looked) == dict.fromkeys(map(id_of, range(1, 101)), 2)


def test_short_delays_one_after_the_other_count_as_a_long_one():
    """Otherwise an envelope would never expire where each try fails and delays its destination again."""
    destinations = made((1, 7, 1))
    looked = []
    for second in range(3 * EXPIRY_INTERVAL):
        destinations.run_timers(NOW + second, 1000)
        if second % 300 == 0:
            destinations.delay(1, NOW + second, NOW + second + 300)
        looked += destinations.look_through(1000)
    assert looked == 2 * [id_of(1)]


def test_a_delay_that_becomes_longer_just_before_its_end_has_no_envelope_looked_at():
    """A dispatcher in the hands of an attacker may say so every two seconds, of all destinations."""
    destinations = made((1, 7, 1))
    looked = {}
    for second in range(2 * EXPIRY_INTERVAL + 1):
        if second % 2 == 0:
            destinations.delay_reported(1, NOW + second, DELAY_MIN)
        destinations.delay_reported(1, NOW + second, DELAY_MIN + second % 2 * EXPIRY_INTERVAL)
        destinations.run_timers(NOW + second, 1000)
        looked |= {second: found} if (found := destinations.look_through(1000)) else {}
    assert looked == {EXPIRY_INTERVAL: [id_of(1)], 2 * EXPIRY_INTERVAL: [id_of(1)]}


def test_the_end_of_a_delay_that_is_over_disturbs_no_later_one():
    destinations = made((1, 7, 1))
    for until in (100, 50):
        destinations.delay(1, NOW, NOW + until)
    destinations.run_timers(NOW + 50, 1000)
    destinations.delay(1, NOW + 60, NOW + 5000)
    timers = len(destinations._timers)
    destinations.run_timers(NOW + 100, 1000)
    assert destinations.look_through(1000) == [] and len(destinations._timers) == timers == 1
    assert destinations.next_time() == NOW + EXPIRY_INTERVAL


def test_a_destination_that_is_resumed_is_looked_through_no_further():
    """What its envelopes need now is a try."""
    destinations = made(*((1, 7, message) for message in range(1, 10)), (2, 7, 20))
    for destination in (1, 2):
        destinations.delay(destination, NOW, NOW + 2 * EXPIRY_INTERVAL)
    destinations.run_timers(NOW + EXPIRY_INTERVAL, 1000)
    assert destinations.look_through(3) == [id_of(message) for message in (1, 2, 3)]
    destinations.resume(1)
    assert destinations.look_through(1000) == [id_of(20)]


def test_nothing_expires_that_waits_for_a_paused_destination():
    destinations = made(*((1, 7, message) for message in range(1, 10)))
    destinations.delay(1, NOW, NOW + 4 * EXPIRY_INTERVAL)
    destinations.run_timers(NOW + EXPIRY_INTERVAL, 1000)
    assert destinations.look_through(3) == [id_of(message) for message in (1, 2, 3)]
    destinations.pause(1, True)
    assert destinations.look_through(1000) == []
    destinations.run_timers(NOW + 2 * EXPIRY_INTERVAL, 1000)
    assert destinations.look_through(1000) == []
    destinations.pause(1, False)
    destinations.run_timers(NOW + 3 * EXPIRY_INTERVAL, 1000)
    assert len(destinations.look_through(1000)) == 9


# -- what a dispatcher says that an attacker has --------------------------------------------------------------------


def test_a_dispatcher_ends_no_delay_before_its_shortest_time():
    """Otherwise it could return everything, and have it given again at once."""
    destinations = made((1, 7, 1))
    destinations.delay_reported(1, NOW, 1)
    destinations.resume_reported(1, NOW)
    destinations.resume_reported(2, NOW)
    destinations.run_timers(NOW + DELAY_MIN - 1, 100)
    assert turns(destinations) == [] and len(destinations) == 1
    destinations.run_timers(NOW + DELAY_MIN, 100)
    assert turns(destinations) == [(1, [1])]


def test_a_delay_that_has_lasted_is_ended_at_once():
    destinations = made((1, 7, 1))
    destinations.delay_reported(1, NOW, 600)
    destinations.delay_reported(1, NOW + 1, 600)
    destinations.resume_reported(1, NOW + DELAY_MIN)
    assert turns(destinations) == [(1, [1])]


def test_a_delay_that_has_not_lasted_is_ended_in_time():
    destinations = made((1, 7, 1))
    destinations.delay_reported(1, NOW, 600)
    destinations.resume_reported(1, NOW + 1)
    destinations.run_timers(NOW + DELAY_MIN - 1, 100)
    assert turns(destinations) == [] and destinations.next_time() == NOW + DELAY_MIN
    destinations.run_timers(NOW + DELAY_MIN, 100)
    assert turns(destinations) == [(1, [1])]


@pytest.mark.parametrize("seconds", [1, 600])
def test_a_destination_whose_host_has_answered_keeps_its_places_when_its_delay_ends_early(seconds):
    """Mail that was under way has been tried meanwhile."""
    destinations = made(*((1, 7, number) for number in range(1, 30)))
    _, (one,) = destinations.next_turn(1)
    destinations.started(1, 1)
    destinations.delay_reported(1, NOW, seconds)
    destinations.ended(1, tried=True)
    destinations.resume_reported(1, NOW + 1)
    destinations.run_timers(NOW + DELAY_MIN, 100)
    assert len(turns(destinations)) >= ALLOWED_FIRST


def test_to_resume_what_is_not_delayed_any_more_delays_nothing():
    """An administrator was faster."""
    destinations = made((1, 7, 1))
    destinations.delay_reported(1, NOW, 600)
    destinations.resume(1)
    destinations.resume_reported(1, NOW + 1)
    assert not destinations.is_delayed(1) and turns(destinations) == [(1, [1])]


def test_delays_without_mail_are_bounded_and_the_oldest_are_forgotten(monkeypatch):
    monkeypatch.setattr("smtpd.scheduler.destinations.WITHOUT_MAIL_MAX", 5)
    destinations = made((1, 7, 1))
    destinations.pause(2, True)
    for number in range(1, 100):
        destinations.delay(number, NOW, NOW + 86_400)
    assert len(destinations) == 5 + 2 and all(map(destinations.is_delayed, (1, 2, *range(95, 100))))
    destinations.add(95, 7, id_of(2))
    destinations.delay(100, NOW, NOW + 86_400)
    assert destinations.is_delayed(95) and destinations.is_delayed(96)


@pytest.mark.parametrize("kept", ["in flight", "paused"])
def test_a_delay_without_mail_that_waits_is_none_of_those_where_something_is_in_flight_or_paused(monkeypatch, kept):
    monkeypatch.setattr("smtpd.scheduler.destinations.WITHOUT_MAIL_MAX", 5)
    destinations = made((1, 7, 1))
    if kept == "in flight":
        turn(destinations)
    else:
        destinations.pause(1, True)
    for number in range(1, 20):
        destinations.delay(number, NOW, NOW + 86_400)
    assert len(destinations) == 5 + 1 and destinations.is_delayed(1)


def test_delays_without_mail_are_bounded_also_where_one_is_paused_afterwards(monkeypatch):
    monkeypatch.setattr("smtpd.scheduler.destinations.WITHOUT_MAIL_MAX", 5)
    destinations = Destinations(100)
    destinations.delay(1, NOW, NOW + 86_400)
    destinations.pause(1, True)
    for number in range(2, 20):
        destinations.delay(number, NOW, NOW + 86_400)
    assert len(destinations) == 5 + 1 and destinations.is_paused(1)


def test_a_delay_without_mail_that_was_over_counts_from_its_new_beginning(monkeypatch):
    monkeypatch.setattr("smtpd.scheduler.destinations.WITHOUT_MAIL_MAX", 5)
    destinations = Destinations(100)
    for number in (1, 2, 3, 4):
        destinations.delay(number, NOW, NOW + 86_400)
    destinations.resume(1)
    for number in (5, 1, 6):
        destinations.delay(number, NOW, NOW + 86_400)
    assert [number for number in range(1, 7) if not destinations.is_delayed(number)] == [2]


def test_a_delay_that_becomes_shorter_all_the_time_has_one_timer():
    destinations = made((2, 7, 2), (1, 7, 1), (3, 7, 3))
    destinations.delay(2, NOW, NOW + 500)
    for until in range(500, 0, -1):
        destinations.delay(1, NOW, NOW + until)
        assert destinations.next_time() == NOW + until and len(destinations._timers) == 2
    assert turns(destinations) == [(3, [3])]
    destinations.run_timers(NOW + 1, 100)
    assert turns(destinations) == [(1, [1])]
    destinations.run_timers(NOW + 500, 100)
    assert turns(destinations) == [(2, [2])]


def test_a_delay_that_is_ended_or_forgotten_leaves_no_timer(monkeypatch):
    """A dispatcher in the hands of an attacker may have it so, each time for the same moment."""
    monkeypatch.setattr("smtpd.scheduler.destinations.WITHOUT_MAIL_MAX", 20)
    destinations = Destinations(100)
    for number in range(200):
        destinations.delay_reported(1 + number % 21, NOW, 600)
        assert len(destinations._timers) == destinations.delayed <= 20
    for number in range(1, 22):
        destinations.resume(number)
    assert not len(destinations._timers) and destinations.next_time() is None


# -- anything -------------------------------------------------------------------------------------------------------

SENT = st.tuples(st.integers(1, 40), st.sampled_from([0, 0, 0, 5]), st.booleans())


@settings(max_examples=200)
@given(st.lists(SENT, max_size=60), st.lists(st.integers(1, 9), max_size=60))
def test_the_queue_of_a_sender_is_the_same_in_each_of_its_forms(sent, takes):
    """Beside one deque for each priority: same order within a priority, same envelopes of a message together."""
    queue, plain = b"", defaultdict(deque)
    takes = iter(takes)
    for number, (message, priority, first) in enumerate(sent):
        id = id_of(message, number)
        queue = joined(queue, 7, id, priority, Turns(), first=first)
        (plain[priority].appendleft if first else plain[priority].append)(id)
        if number % 3 == 2 and (most := next(takes, 0)):
            queue = _take(queue, plain, most)
        assert sorted(envelopes(queue)) == sorted(id for one in plain.values() for id in one)
    while queue:
        queue = _take(queue, plain, 3)
    assert not any(plain.values())


def test_the_queue_of_a_sender_is_as_small_as_what_waits():
    """Most have one envelope; many that are packed would be slow to take from."""
    order = Turns()
    forms, queue, mixed = [], b"", joined(b"", 7, id_of(1), 0, order, first=False)
    for number in range(FEW + 1):
        queue = joined(queue, 7, id_of(1, number), 0, order, first=False)
        forms.append(len(queue) // ENTRY_BYTES if isinstance(queue, bytes) else type(queue.queues[7]))
    assert forms == [*range(1, FEW + 1), PriorityQueue]
    mixed = joined(mixed, 7, id_of(2), 1, order, first=False)
    assert type(mixed.queues[7]) is PriorityQueue
    other = joined(mixed, 8, id_of(3), 0, order, first=False)
    assert type(other.queues[8]) is bytes


def test_a_destination_with_one_envelope_or_none_is_packed():
    """There may be a million, all of them dead."""
    destinations = made((1, 7, 1), (2, 7, 2), (2, 7, 3), (3, 7, 4))
    assert (len(destinations._known), len(destinations._packed)) == (1, 2)
    assert turn(destinations) == (1, [1]) and turn(destinations) == (2, [2])
    assert (len(destinations._known), len(destinations._packed)) == (2, 1)
    destinations.delay(2, NOW, NOW + 60)
    destinations.ended(2, tried=False)
    destinations.ended(1, tried=True)
    assert (len(destinations._known), len(destinations._packed)) == (0, 2)
    assert destinations.is_delayed(2) and turns(destinations) == [(3, [4])]


def _take(queue, plain, most):
    if not queue:
        return queue
    ids, queue = left(queue, most, Turns())
    assert 1 <= len(ids) <= most and len({message_of(id) for id in ids}) == 1
    (own,) = (one for one in plain.values() if ids[0] in one)
    assert [own.popleft() for _ in ids] == ids
    assert len(ids) == most or not own or message_of(own[0]) != message_of(ids[0])
    return queue


@settings(max_examples=200)
@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3)), min_size=1, max_size=60))
def test_senders_have_turns_in_each_form(sent):
    """The same ones packed, and in queues: a message of one envelope each, so a turn is one."""
    packed, orders = [b"", SenderQueues()], [Turns(), Turns()]
    for number, (sender, takes) in enumerate(sent):
        packed[0] = joined(packed[0], sender, id_of(number), 0, orders[0], first=False)
        packed[1].join(sender, id_of(number), 0, orders[1], first=False)
        for _ in range(takes if number % 7 == 6 else 0):
            _same_turn(packed, orders)
    while packed[0]:
        _same_turn(packed, orders)
    assert not packed[1].queues


def _same_turn(forms, orders):
    if not forms[0]:
        return
    assert next_tag(forms[0]) == next_tag(forms[1])
    for turns_, form in zip(orders, forms, strict=True):
        turns_.given(next_tag(form))
    taken, forms[0] = left(forms[0], 100, orders[0])
    assert forms[1].leave(100, orders[1]) == taken


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 3), st.integers(1, 3), st.integers(1, 6)),
        st.tuples(st.just("turn"), st.integers(1, 40), st.just(0), st.just(0)),
        st.tuples(st.sampled_from(["tried", "returned"]), st.integers(0, 30), st.just(0), st.just(0)),
        st.tuples(st.just("delay"), st.integers(1, 3), st.integers(1, 2000), st.just(0)),
        st.tuples(st.sampled_from(["resume", "pause", "unpause"]), st.integers(1, 3), st.just(0), st.just(0)),
        st.tuples(st.just("time"), st.integers(0, 1000), st.just(0), st.just(0)),
    ),
    max_size=80,
)


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(1, 12))
def test_nothing_is_lost_no_limit_passed_and_nothing_held_is_given(steps, limit):
    destinations, now, number = Destinations(limit), NOW, 0
    waiting, inflight, delayed, paused = {}, [], {}, set()

    def give(free):
        destination, ids = destinations.next_turn(free)
        if not ids:
            return False
        assert destination not in delayed and destination not in paused and len(ids) <= TURN_MAX
        assert all(waiting.pop(id)[0] == destination for id in ids)
        inflight.extend((destination, id) for id in ids)
        destinations.started(destination, len(ids))
        assert Counter(each for each, _ in inflight)[destination] <= min(limit, 1 + free // 8)
        return True

    for step, one, two, three in steps:
        if step == "add":
            number += 1
            waiting[id_of(three, number)] = (one, two)
            destinations.add(one, two, id_of(three, number))
        elif step == "turn":
            give(one)
        elif step in ("tried", "returned") and inflight:
            destination, id = inflight.pop(one % len(inflight))
            destinations.ended(destination, tried=step == "tried")
            if step == "returned":
                waiting[id] = (destination, 1)
                destinations.add(destination, 1, id, first=True)
        elif step == "delay":
            destinations.delay(one, now, now + two)
            delayed[one] = now + two
        elif step == "resume":
            assert destinations.resume(one) is (delayed.pop(one, None) is not None)
        elif step in ("pause", "unpause"):
            destinations.pause(one, step == "pause")
            (paused.add if step == "pause" else paused.discard)(one)
        elif step == "time":
            now += one
            destinations.run_timers(now, 100)
            delayed = {destination: until for destination, until in delayed.items() if until > now}
        assert {d for d in range(1, 4) if destinations.is_delayed(d)} == set(delayed)
        assert len(destinations._timers) == len(delayed)
        assert set(destinations.look_through(1000)) <= waiting.keys()
    for destination in range(1, 4):
        destinations.resume(destination)
        destinations.pause(destination, False)
    delayed, paused = {}, set()
    while waiting or inflight:
        if not give(1000):
            destination, _ = inflight.pop()  # otherwise what waits has been lost
            destinations.ended(destination, tried=True)
    assert len(destinations) == 0 and not destinations
