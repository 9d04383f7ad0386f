"""The times of an envelope."""

from hypothesis import given
from hypothesis import strategies as st

from smtpd.envelope import Kind, Schedule
from smtpd.scheduler.retry import next_try, times_of

CREATED = 1_800_000_000


def tries(kind, until):
    """The tries of an envelope that fails at once each time."""
    now = CREATED
    while now < CREATED + until:
        now = next_try(kind, CREATED, now)
        yield now - CREATED


def test_a_relayed_mail_waits_400_seconds_times_the_square_of_its_tries():
    assert list(tries(Kind.MTA, 6400)) == [400, 1600, 3600, 6400]


def test_a_local_mail_waits_10_seconds_times_the_square_of_its_tries():
    assert list(tries(Kind.MDA, 250)) == [10, 40, 90, 160, 250]


def test_a_try_by_hand_takes_nothing_from_the_time_of_a_mail():
    by_hand = {next_try(Kind.MTA, CREATED, CREATED + second) for second in range(400)}
    assert by_hand == {CREATED + 400}


def test_after_days_of_silence_the_next_of_its_times_is_taken():
    assert next_try(Kind.MTA, CREATED, CREATED + 300_000) - CREATED == 400 * 28**2


@given(kind=st.sampled_from(Kind), created=st.integers(0, 2**40), now=st.integers(0, 2**40))
def test_the_next_try_always_lies_ahead(kind, created, now):
    assert next_try(kind, created, now) > max(now, created)


@given(kind=st.sampled_from(Kind), age=st.integers(0, 400_000))
def test_no_time_of_an_envelope_is_left_out(kind, age):
    time = next_try(kind, CREATED, CREATED + age)
    assert next_try(kind, CREATED, time - 1) == time


# -- times that were written by a clock that has been set since -------------------------------------------------

YEAR = 365 * 86400
LIFETIME = 345_600


def schedule(created, next_try=0, release=0, kind=Kind.MDA):
    expires = max(created, release) + LIFETIME
    return Schedule(1 << 32, kind, created, expires, next_try, 0, False, False, release=release)


def release_of(created, release, now):
    times = times_of(schedule(created, release, release), now)
    assert times.next_try == times.origin == times.expires - LIFETIME
    return times.origin


@given(
    kind=st.sampled_from(Kind),
    age=st.integers(0, LIFETIME),
    seconds=st.integers(0, LIFETIME),
    ahead=st.sampled_from([-YEAR, -1, 0, 1, YEAR]),
)
def test_times_of_a_clock_that_runs_evenly_are_what_they_say(kind, age, seconds, ahead):
    """Whatever it is set to meanwhile: `ahead` is known."""
    now = CREATED + age + seconds
    after = next_try(kind, CREATED, CREATED + age)
    kept = schedule(CREATED + ahead, after + ahead, kind=kind)
    assert times_of(kept, now, ahead) == (CREATED, CREATED + LIFETIME, after)


@given(
    now=st.integers(CREATED - YEAR, CREATED + YEAR),
    times=st.lists(st.integers(CREATED - YEAR, CREATED + YEAR), min_size=2, max_size=2),
    kind=st.sampled_from(Kind),
)
def test_whatever_is_written_comes_within_the_interval_of_one_tried_now(now, times, kind):
    created, after = times
    found = times_of(schedule(created, after, kind=kind), now)
    assert found.origin <= now
    assert found.next_try <= next_try(kind, found.origin, now)
    assert found.expires == found.origin + LIFETIME


def test_a_release_is_as_far_away_as_it_says():
    assert release_of(CREATED, CREATED + 3600, CREATED + 5) == CREATED + 3600


def test_a_release_is_as_far_away_as_it_says_also_by_a_clock_that_is_ahead():
    kept = schedule(CREATED + YEAR, CREATED + YEAR + 3600, CREATED + YEAR + 3600)
    assert times_of(kept, CREATED + 5, ahead=YEAR).origin == CREATED + 3600


def test_a_release_from_a_clock_that_was_a_little_ahead_is_the_time_that_it_says():
    assert release_of(CREATED, CREATED + 3600, CREATED - 1800) == CREATED + 3600


def test_a_release_from_a_clock_that_was_far_ahead_waits_twice_as_long_and_no_longer():
    assert release_of(CREATED + YEAR, CREATED + YEAR + 3600, CREATED) == CREATED + 7200


def test_a_release_that_is_past_is_where_tries_are_counted_from():
    assert times_of(schedule(CREATED, 0, CREATED + 100), CREATED + 150) == (
        CREATED + 100,
        CREATED + 100 + LIFETIME,
        0,
    )
