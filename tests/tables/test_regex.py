"""POSIX extended regular expressions, against what they mean and against Python's `re` where the two agree."""

import os
import re
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.slice import Service
from smtpd.tables.inline import ListTable
from smtpd.tables.regex import Pattern, RegexError

MATCHING = [
    ("", ""),
    ("", "anything"),
    ("b", "abc"),
    ("^abc$", "abc"),
    ("a|b", "xbx"),
    ("^(ab|cd)+$", "abcdab"),
    ("^a{2}$", "aa"),
    ("^a{2,}$", "aaaa"),
    ("^a{,2}$", "a{,2}"),
    ("^a{0,2}b$", "b"),
    ("^[a-c]+$", "abc"),
    ("^[^a-c]+$", "xyz"),
    ("^[]a]+$", "]a]"),
    ("^[^]a]+$", "bc"),
    ("^[a-]+$", "a-a"),
    (r"^[\.]+$", r"\."),
    ("^[[:alpha:]_]+$", "ab_c"),
    ("^[^[:digit:]]+$", "abc"),
    (r"^\w+\.\W$", "ab.-"),
    (r"^\S\s\S$", "a b"),
    (r"\bcat\b", "a cat!"),
    (r"\<cat\>", "cat"),
    (r"o\B", "foot"),
    ("(?i)ABC", "xabcx"),
    ("(?i)^[a-c]$", "B"),
    ("a||b", "x"),
    ("()", "x"),
    ("x*", ""),
    ("(^a|b)c", "xbc"),
    (r"\.", "a.b"),
    ("^.$", "ä"),
    ("{", "{"),
    ("a**", ""),
    ("a$|b", "b at the beginning"),
]

NOT_MATCHING = [
    ("^abc$", "abcd"),
    ("ABC", "abc"),
    ("^a{2}$", "aaa"),
    (r"\bcat\b", "concat"),
    (r"\<at", "cat"),
    ("(^a|b)c", "xac"),
    ("$a", "a"),
    (r"^[\w]$", "b"),
    (".", ""),
]

MALFORMED = ["(", ")", "a)", "[", "[a", "[z-a]", "*", "+a", "a{2,1}", "a{1001}", "(?:a)", "\\", r"\1", r"\q", "(?=a)"]
MALFORMED += [
    "[[:nosuch:]]",
    "[[.a.]]",
    "[[=a=]]",
    "[a-",
    "((a{255}){255}){255}",
    "(((((){255}){255}){255}){255}){255}",
]


@pytest.mark.parametrize("pattern, text", MATCHING)
def test_it_is_found(pattern, text):
    assert Pattern(pattern).search(text)


@pytest.mark.parametrize("pattern, text", NOT_MATCHING)
def test_it_is_not_found(pattern, text):
    assert not Pattern(pattern).search(text)


@pytest.mark.parametrize("pattern", MALFORMED)
def test_what_is_no_expression_is_refused(pattern):
    with pytest.raises(RegexError):
        Pattern(pattern)


@pytest.mark.parametrize("pattern", [r"^([a-z]+\.?)+@", "(a*)*b", "(a|a)*b", "(a|aa)+$", "(.*,){9}x"])
def test_a_pattern_that_would_stop_a_backtracking_matcher(pattern):
    begun = time.process_time()
    Pattern(pattern).search("a" * 500 + "!")
    assert time.process_time() - begun < 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc for the memory of this process")
def test_lookups_in_a_regex_table_leave_no_memory_behind():
    table = ListTable("t", ["^[a-z0-9]+@(here|there)[.]test$", "(a|b)*c"])
    look_up(table, 2_000)
    before = resident()
    look_up(table, 20_000)
    assert resident() - before < 2 * 1024 * 1024


def look_up(table, times):
    for number in range(times):
        assert not table.check(Service.REGEX, f"u{number}@{'x' * 200}.test")


def resident():
    """Bytes of this process that are in memory."""
    with open("/proc/self/statm") as numbers:
        return int(numbers.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


atoms = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", r"\.", "^", "$", r"\b", r"\w"])
patterns = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map("".join),
        st.lists(inner, min_size=1, max_size=3).map(lambda ways: "(" + "|".join(ways) + ")"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{1,2}", "{0,3}", "{1,}"])).map(
            lambda part: f"({part[0]}){part[1]}"
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(patterns, st.text("abc.", max_size=8))
def test_it_agrees_with_python_where_both_know_the_form(pattern, text):
    expected = re.compile(pattern.replace("$", r"\Z")).search(text) is not None
    assert Pattern(pattern).search(text) == expected


@settings(max_examples=200, deadline=None)
@given(st.text("ab([{^$|*+?\\.-,})]:1<", max_size=20), st.text(max_size=10))
def test_any_text_is_a_pattern_or_malformed(pattern, text):
    try:
        Pattern(pattern).search(text)
    except RegexError:
        pass
