"""From the words of a command line to one command.

    show queue             each word may be shortened as long as only one command is meant
    show queue <msgid>     a parameter takes what has its form, and wins over a prefix, as an exact word does

Knows no command: of each it looks at its `pattern`.
"""

TYPE_CHECKING = False  # see command.py
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from smtpctl.command import Command

TABLE_NAME_MAX = 256  # characters that an imsg carries (smtpd/envelope.py)


class Unclear(Exception):
    """No command, or several.  `possibilities` are those that begin like it."""

    def __init__(self, possibilities: "Sequence[Command]"):
        super().__init__()
        self.possibilities = possibilities


def is_message_id(word: str) -> bool:
    from smtpd.envelope import MESSAGE_ID_MAX  # for commands that have one

    return _is_hex(word, 8) and 0 < int(word, 16) <= MESSAGE_ID_MAX


def is_envelope_id(word: str) -> bool:
    return _is_hex(word, 16) and is_message_id(word[:8])


def _is_hex(word: str, length: int) -> bool:
    return len(word) == length and not word.strip("0123456789abcdefABCDEF")


def is_table_name(word: str) -> bool:
    return 0 < len(word) <= TABLE_NAME_MAX and word.isprintable()


# Came after scripts had learned to say `show q`: not meant by what also means an older word.
YIELDING = {"quarantine"}

PARAMETERS: "dict[str, Callable[[str], bool]]" = {
    "<msgid>": is_message_id,
    "<evpid>": is_envelope_id,
    "<table>": is_table_name,
    "<string>": bool,
}


def find_command(commands: "Sequence[Command]", words: "Sequence[str]") -> "tuple[Command, list[str]]":
    """The command that `words` mean, and its parameters.  Raises Unclear."""
    left, meant = _follow(commands, words)
    for command in left:
        if len(command.pattern.split()) == len(words):
            return command, [word for word, name in zip(words, meant, strict=True) if name in PARAMETERS]
    raise Unclear(left)


def find_beginning(commands: "Sequence[Command]", words: "Sequence[str]") -> "list[Command]":
    """The commands that begin with what `words` mean.  Raises Unclear."""
    return _follow(commands, words)[0]


def _follow(commands: "Sequence[Command]", words: "Sequence[str]") -> "tuple[list[Command], list[str]]":
    """The commands that are left after `words`, and what each of these stands for."""
    left = list(commands)
    meant = []
    for at, word in enumerate(words):
        name = _meant({_word(command, at) for command in left} - {""}, word)
        if name is None:
            raise Unclear([command for command in left if _word(command, at).startswith(word)] or left)
        meant.append(name)
        left = [command for command in left if _word(command, at) == name]
    return left, meant


def _word(command: "Command", at: int) -> str:
    """Its word at that place; empty behind its last."""
    return dict(enumerate(command.pattern.split())).get(at, "")


def _meant(candidates: set[str], word: str) -> str | None:
    """Which of the candidates `word` stands for; None when that is not clear."""
    if word in candidates and word not in PARAMETERS:
        return word
    fitting = [name for name in candidates if name in PARAMETERS and PARAMETERS[name](word)]
    begun = [name for name in candidates if name not in PARAMETERS and word and name.startswith(word)]
    found = fitting or [name for name in begun if name not in YIELDING] or begun
    return found[0] if len(found) == 1 else None
