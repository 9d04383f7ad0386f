"""Values in a command line for the shell: as references to positional parameters, never as text.

    write                     becomes                        whatever the value is, it is
    deliver -f %{sender}      deliver -f "${1}"              one word
    deliver "-f %{sender}"    deliver "-f ${1}"              part of one word
    deliver '-f %{sender}'    deliver '-f '"${1}"''          part of one word

Follows quotes, backslashes and comments of POSIX sh (XCU 2.2, 2.3), and drops a comment.  The first substitution,
here-document, arithmetic expression or function ends that: no value is allowed after it.
"""

import re

# `comment` counts only where a word could begin; `stop` is what this module cannot follow.
_SPECIAL = re.compile(r"""(?P<quote>["'])|(?P<protected>\\.)|(?P<comment>\#)|(?P<stop>`|\$[('{[]|<<|\(\(|\([ \t]*\))""")
_PLAIN_PARAMETER = re.compile(r"\$\{\w+\}", re.ASCII)
_BEFORE_A_WORD = " \t;&|()<>"
_IN_DOUBLE_QUOTES = ("`", "$(", "${", "$[")  # also special within double quotes


class TemplateError(ValueError):
    """An invalid command line, path or format specifier; the text is the reason."""


class ShellLine:
    """A command line, built piece by piece."""

    def __init__(self) -> None:
        self.text = ""
        self._quote = ""
        self._lost = ""  # the construct that could not be followed
        self._protected = -1  # offset after the last character that a backslash protects
        self.ended = False  # by a comment

    def add(self, text: str) -> None:
        """Add literal text of the line, up to the next value."""
        at = 0
        while at < len(text) and not self.ended:
            found = None if self._lost else _SPECIAL.search(text, at)
            self.text += text[at : found.start() if found else len(text)]
            at = len(text)
            if found:
                at = self._special(found)

    def _special(self, found: re.Match[str]) -> int:
        """Take a special character.  Returns the offset after it."""
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
        """Whether the next character begins a word; a blank after a backslash is part of the word before it."""
        return not self.text or self.text[-1] in _BEFORE_A_WORD and self._protected != len(self.text)

    def refer(self, number: int) -> None:
        """Add a reference to positional parameter `number`.  Raises TemplateError."""
        self._check_allowed("%{…}")
        reference = f"${{{number}}}"
        self.text += {"": f'"{reference}"', '"': reference, "'": f"'\"{reference}\"'"}[self._quote]

    def check_unquoted(self, what: str) -> None:
        """Check that another command line may be inserted here.  Raises TemplateError."""
        self._check_allowed(what)
        if self._quote:
            raise TemplateError(f"{what} is not allowed in quotes")

    def _check_allowed(self, what: str) -> None:
        if self._lost:
            raise TemplateError(f"{what} is not allowed after {self._lost}")
        if self._quote != "'" and (self.text.endswith("$") or self._ends_in_a_backslash()):
            raise TemplateError(f"{what} is not allowed directly after {self.text[-1]}")

    def finish(self) -> str:
        """The whole line.  Raises TemplateError."""
        if self._quote and not self._lost:
            raise TemplateError("unclosed quote")
        if self._ends_in_a_backslash():
            raise TemplateError("ends in a backslash")
        return self.text

    def _ends_in_a_backslash(self) -> bool:
        """Whether the next character would be protected by a backslash."""
        return (len(self.text) - len(self.text.rstrip("\\"))) % 2 == 1
