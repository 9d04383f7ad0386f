"""Command line options of sendmail, as getopt(3) reads them, and the exception with its exit status.

-oi -f amy@here.test -t -- bob     flags {"t"}, values {"o": "i", "f": "amy@here.test"}, operands ["bob"]
"""

from smtpctl.visible import visible

TYPE_CHECKING = False  # see raw_mail.py
if TYPE_CHECKING:
    from collections.abc import Sequence

# sysexits(3)
OK, USAGE, DATAERR, UNAVAILABLE, SOFTWARE, IOERR, TEMPFAIL, NOPERM = 0, 64, 65, 69, 70, 74, 75, 77

FLAGS = "GiImntUvxS"
WITH_VALUE = "ABbCeFfhLNOopRrVX"
ATTACHED = "dEJq"  # what they mean stands behind them, if anything does

HELP = """\
usage: sendmail [-tv] [--online] [-F name] [-f address] [-N notify] [-R ret] [-V envid] [recipient ...]
       sendmail -bi | -bp | -bs | -q
       mailq

Hands in a mail from standard input.

    -t             read recipients from the fields To, Cc and Bcc, too
    -F name        the full name of the sender, where there is no From
    -f address     the sender, to whom errors go; also -r
    -N notify      when the sender wants to be told: never, or of success,failure,delay
    -R full|hdrs   how much of the mail comes back with an error
    -V envid       a name for this mail that errors will bear
    -v             show the dialogue with smtpd
    -bi            check the aliases: newaliases
    -bm            hand in a mail: what is done without -b
    -bp            list the queue: mailq
    -bs            speak SMTP on standard input and output
    -q             have all that is queued tried now
    --online       fail, and keep no mail, when smtpd does not run
    --state DIR    talk to the smtpd that was started with --state DIR
    --help         this text
    --version      the version of sendmail

Without effect: -A, -B, -C, -d, -E, -e, -G, -h, -i, -J, -L, -m, -n, -O, -o, -p, -S, -U, -X, -x.  See sendmail(8).
"""


class SendmailError(Exception):
    """What to say, a line each; and the exit status."""

    def __init__(self, status: int, *texts: str):
        super().__init__(*texts)
        self.status, self.texts = status, texts


class SendmailOptions:
    """What stands on the command line.  Raises SendmailError."""

    def __init__(self, arguments: "Sequence[str]"):
        self.values: dict[str, str] = {}
        self.flags: set[str] = set()
        self.state: str | None = None
        self.help = self.version = self.online = False
        left = list(arguments)
        while left and left[0].startswith("-"):
            argument = left.pop(0)
            if argument == "--":
                break
            if argument.startswith("--"):
                self._take_word(argument, left)
            else:
                self._take(argument[1:], left)
        self.operands = left

    def _take_word(self, argument: str, left: list[str]) -> None:
        if argument == "--help":
            self.help = True
        elif argument == "--version":
            self.version = True
        elif argument == "--online":
            self.online = True
        elif argument == "--state" or argument.startswith("--state="):
            self.state = _value(argument.removeprefix("--state").removeprefix("="), left)
        else:
            raise _misused(argument)

    def _take(self, letters: str, left: list[str]) -> None:
        if not letters:
            raise _misused("-")
        for place, letter in enumerate(letters, 1):
            if letter in ATTACHED:
                self.flags.add(letter)
                self.values[letter] = letters[place:]
                return
            elif letter in WITH_VALUE:
                self.values["f" if letter == "r" else letter] = _value(letters[place:], left)
                return
            elif letter in FLAGS:
                self.flags.add(letter)
            else:
                raise _misused(f"-{letter}")

    @property
    def mode(self) -> str:
        """What -b says; -I and -q say something like it."""
        if "b" in self.values:
            return self.values["b"][:1]
        return "i" if "I" in self.flags else "q" if "q" in self.flags else "m"


def _value(attached: str, left: list[str]) -> str:
    if attached:
        return attached
    if not left:
        raise _misused("the last option")
    return left.pop(0)


def _misused(option: str) -> SendmailError:
    return SendmailError(
        USAGE, f"{visible(option)} is not known, or lacks its value", "see sendmail --help, sendmail(8)"
    )
