r"""Format specifiers: how a command, a path or a wrapper of the configuration, and a line of a .forward, name a mail.

    %{sender}              amy@there.test       empty for the null sender; also sender.user, sender.domain
    %{rcpt}                as RCPT TO named it  also rcpt.user, rcpt.domain
    %{dest}                after expansion      also dest.user, dest.domain
    %{user.username}, %{user.directory}         whose mailbox it is, and that user's home
    %{mbox.from}           the sender, or MAILER-DAEMON
    %{mda}                 in a wrapper only: the command that it wraps
    %%                     a percent sign; any other percent sign is one too

    %{rcpt.user:lowercase|strip}    lowercase, uppercase; strip: without the sub-address; raw: not sanitised
    %{rcpt.user[0]}, %{rcpt[1:-2]}  characters of that: from, to and including, negative ones from the end

A value is SANITISED (all but user.directory, and unless raw): what a shell might take for its own becomes a colon, and
so does a hyphen that would make it an option.  That is the second fence.  The first: a value is never part of a line,
but a parameter of the shell that runs it (config/shell_line.py), and never more than one component of a path.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from smtpd.config.shell_line import ShellLine, TemplateError

__all__ = ["TemplateError", "Template", "parse", "values_of", "wrap"]

INSIDE_MAX = 127  # characters between the braces
VALUE_MAX = 1023
COMMAND_MAX = 4096
PATH_MAX = 1023

MDA, DIRECTORY = "mda", "user.directory"
_HALVES = [f"{whole}{half}" for whole in ("sender", "rcpt", "dest") for half in ("", ".user", ".domain")]
NAMES = frozenset((*_HALVES, "user.username", DIRECTORY, "mbox.from"))
MODIFIERS = frozenset(("lowercase", "uppercase", "strip", "raw"))

_SPECIFIER = re.compile(r"%(?:%|\{([^{}]*)\}|(\{))")
_NUMBER = r"-?[0-9]{1,4}"
_INSIDE = re.compile(rf"([a-z.]+)(?:\[(?:({_NUMBER})|({_NUMBER})?:({_NUMBER})?)\])?(?::([a-z|]+))?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_CONTROL_BUT_TAB = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SPECIAL = re.compile(r"""^-|[\x00- \x7f!#$%&'*?`{|}~"\\;<>()]""")  # reference 3, and what addresses have in quotes


@dataclass(frozen=True)
class Specifier:
    name: str
    modifiers: tuple[str, ...] = ()
    only: int | None = None  # one character; or
    first: int | None = None  # from here
    last: int | None = None  # to here

    def value(self, values: Mapping[str, str], delimiter: str) -> str:
        """Raises TemplateError."""
        value = values[self.name]
        for modifier in self.modifiers:
            value = _modified(value, modifier, delimiter)
        value = self._clean(self._cut(value))
        if len(value) > VALUE_MAX:
            raise TemplateError(f"the value of %{{{self.name}}} is longer than {VALUE_MAX} characters")
        return value

    def _clean(self, value: str) -> str:
        if self.name == DIRECTORY:
            return value
        return (_CONTROL if "raw" in self.modifiers else _SPECIAL).sub(":", value)

    def _cut(self, value: str) -> str:
        size = len(value)
        if self.only is not None:
            first = last = self._from_start(self.only, size)
        elif self.first is not None or self.last is not None:
            first = max(0, self._from_start(self.first or 0, size))
            last = size - 1 if self.last is None else self._from_start(self.last, size)
        else:
            return value
        if not 0 <= first < size or last < first:
            raise TemplateError(f"the value of %{{{self.name}}} has no such characters")
        return value[first : last + 1]

    @staticmethod
    def _from_start(at: int, size: int) -> int:
        return at + size if at < 0 else at


def _modified(value: str, modifier: str, delimiter: str) -> str:
    match modifier:
        case "lowercase":
            return value.lower()
        case "uppercase":
            return value.upper()
        case "strip":
            user, at, domain = value.rpartition("@") if "@" in value else (value, "", "")
            return user.partition(delimiter)[0] + at + domain
    return value


Piece = str | Specifier


@dataclass(frozen=True)
class Template:
    """A text with specifiers in it."""

    pieces: tuple[Piece, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(piece.name for piece in self.pieces if isinstance(piece, Specifier))

    def command(self, values: Mapping[str, str], delimiter: str) -> tuple[str, list[str]]:
        """A line for sh and its positional parameters.  Raises TemplateError: a longer one is never cut short."""
        line, parameters = ShellLine(), list[str]()
        for piece in self.pieces:
            if isinstance(piece, str):
                line.add(piece)
            elif not line.ended:
                parameters.append(piece.value(values, delimiter))
                line.refer(len(parameters))
        return _short(line.finish()), parameters

    def check_command(self) -> None:
        """That there is a line, whatever the values are.  Raises TemplateError."""
        _, line = _line(self)
        _short(line)

    def path(self, values: Mapping[str, str], delimiter: str) -> str:
        """An absolute path, in which a value is at the most one component of its own.  Raises TemplateError."""
        components, filled = [""], set[int]()
        for piece in self._rooted():
            if isinstance(piece, str):
                parts = piece.split("/")
            elif piece.name == DIRECTORY:
                parts = piece.value(values, delimiter).rstrip("/").split("/")
            else:
                parts = [piece.value(values, delimiter).replace("/", ":")]
                filled.add(len(components) - 1)
            components[-1] += parts[0]
            components += parts[1:]
        if any(components[number] in ("", ".", "..") for number in filled):
            raise TemplateError("a value makes no name of a file")
        return _checked("/".join(components))

    def prefix(self, values: Mapping[str, str], delimiter: str = "+") -> str:
        """The directory that `path` is in, or all of it, as far as `values` decide.  Raises TemplateError."""
        known = list[Piece]()
        for piece in self._rooted():
            if isinstance(piece, Specifier) and piece.name not in values:
                path = Template((*known, "x")).path(values, delimiter)
                return posixpath.dirname(path)
            known.append(piece)
        return Template(tuple(known)).path(values, delimiter)

    def _rooted(self) -> Iterator[Piece]:
        """With the home for a leading ~.  In a command that is the shell's: the home of whom it runs as, and not one
        that a table names, so that no table says which program runs."""
        first = self.pieces[0] if self.pieces else ""
        if isinstance(first, str) and first.startswith("~/"):
            yield from (Specifier(DIRECTORY), first[1:], *self.pieces[1:])
        else:
            yield from self.pieces


def _checked(path: str) -> str:
    if not path.startswith("/"):
        raise TemplateError(f"not an absolute path: {path[:80]!r}")
    if len(path) > PATH_MAX or _CONTROL.search(path):
        raise TemplateError("a control character in a path" if len(path) <= PATH_MAX else "the path is too long")
    return path


def parse(text: str, *, wrapper: bool = False) -> Template:
    """The text of a command or path, as the configuration or a .forward has it.  Raises TemplateError.

    Whether it is a line of the shell `check_command` says, but for a wrapper, which can be nothing else.
    """
    if _CONTROL_BUT_TAB.search(text):
        raise TemplateError("a control character")
    pieces, at = [""], 0
    specifiers = list[Specifier]()
    for found in _SPECIFIER.finditer(text):
        pieces[-1] += text[at : found.start()]
        at = found.end()
        if found[0] == "%%":
            pieces[-1] += "%"
            continue
        if found[2]:
            raise TemplateError("%{ without its }")
        specifiers.append(_specifier(found[1], wrapper))
        pieces.append("")
    pieces[-1] += text[at:]
    template = Template((pieces[0], *(piece for pair in zip(specifiers, pieces[1:], strict=True) for piece in pair)))
    if wrapper:
        template.check_command()
    return template


def _specifier(inside: str, wrapper: bool) -> Specifier:
    found = _INSIDE.fullmatch(inside.lower())
    if len(inside) > INSIDE_MAX or not found:
        raise TemplateError(f"not a specifier: %{{{inside[:40]}}}")
    name, only, first, last, modifiers = found.groups()
    words = tuple(modifiers.split("|")) if modifiers else ()
    if name == MDA and wrapper and inside.lower() == MDA:
        return Specifier(MDA)
    if name not in NAMES:
        raise TemplateError(f"no such specifier: %{{{name}}}" if name != MDA else "%{mda} is for wrappers, as it is")
    if unknown := set(words) - MODIFIERS:
        raise TemplateError(f"no such modifier: {min(unknown)}")
    numbers = [None if number is None else int(number) for number in (only, first, last)]
    return Specifier(name, words, *numbers)


def wrap(wrapper: Template, inner: Template) -> Template:
    """The wrapper with `inner` in the place of %{mda}, and the comment at its end left out.  Raises TemplateError."""
    inside, _ = _line(inner)
    outside, _ = _line(wrapper)
    pieces = [part for piece in outside for part in (inside if piece == Specifier(MDA) else [piece])]
    return Template(tuple(pieces))


def _short(line: str) -> str:
    if len(line) > COMMAND_MAX:
        raise TemplateError(f"longer than {COMMAND_MAX} characters")
    return line


def _line(template: Template) -> tuple[list[Piece], str]:
    """The pieces without a comment.  Raises TemplateError where there could be no line."""
    line, pieces, values = ShellLine(), list[Piece](), 0
    for piece in template.pieces:
        begin = len(line.text)
        if isinstance(piece, str):
            line.add(piece)
            pieces.append(line.text[begin:])
        elif not line.ended:
            pieces.append(piece)
            if piece.name == MDA:
                line.check_unquoted("%{mda}")
            else:
                values += 1
                line.refer(values)
    return pieces, line.finish()


def values_of(sender: str, recipient: str, destination: str, user: str, directory: str) -> dict[str, str]:
    """The value of each name, for one mail."""
    values = {"user.username": user, DIRECTORY: directory, "mbox.from": sender or "MAILER-DAEMON"}
    for name, address in (("sender", sender), ("rcpt", recipient), ("dest", destination)):
        local, at, domain = address.rpartition("@")
        user_part = local if at else domain
        values |= {name: address, f"{name}.user": user_part, f"{name}.domain": domain if at else ""}
    return values
