r"""Format specifiers in commands, paths and wrappers of the configuration, and in commands of a .forward.

    %{sender}              amy@there.test       empty for the null sender; also sender.user, sender.domain
    %{rcpt}                the RCPT TO address  also rcpt.user, rcpt.domain
    %{dest}                after expansion      also dest.user, dest.domain
    %{user.username}, %{user.directory}         the user, and the user's home
    %{mbox.from}           the sender, or MAILER-DAEMON
    %{mda}                 in a wrapper only: the wrapped command
    %%                     a percent sign, as is any other one

    %{rcpt.user:lowercase|strip}    lowercase, uppercase; strip: without the sub-address; raw: not sanitised
    %{rcpt.user[0]}, %{rcpt[1:-2]}  characters: first and last one; negative numbers count from the end

A value is sanitised (except user.directory, and unless raw): characters that are special to a shell become a colon, as
does a hyphen that would make it an option.  That is the second protection.  The first: a value is never part of a
command line, but a parameter of the shell that runs it (shell_line.py), and never more than one component of a path.
"""

import posixpath
import re
from collections.abc import Iterator, Mapping

from msgspec import Struct

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
_SPECIAL = re.compile(
    r"""^-|[\x00- \x7f!#$%&'*?`{|}~"\\;<>()]"""
)  # OpenSMTPD's set, and what quoted local parts may hold


class Specifier(Struct, frozen=True):
    name: str
    modifiers: tuple[str, ...] = ()
    only: int | None = None  # one character, by its index; or
    first: int | None = None  # from this index
    last: int | None = None  # to this index, included

    def value(self, values: Mapping[str, str], delimiter: str) -> str:
        """The value: modified, cut and sanitised.  Raises TemplateError."""
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


class Template(Struct, frozen=True):
    """A text with format specifiers."""

    pieces: tuple[Piece, ...]

    @property
    def names(self) -> frozenset[str]:
        return frozenset(piece.name for piece in self.pieces if isinstance(piece, Specifier))

    def command(self, values: Mapping[str, str], delimiter: str) -> tuple[str, list[str]]:
        """A command line for sh, and its positional parameters.  Raises TemplateError, also for a line too long."""
        line, parameters = ShellLine(), list[str]()
        for piece in self.pieces:
            if isinstance(piece, str):
                line.add(piece)
            elif not line.ended:
                parameters.append(piece.value(values, delimiter))
                line.refer(len(parameters))
        return _short(line.finish()), parameters

    def check_command(self) -> None:
        """Check that `command` succeeds for any values of ordinary length.  Raises TemplateError."""
        _, line = _line(self)
        _short(line)

    def path(self, values: Mapping[str, str], delimiter: str) -> str:
        """An absolute path, in which a value is never more than one component.  Raises TemplateError."""
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
            raise TemplateError("a value is not a valid file name")
        return _checked("/".join(components))

    def prefix(self, values: Mapping[str, str], delimiter: str = "+") -> str:
        """The path as far as `values` determine it: all of it, or its directory.  Raises TemplateError."""
        known = list[Piece]()
        for piece in self._rooted():
            if isinstance(piece, Specifier) and piece.name not in values:
                path = Template((*known, "x")).path(values, delimiter)
                return posixpath.dirname(path)
            known.append(piece)
        return Template(tuple(known)).path(values, delimiter)

    def _rooted(self) -> Iterator[Piece]:
        """The pieces, with the user's home for a leading ~.  Not for a command: there the shell inserts the home of the
        user it runs as, so that no table decides which program runs."""
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
    """The template of a command or path in the configuration or a .forward.  Raises TemplateError.

    A wrapper is also checked to be a command line; for others call `check_command`.
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
            raise TemplateError("unclosed %{")
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
        raise TemplateError(f"invalid format specifier %{{{inside[:40]}}}")
    name, only, first, last, modifiers = found.groups()
    words = tuple(modifiers.split("|")) if modifiers else ()
    if name == MDA and wrapper and inside.lower() == MDA:
        return Specifier(MDA)
    if name not in NAMES:
        raise TemplateError(
            f"unknown format specifier %{{{name}}}"
            if name != MDA
            else "%{mda} is allowed only in a wrapper, unmodified"
        )
    if unknown := set(words) - MODIFIERS:
        raise TemplateError(f"unknown modifier {min(unknown)}")
    numbers = [None if number is None else int(number) for number in (only, first, last)]
    return Specifier(name, words, *numbers)


def wrap(wrapper: Template, inner: Template) -> Template:
    """The wrapper with `inner` for %{mda}, without trailing comments.  Raises TemplateError."""
    inside, _ = _line(inner)
    outside, _ = _line(wrapper)
    pieces = [part for piece in outside for part in (inside if piece == Specifier(MDA) else [piece])]
    return Template(tuple(pieces))


def _short(line: str) -> str:
    if len(line) > COMMAND_MAX:
        raise TemplateError(f"longer than {COMMAND_MAX} characters")
    return line


def _line(template: Template) -> tuple[list[Piece], str]:
    """The pieces without a trailing comment, and the command line.  Raises TemplateError."""
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
    """The value of each specifier, for one mail."""
    values = {"user.username": user, DIRECTORY: directory, "mbox.from": sender or "MAILER-DAEMON"}
    for name, address in (("sender", sender), ("rcpt", recipient), ("dest", destination)):
        local, at, domain = address.rpartition("@")
        user_part = local if at else domain
        values |= {name: address, f"{name}.user": user_part, f"{name}.domain": domain if at else ""}
    return values
