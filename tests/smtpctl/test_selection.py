"""The words that select envelopes: what they mean, and what they do not."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpctl.command_parser import SELECTION_WORDS
from smtpctl.selection import STATES, WORDS, SelectionError, duration, parse
from smtpd.envelope import Seconds
from smtpd.selection import VALUES_MAX, Selection

NOW = 1_700_000_000


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("from bob@here.test", Selection(senders=["bob@here.test"])),
        ("from @spam.test", Selection(senders=["*@spam.test"])),
        ("from <>", Selection(senders=[""])),
        ("from a@a.test from b@b.test", Selection(senders=["a@a.test", "b@b.test"])),
        ("to @far.test from amy@*", Selection(senders=["amy@*"], recipients=["*@far.test"])),
        ("action out", Selection(actions=["out"])),
        ("error greylist", Selection(errors=["*greylist*"])),
        ("older 2d", Selection(created_until=NOW - 2 * 86400)),
        ("newer 1h30m older 90s", Selection(created_since=NOW - 5400, created_until=NOW - 90)),
        ("older 9999999w", Selection(created_until=0)),
        ("is paused", Selection(suspended=True)),
        ("is held", Selection(held=True)),
        ("is waiting is tried", Selection(suspended=False, held=False, tried=True)),
        ("is untried", Selection(tried=False)),
    ],
)
def test_what_words_mean(line, meant):
    assert parse(line.split(), NOW) == meant


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["from"], "a value is missing behind from"),
        (["from", "a@a.test", "to"], "a value is missing behind to"),
        (["from", ""], "an empty address; the null sender is <>"),
        (["wherever", "x"], "unknown word: wherever"),
        (["older", "2"], "not a time: 2"),
        (["older", "-2d"], "not a time: -2d"),
        (["older", "2 d"], "not a time: 2 d"),
        (["older", "٢d"], "not a time: ٢d"),
        (["is", "gone"], "unknown state: gone"),
        (["is", "held", "is", "waiting"], "is held and is waiting cannot both be"),
        (["older", "1d", "older", "2d"], "older 1d and older 2d cannot both be"),
        (["from", "a\nb"], "cannot be asked for"),
        (["error", "x" * 600], "cannot be asked for"),
        (["from", "a@a.test"] * (VALUES_MAX + 1), "cannot be asked for"),
    ],
)
def test_what_selects_nothing_says_why(words, reason):
    with pytest.raises(SelectionError) as refused:
        parse(words, NOW)
    assert str(refused.value).startswith(reason)


def test_the_parser_of_commands_knows_the_words():
    assert WORDS.keys() == SELECTION_WORDS


WORD = st.one_of(st.sampled_from([*WORDS, *STATES, "<>", "@a.test", "1d", "2h3m", "*", "%", "\\"]), st.text())


@given(st.lists(WORD, max_size=8))
def test_any_words_are_a_selection_that_can_be_sent_or_an_error(words):
    try:
        meant = parse(words, NOW)
    except SelectionError as error:
        assert "\n" not in str(error)
        return
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(meant), type=Selection) == meant


@given(st.integers(0, 10**9 - 1), st.sampled_from("smhdw"))
def test_a_duration_is_seconds(count, unit):
    assert duration(f"{count}{unit}") == count * {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}[unit]
    assert msgspec.convert(max(0, NOW - duration(f"{count}{unit}")), Seconds) >= 0
