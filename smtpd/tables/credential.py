"""The values of a table of credentials: what is kept of a user's password.

    HASH, or USER:HASH; the user there is not looked at
    {SCHEME}HASH, as doveadm pw writes it, where the scheme is one of these

    $argon2id$v=19$m=65536,t=3,p=1$SALT$HASH       Argon2     RFC 9106
    SCRAM-SHA-256$15000:SALT$KEY:KEY               Verifier   scram.py
    $y$… $gy$… $7$… $2b$… $6$… $5$…                Crypt      crypt.py
    !…, *…, x, nothing                             Locked: nobody gets in

A password is checked as it was sent, or made here; its bytes are never part of an exception.
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
)  # of hashes made here, memory in KiB: RFC 9106 4, without threads of their own
SALT_SIZE, HASH_SIZE = 16, 32  # bytes
MEMORY_MAX = crypt.MEMORY_MAX // KIB
WORK_MAX = 2 * crypt.WORK_MAX // KIB  # KiB, all passes together: about a second
LANES_MAX = 8  # each is a thread
SIZE_MAX = 64  # bytes of a salt, of a hash

# Of Dovecot, whose hashes say themselves what they are.
CRYPT_SCHEMES = ("CRYPT", "BLF-CRYPT", "SHA256-CRYPT", "SHA512-CRYPT", "ARGON2ID")
_SCHEME = re.compile(r"\{([A-Za-z0-9.-]{1,32})\}")
_ARGON2 = re.compile(
    r"\$argon2id\$v=19\$m=([0-9]{1,10}),t=([0-9]{1,10}),p=([0-9]{1,3})\$([A-Za-z0-9+/]+)\$([A-Za-z0-9+/]+)"
)


class CredentialError(ValueError):
    """Not a credential that is accepted.  The argument does not repeat it."""


class CredentialLocked(ValueError):
    """On purpose no password fits."""


class Credential(Protocol):
    def check(self, password: bytes) -> bool:
        """Does it fit?  Takes up to some seconds, without the interpreter's lock.  Raises OSError when this machine
        cannot say now."""
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
    """Raises Malformed, Locked."""
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
    """The same as it is written here.  Raises Malformed."""
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
        raise CredentialError("parameters that Argon2 has not")
    if not 8 <= len(salt) <= SIZE_MAX or not 16 <= len(hashed) <= SIZE_MAX:
        raise CredentialError("a salt or a hash of the wrong size")
    return Argon2(memory, passes, lanes, salt, hashed)


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise CredentialError("a salt or a hash that is not base64") from None


def make_hash(password: bytes) -> str:
    """Argon2, with a new salt."""
    salt = secrets.token_bytes(SALT_SIZE)
    return hash_secret(password, salt, ARGON2_PASSES, ARGON2_MEMORY, ARGON2_LANES, HASH_SIZE, Type.ID).decode("ascii")


def make_verifier(password: bytes) -> str:
    """For SCRAM-SHA-256 too, with a new salt."""
    return str(scram.make_verifier(password, scram.ITERATIONS, secrets.token_bytes(scram.SALT_SIZE)))
