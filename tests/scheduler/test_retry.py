"""The times of an envelope."""

from hypothesis import given
from hypothesis import strategies as st

from smtpd.envelope import Kind
from smtpd.scheduler.retry import next_try

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
