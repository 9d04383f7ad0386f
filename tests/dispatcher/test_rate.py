"""How much may come in a minute."""

from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.dispatcher.inbound.rate import Rate, Rates
from smtpd.slice import Limits


def taken(rates, count, address="192.0.2.1", now=1000.0):
    return sum(rates.take_connection(address, now) for _ in range(count))


def test_as_many_as_the_limit_says_pass_in_a_minute():
    rates = Rates(Limits(connection_rate=5, connection_rate_per_network=100))
    assert taken(rates, 20) == 5
    assert taken(rates, 20, address="192.0.2.2") == 5


def test_a_network_has_a_limit_of_its_own():
    rates = Rates(Limits(connection_rate=5, connection_rate_per_network=12))
    assert [taken(rates, 20, address=f"192.0.2.{host}") for host in range(4)] == [5, 5, 2, 0]
    assert taken(rates, 20, address="192.0.3.1") == 5


def test_what_was_refused_takes_no_room():
    rates = Rates(Limits(connection_rate=5))
    taken(rates, 1000, now=60.0)
    assert taken(rates, 1000, now=180.0) == 5


def test_the_minute_before_fades():
    rates = Rates(Limits(connection_rate=60))
    assert taken(rates, 100, now=600.0) == 60
    assert taken(rates, 100, now=659.0) == 0
    assert taken(rates, 100, now=690.0) == 30


def test_zero_is_any_number():
    rates = Rates(Limits(connection_rate=0, connection_rate_per_network=0))
    assert taken(rates, 1000) == 1000


def test_loopback_addresses_are_not_counted_but_their_users_are():
    rates = Rates(Limits(connection_rate=1, message_rate=1, message_rate_per_user=3, failure_rate=1))
    assert taken(rates, 100, address="::1") == 100
    assert [rates.take_message("127.0.0.1", "", 1.0) for _ in range(9)] == [True] * 9
    assert [rates.take_message("127.0.0.1", "amy", 1.0) for _ in range(4)] == [True, True, True, False]
    for _ in range(10):
        rates.count_failure("127.0.0.1", 1.0)
    assert not rates.has_failed("127.0.0.1", 1.0)


def test_a_user_is_counted_wherever_they_come_from():
    rates = Rates(Limits(message_rate_per_user=2))
    assert [rates.take_message(f"192.0.{net}.1", "amy", 1.0) for net in range(4)] == [True, True, False, False]
    assert rates.take_message("192.0.9.1", "bob", 1.0)


def test_failures_are_counted_until_the_minute_is_over():
    rates = Rates(Limits(failure_rate=3))
    for _ in range(3):
        assert not rates.has_failed("192.0.2.1", 1.0)
        rates.count_failure("192.0.2.1", 1.0)
    assert rates.has_failed("192.0.2.1", 30.0)
    assert not rates.has_failed("192.0.2.2", 30.0)
    assert not rates.has_failed("192.0.2.1", 130.0)


def test_a_flood_of_addresses_does_not_hide_the_one_that_does_harm():
    rate = Rate(10, most=100)
    for _ in range(10):
        rate.count("harm", 1.0)
    for number in range(10_000):
        rate.count(f"passer-by {number}", 1.0)
    assert rate.is_full("harm", 1.0)
    assert len(rate._current) <= 100


@settings(max_examples=100)
@given(st.lists(st.floats(0, 300), max_size=200), st.integers(1, 20))
def test_no_minute_of_the_clock_has_more_than_the_limit(times, limit):
    rate, passed = Rate(limit), []
    for now in sorted(times):
        if not rate.is_full("key", now):
            rate.count("key", now)
            passed.append(now)
    for begin in range(0, 300, 60):
        assert sum(begin <= now < begin + 60 for now in passed) <= limit


def test_a_user_is_one_user_however_the_name_is_written():
    rates = Rates(Limits(message_rate_per_user=2))
    assert [rates.take_message("127.0.0.1", name, 0.0) for name in ("amy", "Amy", "AMY")] == [True, True, False]
    names = "amy@müller.test", "amy@xn--mller-kva.test", "amy@müller.test."
    assert [rates.take_message("127.0.0.1", name, 0.0) for name in names] == [True, True, False]
