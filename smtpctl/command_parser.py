"""Finds the command that the words of a command line mean.

    show queue             each word may be shortened as long as only one command is meant
    show queue <msgid>     a parameter takes what has its form, and wins over a prefix, as an exact word does

Knows no command: of each it looks at its `pattern`.
"""

TYPE_CHECKING = False  # see command.py
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from smtpctl.command import Command

TABLE_NAME_MAX = 256  # characters that an imsg carries (smtpd/envelope.py)
ROUTE_DIGITS_MAX = 20


class UnknownCommand(Exception):
    """No command, or several.  `possibilities` are those that begin like it; the text says which word is wrong."""

    def __init__(self, reason: str, possibilities: "Sequence[Command]"):
        super().__init__(reason)
        self.possibilities = possibilities


def is_message_id(word: str) -> bool:
    """The form decides: an id that no message can have is one of a message that does not exist."""
    return len(word) == 8 and _is_hex(word)


def is_envelope_id(word: str) -> bool:
    return len(word) == 16 and _is_hex(word)


def _is_hex(word: str) -> bool:
    return bool(word) and not word.strip("0123456789abcdefABCDEF")


def is_table_name(word: str) -> bool:
    return 0 < len(word) <= TABLE_NAME_MAX and word.isprintable()


ANY = "*"  # in the place of an address or a destination
IPV4_MAPPED = bytes(10) + b"\xff\xff"  # RFC 4291 2.5.5.2, the beginning of an IPv6 address


def is_destination(word: str) -> bool:
    return is_table_name(word) and word != ANY


def is_address(word: str) -> bool:
    """An address of this host, or any."""
    return word == ANY or bool(canonical_address(word))


def canonical_address(word: str) -> str:
    """A numeric address as the daemon writes it; empty: it is none."""
    from _socket import AF_INET, AF_INET6, inet_ntop, inet_pton  # see smtpd/ipc/query.py

    for family in (AF_INET, AF_INET6):
        try:
            packed = inet_pton(family, word)
        except (OSError, ValueError):
            continue
        mapped = packed.removeprefix(IPV4_MAPPED)
        return inet_ntop(AF_INET if len(mapped) == 4 else AF_INET6, mapped)
    return ""


def is_route(word: str) -> bool:
    return word.isdecimal() and word.isascii() and len(word) <= ROUTE_DIGITS_MAX


# They begin a selection, which takes all words that are left (smtpctl/selection.py).
SELECTION_WORDS = {"from", "to", "action", "error", "older", "newer", "is"}
SELECTION, MORE = "<selection>", "<more>"  # its first word, and the others

# Newer than scripts that use `show q`: an abbreviation that also fits an older word means the older one.
LATER_WORDS = {"quarantine"}

PARAMETERS: "dict[str, Callable[[str], bool]]" = {
    "<msgid>": is_message_id,
    "<evpid>": is_envelope_id,
    "<table>": is_table_name,
    "<domain>": is_destination,
    "<address>": is_address,
    "<destination>": is_table_name,
    "<route>": is_route,
    "<string>": bool,
    SELECTION: SELECTION_WORDS.__contains__,
    MORE: lambda word: True,
}
ID_FORMS = {"<evpid>": "an envelope's has 16 hexadecimal digits", "<msgid>": "a message's has 8 hexadecimal digits"}


def find_command(commands: "Sequence[Command]", words: "Sequence[str]") -> "tuple[Command, list[str]]":
    """The command that `words` mean, and its parameters.  Raises UnknownCommand."""
    left, meant = _follow(commands, words)
    for command in left:
        patterns = command.pattern.split()
        if len(patterns) == len(words) or (patterns[-1] == SELECTION and len(patterns) < len(words)):
            return command, [word for word, name in zip(words, meant, strict=True) if name in PARAMETERS]
    raise UnknownCommand("incomplete command" if words else "no command", left)


def find_beginning(commands: "Sequence[Command]", words: "Sequence[str]") -> "list[Command]":
    """The commands that begin with what `words` mean.  Raises UnknownCommand."""
    return _follow(commands, words)[0]


def _follow(commands: "Sequence[Command]", words: "Sequence[str]") -> "tuple[list[Command], list[str]]":
    """The commands that are left after `words`, and what each of these stands for."""
    left = list(commands)
    meant = []
    for at, word in enumerate(words):
        candidates = {_word(command, at) for command in left} - {""}
        found = _meant(candidates, word)
        if len(found) != 1:
            alike = [command for command in left if _word(command, at).startswith(word)]
            raise UnknownCommand(_what_is_wrong(candidates, word, found), alike or left)
        meant += found
        left = [command for command in left if _word(command, at) in found]
    return left, meant


def _word(command: "Command", at: int) -> str:
    """Its word at that place; empty behind its last."""
    words = command.pattern.split()
    return words[at] if at < len(words) else MORE if words[-1] == SELECTION else ""


def _meant(candidates: set[str], word: str) -> list[str]:
    """Which of the candidates `word` may stand for."""
    if word in candidates and word not in PARAMETERS:
        return [word]
    fitting = [name for name in candidates if name in PARAMETERS and PARAMETERS[name](word)]
    begun = [name for name in candidates if name not in PARAMETERS and word and name.startswith(word)]
    return fitting or [name for name in begun if name not in LATER_WORDS] or begun


def _what_is_wrong(candidates: set[str], word: str, found: "Sequence[str]") -> str:
    """Why `word` stands for none of the candidates, or for several of them."""
    from smtpctl.visible import visible  # only for what is wrong

    if found:
        return f"ambiguous word: {visible(word)}"
    if not candidates:
        return f"unexpected word: {visible(word)}"
    forms = [form for name, form in ID_FORMS.items() if name in candidates]
    if forms and (_is_hex(word) or not candidates - ID_FORMS.keys()):
        return f"not an id: {visible(word)} ({', '.join(forms)})"
    return f"unknown word: {visible(word)}"
