"""Limits: places, pauses, the order of those that wait, and messages a minute."""

from hypothesis import given
from hypothesis import strategies as st

from smtpd.relay.limit import Blocked, Limits, MessageRate, Place

HOST, SOURCE = ("host", "192.0.2.1"), ("source", "198.51.100.1")
BOTH = (Place(HOST, 1), Place(SOURCE, 2))


def test_a_connection_takes_a_place_of_each_limit_or_of_none():
    limits = Limits()
    assert limits.take(1, BOTH, 0.0) is None
    assert limits.take(2, reversed(BOTH), 0.0) == Blocked(HOST)
    assert list(limits.holders(SOURCE)) == [1]


def test_a_place_is_free_when_the_connection_has_ended():
    limits = Limits()
    limits.take(1, BOTH, 0.0)
    limits.release(1, BOTH, 0.0)
    assert limits.take(2, BOTH, 0.0) is None


def test_the_one_that_has_waited_longest_is_woken_first():
    limits = Limits()
    limits.take(1, BOTH, 0.0)
    limits.wait(Blocked(HOST), 8, 80)
    limits.wait(Blocked(HOST), 7, 70)
    assert limits.woken(0.0) == []
    limits.release(1, BOTH, 0.0)
    assert limits.woken(0.0) == [(HOST, 70)]
    assert limits.woken(0.0) == []
    limits.freed(HOST, 0.0)
    assert limits.woken(0.0) == [(HOST, 80)]


def test_a_destination_that_waits_no_more_is_not_woken():
    limits = Limits()
    limits.take(1, BOTH, 0.0)
    limits.wait(Blocked(HOST), 7, 70)
    limits.wait(Blocked(HOST), 8, 80)
    limits.leave(HOST, 70, 0.0)
    limits.release(1, BOTH, 0.0)
    assert limits.woken(0.0) == [(HOST, 80)]


def test_a_pause_between_connects():
    limits = Limits()
    paused = (Place(HOST, 5, delay=3.0),)
    assert limits.take(1, paused, 10.0) is None
    assert limits.take(2, paused, 11.0) == Blocked(HOST, 13.0)
    limits.wait(Blocked(HOST, 13.0), 1, 70)
    assert limits.next_time() == 13.0
    assert limits.woken(12.9) == []
    assert limits.woken(13.0) == [(HOST, 70)]


def test_a_pause_after_the_end_of_a_connection():
    limits = Limits()
    paused = (Place(HOST, 5, reconnect_delay=3.0),)
    limits.take(1, paused, 10.0)
    limits.release(1, paused, 20.0)
    assert limits.take(2, paused, 22.0) == Blocked(HOST, 23.0)
    assert limits.take(2, paused, 23.0) is None


def test_a_limit_that_nothing_uses_is_forgotten():
    limits = Limits()
    for number in range(100):
        places = (Place(("host", str(number)), 1, reconnect_delay=3.0),)
        limits.take(number, places, 0.0)
        limits.release(number, places, 0.0)
    limits.woken(3.0)
    assert len(limits) == 0


def test_waiting_and_leaving_for_ever_takes_no_memory():
    limits = Limits()
    limits.take(1, BOTH, 0.0)
    for ticket in range(10_000):
        limits.wait(Blocked(HOST), ticket, 70)
        limits.leave(HOST, 70, 0.0)
    assert len(limits._entries[HOST].order) < 100


@given(st.integers(1, 200), st.lists(st.floats(0, 50), max_size=400))
def test_never_more_messages_than_the_rate_in_any_minute(rate, pauses):
    """As eager as can be: each goes as soon as it may, some later."""
    rates, now, times = MessageRate(), 0.0, []
    for pause in pauses:
        now = max(now, rates.wait_until(HOST, rate, now)) + (pause if pause > 40 else 0.0)
        rates.count(HOST, rate, now)
        times.append(now)
    for index, time in enumerate(times):
        assert sum(time <= other < time + 60 - 1e-6 for other in times[index:]) <= rate


def test_a_tenth_of_the_rate_goes_at_once_and_all_of_it_in_a_minute():
    rates, now, times = MessageRate(), 0.0, []
    while now < 60:
        rates.count(HOST, 100, now)
        times.append(now)
        now = rates.wait_until(HOST, 100, now)
    assert times[:10] == [0.0] * 10 and times[10] > 0.5
    assert len(times) == 100


def test_a_rate_that_is_not_used_is_forgotten():
    rates = MessageRate()
    rates.count(HOST, 10, 0.0)
    rates.forget_full(59.0 / 10)
    assert len(rates) == 1
    rates.forget_full(60.0)
    assert len(rates) == 0
