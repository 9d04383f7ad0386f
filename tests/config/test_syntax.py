"""What was expected is something that can be written; what was written once is told as it is written now."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lark import Token

from smtpd.config.errors import ConfigErrors
from smtpd.config.parse import obsolete
from smtpd.config.parse.syntax import TERMINALS, WORD_OF_TERMINAL
from smtpd.config.parser import parse

RULE = "\nmatch for any reject\n"


def errors_of(text: str) -> list[str]:
    try:
        parse("f", text=text + RULE)
    except ConfigErrors as errors:
        return [str(error) for error in errors.errors]
    return []


PREFIXES = [
    "",
    "listen",
    "listen on lo",
    "listen on socket",
    'action "x"',
    'action "x" maildir',
    'action "x" relay',
    "queue",
    "smtp",
    "mda",
    "mta",
    "srs",
]
PREFIXES += ["match", "match from", "match for", "pki a", "ca a", "table", "match for any", "alias-commands"]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_no_word_is_expected_that_is_not_available(prefix):
    (said, *_) = errors_of(f"{prefix} nonsense-of-mine")
    expected = said.partition("expected ")[2]
    assert expected
    for word in expected.replace(" or ", ", ").partition(" (")[0].split(", "):
        if word in TERMINALS:
            assert "not available" not in " ".join(errors_of(f"{prefix} {word} x y z")), word


@pytest.mark.parametrize("word", ["filter f", "filter", "filter f hots x"])
def test_behind_a_word_that_is_not_available_nothing_else_is_wrong(word):
    assert errors_of(f'action "x" relay {word}') == ['f:1:18: "action … filter" is not available yet']


@pytest.mark.parametrize(
    "text, instead",
    [
        ("accept for any deliver to mbox", 'action "NAME" mbox, and: match for any action "NAME"'),
        (
            'accept from source <n> for domain { a, "b" } virtual <v> deliver to lmtp "/l" as vmail',
            'action "NAME" lmtp "/l" virtual <v> user vmail, '
            'and: match from src <n> for domain { "a", "b" } action "NAME"',
        ),
        ("accept for any forward-only", 'action "NAME" forward-only, and: match for any action "NAME"'),
        ("accept from any for any", "action NAME METHOD [options], and: match [criteria] action NAME"),
        ("accept <", "action NAME METHOD [options], and: match [criteria] action NAME"),
        ("reject tagged ! x", 'match !tag "x" reject'),
        ("reject ! sender <x>", "match [criteria] reject"),
        ("reject from ! local", "match from !local reject"),
        ("expire 4d", 'queue ttl "4d"'),
        ("limit", "smtp limit, or mda limit"),
        ("map x { source db }", "table NAME file:/path"),
    ],
)
def test_former_sentences(text, instead):
    assert errors_of(text)[0].endswith(f"is syntax of OpenSMTPD before 6.4, write: {instead}")


def test_what_is_proposed_is_understood():
    (said,) = errors_of('accept from any for domain "example.org" deliver to maildir "~/x" as vmail')
    action, _, match = said.partition("write: ")[2].partition(", and: ")
    assert errors_of(f"{action}\n{match}") == []


TOKENS = [
    Token("STRING", word) for word in (*obsolete.CRITERIA, *obsolete.TABLE_OPTIONS, *obsolete.METHODS, "x", "to", "as")
]
TOKENS += [
    Token("STRING", word) for word in ("accept", "reject", "limit", "map", "deliver", "expire", *obsolete.SENTENCES)
]
TOKENS += [Token(name, word) for name, word in WORD_OF_TERMINAL.items()]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(TOKENS) | st.text(max_size=9).map(lambda text: Token("STRING", text)), max_size=20))
@example([Token("STRING", "<")] * 3)
@example([Token("STRING", "\x1f" * 9)] * 20)
def test_any_words_behind_a_former_one_are_answered(words):
    for first in ("accept", "reject", "expire", "limit", "map"):
        said = obsolete.replace_sentence([Token("STRING", first), *words])
        assert said and said.isprintable() and len(said) <= obsolete.PROPOSAL_LENGTH_MAX
    assert obsolete.replace_sentence([Token("STRING", "listen"), *words]) is None


@pytest.mark.parametrize("word", ["none", "NONE", "Auto", "LEGACY"])
def test_the_case_of_dhe_does_not_count(word):
    config = parse("f", text=f'pki a cert "/a" key "/b" dhe {word}{RULE}').config
    assert config.pki[0].dhe == word.lower()
