"""The characters of one file, one by one; the value of a macro that is being expanded comes before them.

    match from $here for local ...
               |
               expand("src 10.0.0.0/8"): these characters come first, all at the position of `$here`

Outside quotes a backslash joins two lines, and before any other character it is dropped; within quotes the lexer asks
for the characters as they are.  What a character means is decided by the lexer.
"""

from smtpd.config.errors import SourcePosition
from smtpd.config.macro import MACRO_NAME


class Source:
    def __init__(self, file: str, text: str) -> None:
        self.position = SourcePosition(file, 1, 1)  # of the last character taken
        self.expanding = False  # that character came from a macro
        self._file = file
        self._text = text
        self._offset = 0
        self._line = 1
        self._column = 1
        self._macro = ""
        self._macro_position = 0
        self._returned: str | None = None

    def take(self) -> str:
        """The next character outside quotes; empty at the end of the file."""
        if self._returned is not None:
            char, self._returned = self._returned, None
            return char
        while (char := self.take_quoted()) == "\\":
            char = self.take_quoted()
            if char != "\n":
                return char
        return char

    def give_back(self, char: str) -> None:
        """Make `char`, the last character taken, the next one again."""
        self._returned = char

    def take_quoted(self) -> str:
        """The next character unchanged; empty at the end of the file."""
        if self._macro_position < len(self._macro):
            self.expanding = True
            self._macro_position += 1
            return self._macro[self._macro_position - 1]
        if self.expanding:
            self.expanding, self._macro, self._macro_position = False, "", 0
        self.position = SourcePosition(self._file, self._line, self._column)
        if self._offset == len(self._text):
            return ""
        char = self._text[self._offset]
        self._offset += 1
        self._column += 1
        if char == "\n":
            self._line, self._column = self._line + 1, 1
        return char

    def peek_quoted(self) -> str:
        """What `take_quoted` would return."""
        if self._macro_position < len(self._macro):
            return self._macro[self._macro_position]
        return self._text[self._offset : self._offset + 1]

    def take_macro_name(self) -> str:
        """The name after a `$` that was just taken from the file."""
        found = MACRO_NAME.match(self._text, self._offset)
        assert found is not None  # it may match nothing, but it matches
        self._offset = found.end()
        self._column += len(found[0])
        return found[0]

    def expand(self, value: str) -> None:
        """Continue with the value of the macro whose name was just taken."""
        self._macro, self._macro_position = value, 0

    @property
    def end(self) -> tuple[int, int]:
        """Line and column after the last character taken and not given back."""
        return self.position.line, self.position.column + (self._returned is None)

    def mark(self) -> tuple[int, int, int]:
        """Offset, line and column, for `rewind`."""
        return self._offset, self._line, self._column

    def rewind(self, mark: tuple[int, int, int]) -> None:
        """Go back to a mark of this file; the rest of a macro is dropped."""
        self._offset, self._line, self._column = mark
        self._macro, self._macro_position, self.expanding, self._returned = "", 0, False, None
