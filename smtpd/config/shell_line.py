"""Where in a line of the shell a value may stand, and as what: a reference to a positional parameter, never as text.

    write                     becomes                        whatever the value is, it is
    deliver -f %{sender}      deliver -f "${1}"              one word
    deliver "-f %{sender}"    deliver "-f ${1}"              part of one word
    deliver '-f %{sender}'    deliver '-f '"${1}"''          part of one word

Follows quotes, backslashes and comments of POSIX sh (XCU 2.2, 2.3), and drops a comment.  From the first substitution,
here-document, arithmetic or function on it does not know where it is: no value may stand behind that.
"""

import re

# Of `stop`, a comment counts only where a word could begin; the rest is what this module cannot follow.
_SPECIAL = re.compile(r"""(?P<quote>["'])|(?P<protected>\\.)|(?P<comment>\#)|(?P<stop>`|\$[('{[]|<<|\(\(|\([ \t]*\))""")
_PLAIN_PARAMETER = re.compile(r"\$\{\w+\}", re.ASCII)
_BEFORE_A_WORD = " \t;&|()<>"
_IN_DOUBLE_QUOTES = ("`", "$(", "${", "$[")  # go on in there


class TemplateError(ValueError):
    """No value may stand here, or the line does not end properly."""


class ShellLine:
    """A line that is written piece by piece."""

    def __init__(self) -> None:
        self.text = ""
        self._quote = ""
        self._lost = ""  # what could not be followed
        self._protected = -1  # where the last character behind a backslash ends
        self.ended = False  # by a comment

    def add(self, text: str) -> None:
        """What the author of the line wrote, up to the next value."""
        at = 0
        while at < len(text) and not self.ended:
            found = None if self._lost else _SPECIAL.search(text, at)
            self.text += text[at : found.start() if found else len(text)]
            at = len(text)
            if found:
                at = self._special(found)

    def _special(self, found: re.Match[str]) -> int:
        """Where to go on behind it."""
        taken = found[0]
        if found.lastgroup == "comment" and not self._quote and self._begins_a_word():
            self.ended = True
            return found.end()
        if found.lastgroup == "quote":
            self._quote = {"": taken, taken: ""}.get(self._quote, self._quote)
        elif self._quote == "'":
            taken = taken[0]  # the next character may be the quote that ends it
        elif found.lastgroup == "stop":
            plain = _PLAIN_PARAMETER.match(found.string, found.start())
            if plain:
                taken = plain[0]
            elif not self._quote or taken in _IN_DOUBLE_QUOTES:
                self._lost = taken
            else:
                taken = taken[0]
        self.text += taken
        if found.lastgroup == "protected" and not self._quote:
            self._protected = len(self.text)
        return found.start() + len(taken)

    def _begins_a_word(self) -> bool:
        """What comes now; a blank behind a backslash is part of the word before."""
        return not self.text or self.text[-1] in _BEFORE_A_WORD and self._protected != len(self.text)

    def refer(self, number: int) -> None:
        """The value that is positional parameter `number`.  Raises Malformed."""
        self._check_place("%{…}")
        reference = f"${{{number}}}"
        self.text += {"": f'"{reference}"', '"': reference, "'": f"'\"{reference}\"'"}[self._quote]

    def check_unquoted(self, what: str) -> None:
        """That another line may stand here.  Raises Malformed."""
        self._check_place(what)
        if self._quote:
            raise TemplateError(f"{what} cannot stand in quotes")

    def _check_place(self, what: str) -> None:
        if self._lost:
            raise TemplateError(f"no {what} can stand behind {self._lost}")
        if self._quote != "'" and (self.text.endswith("$") or self._ends_in_a_backslash()):
            raise TemplateError(f"no {what} can stand directly behind {self.text[-1]}")

    def finish(self) -> str:
        """The line.  Raises Malformed."""
        if self._quote and not self._lost:
            raise TemplateError("a quote without its other half")
        if self._ends_in_a_backslash():
            raise TemplateError("ends in a backslash")
        return self.text

    def _ends_in_a_backslash(self) -> bool:
        """One that protects what comes behind it."""
        return (len(self.text) - len(self.text.rstrip("\\"))) % 2 == 1
