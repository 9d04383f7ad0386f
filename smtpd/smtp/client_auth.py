"""AUTH as a client (RFC 4954): which mechanism, and its messages.

    PLAIN                     RFC 4616            OAUTHBEARER     RFC 7628, with an access token
    LOGIN                     as servers do it    XOAUTH2         the same before there was an RFC
    SCRAM-SHA-256, -PLUS      RFC 5802, 7677: the password is not sent, and the server has to prove that it knows it

A mechanism is a generator: it yields the message to send (None: the server speaks first), is sent the challenge of each
334, and ends when it has no more to say.  It knows neither base64 nor SMTP; what the server must not have said raises
AuthError.  No text of an error holds a secret.

The caller allows AUTH over TLS with a verified certificate only.  Not understood: mandatory extensions of SCRAM (m=).
"""

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Generator
from typing import NamedTuple

from smtpd.smtp import scram
from smtpd.smtp.client_action import AuthError, Exchange
from smtpd.smtp.sasl import ITERATIONS_MAX, ITERATIONS_MIN, prepare
from smtpd.tls.facts import TlsFacts

AUTH_LINE_MAX = 510  # bytes before the CRLF; a longer initial response is sent by itself (RFC 4954 4)
RESPONSE_LINE_MAX = 12286  # likewise of a response
NONCE_SIZE = 18  # bytes
STEPS_MAX = 8  # challenges of one login

_SERVER_FIRST = re.compile(
    rb"r=(?P<nonce>[!-+\--~]+),s=(?P<salt>[A-Za-z0-9+/]+={0,2}),i=(?P<iterations>[1-9][0-9]{0,8})(?:,[A-Za-z]=[^,\0]+)*+"
)
_SERVER_FINAL = re.compile(rb"v=(?P<signature>[A-Za-z0-9+/]+={0,2})(?:,[A-Za-z]=[^,\0]+)*+")

Messages = Generator[bytes | None, bytes, None]


class Credentials(NamedTuple):
    """`token`: the secret is an access token of OAuth 2.0 (RFC 6750), no password."""

    user: str
    secret: str
    token: bool = False

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r})"


class ClientLogin:
    """Credentials as `ClientSettings.login`."""

    def __init__(self, credentials: Credentials):
        self.user = credentials.user
        self._credentials = credentials

    def exchanges(self, offered: list[str], facts: TlsFacts) -> list[Exchange]:
        """By the mechanisms that both sides have, the best first."""
        chosen = mechanisms(self._credentials, offered, facts)
        return [ClientExchange(mechanism, self._credentials, facts, offered) for mechanism in chosen]


class ClientExchange:
    """One login by one mechanism.  `complete`: the mechanism has all that it wants from the server."""

    def __init__(self, mechanism: str, credentials: Credentials, facts: TlsFacts, offered: list[str]):
        self.mechanism = mechanism
        self.complete = False
        self._initial: bytes | None = None
        self._held = False  # the initial message is sent at the first, empty challenge
        self._steps = 0
        self._messages = MECHANISMS[mechanism](credentials, facts, offered)

    def command(self) -> bytes:
        """The AUTH command.  Raises AuthError."""
        initial = self._go_on(None)
        line = f"AUTH {self.mechanism}".encode()
        if initial is None:
            return line + b"\r\n"
        whole = line + b" " + (_encoded(initial) or b"=")
        if len(whole) <= AUTH_LINE_MAX:
            return whole + b"\r\n"
        self._initial, self._held = initial, True
        return line + b"\r\n"

    def answer(self, challenge: str) -> bytes:
        """The line that answers a 334 with this text.  Raises AuthError."""
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise AuthError("too many challenges")
        try:
            message = binascii.a2b_base64(challenge, strict_mode=True)
        except ValueError:
            raise AuthError("the challenge is not base64") from None
        if self._held:
            self._held, response = False, self._initial
        elif self.complete:
            raise AuthError("a challenge that the mechanism does not have")
        else:
            response = self._go_on(message)
        line = _encoded(response or b"")
        if len(line) > RESPONSE_LINE_MAX:
            raise AuthError("the credentials are too long")
        return line + b"\r\n"

    def _go_on(self, challenge: bytes | None) -> bytes | None:
        """The next message; looks ahead whether it is the last one."""
        try:
            if challenge is None:
                return next(self._messages)
            return self._messages.send(challenge)
        except StopIteration:
            self.complete = True
            return b""

    def check_success(self) -> None:
        """The server says that the login succeeded.  Raises AuthError if it has not proved itself."""
        if self.mechanism.startswith("SCRAM-") and not self.complete:
            raise AuthError("the server has not proved that it knows the password")


def mechanisms(credentials: Credentials, offered: list[str], facts: TlsFacts) -> list[str]:
    """Those of the server that can be used, the best first."""
    if credentials.token:
        known = ["OAUTHBEARER", "XOAUTH2"]
    else:
        plus = ["SCRAM-SHA-256-PLUS"] if scram.bindings(facts) else []
        known = [*plus, "SCRAM-SHA-256", "PLAIN", "LOGIN"]
    return [mechanism for mechanism in known if mechanism in offered]


def _plain(credentials: Credentials, facts: TlsFacts, offered: list[str]) -> Messages:
    user, secret = credentials.user.encode(), credentials.secret.encode()
    if b"\0" in user + secret:  # RFC 4616 2
        raise AuthError("a NUL in the credentials")
    yield b"\0%b\0%b" % (user, secret)


def _login(credentials: Credentials, facts: TlsFacts, offered: list[str]) -> Messages:
    """Servers write the prompts as they like: the first is for the user, the second for the password."""
    yield None
    yield credentials.user.encode()
    yield credentials.secret.encode()


def _oauth_bearer(credentials: Credentials, facts: TlsFacts, offered: list[str]) -> Messages:
    yield b"n,a=%b,\1auth=Bearer %b\1\1" % (_scram_name(credentials.user), _token(credentials))
    yield b"\1"  # RFC 7628 3.2.3: the answer to an error, so that the server refuses


def _xoauth2(credentials: Credentials, facts: TlsFacts, offered: list[str]) -> Messages:
    yield b"user=%b\1auth=Bearer %b\1\1" % (credentials.user.encode(), _token(credentials))
    yield b""  # likewise


def _token(credentials: Credentials) -> bytes:
    if "\1" in credentials.user:
        raise AuthError("a control character in the user's name")
    if not re.fullmatch(r"[!-~]+", credentials.secret):  # RFC 6750 2.1, and what others put there
        raise AuthError("the token is not printable ASCII")
    return credentials.secret.encode()


def _scram(credentials: Credentials, facts: TlsFacts, offered: list[str]) -> Messages:
    yield from _scram_messages(credentials, _no_binding(facts, offered), b"")


def _scram_plus(credentials: Credentials, facts: TlsFacts, offered: list[str]) -> Messages:
    kind, data = _binding(facts)
    yield from _scram_messages(credentials, b"p=%b,," % kind, data)


def _scram_messages(credentials: Credentials, header: bytes, binding: bytes) -> Messages:
    """RFC 5802 3 and 5."""
    nonce = secrets.token_urlsafe(NONCE_SIZE).encode()
    first = b"n=%b,r=%b" % (_scram_name(credentials.user), nonce)
    challenge = yield header + first

    found = _matched(_SERVER_FIRST, challenge)
    iterations = int(found["iterations"])
    if not found["nonce"].startswith(nonce) or len(found["nonce"]) == len(nonce):
        raise AuthError("the server's nonce does not continue ours")
    if not ITERATIONS_MIN <= iterations <= ITERATIONS_MAX:
        raise AuthError(f"the server wants {iterations} iterations")
    salted = hashlib.pbkdf2_hmac("sha256", _password(credentials), _decoded(found["salt"]), iterations)
    client_key = _hmac(salted, b"Client Key")
    final = b"c=%b,r=%b" % (_encoded(header + binding), found["nonce"])
    message = b",".join((first, challenge, final))  # AuthMessage
    signature = _hmac(hashlib.sha256(client_key).digest(), message)
    proof = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
    challenge = yield b"%b,p=%b" % (final, _encoded(proof))

    expected = _hmac(_hmac(salted, b"Server Key"), message)
    if not hmac.compare_digest(_decoded(_matched(_SERVER_FINAL, challenge)["signature"]), expected):
        raise AuthError("the server does not know the password")


def _no_binding(facts: TlsFacts, offered: list[str]) -> bytes:
    """RFC 5802 6: `y` tells the server that -PLUS was not seen; if it had offered it, it refuses."""
    return b"y,," if scram.bindings(facts) and "SCRAM-SHA-256-PLUS" not in offered else b"n,,"


def _binding(facts: TlsFacts) -> tuple[bytes, bytes]:
    """The type that the RFCs name for this version of TLS, and its data."""
    known = scram.bindings(facts)
    order = (b"tls-exporter", b"tls-unique", b"tls-server-end-point")
    if facts.version != "TLSv1.3":  # RFC 5802 6.1; RFC 9266 3 for TLS 1.3
        order = (b"tls-unique", b"tls-exporter", b"tls-server-end-point")
    kind = next(kind for kind in order if kind in known)
    return kind, known[kind]


def _scram_name(user: str) -> bytes:
    """RFC 5802 5.1"""
    return _prepared(user).replace("=", "=3D").replace(",", "=2C").encode()


def _password(credentials: Credentials) -> bytes:
    return _prepared(credentials.secret).encode()


def _prepared(text: str) -> str:
    """After SASLprep, RFC 5802 2.2; unchanged if SASLprep prohibits it, as other implementations do."""
    try:
        return prepare(text)
    except ValueError:
        return text


def _matched(form: re.Pattern[bytes], message: bytes) -> re.Match[bytes]:
    found = form.fullmatch(message) if len(message) <= scram.MAX_MESSAGE else None
    if not found:
        raise AuthError("malformed SCRAM message, or an error of the server")
    return found


def _decoded(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise AuthError("malformed SCRAM message, or an error of the server") from None


def _encoded(message: bytes) -> bytes:
    return base64.b64encode(message)


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")


MECHANISMS: dict[str, Callable[[Credentials, TlsFacts, list[str]], Messages]] = {
    "SCRAM-SHA-256-PLUS": _scram_plus,
    "SCRAM-SHA-256": _scram,
    "PLAIN": _plain,
    "LOGIN": _login,
    "OAUTHBEARER": _oauth_bearer,
    "XOAUTH2": _xoauth2,
}
