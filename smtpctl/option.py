"""What stands on the command line of sendmail, by single letters as getopt(3) reads them, and how sendmail fails.

-oi -f amy@here.test -t -- bob     flags {"t"}, values {"o": "i", "f": "amy@here.test"}, operands ["bob"]
"""

from collections import deque
from collections.abc import Sequence

from smtpctl.text import visible

# sysexits(3)
OK, USAGE, DATAERR, UNAVAILABLE, SOFTWARE, IOERR, TEMPFAIL = 0, 64, 65, 69, 70, 74, 75

FLAGS = "timvxS"
WITH_VALUE = "ABbeFfLNOopRrV"
ATTACHED = "EJq"  # what they mean stands behind them, if anything does


class Failed(Exception):
    """What to say, a line each; and the exit status."""

    def __init__(self, status: int, *texts: str):
        super().__init__(*texts)
        self.status, self.texts = status, texts


class Options:
    """What stands on the command line.  Raises Failed."""

    def __init__(self, arguments: Sequence[str]):
        self.values: dict[str, str] = {}
        self.flags: set[str] = set()
        self.state: str | None = None
        left = deque(arguments)
        while left and left[0].startswith("-"):
            argument = left.popleft()
            if argument == "--":
                break
            if argument.startswith("--state"):
                self.state = _value(argument.removeprefix("--state").removeprefix("="), left)
            else:
                self._take(argument[1:], left)
        self.operands = list(left)

    def _take(self, letters: str, left: deque[str]) -> None:
        if not letters:
            raise _misused("-")
        for place, letter in enumerate(letters, 1):
            if letter in FLAGS:
                self.flags.add(letter)
            elif letter in ATTACHED:
                self.flags.add(letter)
                return
            elif letter in WITH_VALUE:
                self.values["f" if letter == "r" else letter] = _value(letters[place:], left)
                return
            else:
                raise _misused(f"-{letter}")

    @property
    def mode(self) -> str:
        return self.values.get("b", "m")[:1]


def _value(attached: str, left: deque[str]) -> str:
    if attached:
        return attached
    if not left:
        raise _misused("the last option")
    return left.popleft()


def _misused(option: str) -> Failed:
    return Failed(USAGE, f"{visible(option)} is not known, or lacks its value", "see sendmail(8)")
