"""What is tried when: examples, each a rule; then anything at all, in any order."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from msgspec.structs import replace

from smtpd.envelope import AGENT_LANE_MAX, NARROW, Kind, Schedule, message_of
from smtpd.ipc.channel import Violation
from smtpd.scheduler.destinations import DELAY_MIN, EXPIRY_INTERVAL
from smtpd.scheduler.envelope_table import EnvelopeState
from smtpd.scheduler.policy import NARROW_LANE_DIVISOR, TRANSITIONS, Policy, QueueUpdates
from smtpd.scheduler.priority_queue import LOWER_PRIORITY_INTERVAL
from smtpd.slice import SchedulerSlice

NOW = 1_800_000_000
YEAR = 365 * 86400


def schedule(message=1, counter=1, kind=Kind.MDA, lane=None, **more):
    """By default one without a lane, or for a destination of its own."""
    given = {"created": NOW, "expires": NOW + 345_600, "next_try": 0, "retries": 0, "held": False, "suspended": False}
    lane = lane if lane is not None else message if kind is Kind.MTA else 0
    return Schedule(message << 32 | counter, kind, lane=lane, **given | more)


def policy(*schedules, **limits):
    made = Policy(SchedulerSlice(**limits))
    for each in schedules:
        made.submit(each, NOW)
    return made


def id_of(message, counter=1):
    return message << 32 | counter


# -- time -----------------------------------------------------------------------------


def test_a_new_envelope_is_tried_at_once():
    assert policy(schedule()).turn(NOW) == [id_of(1)]


def test_an_envelope_waits_for_its_next_try():
    made = policy(schedule(kind=Kind.MTA, next_try=NOW + 60))
    assert made.turn(NOW + 59) == []
    assert made.next_time() == NOW + 60
    assert made.turn(NOW + 60) == [id_of(1)]


def test_the_agent_of_a_local_envelope_has_a_number_of_32_bits():
    made = policy(schedule(lane=AGENT_LANE_MAX))
    with pytest.raises(Violation):
        made.submit(schedule(message=2, lane=AGENT_LANE_MAX + 1), NOW)
    made.submit(schedule(message=3, kind=Kind.MTA, lane=AGENT_LANE_MAX + 1), NOW)
    assert made.turn(NOW) == [id_of(1), id_of(3)]


def test_a_known_envelope_is_not_taken_twice():
    made = policy(schedule(), schedule())
    assert made.turn(NOW) == [id_of(1)]
    made.submit(schedule(), NOW)
    assert made.turn(NOW) == []
    assert len(made.table) == 1


def test_a_deferred_envelope_comes_again_at_its_next_time():
    made = policy(schedule())
    made.turn(NOW)
    assert made.tried([], [id_of(1)], [], NOW + 2).postponed == [(id_of(1), NOW + 10)]
    assert made.turn(NOW + 9) == []
    assert made.turn(NOW + 10) == [id_of(1)]
    assert made.tried([], [id_of(1)], [], NOW + 11).postponed == [(id_of(1), NOW + 40)]


def test_an_envelope_whose_next_try_would_be_too_late_expires():
    made = policy(schedule(expires=NOW + 30))
    made.turn(NOW + 10)
    updates = made.tried([], [id_of(1)], [], NOW + 10)
    assert (updates.postponed, updates.expired) == ([], [id_of(1)])
    assert made.turn(NOW + 1000) == []


@pytest.mark.parametrize("beyond", [0, 1])
def test_an_envelope_may_be_tried_at_the_last_second_of_its_time(beyond):
    """Tried at once, an envelope has its second try ten seconds after it was created."""
    made = policy(schedule(expires=NOW + 10 - beyond))
    assert made.turn(NOW) == [id_of(1)]
    updates = made.tried([], [id_of(1)], [], NOW)
    expected = ([], [id_of(1)]) if beyond else ([(id_of(1), NOW + 10)], [])
    assert (updates.postponed, updates.expired) == expected


def test_an_envelope_that_expired_while_the_daemon_was_down_is_tried_once_more():
    made = policy(schedule(created=NOW - 500_000, expires=NOW - 100_000, next_try=NOW - 200_000))
    assert made.turn(NOW) == [id_of(1)]
    assert made.tried([], [id_of(1)], [], NOW).expired == [id_of(1)]


def test_a_clock_that_was_set_back_loses_nothing():
    made = policy(schedule(next_try=NOW + 10))
    assert made.turn(NOW + 10) == [id_of(1)]
    assert made.tried([], [id_of(1)], [], NOW - 3600).postponed == [(id_of(1), NOW + 10)]
    assert made.turn(NOW + 10) == [id_of(1)]


@pytest.mark.parametrize("next_try", [0, NOW - 1000, NOW + 10, NOW + YEAR, NOW + 2 * YEAR])
@pytest.mark.parametrize("created", [NOW - 1000, NOW, NOW + 5, NOW + YEAR])
def test_what_was_written_while_the_clock_was_ahead_is_due_as_if_it_came_now(created, next_try):
    """The clock is set back, and the daemon starts."""
    made = policy(schedule(created=created, expires=created + 345_600, next_try=next_try))
    first = NOW + 240 if created == NOW - 1000 else NOW + 10
    due = made.turn(NOW) or made.turn(first)
    assert due == [id_of(1)]
    updates = made.tried([], due, [], NOW + 20)
    assert updates.expired == []
    assert made.turn(NOW + 500) == [id_of(1)]


def test_a_mail_from_the_future_keeps_the_time_that_it_had():
    made = policy(schedule(created=NOW + YEAR, expires=NOW + YEAR + 1000))
    made.tried([], made.turn(NOW), [], NOW + 10)
    due = made.turn(NOW + 1000)
    assert made.tried([], due, [], NOW + 1000).expired == [id_of(1)]


@pytest.mark.parametrize("ahead", [-YEAR, -3600, 0, 3600, YEAR])
def test_a_step_of_the_clock_in_a_run_changes_no_interval_and_no_expiry(ahead):
    """`ahead`: of the clock that wrote these times, compared with the one that the scheduler counts by."""
    times = {"created": NOW + ahead, "expires": NOW + ahead + 1000}
    made = policy()
    made.submit(schedule(1, **times), NOW, ahead)
    made.submit(schedule(2, **times, kind=Kind.MTA, next_try=NOW + ahead + 30), NOW, ahead)
    assert made.turn(NOW) == [id_of(1)] and made.next_time() == NOW + 30
    assert made.tried([], [id_of(1)], [], NOW).postponed == [(id_of(1), NOW + 10)]
    assert made.turn(NOW + 10) == [id_of(1)]
    assert made.turn(NOW + 30) == [id_of(2)]
    assert made.tried([], [id_of(1)], [], NOW + 900).postponed == [(id_of(1), NOW + 1000)]
    assert made.tried([], [id_of(2)], [], NOW + 900).expired == [id_of(2)]


def test_what_was_delivered_is_forgotten():
    made = policy(schedule())
    made.turn(NOW)
    made.tried([id_of(1)], [], [], NOW)
    assert (len(made.table), made.turn(NOW + 999), made.next_time()) == (0, [], None)


@pytest.mark.parametrize("result", [0, 1, 2])
def test_a_result_of_what_was_not_in_flight_is_impossible(result):
    made = policy(schedule(next_try=NOW + 60))
    for id in (id_of(1), id_of(2)):
        lists = [[], [], []]
        lists[result] = [id]
        with pytest.raises(Violation):
            made.tried(*lists, NOW)


def test_a_result_that_comes_twice_is_impossible():
    made = policy(schedule())
    made.turn(NOW)
    with pytest.raises(Violation):
        made.tried([id_of(1)], [id_of(1)], [], NOW)


def test_a_turn_does_a_bounded_number_of_steps():
    made = policy(*(schedule(message, next_try=NOW + 5) for message in range(1, 101)))
    assert len(made.turn(NOW + 5, effort=30)) == 30
    assert made.busy(NOW + 5)
    assert sum(len(made.turn(NOW + 5, effort=30)) for _ in range(3)) == 70
    assert not made.busy(NOW + 5)


def test_a_turn_starts_no_more_than_its_steps():
    made = policy(*(schedule(message) for message in range(1, 101)))
    assert [len(made.turn(NOW, effort=30)) for _ in range(4)] == [30, 30, 30, 10]


# -- sharing ----------------------------------------------------------------------------


def test_no_more_is_in_flight_than_may_be():
    made = policy(*(schedule(message, kind=Kind(1 + message % 2)) for message in range(1, 101)), max_inflight=10)
    assert len(made.turn(NOW)) == 10
    assert made.turn(NOW) == []


def test_one_kind_leaves_room_for_the_other():
    made = policy(*(schedule(message, kind=Kind.MTA) for message in range(1, 101)), max_inflight=100)
    assert len(made.turn(NOW)) == 75
    made.submit(schedule(200, kind=Kind.MDA), NOW)
    assert made.turn(NOW) == [id_of(200)]


def test_the_kinds_are_served_in_turn():
    made = policy(*(schedule(message, kind=Kind.MTA) for message in range(1, 21)), max_inflight=8)
    for message in range(101, 121):
        made.submit(schedule(message), NOW)
    assert Counter(id < id_of(100) for id in made.turn(NOW)) == {True: 4, False: 4}


def test_a_mail_to_many_leaves_room_for_the_others():
    many = [schedule(1, counter, lane=counter) for counter in range(1, 1001)]
    made = policy(*many, schedule(2), max_inflight_per_message=20)
    due = made.turn(NOW)
    assert len(due) == 21 and due[-1] == id_of(2)
    made.tried(due[:5], [], [], NOW)
    assert made.turn(NOW) == [id_of(1, counter) for counter in range(21, 26)]


def test_a_user_whose_agent_hangs_leaves_room_for_the_others():
    flood = [schedule(message, lane=4) for message in range(1, 1001)]
    made = policy(*flood, schedule(2000, lane=5), max_inflight_per_lane=20)
    due = made.turn(NOW)
    assert len(due) == 21 and due[-1] == id_of(2000)


def test_the_lane_of_an_agent_that_takes_its_time_is_narrow():
    flood = [schedule(message, lane=7 | NARROW) for message in range(1, 1001)]
    made = policy(*flood, schedule(2000, lane=7), max_inflight_per_lane=20)
    due = made.turn(NOW)
    assert len(due) == 20 // NARROW_LANE_DIVISOR + 1
    assert id_of(2000) in due
    made.tried([], due, [], NOW)
    assert len(made.turn(NOW)) == 20 // NARROW_LANE_DIVISOR


def test_without_a_lane_there_is_no_limit_of_a_lane():
    made = policy(*(schedule(message) for message in range(1, 101)), max_inflight_per_lane=20)
    assert len(made.turn(NOW)) == 100


def test_a_mail_to_many_and_the_next_mail_share_the_free_places():
    many = [schedule(1, counter) for counter in range(1, 101)]
    made = policy(*many, *(schedule(message) for message in range(2, 12)), max_inflight=4, max_inflight_per_message=2)
    served = []
    while due := made.turn(NOW):
        served += due
        made.tried(due, [], [], NOW)
    assert {message_of(id) for id in served[:24]} == set(range(1, 12))


# -- priority -----------------------------------------------------------------------------


def served(made, count):
    """Messages, in the order in which they are tried one after the other."""
    order = []
    for _ in range(count):
        (id,) = made.turn(NOW, effort=1)
        order.append(message_of(id))
        made.tried([id], [], [], NOW)
    return order


def test_of_what_is_due_the_higher_priority_goes_first():
    made = policy(*(schedule(5 + priority, priority=priority) for priority in (-4, 0, 3, -1, 2)), max_inflight=1)
    assert served(made, 5) == [8, 7, 5, 4, 1]


def test_equals_go_in_the_order_they_came():
    made = policy(*(schedule(message, priority=3) for message in (7, 3, 9)), max_inflight=1)
    assert served(made, 3) == [7, 3, 9]


def test_a_higher_priority_does_not_come_before_its_time():
    made = policy(schedule(1), schedule(2, priority=9, next_try=NOW + 60), max_inflight=1)
    assert made.turn(NOW) == [id_of(1)]


def test_the_higher_priority_goes_first_through_the_gate_of_a_lane():
    made = policy(*(schedule(m, lane=3) for m in range(1, 9)), max_inflight=4, max_inflight_per_lane=2)
    due = made.turn(NOW)
    made.submit(schedule(100, lane=3, priority=1), NOW)
    made.tried(due[:1], [], [], NOW)
    assert made.turn(NOW) == [id_of(100)]


def test_the_higher_priority_goes_first_through_the_gate_of_a_message():
    limits = {"max_inflight": 4, "max_inflight_per_message": 2}
    made = policy(*(schedule(1, counter) for counter in range(1, 9)), **limits)
    due = made.turn(NOW)
    made.submit(schedule(1, 100, priority=1), NOW)
    made.tried(due[:1], [], [], NOW)
    assert made.turn(NOW) == [id_of(1, 100)]


def test_a_flood_of_high_priority_does_not_starve_a_low_one():
    made = policy(schedule(1, priority=-9), schedule(2, priority=0), max_inflight=1)
    for message in range(10, 200):
        made.submit(schedule(message, priority=9), NOW)
    order = served(made, 3 * LOWER_PRIORITY_INTERVAL)
    assert {1, 2} <= {*order}


def test_a_low_priority_is_kept_over_a_try():
    made = policy(schedule(1, priority=-5), max_inflight=1)
    made.tried([], made.turn(NOW), [], NOW)
    made.submit(schedule(2), NOW)
    assert made.turn(NOW + 10) == [id_of(2)]


def test_a_high_priority_of_one_kind_leaves_the_other_its_turn():
    mine = [schedule(message, kind=Kind.MTA, priority=9) for message in range(1, 21)]
    made = policy(*mine, *(schedule(message, priority=-9) for message in range(101, 121)), max_inflight=8)
    assert Counter(id < id_of(100) for id in made.turn(NOW)) == {True: 4, False: 4}


# -- relayed mail: destinations (test_destinations.py) ------------------------------------


def relayed(message=1, counter=1, lane=5, **more):
    return schedule(message, counter, Kind.MTA, lane, **more)


def test_while_a_destination_is_delayed_its_envelopes_are_not_tried_and_nothing_of_them_changes():
    made = policy(relayed(1), relayed(2), relayed(3, lane=6))
    made.destinations.delay(5, NOW, NOW + 900)
    before = [made.table._envelopes.find(id_of(message)) for message in (1, 2)]
    assert made.turn(NOW) == [id_of(3)]
    assert made.turn(NOW + 899) == []
    assert [made.table._envelopes.find(id_of(message)) for message in (1, 2)] == before
    assert made.turn(NOW + 900) == [id_of(1)]  # one, to see


def test_an_envelope_that_was_given_and_not_tried_keeps_its_place():
    made = policy(*(relayed(message) for message in range(1, 4)), max_inflight_per_destination=1)
    (given,) = made.turn(NOW)
    made.destinations.delay(5, NOW, NOW + 15)
    assert made.tried([], [], [], NOW, [given]) == QueueUpdates()
    assert made.turn(NOW + 14) == [] and made.turn(NOW + 15) == [given]


def test_an_envelope_that_was_removed_and_given_back_delays_no_other_of_its_destination():
    """A dispatcher gives it back as it is to, and could send the others."""
    made = policy(*(relayed(message) for message in range(1, 4)), max_inflight_per_destination=1)
    (given,) = made.turn(NOW)
    made.remove([given])
    assert made.tried([], [], [], NOW, [given]).removed == [given]
    assert made.turn(NOW) == [id_of(2)]


def test_the_senders_of_a_destination_have_turns():
    made = policy(relayed(1, sender=7), relayed(2, sender=7), relayed(3, sender=8))
    assert made.turn(NOW) == [id_of(1), id_of(3), id_of(2)]


def test_only_relayed_mail_is_returned():
    made = policy(schedule())
    made.turn(NOW)
    with pytest.raises(Violation):
        made.tried([], [], [], NOW, [id_of(1)])


def test_an_envelope_of_a_delayed_destination_expires_at_its_time():
    made = policy(relayed(1, expires=NOW + 1000), relayed(2, expires=NOW + 90_000))
    made.destinations.delay(5, NOW, NOW + 3600)
    expired = {}
    for second in range(0, 1800, 10):
        assert made.turn(NOW + second) == []
        expired |= {second: found} if (found := made.take_expired()) else {}
    assert [*expired.values()] == [{5: [id_of(1)]}] and 1000 <= min(expired) <= 1000 + EXPIRY_INTERVAL
    assert made.turn(NOW + 3600) == [id_of(2)]


def test_a_large_look_for_expired_mail_goes_on_in_the_next_turn():
    made = policy(*(relayed(message, expires=NOW + 60) for message in range(1, 11)))
    made.destinations.delay(5, NOW, NOW + 3600)
    expired = []
    for _ in range(3):
        assert made.busy(NOW + EXPIRY_INTERVAL)
        made.turn(NOW + EXPIRY_INTERVAL, effort=4)
        expired.append([message_of(id) for id in made.take_expired()[5]])
    assert expired == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert not made.busy(NOW + EXPIRY_INTERVAL)


def test_what_was_removed_or_suspended_does_not_expire_while_its_destination_is_delayed():
    made = policy(*(relayed(message, expires=NOW + 60) for message in (1, 2, 3)))
    made.destinations.delay(5, NOW, NOW + 3600)
    made.remove([id_of(1)])
    made.suspend([id_of(2)], True)
    made.turn(NOW + EXPIRY_INTERVAL)
    assert made.take_expired() == {5: [id_of(3)]}


def test_an_envelope_in_flight_does_not_expire_when_its_destination_is_delayed_meanwhile():
    """It was among those to be looked at when the destination was resumed, for a moment."""
    old = {"created": NOW - 500_000, "expires": NOW - 100_000}
    made = policy(*(relayed(message, next_try=0) for message in range(1, 4)), relayed(9, lane=6, **old))
    for destination in (5, 6):
        made.destinations.delay(destination, NOW, NOW + 3600)
    assert made.turn(NOW + EXPIRY_INTERVAL, effort=2) == []  # two of the other destination are looked at
    made.destinations.resume(6)
    assert made.turn(NOW + EXPIRY_INTERVAL, effort=1) == [id_of(9)]
    made.destinations.delay(6, NOW + EXPIRY_INTERVAL, NOW + 3600)
    assert made.turn(NOW + EXPIRY_INTERVAL) == []
    assert made.take_expired() == {} and not made.destinations.is_looked_through
    made.tried([id_of(9)], [], [], NOW + EXPIRY_INTERVAL)


def test_the_next_turn_comes_with_the_first_envelope_or_the_first_destination():
    made = policy(relayed(1, lane=7, next_try=NOW + 400), relayed(2))
    made.destinations.delay(5, NOW, NOW + 60)
    assert made.next_time() == NOW + 60
    made.destinations.delay(6, NOW, NOW + 500)
    made.turn(NOW + 60)
    assert made.next_time() == NOW + 400


def test_a_destination_has_more_places_with_a_result_and_not_without():
    made = policy(*(relayed(message) for message in range(1, 30)))
    made.destinations.delay(5, NOW, NOW + 15)
    (given,) = made.turn(NOW + 15)
    made.tried([], [], [], NOW + 15, [given])
    (given,) = made.turn(NOW + 30)
    made.tried([given], [], [], NOW + 30)
    assert len(made.turn(NOW + 30)) > 1


def test_what_is_returned_without_a_delay_is_given_again_after_a_pause():
    """Otherwise a dispatcher in the hands of an attacker keeps queue and scheduler busy with one envelope."""
    made = policy(*(relayed(message) for message in range(1, 30)), relayed(99, lane=6))
    given = made.turn(NOW)
    made.tried([], [], [], NOW, [id for id in given if id != id_of(99)])
    assert made.turn(NOW + DELAY_MIN - 1) == [] and not made.busy(NOW + DELAY_MIN - 1)
    assert len(made.turn(NOW + DELAY_MIN)) == 1


def test_to_pause_a_destination_leaves_its_delay_and_to_resume_it_ends_both():
    made = policy(relayed())
    made.destinations.delay(5, NOW, NOW + 3600)
    made.pause_destination(5, True)
    assert made.destinations.is_delayed(5) and made.destinations.is_paused(5)
    made.pause_destination(5, False)
    assert not made.destinations.is_delayed(5) and not made.destinations.is_paused(5)
    assert made.turn(NOW) == [id_of(1)]


def test_an_envelope_that_expired_while_the_daemon_was_down_is_tried_where_its_destination_can_be_reached():
    made = policy(relayed(created=NOW - 500_000, expires=NOW - 100_000, next_try=NOW - 200_000))
    assert made.turn(NOW) == [id_of(1)]


def test_an_administrator_who_schedules_an_envelope_ends_the_delay_of_its_destination():
    made = policy(relayed(1), relayed(2))
    made.destinations.delay(5, NOW, NOW + 3600)
    assert made.turn(NOW) == []
    assert made.schedule([id_of(2)]) == (1, [])
    assert made.turn(NOW) == [id_of(1)]  # of this destination, the next one


def test_what_was_removed_or_suspended_while_its_destination_was_delayed_is_not_tried():
    made = policy(*(relayed(message) for message in range(1, 5)))
    made.destinations.delay(5, NOW, NOW + 60)
    made.remove([id_of(1)])
    made.suspend([id_of(2)], True)
    assert made.turn(NOW + 60) == [id_of(3)]


@pytest.mark.parametrize("beyond", [0, 1])
def test_an_envelope_of_a_delayed_destination_does_not_expire_before_its_time(beyond):
    made = policy(relayed(expires=NOW + EXPIRY_INTERVAL + beyond))
    made.destinations.delay(5, NOW, NOW + 3600)
    made.turn(NOW + EXPIRY_INTERVAL)
    assert made.take_expired() == ({} if beyond else {5: [id_of(1)]})
    assert made.statistics["scheduler.envelope.expired"] == 1 - beyond


def test_a_relayed_envelope_that_was_suspended_in_line_is_tried_when_it_is_resumed():
    made = policy(relayed())
    made.suspend([id_of(1)], True)
    assert made.turn(NOW) == []
    made.suspend([id_of(1)], False)
    assert made.turn(NOW) == [id_of(1)]


def test_each_destination_has_back_the_places_of_what_has_ended_there():
    made = policy(*(relayed(message, lane=message) for message in range(1, 5)))
    due = made.turn(NOW)
    made.tried(due, [], [], NOW)
    assert len(due) == 4 and len(made.destinations) == 0


# -- an administrator ---------------------------------------------------------------------


def test_schedule_makes_a_waiting_envelope_due():
    made = policy(schedule(next_try=NOW + 3600))
    assert made.schedule([id_of(1), id_of(9)]) == (1, [id_of(1)])
    assert made.turn(NOW) == [id_of(1)]


def test_schedule_counts_all_that_are_due_by_it():
    made = policy(schedule(1, next_try=NOW + 3600), schedule(2, held=True), schedule(3, suspended=True))
    assert made.schedule([id_of(1), id_of(2), id_of(3)]) == (2, [id_of(1), id_of(2)])


def test_schedule_counts_what_is_due_already_and_not_what_is_in_flight():
    made = policy(schedule(1), schedule(2), max_inflight=1)
    (inflight,) = made.turn(NOW)
    assert made.schedule([id_of(1), id_of(2)]) == (1, []) and inflight == id_of(1)


def test_schedule_leaves_a_paused_destination_alone_and_local_mail_has_none():
    made = policy(relayed(1, held=True), schedule(2, lane=5, held=True), relayed(3, lane=6, held=True))
    made.pause_destination(5, True)
    assert made.schedule([id_of(1), id_of(2), id_of(3)]) == (2, [id_of(2), id_of(3)])


def test_schedule_of_a_local_envelope_ends_no_delay():
    """Agents and destinations have numbers of their own."""
    made = policy(schedule(1, lane=5, held=True), relayed(2))
    made.destinations.delay(5, NOW, NOW + 3600)
    made.schedule([id_of(1)])
    assert made.turn(NOW) == [id_of(1)]


def test_an_envelope_is_for_a_destination_when_it_is_known_and_relayed_there():
    made = policy(relayed(1), relayed(2, lane=6), schedule(3, lane=5))
    assert [message for message in range(1, 5) if made.is_for(id_of(message), {5})] == [1]


def test_the_destinations_of_envelopes_are_those_of_relayed_ones_that_are_not_suspended():
    relays = [relayed(1, lane=9), relayed(2, lane=6), relayed(3, lane=9), relayed(4, lane=8, suspended=True)]
    made = policy(*relays, relayed(5, lane=0), schedule(6, lane=7))
    assert made.destinations_of(id_of(message) for message in range(1, 10)) == [6, 9]


def test_schedule_releases_a_held_envelope():
    made = policy(schedule(held=True))
    assert made.turn(NOW + 10**6) == []
    assert made.schedule([id_of(1)]) == (1, [id_of(1)])
    assert made.turn(NOW) == [id_of(1)]


def test_a_permanent_failure_is_held_until_it_is_scheduled():
    made = policy(schedule())
    made.turn(NOW)
    made.tried([], [], [id_of(1)], NOW)
    assert made.turn(NOW + 10**6) == []
    assert made.statistics["scheduler.envelope.held"] == 1
    made.schedule([id_of(1)])
    assert made.turn(NOW) == [id_of(1)]
    assert made.statistics["scheduler.envelope.held"] == 0


def test_a_try_by_hand_leaves_the_next_try_where_it_was():
    made = policy(schedule(next_try=NOW + 10))
    made.schedule([id_of(1)])
    assert made.turn(NOW + 3) == [id_of(1)]
    assert made.tried([], [id_of(1)], [], NOW + 3).postponed == [(id_of(1), NOW + 10)]
    assert made.turn(NOW + 9) == []
    assert made.turn(NOW + 10) == [id_of(1)]


def test_a_time_that_an_envelope_does_not_wait_for_any_more_is_passed_over():
    """It was tried by hand before that time, and has another one now."""
    made = policy(schedule(next_try=NOW + 5))
    made.schedule([id_of(1)])
    made.tried([], made.turn(NOW + 1), [], NOW + 1)
    assert made.turn(NOW + 5) == []
    assert made.turn(NOW + 10) == [id_of(1)]


def test_a_time_that_passes_while_an_envelope_is_in_flight_may_come_again():
    """The clock is set back a little."""
    made = policy(schedule(next_try=NOW + 10))
    made.schedule([id_of(1)])
    assert made.turn(NOW + 3) == [id_of(1)] and made.turn(NOW + 10) == []
    assert made.tried([], [id_of(1)], [], NOW + 5).postponed == [(id_of(1), NOW + 10)]
    assert made.turn(NOW + 10) == [id_of(1)]


def test_the_time_of_a_removed_envelope_disturbs_no_other():
    made = policy(schedule(1, next_try=NOW + 10), schedule(2, next_try=NOW + 10))
    made.remove([id_of(1)])
    assert made.turn(NOW + 10) == [id_of(2)]


def test_an_empty_queue_has_no_timers():
    """Of those that were removed before their time, which may be days away."""
    made = policy(*(schedule(message, next_try=NOW + 3600) for message in range(1, 4)))
    made.remove([id_of(message) for message in range(1, 4)])
    assert made.next_time() is None


def test_tries_by_hand_do_not_pile_up_timers():
    made = policy(schedule(kind=Kind.MTA, next_try=NOW + 400))
    for second in range(399):
        made.schedule([id_of(1)])
        made.tried([], made.turn(NOW + second), [], NOW + second)
    assert len(made._timers) == 1


def test_a_suspended_envelope_is_not_started_until_it_is_resumed():
    made = policy(schedule())
    assert made.suspend([id_of(1), id_of(9)], True) == [id_of(1)]
    assert made.suspend([id_of(1)], True) == []
    assert made.turn(NOW) == []
    assert made.schedule([id_of(1)]) == (0, [])
    assert made.suspend([id_of(1)], False) == [id_of(1)]
    assert made.turn(NOW) == [id_of(1)]


def test_an_envelope_that_is_suspended_in_line_gives_up_its_places():
    made = policy(
        *(schedule(1, counter, lane=7) for counter in (1, 2)),
        *(schedule(2, counter) for counter in (1, 2)),
        max_inflight_per_lane=1,
        max_inflight_per_message=1,
    )
    made.suspend([id_of(1, 1), id_of(2, 1)], True)
    assert made.turn(NOW) == [id_of(1, 2), id_of(2, 2)]


def test_a_suspended_envelope_lets_its_time_pass():
    made = policy(schedule(next_try=NOW + 10, suspended=True))
    assert made.turn(NOW + 20) == []
    made.suspend([id_of(1)], False)
    assert made.turn(NOW + 20) == [id_of(1)]


def test_a_removed_envelope_is_gone():
    made = policy(schedule(next_try=NOW + 10), schedule(2))
    assert made.remove([id_of(1), id_of(2), id_of(9)]) == [id_of(1), id_of(2)]
    assert made.turn(NOW + 10) == []


@pytest.mark.parametrize("result", ["deferred", "held"])
def test_an_envelope_removed_in_flight_goes_at_once_and_its_result_changes_nothing(result):
    """Queue deletes it twice: the second time with what it has kept of the try."""
    made = policy(schedule())
    made.turn(NOW)
    assert made.remove([id_of(1)]) == [id_of(1)]
    assert made.remove([id_of(1)]) == []
    results = {"delivered": [], "deferred": [], "held": [], result: [id_of(1)]}
    updates = made.tried(**results, now=NOW)
    assert (updates.removed, updates.postponed, updates.expired) == ([id_of(1)], [], [])
    assert len(made.table) == 0


def test_an_envelope_removed_in_flight_may_have_arrived():
    made = policy(schedule())
    made.turn(NOW)
    made.remove([id_of(1)])
    assert made.tried([id_of(1)], [], [], NOW).removed == []
    assert len(made.table) == 0


# -- others in the place of one that was in flight ---------------------------------------------


def successors(count=2, **more):
    return [schedule(1, 1 << 31 | number, **more) for number in range(count)]


def ids(schedules):
    return [schedule.envelope for schedule in schedules]


def test_others_in_the_place_of_one_are_tried_and_it_is_forgotten():
    made = policy(schedule(), max_inflight_per_message=1)
    made.turn(NOW)
    updates = made.replaced(id_of(1), successors(1), NOW)
    assert updates == QueueUpdates()
    assert made.turn(NOW) == ids(successors(1))
    assert id_of(1) not in made.table


def test_one_that_was_removed_in_flight_has_no_successors():
    made = policy(schedule())
    made.turn(NOW)
    made.remove([id_of(1)])
    assert made.replaced(id_of(1), successors(), NOW) == QueueUpdates(removed=ids(successors()))
    assert made.turn(NOW) == [] and len(made.table) == 0


@pytest.mark.parametrize("known", [True, False])
def test_one_that_was_suspended_in_flight_has_suspended_successors(known):
    """Queue is told where it does not know: it had replaced the envelope already."""
    made = policy(schedule())
    made.turn(NOW)
    made.suspend([id_of(1)], True)
    others = successors(suspended=known)
    assert made.replaced(id_of(1), others, NOW) == QueueUpdates(suspended=[] if known else ids(others))
    assert made.turn(NOW) == []
    assert made.suspend(ids(others), False) == ids(others)
    assert made.turn(NOW) == ids(others)


def test_one_that_was_resumed_in_flight_has_no_suspended_successors():
    made = policy(schedule())
    made.turn(NOW)
    others = successors(suspended=True)
    assert made.replaced(id_of(1), others, NOW) == QueueUpdates(resumed=ids(others))
    assert made.turn(NOW) == ids(others)


def test_others_in_the_place_of_one_that_was_not_in_flight_are_refused():
    made = policy(schedule(next_try=NOW + 10))
    for id in (id_of(1), id_of(7)):
        with pytest.raises(Violation):
            made.replaced(id, [], NOW)


def test_a_paused_kind_starts_nothing_and_delays_no_other_kind():
    made = policy(schedule(1, 1, Kind.MDA), schedule(1, 2, Kind.MTA), max_inflight_per_message=1)
    assert made.pause(Kind.MDA, True) and not made.pause(Kind.MDA, True)
    assert made.turn(NOW) == [id_of(1, 2)]
    assert not made.busy(NOW)
    assert made.pause(Kind.MDA, False) and not made.pause(Kind.MDA, False)
    assert made.turn(NOW) == [id_of(1, 1)]


def test_every_result_is_counted_under_its_name():
    old = [schedule(message, created=NOW - 400, expires=NOW) for message in (7, 8)]
    made = policy(*(schedule(message) for message in range(1, 7)), *old, schedule(9), schedule(10))
    made.turn(NOW)
    made.tried([id_of(1), id_of(2)], [id_of(3), id_of(4), id_of(7), id_of(8)], [id_of(5), id_of(6)], NOW)
    for message in (9, 10):
        made.replaced(id_of(message), [], NOW)
    made.remove([id_of(3)])
    made.remove([id_of(4)])
    assert made.statistics == {
        "scheduler.delivery.ok": 2,
        "scheduler.delivery.tempfail": 4,
        "scheduler.delivery.permfail": 2,
        "scheduler.delivery.replaced": 2,
        "scheduler.envelope.updated": 2,
        "scheduler.envelope.expired": 2,
        "scheduler.envelope.held": 4,
        "scheduler.envelope.removed": 2,
    }


def test_every_state_can_be_left():
    assert set(TRANSITIONS) == set(EnvelopeState) and all(TRANSITIONS.values())


# -- anything, in any order -------------------------------------------------------------------

LIMITS = SchedulerSlice(max_inflight=5, max_inflight_per_message=2, max_inflight_per_lane=2)
IDS = st.builds(id_of, st.integers(1, 3), st.sampled_from([1, 2, 3, 4, 5, 6, 100, 101]))
SETS = st.lists(IDS, max_size=12)
SUBMISSIONS = st.tuples(
    IDS,
    st.sampled_from([0, 0, 0, 7, 40]),  # seconds to the next try
    st.sampled_from(["", "", "", "held", "suspended"]),
)


TIMES = st.one_of(st.integers(0, 2**40), st.integers(NOW - 10_000, NOW + 10_000), st.sampled_from([0, 2**40]))


@settings(deadline=None)
@given(
    st.builds(
        Schedule,
        envelope=st.integers(1 << 32, (2**31 - 1) << 32 | 2**32 - 1),
        kind=st.sampled_from(Kind),
        created=TIMES,
        expires=TIMES,
        next_try=TIMES,
        retries=st.integers(0, 2**31),
        held=st.booleans(),
        suspended=st.booleans(),
        lane=st.integers(0, 2**32 - 1),
        priority=st.integers(-9, 9),
        release=TIMES,
    ),
    TIMES,
    st.integers(-(2**33), 2**33),
)
def test_whatever_a_row_may_hold_is_tried_when_an_administrator_wants_it(made, now, ahead):
    tried = Policy(SchedulerSlice())
    tried.submit(made, now, ahead)
    tried.suspend([made.envelope], False)
    tried.schedule([made.envelope])
    assert tried.turn(now) == [made.envelope]
    updates = tried.tried([], [made.envelope], [], now)
    assert updates.expired == [made.envelope] or updates.postponed[0][1] > now


class Anything(RuleBasedStateMachine):
    """Queue as a set of envelopes, and an administrator who is never at rest."""

    @initialize()
    def start(self):
        self.policy = Policy(LIMITS)
        self.now = NOW
        self.known, self.inflight, self.held, self.suspended, self.removed = {}, set(), set(), set(), set()
        self.paused = dict.fromkeys(Kind, False)
        self.earliest = {}  # envelope -> when it may be tried
        self.delayed = {}  # destination -> until when

    @rule(submissions=st.lists(SUBMISSIONS, min_size=1, max_size=12))
    def submit(self, submissions):
        for id, wait, word in submissions:
            kind, lane = Kind(1 + (id % 3 == 0)), (0, 1, 1, 2 | NARROW)[id % 4]  # an envelope never changes these
            flags = {"held": word == "held", "suspended": word == "suspended"}
            created = self.now - 1000  # so that the next of its times is later than that
            times = {"created": created, "expires": self.now + 500, "next_try": self.now + wait if wait else 0}
            made = Schedule(id, kind, retries=0, lane=lane, priority=id % 5 - 2, **times, **flags)
            self.policy.submit(made, self.now)
            if id not in self.known:
                self.known[id] = made
                self.earliest[id] = made.next_try
                self.held |= {id} if flags["held"] else set()
                self.suspended |= {id} if flags["suspended"] else set()

    @rule(seconds=st.integers(0, 60), effort=st.integers(1, 20))
    def turn(self, seconds, effort):
        self.now += seconds
        due = self.policy.turn(self.now, effort)
        self.delayed = {destination: until for destination, until in self.delayed.items() if until > self.now}
        for destination, expired in self.policy.take_expired().items():
            assert all(self.known[id].lane == destination in self.delayed for id in expired)
            assert not set(expired) & (self.inflight | self.held | self.suspended)
            self.held |= set(expired)
        assert not any(self.known[id].kind is Kind.MTA and self.known[id].lane in self.delayed for id in due)
        assert len(set(due)) == len(due) <= effort
        assert not set(due) & (self.inflight | self.held | self.suspended)
        assert set(due) <= set(self.known)
        assert all(self.earliest[id] <= self.now for id in due)
        assert not any(self.paused[self.known[id].kind] for id in due)
        self.inflight |= set(due)

    @rule(data=st.data())
    def answer(self, data):
        if not self.inflight:
            return
        ids = data.draw(st.lists(st.sampled_from(sorted(self.inflight)), unique=True))
        words = ["delivered", "deferred", "held"]
        results = {
            id: data.draw(st.sampled_from([*words, "returned"] if self.known[id].kind is Kind.MTA else words))
            for id in ids
        }
        lists = {name: [id for id in ids if results[id] == name] for name in (*words, "returned")}
        updates = self.policy.tried(**lists, now=self.now)
        postponed = {id for id, _ in updates.postponed}
        answered = [*lists["delivered"], *postponed, *updates.expired, *updates.removed]
        answered += [id for id in (*lists["held"], *lists["returned"]) if id not in updates.removed]
        assert sorted(answered) == sorted(ids)
        assert set(updates.removed) == self.removed & (set(ids) - set(lists["delivered"]))
        self.inflight -= set(ids)
        self.earliest.update(updates.postponed)
        for id in [*lists["delivered"], *updates.removed]:
            self.forget(id)
        self.held |= set(lists["held"]) - self.removed | set(updates.expired)
        self.removed -= set(ids)

    @rule(ids=SETS)
    def schedule(self, ids):
        ids = list(dict.fromkeys(ids))
        count, changed = self.policy.schedule(ids)
        assert count == len(set(ids) & set(self.known) - self.suspended - self.inflight)
        self.held -= set(changed)
        self.earliest.update(dict.fromkeys(changed, 0))
        for id in set(ids) & set(self.known) - self.suspended - self.inflight:
            if self.known[id].kind is Kind.MTA:
                self.delayed.pop(self.known[id].lane, None)

    @rule(destination=st.sampled_from([0, 1, 2 | NARROW]), seconds=st.integers(0, 2000))
    def delay(self, destination, seconds):
        if seconds:
            self.policy.destinations.delay(destination, self.now, self.now + seconds)
            self.delayed[destination] = self.now + seconds
        else:
            self.policy.destinations.resume(destination)
            self.delayed.pop(destination, None)

    @rule(ids=SETS, suspended=st.booleans())
    def suspend(self, ids, suspended):
        changed = self.policy.suspend(ids, suspended)
        assert set(changed) == {i for i in ids if i in self.known and (i in self.suspended) is not suspended}
        self.suspended = self.suspended | set(changed) if suspended else self.suspended - set(changed)

    @rule(ids=SETS)
    def remove(self, ids):
        gone = self.policy.remove(ids)
        wanted = (set(ids) & set(self.known)) - self.removed
        assert sorted(gone) == sorted(wanted)
        self.removed |= wanted & self.inflight
        for id in wanted - self.inflight:
            self.forget(id)

    @rule(data=st.data(), count=st.integers(0, 3), suspended=st.booleans())
    def put_others_in_its_place(self, data, count, suspended):
        if not self.inflight:
            return
        id = data.draw(st.sampled_from(sorted(self.inflight)))
        before, wanted = self.known[id], id in self.suspended
        free = [new for new in (id_of(message_of(id), 100 + n) for n in range(20)) if new not in self.known]
        changes = {"suspended": suspended, "held": False, "next_try": 0}
        made = [replace(before, envelope=new, **changes) for new in free[:count]]
        updates = self.policy.replaced(id, made, self.now)
        self.inflight.discard(id)
        self.forget(id)
        removed = id in self.removed
        self.removed.discard(id)
        told = [] if removed or wanted is suspended else ids(made)
        assert updates == QueueUpdates(
            removed=ids(made) if removed else [],
            suspended=told if wanted else [],
            resumed=[] if wanted else told,
        )
        for one in [] if removed else made:
            self.known[one.envelope], self.earliest[one.envelope] = one, 0
            self.suspended |= {one.envelope} if wanted else set()

    def forget(self, id):
        del self.known[id]
        self.held.discard(id)
        self.suspended.discard(id)

    @rule(kind=st.sampled_from(Kind), paused=st.booleans())
    def pause(self, kind, paused):
        assert self.policy.pause(kind, paused) is (paused is not self.paused[kind])
        self.paused[kind] = paused

    @invariant()
    def never_more_in_flight_than_may_be(self):
        assert len(self.inflight) == self.policy.inflight.total() <= LIMITS.max_inflight
        kinds = Counter(self.known[id].kind for id in self.inflight)
        assert all(count <= 4 for count in kinds.values())
        local = [id for id in self.inflight if self.known[id].kind is Kind.MDA]
        messages = Counter(message_of(id) for id in local)
        assert all(count <= LIMITS.max_inflight_per_message for count in messages.values())
        lanes = Counter(self.known[id].lane for id in local if self.known[id].lane)
        assert all(count <= LIMITS.max_inflight_per_lane for count in lanes.values())
        assert all(count == 1 for lane, count in lanes.items() if lane & NARROW)
        destinations = Counter(self.known[id].lane for id in self.inflight if self.known[id].kind is Kind.MTA)
        assert all(count <= LIMITS.max_inflight_per_destination for count in destinations.values())

    @invariant()
    def nothing_is_unknown(self):
        assert set(self.policy.table.ids(0, 2**63)) == set(self.known)

    def teardown(self):
        """Nothing is lost: once everything is released, everything is tried and goes."""
        if not hasattr(self, "policy"):
            return
        for kind in Kind:
            self.policy.pause(kind, False)
        self.policy.suspend(list(self.known), False)
        for destination in self.delayed:
            self.policy.destinations.resume(destination)
        self.policy.tried(self.inflight, [], [], self.now)
        self.policy.schedule(list(self.held))
        left = set(self.known) - self.inflight
        while due := self.policy.turn(self.now + 1000):
            left -= set(due)
            self.policy.tried(due, [], [], self.now)
        assert not left and not len(self.policy.table)
        assert not self.policy._lanes._taken and not self.policy._narrow_lanes._taken
        assert not self.policy._messages._taken and not len(self.policy.destinations)
        assert self.policy.statistics["scheduler.envelope.held"] == 0


Anything.TestCase.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
TestAnything = Anything.TestCase


# -- what has failed for good, and is gone ----------------------------------------------------


def test_what_has_failed_for_good_is_forgotten_and_counted():
    made = policy(schedule(1))
    assert made.turn(NOW) == [id_of(1)]
    made.tried([], [], [], NOW, failed=[id_of(1)])
    assert not len(made.table) and made.statistics["scheduler.delivery.permfail"] == 1


def test_what_has_expired_is_forgotten_when_queue_has_nothing_of_it_any_more():
    made = policy(schedule(1, expires=NOW + 5), schedule(2))
    assert made.turn(NOW) == [id_of(1), id_of(2)]
    assert made.tried([], [id_of(1)], [], NOW).expired == [id_of(1)]
    made.ended([id_of(1), id_of(77)])
    assert made.table.find(id_of(1)) is None and made.statistics["scheduler.envelope.held"] == 0


@pytest.mark.parametrize("limits", [{"max_inflight": 1}, {"max_inflight_per_lane": 1}, {"max_inflight_per_message": 1}])
def test_what_has_ended_gives_the_places_back_that_it_had(limits):
    """An administrator has had it made due, and it waits for a place."""
    made = policy(schedule(1, 1, lane=7, held=True), schedule(1, 2, lane=7), **limits)
    assert made.turn(NOW) == [id_of(1, 2)]
    made.schedule([id_of(1, 1)])
    made.turn(NOW)
    made.ended([id_of(1, 1)])
    made.submit(schedule(1, 3, lane=7), NOW)
    made.tried([id_of(1, 2)], [], [], NOW)
    assert made.turn(NOW) == [id_of(1, 3)]


def test_what_is_in_flight_is_not_forgotten_before_its_result():
    made = policy(schedule(1, held=True))
    made.schedule([id_of(1)])
    assert made.turn(NOW) == [id_of(1)]
    made.ended([id_of(1)])
    made.tried([id_of(1)], [], [], NOW)
    assert not len(made.table) and made.inflight.total() == 0
