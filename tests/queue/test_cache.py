"""The cache: bounded, and never older than the disk."""

from hypothesis import given
from hypothesis import strategies as st

from smtpd.queue.store.cache import ENTRY_BYTES, Cache
from smtpd.queue.store.store import Message
from tests.queue.conftest import add, envelope


def message(number, size=100):
    return Message(number, size, b"", bytes(size))


def test_what_was_stored_is_there_for_its_first_delivery():
    cache = Cache()
    stored = add(1, envelopes=2)
    cache.keep(stored.message, stored.envelopes)
    assert cache.maybe_message(1) is stored.message
    assert cache.maybe_envelope(1 << 32 | 2) is stored.envelopes[1]
    assert cache.maybe_envelope(1 << 32 | 3) is None


def test_a_message_goes_with_its_last_envelope():
    cache = Cache()
    cache.keep(message(1), [envelope(1, 1), envelope(1, 2)])
    cache.forget(1 << 32 | 1)
    assert cache.maybe_envelope(1 << 32 | 1) is None
    assert cache.maybe_message(1) is not None
    cache.forget(1 << 32 | 2)
    assert cache.maybe_message(1) is None
    assert (len(cache), cache.weight) == (0, 0)


def test_a_message_that_is_kept_again_keeps_its_envelopes():
    cache = Cache()
    stored = add(1, envelopes=2)
    cache.keep(stored.message, stored.envelopes)
    cache.keep(stored.message)
    assert cache.maybe_envelope(1 << 32 | 2) is stored.envelopes[1]


def test_a_message_that_was_read_again_goes_with_its_envelope_too():
    cache = Cache()
    cache.keep(message(1))
    cache.forget(1 << 32 | 1)
    assert cache.maybe_message(1) is None
    assert (len(cache), cache.weight) == (0, 0)


def test_what_was_used_longest_ago_leaves_first():
    cache = Cache(3 * (ENTRY_BYTES + 100))
    for number in (1, 2, 3):
        cache.keep(message(number))
    cache.maybe_message(1)
    cache.keep(message(4))
    assert [n for n in range(1, 5) if cache.maybe_message(n)] == [1, 3, 4]


def test_what_is_larger_than_the_cache_is_not_kept():
    cache = Cache(10_000)
    cache.keep(message(1, 20_000))
    assert (len(cache), cache.weight) == (0, 0)


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 4), st.booleans(), st.integers(0, 5000)), max_size=60))
def test_the_weight_is_that_of_what_is_kept_and_never_above_the_bound(steps):
    cache = Cache(12_000)
    for number, count, forget, size in steps:
        if forget:
            cache.forget(number << 32 | count)
        else:
            cache.keep(message(number, size), [envelope(number, n) for n in range(count)])
        kept = cache._kept.values()
        assert (
            cache.weight == sum(ENTRY_BYTES * (1 + len(k.envelopes)) + len(k.message.content) for k in kept) <= 12_000
        )
