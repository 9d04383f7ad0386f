"""The values of a table of credentials: password hashes and verifiers.

    HASH, or USER:HASH, where USER is ignored
    {SCHEME}HASH, as doveadm pw writes it, for the schemes below

    $argon2id$v=19$m=65536,t=3,p=1$SALT$HASH       Argon2     RFC 9106
    SCRAM-SHA-256$15000:SALT$KEY:KEY               Verifier   scram.py
    $y$… $gy$… $7$… $2b$… $6$… $5$…                Crypt      crypt.py
    !…, *…, x, nothing                             CredentialLocked: no password is right

Passwords are checked as they were sent, and hashes are made here; a password is never part of an exception.
"""

import base64
import binascii
import errno
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Protocol

from argon2.exceptions import HashingError
from argon2.low_level import Type, hash_secret, hash_secret_raw

from smtpd.tables import crypt, scram

KIB = 1024
ARGON2_MEMORY, ARGON2_PASSES, ARGON2_LANES = (
    64 * KIB,
    3,
    1,
)  # for hashes made here, memory in KiB: RFC 9106 4, with one lane, so no threads
SALT_SIZE, HASH_SIZE = 16, 32  # bytes
MEMORY_MAX = crypt.MEMORY_MAX // KIB
WORK_MAX = 2 * crypt.WORK_MAX // KIB  # KiB, summed over the passes: about a second
LANES_MAX = 8  # threads
SIZE_MAX = 64  # bytes of a salt, and of a hash

# Schemes of Dovecot whose hashes name their own algorithm.
CRYPT_SCHEMES = ("CRYPT", "BLF-CRYPT", "SHA256-CRYPT", "SHA512-CRYPT", "ARGON2ID")
_SCHEME = re.compile(r"\{([A-Za-z0-9.-]{1,32})\}")
_ARGON2 = re.compile(
    r"\$argon2id\$v=19\$m=([0-9]{1,10}),t=([0-9]{1,10}),p=([0-9]{1,3})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)"
)


class CredentialError(ValueError):
    """Not an accepted credential.  The text does not repeat the value."""


class CredentialLocked(ValueError):
    """The account is locked: no password is right."""


class Credential(Protocol):
    def check(self, password: bytes) -> bool:
        """Whether the password is right.  May take some seconds; releases the GIL.  Raises OSError when memory is
        short or the library is missing."""
        ...


@dataclass(frozen=True)
class Argon2:
    memory: int  # KiB
    passes: int
    lanes: int
    salt: bytes = field(repr=False)
    hashed: bytes = field(repr=False)

    def check(self, password: bytes) -> bool:
        size = len(self.hashed)
        try:
            made = hash_secret_raw(password, self.salt, self.passes, self.memory, self.lanes, size, Type.ID)
        except HashingError as error:
            raise OSError(errno.ENOMEM, str(error)) from None
        return hmac.compare_digest(made, self.hashed)


def parse_credential(value: str) -> Credential:
    """The credential in a table's value.  Raises CredentialError, CredentialLocked."""
    user, colon, behind = value.partition(":")
    text = behind if colon and "$" not in user else value
    if (found := _SCHEME.match(text)) is not None:
        text = _of_scheme(found[1].upper(), text[found.end() :])
    if text in ("", "x") or text[0] in "!*":
        raise CredentialLocked
    if text.startswith("$argon2"):
        return _parse_argon2(text)
    try:
        return scram.parse_verifier(text) if text.startswith("SCRAM") else crypt.parse_crypt(text)
    except (scram.VerifierError, crypt.CryptHashError) as error:
        raise CredentialError(str(error)) from None


def _of_scheme(scheme: str, text: str) -> str:
    """The value without Dovecot's scheme, in our format.  Raises CredentialError."""
    if scheme in CRYPT_SCHEMES:
        return text
    if scheme == "SCRAM-SHA-256" and text.count(",") == 3:
        iterations, salt, stored, server = text.split(",")
        return f"{scheme}${iterations}:{salt}${stored}:{server}"
    raise CredentialError(f"the scheme {{{scheme}}} is not available")


def _parse_argon2(text: str) -> Argon2:
    found = _ARGON2.fullmatch(text)
    if found is None:
        raise CredentialError("not $argon2id$v=19$m=…,t=…,p=…$salt$hash")
    memory, passes, lanes = map(int, found.groups()[:3])
    salt, hashed = map(_bytes, found.groups()[3:])
    if memory > MEMORY_MAX or memory * passes > WORK_MAX or lanes > LANES_MAX:
        raise CredentialError(f"needs {memory} KiB, {passes} times, {lanes} threads")
    if not passes or not lanes or memory < 8 * lanes:  # RFC 9106 3.1
        raise CredentialError("invalid Argon2 parameters")
    if not 8 <= len(salt) <= SIZE_MAX or not 16 <= len(hashed) <= SIZE_MAX:
        raise CredentialError("a salt or a hash of the wrong size")
    return Argon2(memory, passes, lanes, salt, hashed)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise CredentialError("a salt or a hash that is not base64") from None


def make_hash(password: bytes) -> str:
    """An Argon2id hash of the password, with a new salt."""
    salt = secrets.token_bytes(SALT_SIZE)
    return hash_secret(password, salt, ARGON2_PASSES, ARGON2_MEMORY, ARGON2_LANES, HASH_SIZE, Type.ID).decode("ascii")


def make_verifier(password: bytes) -> str:
    """A SCRAM-SHA-256 verifier of the password, with a new salt."""
    return str(scram.make_verifier(password, scram.ITERATIONS, secrets.token_bytes(scram.SALT_SIZE)))
