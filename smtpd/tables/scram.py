"""SCRAM-SHA-256 verifiers (RFC 5802, RFC 7677), in the form of RFC 5803:

    SCRAM-SHA-256$4096:SALT$STOREDKEY:SERVERKEY          base64 each

    SaltedPassword = PBKDF2(password, salt, iterations)
    ClientKey      = HMAC(SaltedPassword, "Client Key")      StoredKey = SHA-256(ClientKey)
    ServerKey      = HMAC(SaltedPassword, "Server Key")

A verifier is enough to impersonate the server and to try passwords, but not to log in.  The exchange itself is in
smtp/scram.py: it ends in the AuthMessage, for which `finish` checks the client's proof.
"""

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, field

from smtpd.smtp.sasl import ITERATIONS_MAX, ITERATIONS_MIN, prepare

ITERATIONS = 15_000  # RFC 7677 4
SALT_SIZE = 16  # bytes
SALT_MAX = 64
KEY_SIZE = 32

_VALUE = re.compile(r"SCRAM-SHA-256\$([0-9]{1,9}):([^$:]+)\$([^$:]+):([^$:]+)")


class VerifierError(ValueError):
    """Not a SCRAM verifier.  The text does not repeat the value."""


@dataclass(frozen=True)
class Verifier:
    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)

    def check(self, password: bytes) -> bool:
        """Whether a password sent in PLAIN or LOGIN is right.  Slow on purpose; releases the GIL."""
        made = make_verifier(password, self.iterations, self.salt)  # as a SCRAM client would compute it
        return hmac.compare_digest(made.stored_key, self.stored_key)

    def finish(self, message: bytes, proof: bytes) -> bytes | None:
        """The ServerSignature, if the ClientProof `proof` is right for the AuthMessage `message`; else None."""
        if len(proof) != KEY_SIZE:
            return None
        signature = _hmac(self.stored_key, message)
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        if not hmac.compare_digest(hashlib.sha256(client_key).digest(), self.stored_key):
            return None
        return _hmac(self.server_key, message)

    def __str__(self) -> str:
        salt, stored, server = map(_text, (self.salt, self.stored_key, self.server_key))
        return f"SCRAM-SHA-256${self.iterations}:{salt}${stored}:{server}"


def make_verifier(password: bytes, iterations: int, salt: bytes) -> Verifier:
    salted = hashlib.pbkdf2_hmac("sha256", _normalized(password), salt, iterations)
    stored = hashlib.sha256(_hmac(salted, b"Client Key")).digest()
    return Verifier(iterations, salt, stored, _hmac(salted, b"Server Key"))


def parse_verifier(text: str) -> Verifier:
    """The verifier in a table's value.  Raises VerifierError."""
    found = _VALUE.fullmatch(text)
    if found is None:
        raise VerifierError("not SCRAM-SHA-256$iterations:salt$key:key")
    iterations = int(found[1])
    salt, stored, server = map(_bytes, found.groups()[1:])
    if not ITERATIONS_MIN <= iterations <= ITERATIONS_MAX:  # RFC 5802 5.1: at least 4096
        raise VerifierError(f"{iterations} iterations")
    if not 0 < len(salt) <= SALT_MAX or len(stored) != KEY_SIZE or len(server) != KEY_SIZE:
        raise VerifierError("a salt or a key of the wrong size")
    return Verifier(iterations, salt, stored, server)


def _normalized(password: bytes) -> bytes:
    """The password after SASLprep, RFC 5802 2.2; unchanged if SASLprep prohibits it, as some clients do."""
    try:
        return prepare(password.decode()).encode()
    except ValueError:
        return password


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise VerifierError("a salt or a key that is not base64") from None
