"""Words of the language as it was before OpenSMTPD 6.4, and what is written instead.

    accept tagged x from source <nets> for domain <ours> alias <a> deliver to maildir "~/Mail"
        ->  action "NAME" maildir "~/Mail" alias <a>
            match tag "x" from src <nets> for domain <ours> action "NAME"

    expire 2d                    ->  queue ttl 2d
    pki mx certificate "/x.crt"  ->  pki mx cert "/x.crt"

The result is text for an error message and is never read as a configuration.
"""

from collections.abc import Sequence

from lark import Token

from smtpd.config.errors import ConfigValueError, escaped

PROPOSAL_LENGTH_MAX = 400  # characters of a proposal

# The first word of a sentence -> its replacement.
SENTENCES = {
    "bounce-warn": "bounce warn-interval",
    "expire": "queue ttl",
    "max-message-size": "smtp max-message-size",
    "subaddressing-delimiter": "smtp sub-addr-delim",
}
LIMITS = {"mta": "mta limit", "scheduler": "scheduler limit", "session": "smtp limit", "smtp": "smtp limit"}

# The first word of a sentence -> a word in it -> its replacement.
WORDS = {
    "action": {
        "deliver": "the method alone, as in: action NAME maildir",
        "as": "user NAME",
        "expire": "ttl",
    },
    "listen": {
        "certificate": "pki NAME",
        "secure": "two sentences, one with tls and one with smtps",
        "ssl": "smtps",
        "mask-source": "mask-src",
        "tagged": "tag",
    },
    "match": {
        "deliver": "action NAME",
        "recipient": "rcpt-to",
        "sender": "mail-from",
        "source": "src",
        "tagged": "tag",
    },
    "pki": {"certificate": "cert", "dhparams": "dhe auto"},
    "ca": {"certificate": "cert"},
}

CRITERIA = {"tagged": "tag", "sender": "mail-from", "recipient": "rcpt-to"}
TABLE_OPTIONS = ("alias", "virtual", "userbase")
METHODS = {"mbox": False, "maildir": True, "mda": True, "lmtp": True}  # whether an argument may follow


def replace_sentence(tokens: Sequence[Token]) -> str | None:
    """The replacement of a sentence that begins with an obsolete word; None for any other."""
    first, *rest = tokens
    match str(first):
        case "accept" | "reject":
            return _rule(tokens)
        case "limit":
            return LIMITS.get(str(rest[0]) if rest else "", "smtp limit, or mda limit")
        case "map":
            return "table NAME file:/path"
        case word if word in SENTENCES:
            return _short(" ".join([SENTENCES[word], *map(_text, rest)]))
    return None


def replace_word(first: str, token: str) -> str | None:
    """The replacement of an obsolete word in a sentence that begins with `first`; None for any other."""
    return WORDS.get(first, {}).get(token)


def _rule(tokens: Sequence[Token]) -> str:
    try:
        return _short(ObsoleteRule(tokens).translation())
    except ConfigValueError:
        if tokens[0] == "reject":
            return "match [criteria] reject"
        return "action NAME METHOD [options], and: match [criteria] action NAME"


class ObsoleteRule:
    """A rule with accept or reject, translated word by word."""

    def __init__(self, tokens: Sequence[Token]) -> None:
        self._decision = str(tokens[0])
        self._tokens = list(tokens[1:])
        self._criteria: list[str] = []
        self._options: list[str] = []
        self._method = ""

    def translation(self) -> str:
        """The action and the match.  Raises ConfigValueError for what is no valid rule."""
        while self._tokens:
            self._part()
        criteria = "".join(f" {criterion}" for criterion in self._criteria)
        if self._decision == "reject":
            return f"match{criteria} reject"
        if not self._method:
            raise ConfigValueError("no method")
        options = "".join(f" {option}" for option in self._options)
        return f'action "NAME" {self._method}{options}, and: match{criteria} action "NAME"'

    def _part(self) -> None:
        match self._take():
            case "from" | "for" as where:
                self._criteria.append(f"{where} {self._source_or_destination()}")
            case word if word in CRITERIA:
                self._criteria.append(f"{self._negation()}{CRITERIA[word]} {self._table()}")
            case word if word in TABLE_OPTIONS:
                self._options.append(f"{word} {self._table()}")
            case "expire":
                self._options.append(f"ttl {self._take()}")
            case "as":
                self._options.append(f"user {self._take()}")
            case "forward-only":
                self._method = "forward-only"
            case "deliver":
                self._deliver()
            case "relay":
                self._method = "relay [options]"
                self._tokens.clear()
            case word:
                raise ConfigValueError(word)

    def _source_or_destination(self) -> str:
        negation = self._negation()
        match self._take():
            case "any" | "local" as word:
                return negation + word
            case "source":
                return f"{negation}src {self._table()}"
            case "domain":
                return f"{negation}domain {self._table()}"
            case word:
                raise ConfigValueError(word)

    def _deliver(self) -> None:
        if self._tokens and self._tokens[0] == "to":
            self._take()
        method = self._take()
        if method not in METHODS:
            raise ConfigValueError(method)
        argument = METHODS[method] and self._tokens and self._tokens[0] not in ("as", "expire")
        self._method = f"{method} {_text(self._take_token())}" if argument else method

    def _negation(self) -> str:
        if self._tokens and self._tokens[0] == "!":
            self._take()
            return "!"
        return ""

    def _table(self) -> str:
        """`"one"`, `<name>` or `{ a, b }`"""
        match self._take():
            case "<":
                name = self._take()
                if self._take() != ">":
                    raise ConfigValueError("no name of a table")
                return f"<{name}>"
            case "{":
                taken = []
                while (token := self._take_token()) != "}":
                    taken.append(_text(token))
                return " ".join(["{", *taken, "}"]).replace(" ,", ",")
            case text:
                return f'"{text}"'

    def _take(self) -> str:
        return str(self._take_token())

    def _take_token(self) -> Token:
        if not self._tokens:
            raise ConfigValueError("ends too early")
        return self._tokens.pop(0)


def _text(token: Token) -> str:
    """A token as it is written in a file: strings in quotes."""
    return f'"{token}"' if token.type == "STRING" else str(token)


def _short(text: str) -> str:
    text = escaped(text)  # first: an escape is longer than its character
    return text if len(text) <= PROPOSAL_LENGTH_MAX else text[: PROPOSAL_LENGTH_MAX - 3] + "..."
