"""A limit has so many places for each key, and forgets a key that is not used any more."""

from smtpd.scheduler.concurrency_limit import ConcurrencyLimit


def test_a_place_that_is_left_goes_to_the_one_that_waits():
    gate = ConcurrencyLimit(2)
    assert [gate.enter(7, envelope) for envelope in range(4)] == [True, True, False, False]
    assert gate.enter(8, 9)  # another key has places of its own
    assert [gate.leave(7) for _ in range(4)] == [2, 3, None, None]
    assert gate.enter(7, 5)


def test_nothing_is_kept_of_a_key_whose_places_are_free():
    """The keys are messages and users: there are more of them each day."""
    gate = ConcurrencyLimit(1)
    for key in range(3):
        for envelope in range(3):
            gate.enter(key, envelope)
        for _ in range(3):
            gate.leave(key)
    assert (gate._taken, gate._waiting) == ({}, {})
