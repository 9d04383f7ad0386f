"""The syntax of alias values and .forward files: what a name is expanded to.

    bob, amy@there.test            User("bob"), Address("amy", "there.test")
    "amy b"@[192.0.2.1]            Address("amy b", "[192.0.2.1]"): any address that RCPT accepts
    \\bob                           User("bob"): a backslash protects the next character
    "|vacation -a bob, bob"        Command("vacation -a bob, bob")
    /var/mail/archive              File("/var/mail/archive")
    :include:/etc/mail/staff       Include("/etc/mail/staff"); the first colon is optional
    :error:550 no longer here      Error(550, "no longer here"); likewise

Commas separate and # begins a comment: see alias_lexer.py.  In a .forward and in an include file each line is such a
value; an invalid line is skipped and does not affect the others.

Which of these is allowed where is decided by lookup/expansion.py.
"""

import hashlib
import re
from collections.abc import Iterable
from typing import NamedTuple

from msgspec import Struct

from smtpd.envelope import Path
from smtpd.errand import FORWARD_MAX
from smtpd.ipc.text_limit import text_error
from smtpd.smtp.address import Address, AddressError, parse_mailbox
from smtpd.tables import alias_lexer
from smtpd.tables.alias_lexer import PieceError

NAME_MAX = 255
FAULTS_LOGGED = 5  # faulty lines of one file that are logged


class AliasSyntaxError(ValueError):
    """A syntax error.  The text does not repeat the value: it may come from a user's private file."""


class User(Struct, frozen=True):
    name: str


class Command(Struct, frozen=True):
    line: str


class File(Struct, frozen=True):
    path: str


class Include(Struct, frozen=True):
    path: str


class ErrorReply(Struct, frozen=True):
    code: int
    text: str


Target = User | Address | Command | File | Include | ErrorReply

_ERROR = re.compile(r":?error:([45]\d\d) ([A-Za-z0-9].*)", re.ASCII)
_INCLUDE = re.compile(r":?include:(/.+)")
_USER = re.compile(r"[A-Za-z0-9_.+-]+")
_SPECIAL = frozenset('"/|~$*?{}`')  # of misplaced paths, commands and patterns; in no user name
_MEANT = {"include:": "an include has an absolute path", "error:": "an error has a code, 4xx or 5xx, and a text"}


class ParsedFile(NamedTuple):
    """The targets in a file, and the lines that were skipped: (line number, reason)."""

    targets: list[Target]
    troubles: list[tuple[int, str]]


def parse_value(value: str) -> list[Target]:
    """The targets of one alias value, at least one.  Raises AliasSyntaxError."""
    try:
        targets = _targets(alias_lexer.split_value(value))
    except PieceError as error:
        raise AliasSyntaxError(str(error)) from None
    if not targets:
        raise AliasSyntaxError("nothing to expand to")
    return targets


def parse_forward(content: bytes) -> ParsedFile:
    """The text of a .forward; no targets if it has only comments.  Raises AliasSyntaxError if all lines are invalid:
    then it is unknown where the mail is to go."""
    if len(content) > FORWARD_MAX:
        raise AliasSyntaxError(f"longer than {FORWARD_MAX} bytes")
    parsed = parse_include(content)
    if parsed.troubles and not parsed.targets:
        raise AliasSyntaxError("; ".join(describe_faults(parsed.troubles)))
    return parsed


def parse_include(content: bytes) -> ParsedFile:
    """The text of an include file: like a .forward, of any length."""
    parsed = ParsedFile([], [])
    for number, pieces in alias_lexer.lines(content):
        try:
            if isinstance(pieces, PieceError):
                raise AliasSyntaxError(str(pieces))
            parsed.targets.extend(_targets(pieces))
        except AliasSyntaxError as malformed:
            parsed.troubles.append((number, str(malformed)))
    return parsed


def describe_faults(troubles: list[tuple[int, str]]) -> list[str]:
    """The first faults of a file, for the log."""
    more = len(troubles) - FAULTS_LOGGED
    lines = [f"line {number}: {trouble}" for number, trouble in troubles[:FAULTS_LOGGED]]
    return lines + [f"and {more} more lines"] if more > 0 else lines


def digest(target: Command | File) -> str:
    """The digest that stands for a command or file in envelopes: SHA-256, in hex, of `|` and the command, or of the
    path."""
    text = f"|{target.line}" if isinstance(target, Command) else target.path
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def _targets(pieces: Iterable[str]) -> list[Target]:
    return [parse_target(piece) for piece in pieces]


def parse_target(piece: str) -> Target:
    """The target that one piece means.  Raises AliasSyntaxError."""
    if found := _ERROR.fullmatch(piece):
        return ErrorReply(int(found[1]), found[2])
    if found := _INCLUDE.fullmatch(piece):
        if wrong := text_error(Path, found[1]):
            raise AliasSyntaxError(f"invalid path of an include: {wrong}")
        return Include(found[1])
    command = piece[1:-1] if len(piece) > 1 and piece[0] == piece[-1] == '"' else piece
    if command.startswith("|"):
        return _command(command[1:].strip(" \t"))
    if piece.startswith("/"):
        return File(piece)
    return _name(piece)


def _command(line: str) -> Command:
    if not line:
        raise AliasSyntaxError("a | without a command")
    return Command(line)


def _name(piece: str) -> Target:
    if len(piece) <= NAME_MAX and _USER.fullmatch(piece):
        return User(piece)
    try:
        address = parse_mailbox(piece)
    except AddressError as error:
        if "@" in piece:
            raise AliasSyntaxError(f"not an address: {error}") from None
        form, colon, _ = piece.removeprefix(":").partition(":")
        raise AliasSyntaxError(_MEANT.get(form + colon, "neither an address nor the name of a user")) from None
    if address.domain:
        return address
    if not _SPECIAL.isdisjoint(piece) or "'" in (piece[0], piece[-1]):
        raise AliasSyntaxError("neither an address nor the name of a user")
    return User(piece)
