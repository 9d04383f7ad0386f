"""The words of one file.

    word      letter, digit, `:` or `_`, then anything printable but ( ) { } < > ! = # ,
    "…" '…'   backslash + the same quote, blank or tab gives that character; newlines within vanish
    number    -?digits, when a blank, ) , / } = or the end follows; `4d` and `10.0.0.1` are words
    $name     the text of the macro is read in its place, and may be many words; not within quotes, not within a macro
    # …       up to the end of the line

A reserved word is a token of its own kind; in quotes it is a STRING like any other.  A mistake is reported and still
becomes a token where it is clear what was meant, so that the rest of the sentence is checked.
"""

import string
from collections.abc import Mapping

from lark import Token

from smtpd.config.errors import Report, SourcePosition, quoted, suggestion
from smtpd.config.parse.source import Source

NEWLINE = "NEWLINE"
BROKEN = "BROKEN"  # an error was reported; what was meant here is unknown

NUMBER_MAX = 2**63 - 1
WORD_LENGTH_MAX = 8095  # characters of a word; a longer one is an unclosed quote, or the file is no configuration

LINE_END_FIXES = {"CR LF": r"sed -i 's/\r$//' FILE", "CR": r"tr '\r' '\n' <FILE"}

# Signs of other languages -> what is written here instead.
FOREIGN_SIGNS = dict.fromkeys(("//", "/*", "*/"), 'a comment begins with "#"')
FOREIGN_SIGNS |= {"[": 'a list begins with "{"', "]": 'a list ends with "}"', ";": "a sentence ends with its line"}

# Quotes, blanks and hyphens as word processors and web pages change them.
TYPOGRAPHIC_SIGNS = dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb", 'not a quotation mark here, use "')
TYPOGRAPHIC_SIGNS |= dict.fromkeys("\u2018\u2019\u201a\u201b\u00b4\u2039\u203a", "not a quotation mark here, use '")
TYPOGRAPHIC_SIGNS |= dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "not a hyphen here, use -")
TYPOGRAPHIC_SIGNS |= dict.fromkeys("\u00a0\u202f\u2007", "not a blank here")

WORD_START = frozenset(string.ascii_letters + string.digits + ":_")
WORD_REST = frozenset(string.ascii_letters + string.digits + string.punctuation) - frozenset("(){}<>!=#,")
NUMBER_END = frozenset(string.whitespace + "),/}=") | {""}
SEPARATOR = frozenset(string.whitespace + "(){}<>!=#,") | {""}


class Lexer:
    """`kinds`: the token kind of each reserved word and sign.  `macros` is read at each `$name`, so that a file can
    define macros as it goes; the value None means that the definition had an error."""

    def __init__(
        self, file: str, text: str, kinds: Mapping[str, str], macros: Mapping[str, str | None], report: Report
    ) -> None:
        self._source = Source(file, text)
        self._kinds = kinds
        self._macros = macros
        self._report = report
        self._first_long_string: SourcePosition | None = None
        self._strings_may_be_long = True
        self._dos = False

    def token(self) -> Token | None:
        """The next one, NEWLINE included; None at the end of the file."""
        while True:
            char = self._source.take()
            if char in (" ", "\t"):
                continue
            if char == "\r" and not self._source.expanding:
                position, ends_line = self._source.position, self._source.peek_quoted() != "\n"
                self._carriage_return(position, "CR" if ends_line else "CR LF")
                if ends_line:
                    return self._make(NEWLINE, char, position)
                continue
            if char == "#":
                char = self._skip_comment()
            if char == "$":
                token = self._macro()
                if token is None:
                    continue
                return token
            return self._token(char)

    def _token(self, char: str) -> Token | None:
        position = self._source.position
        if char == "":
            return None
        if char == "\n":
            return self._make(NEWLINE, char, position)
        if char in "'\"":
            return self._quoted(char, position)
        if char in "-0123456789":
            return self._number(char, position)
        if char == "=":
            return self._equal(position)
        if char in "{}<>!,()":
            return self._make(self._kinds.get(char, "PARENTHESIS"), char, position)
        return self._word(char, position)

    def _make(self, kind: str, value: str, position: SourcePosition) -> Token:
        line, column = self._source.end
        return Token(kind, value, line=position.line, column=position.column, end_line=line, end_column=column)

    def _broken(self, position: SourcePosition, text: str) -> Token:
        self._report.add(position, text)
        return self._make(BROKEN, "", position)

    def _skip_comment(self) -> str:
        while (char := self._source.take()) not in ("\n", ""):
            pass
        return char

    def _carriage_return(self, position: SourcePosition, end: str) -> None:
        if not self._dos:
            self._dos = True
            self._report.add(position, f"lines end with {end}, expected LF; to convert: {LINE_END_FIXES[end]}")

    def _macro(self) -> Token | None:
        position = self._source.position
        if self._source.expanding:
            return self._broken(position, '"$" in the value of a macro: macros are not expanded within macros')
        name = self._source.take_macro_name()
        value = self._macros.get(name)
        if value is None and name in self._macros:
            return self._make(BROKEN, "", position)
        if value is None:
            what = f"undefined macro ${name}" if name else '"$" without the name of a macro'
            return self._broken(position, what + suggestion(name, self._macros))
        self._source.expand(value)
        return None

    def _quoted(self, quote: str, position: SourcePosition) -> Token:
        source, chars, mark = self._source, list[str](), self._source.mark()
        while (char := source.take_quoted()) != quote:
            if char == "\\" and source.peek_quoted() in (quote, " ", "\t", "\n"):
                char = source.take_quoted()
            if char == "" or (char == "\n" and not self._strings_may_be_long):
                source.rewind(mark)
                return self._unclosed(position)
            if char != "\n":
                chars.append(char)
            elif self._first_long_string is None:
                self._first_long_string = position
        return self._string("".join(chars), position)

    def _unclosed(self, position: SourcePosition) -> Token:
        """A string drops newlines, so it went on to the end of the file: read the next lines as if it had ended."""
        text, suspect = "unclosed quote", self._first_long_string
        if suspect and suspect != position and self._strings_may_be_long:
            text += f", or is it the one in line {suspect.line}, whose string continues in the next line?"
        self._strings_may_be_long = False
        while self._source.peek_quoted() not in ("\n", ""):
            self._source.take_quoted()
        return self._broken(position, text)

    def _number(self, char: str, position: SourcePosition) -> Token:
        digits = char
        while (char := self._source.take()) in string.digits and char:
            digits += char
        self._source.give_back(char)
        if digits == "-" or char not in NUMBER_END:
            return self._word(digits, position)
        if len(digits) > 20 or abs(int(digits)) > NUMBER_MAX:
            return self._broken(position, f"number {digits[:18]}... is too large")
        return self._make("NUMBER", digits, position)

    def _word(self, begun: str, position: SourcePosition) -> Token:
        chars = [begun]
        while (char := self._source.take()) not in SEPARATOR:
            chars.append(char)
        self._source.give_back(char)
        word = "".join(chars)
        if word in self._kinds:
            return self._make(self._kinds[word], word, position)
        if word in FOREIGN_SIGNS:
            return self._broken(position, f"unexpected {quoted(word)}: {FOREIGN_SIGNS[word]}")
        if mark := next((char for char in word if char in TYPOGRAPHIC_SIGNS), None):
            shown = mark if mark.isprintable() else f"U+{ord(mark):04X}"
            return self._broken(position, f"{quoted(word)}: {shown} is {TYPOGRAPHIC_SIGNS[mark]}")
        if word.isprintable() and (word[0] not in WORD_START or not WORD_REST.issuperset(word)):
            rule = 'begin with a letter, a digit, ":" or "_"' if word.isascii() else "are ASCII"
            self._report.add(position, f"{quoted(word)} must be quoted: unquoted words {rule}")
        if '"' in word:
            self._report.warn(position, f"quote within the word {quoted(word)}: is the quote before it closed?")
        return self._string(word, position)

    def _string(self, value: str, position: SourcePosition) -> Token:
        unprintable = next((char for char in value if not char.isprintable() and char != "\t"), None)
        if unprintable and "\udc80" <= unprintable <= "\udcff":
            return self._broken(position, f"invalid UTF-8: byte {ord(unprintable) - 0xDC00:02X}")
        if unprintable:
            return self._broken(position, f"character U+{ord(unprintable):04X} is not allowed in a string")
        if len(value) > WORD_LENGTH_MAX:
            return self._broken(position, f"string of more than {WORD_LENGTH_MAX} characters")
        return self._make("STRING", value, position)

    def _equal(self, position: SourcePosition) -> Token:
        char = self._source.take()
        if char == ">":
            return self._make(self._kinds["=>"], "=>", position)
        self._source.give_back(char)
        return self._make(self._kinds["="], "=", position)
