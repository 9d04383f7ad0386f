"""The characters of one file, one by one, with the macro that is being expanded in front of them.

    match from $here for local ...
               |
               expand("src 10.0.0.0/8"): these characters come first, all of them placed where `$here` stands

Outside quotes a backslash joins two lines, and before any other character it only vanishes; within quotes the lexer
asks for the characters as they are.  What a character means is the lexer's business.
"""

from smtpd.config.errors import SourcePosition
from smtpd.config.macro import MACRO_NAME


class Source:
    def __init__(self, file: str, text: str) -> None:
        self.place = SourcePosition(file, 1, 1)  # of the character that was taken last
        self.expanding = False  # that character came out of a macro
        self._file = file
        self._text = text
        self._position = 0
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
        """Let the next `take` have the character that was taken last."""
        self._returned = char

    def take_quoted(self) -> str:
        """The next character as it stands there; empty at the end of the file."""
        if self._macro_position < len(self._macro):
            self.expanding = True
            self._macro_position += 1
            return self._macro[self._macro_position - 1]
        if self.expanding:
            self.expanding, self._macro, self._macro_position = False, "", 0
        self.place = SourcePosition(self._file, self._line, self._column)
        if self._position == len(self._text):
            return ""
        char = self._text[self._position]
        self._position += 1
        self._column += 1
        if char == "\n":
            self._line, self._column = self._line + 1, 1
        return char

    def peek_quoted(self) -> str:
        """What `take_quoted` would return."""
        if self._macro_position < len(self._macro):
            return self._macro[self._macro_position]
        return self._text[self._position : self._position + 1]

    def take_macro_name(self) -> str:
        """The name behind a `$` that was just taken from the file."""
        found = MACRO_NAME.match(self._text, self._position)
        assert found is not None  # it may match nothing, but it matches
        self._position = found.end()
        self._column += len(found[0])
        return found[0]

    def expand(self, value: str) -> None:
        """Go on with the value of the macro whose name was just taken."""
        self._macro, self._macro_position = value, 0

    @property
    def end(self) -> tuple[int, int]:
        """Line and column behind what was taken and not given back."""
        return self.place.line, self.place.column + (self._returned is None)

    def mark(self) -> tuple[int, int, int]:
        return self._position, self._line, self._column

    def rewind(self, mark: tuple[int, int, int]) -> None:
        """Back to a mark of this file; what was left of a macro is dropped."""
        self._position, self._line, self._column = mark
        self._macro, self._macro_position, self.expanding, self._returned = "", 0, False, None
