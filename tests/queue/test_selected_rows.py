"""Which rows a selection means: against a second way of asking, in Python."""

import fnmatch
import itertools

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from smtpd.envelope import ENVELOPE_ID_MAX
from smtpd.queue.store import selected_rows
from smtpd.queue.store.sqlite import SQLiteStore
from smtpd.queue.store.store import Add, Hold, Message, Suspend
from smtpd.selection import Selection
from tests.queue.conftest import CONTENT, ORIGIN, envelope, recipient

ALL = 1 << 32, ENVELOPE_ID_MAX
WORDS = ["", "bob@a.test", "BOB@A.TEST", "b_b@a.test", "b%@a.test", "amy@b.test", "a\\b@c.test", "*@d.test", "x?y@d"]


@pytest.fixture
def store(tmp_path):
    made = SQLiteStore(str(tmp_path))
    yield made
    made.close()


def put(store, message, number=1, **changes):
    made = envelope(message, number, **changes)
    store.apply([Add(Message(message, len(CONTENT), bytes(32), CONTENT), [made])])
    return made.id


def selected(store, meant, first=ALL[0], limit=1000):
    found, ids = first, []
    while found:
        part, found = store.select(meant, found, ALL[1], limit)
        assert len(part) <= limit
        ids += part
    return ids


def fits(pattern, text):
    """`*` and `?`, and no difference between upper and lower case."""
    pattern = "".join(f"[{char}]" if char == "[" else char for char in pattern)
    return fnmatch.fnmatchcase(text.lower(), pattern.lower())


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.sampled_from(WORDS), st.text("ab*?%_\\@.", max_size=6)), min_size=1, max_size=3))
@example(["*"])
@example(["%"])
@example(["b_b@a.test"])
@example(["\\"])
def test_patterns_of_senders(store, patterns):
    if not store.messages(1, 100):
        for number, sender in enumerate(WORDS, 1):
            put(store, number, origin=replace(ORIGIN, sender=sender))
    wanted = [sender for sender in WORDS if any(fits(pattern, sender) for pattern in patterns)]
    assert [WORDS[(id >> 32) - 1] for id in selected(store, Selection(senders=patterns))] == wanted


def test_words_of_different_kinds_hold_together_and_of_the_same_kind_are_alternatives(store):
    first = put(store, 1, origin=replace(ORIGIN, sender="amy@a.test"), recipient=recipient("bob"))
    second = put(store, 2, origin=replace(ORIGIN, sender="eve@a.test"), recipient=recipient("bob"))
    third = put(store, 3, origin=replace(ORIGIN, sender="eve@a.test"), recipient=recipient("mia", "out"))
    assert selected(store, Selection(senders=["amy@a.test", "eve@*"], recipients=["bob@*"])) == [first, second]
    assert selected(store, Selection(senders=["eve@*"], actions=["out", "none"])) == [third]
    assert selected(store, Selection(senders=["eve@*"], recipients=["nobody"])) == []
    assert selected(store, Selection()) == [first, second, third]


def test_a_recipient_is_meant_by_what_the_client_named_and_by_what_it_became(store):
    to = replace(recipient("bob"), recipient="info@here.test", destination="bob@here.test")
    id = put(store, 1, recipient=to)
    assert selected(store, Selection(recipients=["info@here.test"])) == [id]
    assert selected(store, Selection(recipients=["bob@here.test"])) == [id]


def test_states_and_times(store):
    waiting, paused, held = (put(store, number, created=100 * number) for number in (1, 2, 3))
    store.apply([Suspend(paused, True), Hold(held, 350, "550 no such user", False)])
    assert selected(store, Selection(suspended=True)) == [paused]
    assert selected(store, Selection(suspended=False, held=False)) == [waiting]
    assert selected(store, Selection(held=True)) == [held]
    assert selected(store, Selection(errors=["*NO SUCH*"])) == [held]
    assert selected(store, Selection(tried=True)) == [held]
    assert selected(store, Selection(tried=False)) == [waiting, paused]
    assert selected(store, Selection(created_since=200)) == [paused, held]
    assert selected(store, Selection(created_until=200)) == [waiting, paused]


def test_a_call_looks_at_a_bounded_number_of_rows_and_misses_none(store, monkeypatch):
    monkeypatch.setattr(selected_rows, "ROWS_MAX", 7)
    senders = ["no" if number % 5 else "yes" for number in range(1, 51)]
    ids = [put(store, at, origin=replace(ORIGIN, sender=sender)) for at, sender in enumerate(senders, 1)]
    part, behind = store.select(Selection(senders=["yes"]), *ALL, 1000)
    assert (part, behind) == ([ids[4]], ids[7])
    assert selected(store, Selection(senders=["yes"])) == ids[4::5]
    for limit, first in itertools.product((1, 2, 3), (ids[0], ids[4], ids[5], ids[49])):
        assert selected(store, Selection(), first, limit) == [id for id in ids if id >= first]


def test_a_page_ends_where_it_was_told(store):
    ids = [put(store, number) for number in range(1, 5)]
    assert store.select(Selection(), ids[1], ids[2], 1000) == (ids[1:3], 0)
    assert store.select(Selection(), ids[1], ids[2], 2) == (ids[1:3], 0)
    assert store.select(Selection(), ids[1], ids[2], 1) == (ids[1:2], ids[1] + 1)
