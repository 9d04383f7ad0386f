"""The packed envelopes, beside a plain dictionary that does the same."""

from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.envelope import AGENT_LANE_MAX, Kind, first_envelope, last_envelope
from smtpd.scheduler.envelope_table import EnvelopeState, EnvelopeTable, ScheduledEnvelope

FIELDS = ScheduledEnvelope.__slots__
IDS = st.builds(lambda message, counter: message << 32 | counter, st.integers(1, 4), st.integers(0, 3))

FIELDS_OF_BOTH = dict(
    id=IDS,
    created=st.integers(0, 2**40 - 1),
    expires=st.integers(0, 2**40 - 1),
    next_try=st.integers(0, 2**40 - 1),
    state=st.sampled_from(EnvelopeState),
    suspended=st.booleans(),
    timed=st.booleans(),
    removed=st.booleans(),
    priority=st.integers(-9, 9),
)
LANES, NUMBERS = st.integers(0, AGENT_LANE_MAX), st.integers(0, 2**63 - 1)
ENVELOPES = st.one_of(
    st.builds(ScheduledEnvelope, kind=st.just(Kind.MDA), lane=LANES, **FIELDS_OF_BOTH),
    st.builds(ScheduledEnvelope, kind=st.just(Kind.MTA), lane=NUMBERS, sender=LANES, **FIELDS_OF_BOTH),
)


def fields(envelope):
    return None if envelope is None else [getattr(envelope, name) for name in FIELDS]


@settings(max_examples=200)
@given(steps=st.lists(st.one_of(ENVELOPES, IDS), max_size=30), first=IDS, last=IDS)
def test_what_was_put_is_found_as_it_was(steps, first, last):
    table, plain = EnvelopeTable(), {}
    for step in steps:
        if isinstance(step, ScheduledEnvelope):
            table.put(step)
            plain[step.id] = step
        elif step in plain:
            table.remove(step)
            del plain[step]
        assert len(table) == len(plain)
    for id in {first, last, *plain}:
        assert fields(table.find(id)) == fields(plain.get(id))
        assert (id in table) == (id in plain)
    assert sorted(table.ids(first, last)) == sorted(id for id in plain if first <= id <= last)


def test_times_beyond_all_reason_are_kept_within_it():
    table = EnvelopeTable()
    table.put(ScheduledEnvelope(1 << 32, Kind.MDA, created=-5, expires=2**40, next_try=2**50))
    found = table.find(1 << 32)
    assert (found.created, found.expires, found.next_try) == (0, 2**40 - 1, 2**40 - 1)


def test_an_envelope_that_was_found_is_a_copy():
    table = EnvelopeTable()
    table.put(ScheduledEnvelope(1 << 32, Kind.MDA, 1, 2, 3))
    table.find(1 << 32).next_try = 99
    assert table.find(1 << 32).next_try == 3


def test_what_goes_while_one_iterates_does_not_disturb():
    table = EnvelopeTable()
    for message in range(1, 50):
        for counter in range(3):
            table.put(ScheduledEnvelope(message << 32 | counter, Kind.MDA, 1, 2, 3))
    for id in table.ids(first_envelope(1), last_envelope(50)):
        table.remove(id)
    assert len(table) == 0


def test_an_envelope_that_goes_before_its_turn_is_left_out():
    table = EnvelopeTable()
    for message in range(1, 5):
        table.put(ScheduledEnvelope(message << 32 | 1, Kind.MDA, 1, 2, 3))
    ids = table.ids(first_envelope(1), last_envelope(4))
    found = [next(ids)]
    table.remove(2 << 32 | 1)
    assert [*found, *ids] == [message << 32 | 1 for message in (1, 3, 4)]


def test_of_one_message_only_the_envelopes_of_the_range_are_found():
    table = EnvelopeTable()
    for counter in range(1, 6):
        table.put(ScheduledEnvelope(1 << 32 | counter, Kind.MDA, 1, 2, 3))
    assert [*table.ids(1 << 32 | 2, 1 << 32 | 4)] == [1 << 32 | counter for counter in (2, 3, 4)]
