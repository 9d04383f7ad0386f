"""Syntax: the words of one sentence -> its tree, or a syntax error that says what was expected.

The grammar is in grammar.lark.  Each sentence is parsed by itself, so that a mistake costs one sentence and the errors
of all sentences are reported at once.
"""

from collections.abc import Sequence
from importlib.resources import files

from lark import Lark, Token, Tree, UnexpectedToken

from smtpd.config.errors import ConfigValueError, alternatives, quoted, suggestion
from smtpd.config.parse import obsolete

PARSER = Lark(
    files("smtpd.config.parse").joinpath("grammar.lark").read_text(encoding="ascii"),
    parser="lalr",
    lexer="basic",
    propagate_positions=True,
    maybe_placeholders=False,
)
TERMINALS = {str(terminal.pattern.value): terminal.name for terminal in PARSER.terminals if terminal.pattern}
WORD_OF_TERMINAL = {name: word for word, name in TERMINALS.items()}

# Words that OpenSMTPD does not have: reserved only where a sentence begins, or where its sentence can have nothing but
# an option, so that its files that use them as names stay valid.
SENTENCE_ONLY_WORDS = {"alias-commands", "dispatchers", "sandbox"}
OPTION_ONLY_WORDS = {"listen": {"proxy", "proxy-v1", "scram", "xclient"}, "action": {"failover"}}
# Reserved by OpenSMTPD, although no sentence here has them.
UNUSED_RESERVED = {"data-line", "noop", "quit", "recipient", "rset", "smtp-in", "smtp-out", "tagged"}

# What the grammar has and build/builder.py refuses by this name: whole sentences, and words by their sentence.
UNAVAILABLE_SENTENCES = {"admd", "bounce", "filter", "proc", "scheduler"}
UNAVAILABLE = {
    "action": {"filter": "action … filter"},
    "listen": {"filter": "listen on … filter"},
}

TOKEN_KINDS = {
    word: name for word, name in TERMINALS.items() if word not in SENTENCE_ONLY_WORDS.union(*OPTION_ONLY_WORDS.values())
}
TOKEN_KINDS |= dict.fromkeys(UNUSED_RESERVED, "UNUSED")
RESERVED = {word for word in TOKEN_KINDS if word[0].isalpha()}


class SentenceError(ConfigValueError):
    """A syntax error: the sentence cannot continue with `token`; an empty one is the end of the line."""

    def __init__(self, token: Token, text: str) -> None:
        super().__init__(text)
        self.token = token


def parse_sentence(tokens: Sequence[Token]) -> Tree:
    """The tree of one sentence.  `tokens` is not empty.  Raises SentenceError."""
    first, last = tokens[0], tokens[-1]
    followed_by_equal = len(tokens) > 1 and tokens[1].type == TERMINALS["="]
    if first.type == "STRING" and not followed_by_equal:
        if first not in SENTENCE_ONLY_WORDS:
            raise SentenceError(first, _unknown_sentence(tokens))
        first = _as_word(first)
    end = Token("$END", "", line=last.end_line, column=last.end_column)
    state = PARSER.parse_interactive()
    tree = None
    for number, token in enumerate([first, *tokens[1:], end]):
        if token in OPTION_ONLY_WORDS.get(first, ()) and "STRING" not in state.accepts():
            token = _as_word(token)
        try:
            tree = state.feed_token(token)
        except UnexpectedToken:
            if first in RESERVED and followed_by_equal:
                raise SentenceError(first, f"{quoted(first)} is a reserved word and cannot name a macro") from None
            if token is first:
                raise SentenceError(first, _unknown_sentence(tokens)) from None
            _refuse_unavailable(tokens[:number])
            raise SentenceError(token, _explain(first, token, state.accepts()) + _long_string(tokens, token)) from None
    assert isinstance(tree, Tree)  # feeding the end returns the tree
    return tree


def _refuse_unavailable(tokens: Sequence[Token]) -> None:
    """Report a word that is not available rather than an error after it.  Raises SentenceError."""
    first = tokens[0]
    if first in UNAVAILABLE_SENTENCES:
        raise SentenceError(first, f"{quoted(first)} is not available yet")
    for token in tokens[1:]:
        if token.type == TOKEN_KINDS.get(token) and (name := UNAVAILABLE.get(first, {}).get(token)):
            raise SentenceError(token, f"{quoted(name)} is not available yet")


def _as_word(string: Token) -> Token:
    return Token.new_borrow_pos(TERMINALS[string], string, string)


def _unknown_sentence(tokens: Sequence[Token]) -> str:
    first = tokens[0]
    if instead := obsolete.replace_sentence(tokens):
        return _former(first, instead)
    known = sorted(
        {WORD_OF_TERMINAL[name] for name in PARSER.parse_interactive().accepts() if name in WORD_OF_TERMINAL}
        - UNAVAILABLE_SENTENCES
    )
    expected = alternatives([*known, "the name of a macro"])
    return f"{_found(first)}, expected {expected}{suggestion(first, known)}"


def _explain(first: Token, token: Token, accepted: set[str]) -> str:
    if instead := obsolete.replace_word(first, token):
        return _former(token, instead)
    available = {WORD_OF_TERMINAL[name] for name in accepted if name in WORD_OF_TERMINAL} - UNAVAILABLE.get(
        first, {}
    ).keys()
    words = sorted(available)
    kinds = {"STRING": "a string", "NUMBER": "a number", "$END": "the end of the line"}
    named = [word if word[0].isalpha() else f'"{word}"' for word in words]
    expected = alternatives(named + [kind for name, kind in kinds.items() if name in accepted])
    hint = suggestion(token, words)
    if "STRING" in accepted and (token in RESERVED or token.type == "NUMBER"):
        hint = " (put it in quotes if it is a string)"
    return f"{_found(token)}, expected {expected}{hint}"


def _former(token: Token, instead: str) -> str:
    later = "; but that is not available yet" if instead.partition(" ")[0] in UNAVAILABLE_SENTENCES else ""
    return f"{quoted(token)} is syntax of OpenSMTPD before 6.4, write: {instead}{later}"


def _long_string(tokens: Sequence[Token], unexpected: Token) -> str:
    """An unclosed quote ends where the next string begins, and the syntax error is reported there."""
    for token in tokens:
        if token is unexpected:
            break
        if token.type == "STRING" and token.line != token.end_line:
            return f"; a string goes from line {token.line} to line {token.end_line}: is its quote closed?"
    return ""


def _found(token: Token) -> str:
    match token.type:
        case "$END":
            return "syntax error at the end of the line"
        case "NUMBER":
            return f"syntax error at number {token}"
        case "STRING":
            return f"syntax error at {quoted(token)}"
        case _:
            return f"syntax error at {quoted(token)}"
