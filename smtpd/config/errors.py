"""What is wrong with a configuration, and where.

    smtpd.conf:7:11: syntax error at "domian", expected any, domain, local or rcpt-to (did you mean domain?)
    file       | column (in characters, from 1; a tab is one)
               line

`ConfigErrors` carries all of them, in the order in which they stand in the files.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

SUGGESTION_WORDS_MAX = 300  # known words that an unknown one is compared with


@dataclass(frozen=True)
class SourcePosition:
    file: str
    line: int = 0  # 0: the file as a whole
    column: int = 0

    def seen_from(self, other: "SourcePosition") -> str:
        """Its line, as named in a message about `other`."""
        return f"line {self.line}" + ("" if self.file == other.file else f" of {quoted(self.file)}")


@dataclass(frozen=True)
class ConfigError:
    """One line for the administrator.  It may quote the file, but never a control character of it."""

    file: str
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        where = f"{self.line}:{self.column}: " if self.line else " "
        return f"{escaped(self.file)}:{where}{self.text}"


class ConfigErrors(Exception):
    """The configuration cannot be used.  `errors` is never empty."""

    def __init__(self, errors: list[ConfigError], warnings: Sequence[ConfigError] = ()) -> None:
        super().__init__("\n".join(map(str, errors)))
        self.errors = errors
        self.warnings = warnings


class ConfigValueError(ValueError):
    """An invalid value; the text is reported at the position of the value."""


class Report:
    """Collects errors and warnings.  Of several errors at one position it keeps the first, which causes the others."""

    def __init__(self) -> None:
        self._errors: dict[SourcePosition, ConfigError] = {}
        self._warnings: dict[ConfigError, None] = {}
        self.count = 0  # number of errors, also of those that are not kept

    def add(self, position: SourcePosition, text: str) -> None:
        self.count += 1
        self._errors.setdefault(position, ConfigError(position.file, position.line, position.column, text))

    def warn(self, position: SourcePosition, text: str) -> None:
        """Report what does not keep the configuration from being used."""
        self._warnings[ConfigError(position.file, position.line, position.column, text)] = None

    def errors(self, files: Sequence[str] = ()) -> list[ConfigError]:
        """By file, in the order of `files`, by line, by column."""
        return sorted_errors(self._errors.values(), files)

    def warnings(self, files: Sequence[str] = ()) -> list[ConfigError]:
        return sorted_errors(self._warnings, files)


def sorted_errors(errors: Iterable[ConfigError], files: Sequence[str]) -> list[ConfigError]:
    order = {file: number for number, file in enumerate(files)}
    return sorted(errors, key=lambda error: (order.get(error.file, len(order)), error.file, error.line, error.column))


def escaped(text: str) -> str:
    """`text` with \\u escapes for all that a terminal or a log would interpret: more than log.visible, as `smtpd -n`
    writes to terminals, and by code point, as the text of a configuration has no bytes."""
    return "".join(char if char.isprintable() else f"\\u{ord(char):04x}" for char in text)


def quoted(text: str) -> str:
    """`text` in double quotes, escaped and shortened to 60 characters, for an error message."""
    return f'"{escaped(text if len(text) <= 60 else text[:57] + "...")}"'


def alternatives(words: Iterable[str]) -> str:
    """any, domain or local"""
    *rest, last = words
    return f"{', '.join(rest)} or {last}" if rest else last


def suggestion(word: str, known: Iterable[str]) -> str:
    """ " (did you mean …?)", or nothing when no known word is near."""
    known = list(islice(known, SUGGESTION_WORDS_MAX))
    near = difflib.get_close_matches(word[:80], known, n=1, cutoff=0.6)
    near = near or difflib.get_close_matches(word[:80].lower(), known, n=1, cutoff=0.6)
    return f" (did you mean {escaped(near[0])}?)" if near else ""
