"""The language of alias values and of .forward: what a name is expanded to.

    bob, amy@there.test            User("bob"), Address("amy", "there.test")
    \\bob                           User("bob"): a backslash only protects the next character
    "|vacation -a bob, bob"        Command("vacation -a bob, bob")
    /var/mail/archive              File("/var/mail/archive")
    :include:/etc/mail/staff       Include("/etc/mail/staff"); also without the first colon
    :error:550 no longer here      Error(550, "no longer here"); likewise

Commas separate, except in quotes, which stay where they are.  In a .forward each line is such a value, `#` begins a
comment line, and a backslash before the end of a line joins it with the next.

Who may use which of these, and what becomes of them, is not known here.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

FORWARD_MAX = 4095  # bytes
NAME_MAX = 255


class Malformed(ValueError):
    """Not in this language.  The argument does not repeat what was read: it may be a file that is none of ours."""


@dataclass(frozen=True)
class User:
    name: str


@dataclass(frozen=True)
class Address:
    local: str
    domain: str


@dataclass(frozen=True)
class Command:
    line: str


@dataclass(frozen=True)
class File:
    path: str


@dataclass(frozen=True)
class Include:
    path: str


@dataclass(frozen=True)
class Error:
    code: int
    text: str


Target = User | Address | Command | File | Include | Error

_ERROR = re.compile(r":?error:([45]\d\d) ([A-Za-z0-9].*)", re.ASCII)
_INCLUDE = re.compile(r":?include:(/.+)")
_ATOM = r"[A-Za-z0-9!#$%*/?|^{}`~&'+=_-]+"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"({_ATOM}(?:\.{_ATOM})*+)@({_LABEL}(?:\.{_LABEL})*+)")
_USER = re.compile(r"[A-Za-z0-9_.+-]+")
_MEANT = {"include:": "an include has an absolute path", "error:": "an error has a code, 4xx or 5xx, and a text"}
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def parse_value(value: str) -> list[Target]:
    """The targets of one alias value, at least one.  Raises Malformed."""
    targets = [target(piece) for piece in _pieces(value)]
    if not targets:
        raise Malformed("nothing to expand to")
    return targets


def parse_forward(content: bytes) -> list[Target]:
    """The targets in the text of a .forward; none when there is nothing but comments.  Raises Malformed."""
    if len(content) > FORWARD_MAX:
        raise Malformed(f"longer than {FORWARD_MAX} bytes")
    return [target(piece) for _, line in _lines(content) for piece in _pieces(line)]


def parse_include(content: bytes) -> tuple[list[Target], list[tuple[int, str]]]:
    """The targets in the text of an include file, which is written like a .forward of any length; and what is not
    understood: the number of the line, and why."""
    targets: list[Target] = []
    troubles: list[tuple[int, str]] = []
    for number, line in _lines(content):
        try:
            targets += [target(piece) for piece in _pieces(line)]
        except Malformed as malformed:
            troubles.append((number, str(malformed)))
    return targets, troubles


def digest(target: Command | File) -> str:
    """What stands for a command or a file where it must not be repeated: SHA-256, in hex, of `|` and the command, or of
    the path."""
    text = f"|{target.line}" if isinstance(target, Command) else target.path
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _lines(content: bytes) -> Iterator[tuple[int, str]]:
    """Lines without blanks around, with the number of their last one.  A comment takes no line with it."""
    begun = ""
    number = 0
    # What is not UTF-8 may stand in a comment and in a command, and comes out of it as the same bytes.
    for number, line in enumerate(content.decode(errors="surrogateescape").split("\n"), 1):
        line = begun + line.strip()
        begun = ""
        if line.endswith("\\") and not line.startswith("#"):
            begun = line[:-1]
        elif not line.startswith("#"):
            yield number, line
    if begun:
        yield number, begun + "\\"  # which nothing follows


def _pieces(value: str) -> Iterator[str]:
    """Split at commas outside of quotes; empty pieces do not count."""
    if _CONTROL.search(value):
        raise Malformed("a control character")
    piece, quote, protected = "", "", False
    for char in value:
        if protected:
            piece += char
            protected = False
        elif char == "\\":
            protected = True
        elif char == "," and not quote:
            yield from _trimmed(piece)
            piece = ""
        else:
            piece += char
            if char == quote:
                quote = ""
            elif char in "\"'" and not quote:
                quote = char
    if quote or protected:
        raise Malformed("a quote without its other half" if quote else "ends in a backslash")
    yield from _trimmed(piece)


def _trimmed(piece: str) -> Iterator[str]:
    piece = piece.strip(" \t")
    if piece:
        yield piece


def target(piece: str) -> Target:
    """One piece, by the first form that it has.  Raises Malformed."""
    if found := _ERROR.fullmatch(piece):
        return Error(int(found[1]), found[2])
    if found := _INCLUDE.fullmatch(piece):
        return Include(found[1])
    command = piece[1:-1] if len(piece) > 1 and piece[0] == piece[-1] == '"' else piece
    if command.startswith("|"):
        return _command(command[1:].strip(" \t"))
    if piece.startswith("/"):
        return File(piece)
    return _name(piece)


def _command(line: str) -> Command:
    if not line:
        raise Malformed("a | without a command")
    return Command(line)


def _name(piece: str) -> Target:
    if "@" in piece:
        found = _ADDRESS.fullmatch(piece)
        if not found or max(map(len, found.groups())) > NAME_MAX:
            raise Malformed("not an address")
        return Address(found[1], found[2])
    if len(piece) > NAME_MAX or not _USER.fullmatch(piece):
        form, colon, _ = piece.removeprefix(":").partition(":")
        raise Malformed(_MEANT.get(form + colon, "neither an address nor the name of a user"))
    return User(piece)
