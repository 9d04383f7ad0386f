"""Building blocks of SASL mechanisms (RFC 4422).

    steps of an exchange      Prompt, a question, AuthSucceeded, AuthFailed
    user names                after SASLprep (RFC 4013), so that each user has one
    passwords                 as they were sent: the passwords that they are compared with come from other programs

A mechanism is a generator: made with the first message of the client, it yields a Prompt for the client or a question
to another process, is sent the answer, and returns AuthSucceeded or AuthFailed.  It knows neither base64 nor SMTP; a
malformed message raises CommandRefused.
"""

import base64
import stringprep
from collections.abc import Generator
from typing import Any
from unicodedata import ucd_3_2_0 as unicode  # RFC 3454 knows no later one

from msgspec import Struct

from smtpd.smtp.question import PasswordQuestion, ScramProofQuestion, ScramSeedQuestion, Verdict
from smtpd.smtp.reply import CommandRefused

MAX_USER = 255  # octets, RFC 4616 2
MAX_PASSWORD = 1024  # characters
ITERATIONS_MIN = 4096  # of SCRAM; RFC 5802 5.1
ITERATIONS_MAX = 1_000_000  # takes less than a second

_PROHIBITED = (  # RFC 4013 2.3
    stringprep.in_table_c12,
    stringprep.in_table_c21_c22,
    stringprep.in_table_c3,
    stringprep.in_table_c4,
    stringprep.in_table_c5,
    stringprep.in_table_c6,
    stringprep.in_table_c7,
    stringprep.in_table_c8,
    stringprep.in_table_c9,
)


class Prompt(Struct, frozen=True):
    """The text of a 334, in base64."""

    text: str


class AuthSucceeded(Struct, frozen=True):
    user: str


class AuthFailed(Struct, frozen=True):
    """NO or LATER."""

    verdict: Verdict


Request = Prompt | PasswordQuestion | ScramSeedQuestion | ScramProofQuestion
Step = Request | AuthSucceeded | AuthFailed
Dialogue = Generator[
    Request, Any, AuthSucceeded | AuthFailed
]  # sent: bytes after a Prompt, otherwise the question's Answer


def prompt(message: bytes) -> Prompt:
    return Prompt(base64.b64encode(message).decode())


def malformed() -> CommandRefused:
    """The text does not say where: the message holds secrets."""
    return CommandRefused(501, "5.5.2", "Malformed authentication message")


def user_name(message: bytes) -> str:
    """Raises CommandRefused; if too long, before SASLprep, which may make eighteen letters of one and is slow."""
    try:
        name = prepare(message.decode()) if len(message) <= MAX_USER else ""
    except ValueError:
        raise malformed() from None
    if not 0 < len(name.encode()) <= MAX_USER:
        raise malformed()
    return name


def is_same_user(authorization: str, user: str) -> bool:
    """Whether the authorization identity is the user that logs in (RFC 4616 2).  Case does not count, as in tables of
    users.  The authorization identity gives no rights: all that follows is done as `user`."""
    return authorization.lower() == user.lower()


def password(message: bytes) -> str:
    """Raises CommandRefused, also for characters that a table or a library takes for the end of a password."""
    try:
        text = message.decode()
    except UnicodeDecodeError:
        raise malformed() from None
    if not 0 < len(text) <= MAX_PASSWORD or any(end in text for end in "\0\r\n"):
        raise malformed()
    return text


def prepare(text: str) -> str:
    """SASLprep of a query: characters that are not in Unicode 3.2 stay.  Raises ValueError."""
    if text.isascii() and text.isprintable():
        return text
    mapped = (" " if stringprep.in_table_c12(char) else char for char in text if not stringprep.in_table_b1(char))
    prepared = unicode.normalize("NFKC", "".join(mapped))
    if any(prohibits(char) for char in prepared for prohibits in _PROHIBITED):
        raise ValueError("prohibited character")
    _check_direction(prepared)
    return prepared


def _check_direction(text: str) -> None:
    """RFC 3454 6: text from right to left begins and ends so, and holds nothing that goes the other way."""
    if not any(map(stringprep.in_table_d1, text)):
        return
    outside = stringprep.in_table_d1(text[0]) and stringprep.in_table_d1(text[-1])
    if not outside or any(map(stringprep.in_table_d2, text)):
        raise ValueError("mixed directions")
