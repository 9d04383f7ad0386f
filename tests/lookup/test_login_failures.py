"""Failed logins, and what becomes of the next ones."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.lookup import login_failures
from smtpd.lookup.login_failures import (
    COUNTING_PERIOD,
    DELAY_RESET_AFTER,
    KNOWN_LOGIN_TTL,
    LOGINS_MAX,
    NO,
    TRY_LATER,
    YES,
    LoginFailures,
    is_local,
)

HERE, THERE = "192.0.2.1", "198.51.100.1"


def fail(failures, now=0.0, address=HERE, user="bob", verdict=NO):
    """How long the answer takes; None when nobody looks."""
    return failures.ended(now, address, user, verdict) if failures.begin(now, address, user) else None


def test_each_no_takes_twice_as_long_as_the_one_before():
    failures = LoginFailures(100)
    assert [fail(failures) for _ in range(6)] == [1, 2, 4, 8, 16, 16]


def test_what_went_well_or_was_not_found_out_takes_no_time():
    failures = LoginFailures(100)
    assert fail(failures, verdict=YES) == fail(failures, verdict=TRY_LATER) == 0
    assert fail(failures) == 1


def test_the_wait_is_for_the_address_and_for_the_user():
    failures = LoginFailures(100)
    fail(failures, address=HERE, user="bob")
    assert fail(failures, address=HERE, user="amy") == 2
    assert fail(failures, address=THERE, user="bob") == 2
    assert fail(failures, address="203.0.113.1", user="eve") == 1


def test_after_a_quiet_time_the_wait_is_short_again():
    failures = LoginFailures(100)
    fail(failures)
    assert fail(failures, DELAY_RESET_AFTER - 1) == 2
    assert fail(failures, 2 * DELAY_RESET_AFTER - 1) == 1


def test_an_address_with_too_many_failures_in_a_minute_is_locked_out():
    failures = LoginFailures(3)
    for user in ("a", "b", "c"):
        assert fail(failures, 10, user=user)
    assert fail(failures, 10 + COUNTING_PERIOD - 1, user="d") is None
    assert fail(failures, 10 + COUNTING_PERIOD - 1, THERE, "d")
    assert fail(failures, 10 + COUNTING_PERIOD, user="d")


def test_a_user_with_too_many_failures_in_a_minute_is_locked_out():
    failures = LoginFailures(3)
    for number in range(3):
        assert fail(failures, address=f"192.0.2.{number}")
    assert fail(failures, address=THERE) is None
    assert fail(failures, address=THERE, user="BOB") is None
    assert fail(failures, address=THERE, user="amy")


def test_a_user_is_one_user_however_the_domain_is_written():
    failures = LoginFailures(3)
    names = "amy@müller.test", "Amy@xn--mller-kva.test", "amy@MÜLLER.test.", "amy@m\u00adüller.test"
    waits = [fail(failures, address=f"192.0.2.{number}", user=name) for number, name in enumerate(names)]
    assert waits == [1, 2, 4, None]


def test_a_refused_login_is_not_counted():
    failures = LoginFailures(3)
    for _ in range(3):
        fail(failures, 0)
    for second in range(1, 60):
        assert fail(failures, second) is None
    assert fail(failures, COUNTING_PERIOD)


def test_a_known_pair_is_not_locked_out_by_others():
    failures = LoginFailures(3)
    fail(failures, verdict=YES)
    for _ in range(3):
        fail(failures, address=THERE)
    assert fail(failures, address="203.0.113.1") is None
    assert fail(failures, verdict=YES) == 0
    for _ in range(3):
        fail(failures, KNOWN_LOGIN_TTL, address=THERE)
    assert fail(failures, KNOWN_LOGIN_TTL) is None


def test_simultaneous_attempts_do_not_lock_out_a_known_pair():
    failures = LoginFailures(3)
    fail(failures, verdict=YES)
    for number in range(LOGINS_MAX):
        assert failures.begin(0, f"198.51.100.{number}", "bob")
    assert not failures.begin(0, THERE, "bob")
    assert failures.begin(0, HERE, "bob")


def test_guessing_by_way_of_a_program_of_this_host_is_counted_by_the_user_even_if_the_user_logs_in_there():
    failures = LoginFailures(3)
    fail(failures, address="127.0.0.1", verdict=YES)
    assert [fail(failures, address="127.0.0.1") for _ in range(4)] == [1, 2, 4, None]
    assert fail(failures, address="127.0.0.1", user="amy")


def test_guessing_from_elsewhere_does_not_lock_out_programs_of_this_host():
    failures = LoginFailures(3)
    for number in range(3):
        fail(failures, address=f"192.0.2.{number}")
    assert fail(failures, address=THERE) is None
    assert fail(failures, address="127.0.0.1", verdict=YES) == 0


def test_a_known_user_is_counted_by_the_address_still():
    failures = LoginFailures(3)
    fail(failures, verdict=YES)
    for _ in range(3):
        fail(failures)
    assert fail(failures) is None


@pytest.mark.parametrize("address", ["local", "127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_programs_of_this_host_wait_and_are_never_counted_out(address):
    failures = LoginFailures(3)
    assert [fail(failures, 0, address, f"u{number}") for number in range(6)] == [1, 2, 4, 8, 16, 16]
    assert is_local(address)


def test_a_network_of_ipv6_is_one_address():
    failures = LoginFailures(3)
    for number in range(3):
        fail(failures, 0, f"2001:db8::{number}", f"u{number}")
    assert fail(failures, 0, "2001:db8::ffff:1", "eve") is None
    assert fail(failures, 0, "2001:db8:0:1::1", "eve")


def test_any_rate():
    failures = LoginFailures(0)
    assert all(fail(failures) for _ in range(100))


def test_simultaneous_logins_of_an_address_are_bounded():
    failures = LoginFailures(3)
    assert [failures.begin(0, HERE, f"u{n}") for n in range(LOGINS_MAX + 1)] == [True] * LOGINS_MAX + [False]
    assert failures.begin(0, "127.0.0.1", "x")
    failures.ended(0, HERE, "u0", TRY_LATER)
    assert failures.begin(0, HERE, "x")
    assert not failures.begin(0, HERE, "z")  # of one that has ended, one takes the place
    assert [failures.begin(0, f"192.0.2.{n + 2}", "y") for n in range(LOGINS_MAX + 1)] == [True] * LOGINS_MAX + [False]


def test_many_names_and_addresses_do_not_fill_the_memory(monkeypatch):
    monkeypatch.setattr(login_failures, "RECORDS_MAX", 10)
    failures = LoginFailures(3)
    for number in range(100):
        fail(failures, 0, f"192.0.2.{number}", f"u{number}", YES if number % 2 else NO)
    assert len(failures._addresses) == len(failures._users) == len(failures._known_pairs) == 10
    assert not failures._addresses._open and not failures._users._open


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.sampled_from(["a", "b"]), st.sampled_from(["x", "y"])), max_size=60))
def test_no_more_than_the_rate_fail_in_any_minute(tries):
    failures, now, failed = LoginFailures(3), 0, {}
    for seconds, address, user in tries:
        now += seconds
        if fail(failures, now, address, user) is not None:
            for key in (address, user):
                failed.setdefault(key, []).append(now)
    for times in failed.values():
        assert all(later - first >= COUNTING_PERIOD for first, later in zip(times, times[3:], strict=False))
