"""POSIX extended regular expressions as trees.

    a(b|c)*$     Sequence(One, Repeat(Choice(One, One)), Between(END))

Understood: . [ ] [:class:] ( ) | * + ? {m,n} ^ $, the escapes \\w \\W \\s \\S \\d \\D \\b \\B \\< \\>, and (?i) at
the beginning.  Not understood: back references, collating elements, whatever else begins with (?.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

NESTING_MAX = 50
REPEAT_MAX = 255  # RE_DUP_MAX of POSIX

Test = Callable[[str], bool]


class Malformed(ValueError):
    """Not a regular expression."""


def is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


class Assertion(Enum):
    """A place between two characters; either is empty at an end of the text."""

    START = "^"
    END = "$"
    EDGE = r"\b"
    NO_EDGE = r"\B"
    WORD_START = r"\<"
    WORD_END = r"\>"

    def holds(self, before: str, behind: str) -> bool:
        match self:
            case Assertion.START:
                return not before
            case Assertion.END:
                return not behind
            case Assertion.EDGE:
                return is_word(before) != is_word(behind)
            case Assertion.NO_EDGE:
                return is_word(before) == is_word(behind)
            case Assertion.WORD_START:
                return not is_word(before) and is_word(behind)
            case Assertion.WORD_END:
                return is_word(before) and not is_word(behind)


@dataclass(frozen=True)
class One:
    """A character that passes the test."""

    test: Test


@dataclass(frozen=True)
class Between:
    assertion: Assertion


@dataclass(frozen=True)
class Sequence:
    parts: tuple[Tree, ...]


@dataclass(frozen=True)
class Choice:
    ways: tuple[Tree, ...]


@dataclass(frozen=True)
class Repeat:
    part: Tree
    least: int
    most: int | None


Tree = One | Between | Sequence | Choice | Repeat

_CLASSES: dict[str, Test] = {
    "alnum": str.isalnum,
    "alpha": str.isalpha,
    "blank": lambda char: char in " \t",
    "cntrl": lambda char: ord(char) < 32 or ord(char) == 127,
    "digit": lambda char: "0" <= char <= "9",
    "graph": lambda char: char.isprintable() and not char.isspace(),
    "lower": str.islower,
    "print": str.isprintable,
    "punct": lambda char: char.isprintable() and not char.isalnum() and not char.isspace(),
    "space": str.isspace,
    "upper": str.isupper,
    "xdigit": lambda char: char in "0123456789abcdefABCDEF",
}


def _not(test: Test) -> Test:
    return lambda char: not test(char)


_ESCAPES: dict[str, Tree] = {
    "w": One(is_word),
    "W": One(_not(is_word)),
    "s": One(_CLASSES["space"]),
    "S": One(_not(_CLASSES["space"])),
    "d": One(_CLASSES["digit"]),
    "D": One(_not(_CLASSES["digit"])),
    "b": Between(Assertion.EDGE),
    "B": Between(Assertion.NO_EDGE),
    "<": Between(Assertion.WORD_START),
    ">": Between(Assertion.WORD_END),
}

_REPEATS: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def _is_number(text: str) -> bool:
    return text.isdecimal() and text.isascii() and len(text) <= len(str(REPEAT_MAX))


class Parser:
    def __init__(self, text: str):
        self.ignore_case = text.startswith("(?i)")
        self.text = text[4:] if self.ignore_case else text
        self.at = 0
        self.depth = 0

    def parse(self) -> Tree:
        tree = self._choice()
        if self.at < len(self.text):
            raise Malformed("a ) without its (")
        return tree

    def _take(self, expected: str) -> bool:
        if self.text.startswith(expected, self.at):
            self.at += len(expected)
            return True
        return False

    def _next(self, wanted: str) -> str:
        if self.at >= len(self.text):
            raise Malformed(f"ends where {wanted} is expected")
        self.at += 1
        return self.text[self.at - 1]

    def _choice(self) -> Tree:
        ways = [self._sequence()]
        while self._take("|"):
            ways.append(self._sequence())
        return ways[0] if len(ways) == 1 else Choice(tuple(ways))

    def _sequence(self) -> Tree:
        parts = []
        while self.at < len(self.text) and self.text[self.at] not in "|)":
            parts.append(self._repeated(self._atom()))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def _repeated(self, part: Tree) -> Tree:
        times = 0
        while (bounds := self._bounds()) is not None:
            part = Repeat(part, *bounds)
            if (times := times + 1) > NESTING_MAX:
                raise Malformed("too many repetitions of repetitions")
        return part

    def _bounds(self) -> tuple[int, int | None] | None:
        for sign, bounds in _REPEATS.items():
            if self._take(sign):
                return bounds
        if self.text[self.at : self.at + 1] != "{" or not self.text[self.at + 1 : self.at + 2].isdecimal():
            return None
        inside, closed, _ = self.text[self.at + 1 :].partition("}")
        least, comma, most = inside.partition(",")
        if not closed or not all(_is_number(part) for part in (least, most or "0")):
            raise Malformed("a { without a number and its }")
        self.at += len(inside) + 2
        low = int(least)
        high = None if comma and not most else int(most or least)
        if low > REPEAT_MAX or (high is not None and not low <= high <= REPEAT_MAX):
            raise Malformed(f"{{{inside}}} does not ascend or is over {REPEAT_MAX}")
        return low, high

    def _atom(self) -> Tree:
        char = self._next("a character")
        if char == "(":
            return self._group()
        if char == "[":
            return One(self._bracket())
        if char == "\\":
            return self._escape(self._next("a character behind \\"))
        if char == ".":
            return One(lambda _: True)
        if char == "^":
            return Between(Assertion.START)
        if char == "$":
            return Between(Assertion.END)
        if char in _REPEATS:
            raise Malformed(f"nothing in front of {char}")
        return self._one(char)

    def _one(self, char: str) -> One:
        return One(self._cased(lambda other: other == char))

    def _cased(self, test: Test) -> Test:
        if not self.ignore_case:
            return test
        return lambda char: test(char) or test(char.lower()) or test(char.upper())

    def _escape(self, char: str) -> Tree:
        if char in _ESCAPES:
            return _ESCAPES[char]
        if char.isalnum():
            raise Malformed(f"\\{char} means nothing here")
        return self._one(char)

    def _group(self) -> Tree:
        if self._take("?") and not self._take(":"):
            raise Malformed("(? means nothing here")
        self.depth += 1
        if self.depth > NESTING_MAX:
            raise Malformed("too many ( in each other")
        tree = self._choice()
        if not self._take(")"):
            raise Malformed("a ( without its )")
        self.depth -= 1
        return tree

    def _bracket(self) -> Test:
        """Behind `[`.  A backslash is no escape in here (POSIX 9.3.5)."""
        negated = self._take("^")
        tests: list[Test] = []
        first = True
        while first or not self._take("]"):
            first = False
            tests.append(self._bracket_item())
        test = self._cased(lambda char: any(test(char) for test in tests))
        return _not(test) if negated else test

    def _bracket_item(self) -> Test:
        if self._take("[:"):
            name, closed, _ = self.text[self.at :].partition(":]")
            if not closed or name not in _CLASSES:
                raise Malformed(f"[:{name[:20]}:] is no class of characters")
            self.at += len(name) + 2
            return _CLASSES[name]
        if self._take("[.") or self._take("[="):
            raise Malformed("[. .] and [= =] are not available")
        low = self._next("]")
        if self.text[self.at : self.at + 1] != "-" or self.text[self.at + 1 : self.at + 2] in ("]", ""):
            return lambda char: char == low
        self.at += 1
        high = self._next("]")
        if high < low:
            raise Malformed(f"{low}-{high} does not ascend")
        return lambda char: low <= char <= high
