"""How long failures in a row last."""

from hypothesis import given
from hypothesis import strategies as st

from smtpd.relay.back_off import BACK_OFF_MAX, JITTER, back_off


def test_the_pause_grows_with_the_square_of_the_failures():
    assert [back_off(failures, 0.5) for failures in (1, 2, 3, 15, 16)] == [15, 60, 135, 3375, 3600]


@given(st.integers(1, 10**9), st.floats(0, 1, exclude_max=True))
def test_the_pause_is_at_most_an_hour_and_a_tenth(failures, random):
    assert 15 * (1 - JITTER) <= back_off(failures, random) <= BACK_OFF_MAX * (1 + JITTER)
