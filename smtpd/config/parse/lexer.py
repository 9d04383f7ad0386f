"""The words of one file.

    word      letter, digit, `:` or `_`, then anything printable but ( ) { } < > ! = # ,
    "…" '…'   backslash + the same quote, blank or tab gives that character; newlines within vanish
    number    -?digits, when a blank, ) , / } = or the end follows; `4d` and `10.0.0.1` are words
    $name     the text of the macro is read in its place, and may be many words; not within quotes, not within a macro
    # …       up to the end of the line

A word that is reserved is a token of its own, in quotes it is a STRING like any other.  A mistake becomes an error and,
wherever it is clear what was meant, a token all the same, so that the rest of the sentence is still looked at.
"""

import string
from collections.abc import Mapping

from lark import Token

from smtpd.config.errors import Report, SourcePosition, quoted, suggestion
from smtpd.config.parse.source import Source

NEWLINE = "NEWLINE"
BROKEN = "BROKEN"  # an error was reported, and nobody can say what should have stood here

NUMBER_MAX = 2**63 - 1
WORD_LENGTH_MAX = 8095  # characters of a word; more is a quote that was not closed, or no configuration at all

LINE_END_FIXES = {"CR LF": r"sed -i 's/\r$//' FILE", "CR": r"tr '\r' '\n' <FILE"}

# Signs of other languages, and what is written here.
FOREIGN_SIGNS = dict.fromkeys(("//", "/*", "*/"), 'a comment begins with "#"')
FOREIGN_SIGNS |= {"[": 'a list begins with "{"', "]": 'a list ends with "}"', ";": "a sentence ends with its line"}

# What word processors and web pages make of quotes, blanks and hyphens.
TYPOGRAPHIC_SIGNS = dict.fromkeys("\u201c\u201d\u201e\u201f\u00ab\u00bb", 'no quote here, expected "')
TYPOGRAPHIC_SIGNS |= dict.fromkeys("\u2018\u2019\u201a\u201b\u00b4\u2039\u203a", "no quote here, expected '")
TYPOGRAPHIC_SIGNS |= dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "no hyphen here, expected -")
TYPOGRAPHIC_SIGNS |= dict.fromkeys("\u00a0\u202f\u2007", "no blank here")

WORD_START = frozenset(string.ascii_letters + string.digits + ":_")
WORD_REST = frozenset(string.ascii_letters + string.digits + string.punctuation) - frozenset("(){}<>!=#,")
NUMBER_END = frozenset(string.whitespace + "),/}=") | {""}
SEPARATOR = frozenset(string.whitespace + "(){}<>!=#,") | {""}


class Lexer:
    """`kinds` names the tokens of the reserved words and of the signs.  `macros` is looked at whenever a `$name` comes,
    so that a file can define as it goes; None is one whose definition had an error."""

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
                place, ends_line = self._source.place, self._source.peek_quoted() != "\n"
                self._carriage_return(place, "CR" if ends_line else "CR LF")
                if ends_line:
                    return self._make(NEWLINE, char, place)
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
        place = self._source.place
        if char == "":
            return None
        if char == "\n":
            return self._make(NEWLINE, char, place)
        if char in "'\"":
            return self._quoted(char, place)
        if char in "-0123456789":
            return self._number(char, place)
        if char == "=":
            return self._equal(place)
        if char in "{}<>!,()":
            return self._make(self._kinds.get(char, "PARENTHESIS"), char, place)
        return self._word(char, place)

    def _make(self, kind: str, value: str, place: SourcePosition) -> Token:
        line, column = self._source.end
        return Token(kind, value, line=place.line, column=place.column, end_line=line, end_column=column)

    def _broken(self, place: SourcePosition, text: str) -> Token:
        self._report.add(place, text)
        return self._make(BROKEN, "", place)

    def _skip_comment(self) -> str:
        while (char := self._source.take()) not in ("\n", ""):
            pass
        return char

    def _carriage_return(self, place: SourcePosition, end: str) -> None:
        if not self._dos:
            self._dos = True
            self._report.add(place, f"lines end with {end}, expected LF alone: {LINE_END_FIXES[end]} makes it so")

    def _macro(self) -> Token | None:
        place = self._source.place
        if self._source.expanding:
            return self._broken(place, 'the value of a macro holds a "$": macros are not expanded within macros')
        name = self._source.take_macro_name()
        value = self._macros.get(name)
        if value is None and name in self._macros:
            return self._make(BROKEN, "", place)
        if value is None:
            what = f"macro ${name} is not defined" if name else 'a "$" without the name of a macro'
            return self._broken(place, what + suggestion(name, self._macros))
        self._source.expand(value)
        return None

    def _quoted(self, quote: str, place: SourcePosition) -> Token:
        source, chars, mark = self._source, list[str](), self._source.mark()
        while (char := source.take_quoted()) != quote:
            if char == "\\" and source.peek_quoted() in (quote, " ", "\t", "\n"):
                char = source.take_quoted()
            if char == "" or (char == "\n" and not self._strings_may_be_long):
                source.rewind(mark)
                return self._unclosed(place)
            if char != "\n":
                chars.append(char)
            elif self._first_long_string is None:
                self._first_long_string = place
        return self._string("".join(chars), place)

    def _unclosed(self, place: SourcePosition) -> Token:
        """Newlines vanish in a string, so the rest of the file was in it: look at the next lines as if it had ended."""
        text, suspect = "this quote is never closed", self._first_long_string
        if suspect and suspect != place and self._strings_may_be_long:
            text += f"; or is it the one in line {suspect.line}, whose string goes on in the next line?"
        self._strings_may_be_long = False
        while self._source.peek_quoted() not in ("\n", ""):
            self._source.take_quoted()
        return self._broken(place, text)

    def _number(self, char: str, place: SourcePosition) -> Token:
        digits = char
        while (char := self._source.take()) in string.digits and char:
            digits += char
        self._source.give_back(char)
        if digits == "-" or char not in NUMBER_END:
            return self._word(digits, place)
        if len(digits) > 20 or abs(int(digits)) > NUMBER_MAX:
            return self._broken(place, f"the number {digits[:18]}... is too large")
        return self._make("NUMBER", digits, place)

    def _word(self, begun: str, place: SourcePosition) -> Token:
        chars = [begun]
        while (char := self._source.take()) not in SEPARATOR:
            chars.append(char)
        self._source.give_back(char)
        word = "".join(chars)
        if word in self._kinds:
            return self._make(self._kinds[word], word, place)
        if word in FOREIGN_SIGNS:
            return self._broken(place, f"unexpected {quoted(word)}: {FOREIGN_SIGNS[word]}")
        if mark := next((char for char in word if char in TYPOGRAPHIC_SIGNS), None):
            shown = mark if mark.isprintable() else f"U+{ord(mark):04X}"
            return self._broken(place, f"{quoted(word)}: {shown} is {TYPOGRAPHIC_SIGNS[mark]}")
        if word.isprintable() and (word[0] not in WORD_START or not WORD_REST.issuperset(word)):
            rule = 'begin with a letter, a digit, ":" or "_"' if word.isascii() else "are ASCII"
            self._report.add(place, f"{quoted(word)} must be put in quotes: unquoted words {rule}")
        if '"' in word:
            self._report.warn(place, f"{quoted(word)} has a quote in it: is the quote before it closed?")
        return self._string(word, place)

    def _string(self, value: str, place: SourcePosition) -> Token:
        unprintable = next((char for char in value if not char.isprintable() and char != "\t"), None)
        if unprintable and "\udc80" <= unprintable <= "\udcff":
            return self._broken(place, f"the byte {ord(unprintable) - 0xDC00:02X} is not UTF-8")
        if unprintable:
            return self._broken(place, f"the character U+{ord(unprintable):04X} cannot stand in a string")
        if len(value) > WORD_LENGTH_MAX:
            return self._broken(place, f"a string of more than {WORD_LENGTH_MAX} characters")
        return self._make("STRING", value, place)

    def _equal(self, place: SourcePosition) -> Token:
        char = self._source.take()
        if char == ">":
            return self._make(self._kinds["=>"], "=>", place)
        self._source.give_back(char)
        return self._make(self._kinds["="], "=", place)
