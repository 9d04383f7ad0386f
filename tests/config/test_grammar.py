"""The parser of grammar.lark, compared with Lark's own."""

from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lark import Lark, Token, Tree, UnexpectedToken

from smtpd.config.parse import tree
from smtpd.config.parse.grammar import END, Grammar

TEXT = files("smtpd.config.parse").joinpath("grammar.lark").read_text(encoding="ascii")
GRAMMAR = Grammar(TEXT)
LARK = Lark(TEXT, parser="lalr", lexer="basic", propagate_positions=True, maybe_placeholders=False)
TERMINALS = {str(terminal.pattern.value): terminal.name for terminal in LARK.terminals if terminal.pattern}
WORDS = {name: word for word, name in TERMINALS.items()}


def same_words(accepted):
    return {WORDS.get(name, name) for name in accepted}


def plain(node):
    """A tree of either parser, with the column of each tree."""
    match node:
        case Tree():
            return str(node.data), node.meta.column, [plain(child) for child in node.children]
        case tree.Tree():
            return node.data, node.column, [plain(child) for child in node.children]
        case _:
            return str(node)


def compare(words):
    """Feed them to both, up to the first that neither takes; the tree where the sentence may end."""
    ours, theirs = GRAMMAR.begin(), LARK.parse_interactive()
    for column, word in enumerate(words, 1):
        assert ours.accepts() == same_words(theirs.accepts())
        type = "STRING" if word.startswith("x") else "NUMBER" if word.isdigit() else word
        taken = ours.feed(tree.Token(type, word, 1, column))
        try:
            theirs.feed_token(Token(TERMINALS.get(type, type), word, line=1, column=column))
        except UnexpectedToken:
            assert not taken
            return None
        assert taken
    assert ours.accepts() == same_words(theirs.accepts())
    if END not in ours.accepts():
        return None
    made = plain(ours.tree())
    assert made == plain(theirs.feed_token(Token(END, "")))
    return made


def test_both_have_the_same_words():
    assert GRAMMAR.words == set(TERMINALS)


@pytest.mark.parametrize(
    "sentence",
    [
        "x = x1",
        "action x1 maildir x2 junk alias < x3 > ttl 4",
        "action x1 relay backup mx x2 host { x3 , x4 x5 , } tls no-verify",
        "match ! from rdns regex { x1 , x2 } for any ! auth < x3 > action x4",
        "match auth auth tls reject",
        "table x1 { x2 = x3 , x4 => x5 x6 }",
        "listen on socket mask-src",
        "listen on x1 port smtp auth auth-optional { x2 }",
        "mta limit for domain x1 inet4 x2 3 inet6",
        "srs key x1",
        "srs key backup x1",
        "filter x1 phase connect match ! rdns reject x2",
    ],
)
def test_sentences_have_the_same_trees(sentence):
    assert compare(sentence.split()) is not None


def test_a_tree_stands_where_its_first_word_does():
    assert compare(["match", "from", "any", "for", "any", "reject"])[1] == 1
    assert compare(["match", "from", "any", "for", "any", "reject"])[2][0][:2] == ("criterion", 2)


@settings(max_examples=400)
@given(st.data())
def test_all_sentences_have_the_same_trees(data):
    """Along what is accepted, and at each step sometimes any other word."""
    sentence = GRAMMAR.begin()
    words = []
    for column in range(data.draw(st.integers(1, 25))):
        accepted = sorted(sentence.accepts() - {END})
        if not accepted:
            break
        strange = data.draw(st.integers(0, 30)) == 0
        type = data.draw(st.sampled_from(sorted(GRAMMAR.words) if strange else accepted))
        words.append({"STRING": f"x{column}", "NUMBER": str(column)}.get(type, type))
        if not sentence.feed(tree.Token(type, words[-1])):
            break
    compare(words)


def test_a_long_list_is_read_in_a_time_that_grows_as_it_does():
    words = ["table", "x1", "{", *["x2", ","] * 20_000, "}"]
    sentence = GRAMMAR.begin()
    assert all(sentence.feed(tree.Token("STRING" if word.startswith("x") else word, word)) for word in words)
    (_, made) = sentence.tree().children
    assert len(made.children) == 20_000
