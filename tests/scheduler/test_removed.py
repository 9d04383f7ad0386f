"""Envelopes removed while they wait for a place: the next one that waits gets the place that becomes free."""

import pytest

from smtpd.envelope import Kind, Schedule
from smtpd.scheduler.policy import Policy
from smtpd.slice import SchedulerSlice

NOW = 1_800_000_000


def id_of(message, counter=1):
    return message << 32 | counter


def policy(ids, lane, **limits):
    made = Policy(SchedulerSlice(**limits))
    for id in ids:
        made.submit(Schedule(id, Kind.MDA, NOW, NOW + 345_600, 0, 0, False, False, lane), NOW)
    return made


@pytest.mark.parametrize("removed", [1, 2, 5])
@pytest.mark.parametrize(
    "ids, lane, limits",
    [
        ([id_of(number) for number in range(1, 10)], 7, {"max_inflight_per_lane": 2}),
        ([id_of(1, number) for number in range(1, 10)], 0, {"max_inflight_per_message": 2}),
    ],
    ids=["lane", "message"],
)
def test_removed_waiters_are_passed_over(ids, lane, limits, removed):
    made = policy(ids, lane, **limits)
    due = made.turn(NOW)
    assert due == ids[:2]
    gone = made.remove(ids[2 : 2 + removed])
    assert gone == ids[2 : 2 + removed]
    made.tried(due[:1], [], [], NOW)
    assert made.turn(NOW) == [ids[2 + removed]]
    made.tried(due[1:], [], [], NOW)
    assert made.turn(NOW) == [ids[3 + removed]]


def test_a_place_that_only_removed_envelopes_wait_for_is_free():
    ids = [id_of(number) for number in range(1, 5)]
    made = policy(ids, 7, max_inflight_per_lane=1)
    assert made.turn(NOW) == ids[:1]
    made.remove(ids[1:])
    made.tried(ids[:1], [], [], NOW)
    assert made.turn(NOW) == []
    made.submit(Schedule(id_of(9), Kind.MDA, NOW, NOW + 345_600, 0, 0, False, False, 7), NOW)
    assert made.turn(NOW) == [id_of(9)]


@pytest.mark.parametrize(
    "lane, limits", [(7, {"max_inflight_per_lane": 1}), (0, {"max_inflight_per_message": 1}), (0, {})]
)
def test_an_envelope_that_is_removed_while_it_waits_and_submitted_again_is_tried_once(lane, limits):
    """By a scan that had read it before."""
    ids = [id_of(1, counter) for counter in (1, 2)]
    made = policy(ids, lane, **limits)
    made.pause(Kind.MDA, not limits)
    due = made.turn(NOW)
    assert due == (ids[:1] if limits else [])
    made.remove(ids[1:])
    made.submit(Schedule(ids[1], Kind.MDA, NOW, NOW + 345_600, 0, 0, False, False, lane), NOW)
    made.tried(due, [], [], NOW)
    made.pause(Kind.MDA, False)
    assert made.turn(NOW) == (ids[1:] if limits else ids)
    made.tried(ids[1:], [], [], NOW)
    assert made.turn(NOW) == []
