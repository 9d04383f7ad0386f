"""The value of a table of credentials for smarthosts: `user:password`, split at the first colon.

    label      amy:correct horse            RelayCredential("amy", "correct horse")

A user with a colon in it cannot be written.  No exception holds a part of the value.
"""

from dataclasses import dataclass, field

from smtpd.envelope import Secret, Word
from smtpd.ipc.text_limit import text_error


class RelayCredentialError(ValueError):
    """Not user:password.  The text does not repeat the value."""


@dataclass(frozen=True)
class RelayCredential:
    user: str
    password: str = field(repr=False)


def parse_relay_credential(value: str) -> RelayCredential:
    """Raises RelayCredentialError."""
    user, colon, password = value.partition(":")
    if not colon or not user or not password:
        raise RelayCredentialError("not user:password")
    for what, kind, text in (("user", Word, user), ("password", Secret, password)):
        if wrong := text_error(kind, text):
            raise RelayCredentialError(f"the {what} has {wrong}")
    return RelayCredential(user, password)
