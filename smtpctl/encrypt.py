"""What a table of credentials keeps of a password: a salted hash, or what SCRAM-SHA-256 needs.

    smtpctl encrypt                 asked for twice on a terminal; otherwise each line of stdin is one
    smtpctl encrypt sesame          for scripts of old: whoever runs ps sees it

Which of the two is said on the command line, everything else by smtpd/tables/credential.py.
"""

import getpass
import os
import sys
from collections.abc import Iterable, Iterator, Sequence

from smtpctl.command import DONE
from smtpctl.connection import Connection, ControlError
from smtpctl.output import as_json
from smtpd.smtp import sasl
from smtpd.smtp.reply import CommandRefused
from smtpd.tables.credential import make_hash, make_verifier


def show_hash(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    return _show(encrypt(parameters, scram=False), json)


def show_verifier(connection: Connection, parameters: Sequence[str], json: bool) -> int:
    return _show(encrypt(parameters, scram=True), json)


def _show(credentials: Iterable[str], json: bool) -> int:
    for credential in credentials:
        print(as_json({"credential": credential}) if json else credential)
    return DONE


def encrypt(parameters: Sequence[str], scram: bool) -> Iterator[str]:
    """Raises ControlError, which does not repeat a password."""
    for password in map(os.fsencode, parameters) if parameters else _asked():
        yield (make_verifier if scram else make_hash)(_checked(password))


def _asked() -> Iterable[bytes]:
    if sys.stdin.isatty():
        return [_typed()]
    return (line.removesuffix(b"\n") for line in sys.stdin.buffer)


def _typed() -> bytes:
    try:
        password, again = getpass.getpass("password: "), getpass.getpass("again: ")
    except EOFError:
        raise ControlError("no password") from None
    if password != again:
        raise ControlError("the passwords do not match")
    return os.fsencode(password)


def _checked(password: bytes) -> bytes:
    try:
        return sasl.password(password).encode()
    except CommandRefused:
        size = f"1 to {sasl.MAX_PASSWORD} characters"
        raise ControlError(f"invalid password: expected {size}, in UTF-8, without line ends") from None
