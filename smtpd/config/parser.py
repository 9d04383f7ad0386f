"""smtpd.conf, from text to the model.

    file --lexer--> words --sentences--> one sentence --syntax--> tree --builder--> model
                       ^                                           |
                       +------- macros, included files <-----------+

One sentence at a time, because a macro changes how the next one reads.  All errors of all files are raised together.
Files are read by the caller's `read`; nothing else here touches the machine.
"""

import posixpath
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from lark import Token

from smtpd.config.build.builder import Builder
from smtpd.config.build.diagnostics import parts
from smtpd.config.build.names import Names
from smtpd.config.errors import ConfigErrors, Report, SourcePosition, quoted
from smtpd.config.model import Config, Listen
from smtpd.config.parse.lexer import BROKEN, NEWLINE, Lexer
from smtpd.config.parse.syntax import RESERVED, TOKEN_KINDS, SentenceError, parse_sentence
from smtpd.domain_name import ascii_form
from smtpd.ipc.os_error import error_text
from smtpd.tables.text_file import read_file

UTF16_MARKS = ("\udcff\udcfe", "\udcfe\udcff")  # its byte order marks, as UTF-8 decoding leaves them
RESUME_TOKENS_MAX = 1000  # tokens; in a longer sentence with an error no further sentence is looked for
FILES_MAX = 100  # a bound on files that each include two others

# Any of these, unquoted at the start of a line, begins a sentence, even where a brace is open.
SENTENCE_WORDS = {"action", "ca", "filter", "include", "listen", "match", "mda", "mta", "pki", "queue", "smtp", "srs"}
SENTENCE_WORDS |= {"table"}
assert SENTENCE_WORDS <= RESERVED
DECLARING_KINDS = {TOKEN_KINDS[word] for word in ("table", "action", "wrapper", "pki", "ca")}


@dataclass(frozen=True)
class Parsed:
    """`files`: all that were read, the first one included.

    Where `report` has errors, `config` holds the sentences without any: enough to look for more errors, and no more.
    """

    config: Config
    files: tuple[str, ...]
    listener_positions: tuple[SourcePosition, ...]
    match_positions: tuple[SourcePosition, ...]
    names: Names
    report: Report
    invalid_listeners: tuple[
        tuple[Listen, SourcePosition], ...
    ] = ()  # listeners with errors, whose addresses can still be checked

    def raise_errors(self) -> None:
        """Raises ConfigErrors if the report has errors."""
        if errors := self.report.errors(self.files):
            raise ConfigErrors(errors, self.report.warnings(self.files))


def parse(
    path: str,
    *,
    text: str | None = None,
    macros: Mapping[str, str] | None = None,
    read: Callable[[str], str] = read_file,
) -> Parsed:
    """The model of the file `path`.  Raises ConfigErrors with all errors.

    `text` is the content of `path` if the caller has read it.  `macros` are those of the command line, which no file
    can redefine.  `read` gets a path and returns the text; it may raise OSError or ValueError.  As root, pass one that
    checks who may have written the file (trust.read_text).
    """
    parsed = parse_with_report(path, text=text, macros=macros, read=read)
    parsed.raise_errors()
    return parsed


def parse_with_report(
    path: str,
    *,
    text: str | None = None,
    macros: Mapping[str, str] | None = None,
    read: Callable[[str], str] = read_file,
) -> Parsed:
    """As `parse`, but errors stay in the report and are not raised."""
    reading = ConfigReader(macros or {}, read)
    reading.read(path, text)
    builder = reading.builder
    config = reading.finish(path)
    return Parsed(
        config,
        tuple(reading.files),
        tuple(position for _, position in builder.listeners),
        tuple(position for _, position in builder.matches),
        reading.names,
        reading.report,
        tuple(builder.invalid_listeners),
    )


class ConfigReader:
    """The state of reading one configuration with all that it includes."""

    def __init__(self, macros: Mapping[str, str], read: Callable[[str], str]) -> None:
        self.report = Report()
        self.names = Names(self.report)
        self.builder = Builder(self.report, self.names)
        self.files: list[str] = []  # in the order of reading
        self._open: list[str] = []
        self._macros: dict[str, str | None] = dict(macros)  # None: its definition has an error
        self._fixed_macros = frozenset(macros)
        self._read = read
        self._has_rules = False

    def read(self, file: str, text: str | None, position: SourcePosition | None = None) -> None:
        """`position`: of the `include` that names the file."""
        if text is None:
            try:
                text = self._read(file)
            except (OSError, ValueError) as error:
                self.report.add(position or SourcePosition(file), f"cannot read {quoted(file)}: {error_text(error)}")
                self._has_rules = True  # it may have had some
                return
        self.files.append(file)
        if text.startswith(UTF16_MARKS):
            self.report.add(SourcePosition(file, 1, 1), "the file is UTF-16, expected UTF-8")
            self._has_rules = True
            return
        self._open.append(file)
        for tokens in sentences(Lexer(file, text, TOKEN_KINDS, self._macros, self.report), file, self.report):
            rest = tokens
            while rest:
                rest = self._sentence(file, rest)
        self._open.pop()

    def finish(self, path: str) -> Config:
        if not self._has_rules:
            self.report.add(SourcePosition(path), "no rules, nothing to do: expected a match")
        return self.builder.finish()

    def _sentence(self, file: str, tokens: list[Token]) -> list[Token]:
        """Build a sentence.  Returns those of the tokens that may be another sentence."""
        self._declare(file, tokens)
        if any(token.type == BROKEN for token in tokens):
            self._has_rules = self._has_rules or tokens[0].type == BROKEN  # it may have been one
            return []
        try:
            tree = parse_sentence(tokens)
        except SentenceError as unexpected:
            return self._refuse(file, tokens, unexpected)
        match tree.data:
            case "macro":
                self._define(*parts(tree))
            case "include":
                self._include(file, *parts(tree))
            case _:
                self.builder.add(file, tree)
        return []

    def _refuse(self, file: str, tokens: list[Token], unexpected: SentenceError) -> list[Token]:
        self.report.add(position_of(file, unexpected.token), str(unexpected))
        first, second = tokens[0], tokens[min(1, len(tokens) - 1)]
        long = any(
            token.line != token.end_line for token in tokens
        )  # an unclosed quote, which may have swallowed a "match"
        self._has_rules = self._has_rules or long or unexpected.token is first  # or "match" is misspelt
        if second.type == TOKEN_KINDS["="]:
            self._macros.setdefault(str(first), None)
        if len(tokens) > RESUME_TOKENS_MAX:
            return []
        found = next((number for number, token in enumerate(tokens) if token is unexpected.token), 0)
        resumes = found and begins_sentence(unexpected.token) and tokens[found - 1].line != unexpected.token.line
        return tokens[found:] if resumes else []  # the line before ends in a backslash

    def _declare(self, file: str, tokens: list[Token]) -> None:
        """Declare a sentence's name even if the rest of it has errors, so that one mistake gives one error."""
        kind, *rest = tokens
        if kind.type == TOKEN_KINDS["match"]:
            self._has_rules = True
        if kind.type == TOKEN_KINDS["mda"] and rest:
            kind, *rest = rest
        if kind.type in DECLARING_KINDS and rest and (rest[0].type == "STRING" or rest[0] in RESERVED):
            name = ascii_form(rest[0]) if kind in ("pki", "ca") else str(rest[0])
            self.names.declare(str(kind), name, position_of(file, rest[0]))

    def _define(self, name: Token, value: Token) -> None:
        if name not in self._fixed_macros:
            self._macros[str(name)] = str(value)

    def _include(self, file: str, path: Token) -> None:
        """A relative path is relative to the directory of the including file."""
        included, position = posixpath.join(posixpath.dirname(file), path), position_of(file, path)
        if included in self._open:
            self.report.add(position, f"{quoted(included)} includes itself")
        elif len(self.files) >= FILES_MAX:
            self.report.add(position, f"more than {FILES_MAX} files")
        else:
            self.read(included, None, position)


def position_of(file: str, token: Token) -> SourcePosition:
    return SourcePosition(file, token.line or 0, token.column or 0)


def begins_sentence(token: Token) -> bool:
    return token in SENTENCE_WORDS and token.type != "STRING"


def sentences(lexer: Lexer, file: str, report: Report) -> Iterator[list[Token]]:
    """The tokens of each sentence: up to the end of a line where no brace is open.

    An unclosed brace would take the rest of the file with it.  Where a line begins with a reserved word that begins
    sentences, the sentence before it ends: in a list such a word would be in quotes.
    """
    tokens: list[Token] = []
    braces: list[Token] = []
    line_begins = True
    while (token := lexer.token()) is not None:
        if token.type == NEWLINE and braces:
            line_begins = True
            continue
        if braces and line_begins and begins_sentence(token):
            report.add(position_of(file, braces[-1]), 'unclosed "{"')
            yield [*tokens, Token(BROKEN, "")]
            tokens, braces = [], []
        if token.type == NEWLINE:
            if tokens:
                yield tokens
            tokens = []
            continue
        line_begins = False
        tokens.append(token)
        if token.type == TOKEN_KINDS["{"]:
            braces.append(token)
        elif token.type == TOKEN_KINDS["}"] and braces:
            braces.pop()
    if braces:
        report.add(position_of(file, braces[-1]), 'unclosed "{"')
        tokens.append(Token(BROKEN, ""))
    if tokens:
        yield tokens
