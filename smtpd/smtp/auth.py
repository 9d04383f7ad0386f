"""AUTH (RFC 4954): the mechanisms, and the exchange of one of them, line by line.

    C: AUTH PLAIN AGFteQBzZWNyZXQ=          start      ->  PasswordQuestion
                                            answer     ->  Done | Failed

    C: AUTH LOGIN                           start      ->  Prompt    S: 334 VXNlcm5hbWU6
    C: YW15                                 receive    ->  Prompt    S: 334 UGFzc3dvcmQ6
    C: c2VjcmV0                             receive    ->  PasswordQuestion

    SCRAM-SHA-256, SCRAM-SHA-256-PLUS       scram.py

Only under TLS.  Input that is not base64, or not a message of the mechanism, raises CommandRefused, and the exchange is
over; the text of the error has nothing of what the client sent.
"""

import binascii
import secrets
from collections.abc import Callable
from functools import partial

from smtpd.slice import ListenerSlice
from smtpd.smtp import sasl, scram
from smtpd.smtp.question import Answer, PasswordQuestion, Verdict
from smtpd.smtp.reply import CommandRefused
from smtpd.smtp.sasl import AuthFailed, AuthSucceeded, Dialogue, Step
from smtpd.tls.facts import TlsFacts

NONCE_SIZE = 18  # bytes


def offered(listener: ListenerSlice, facts: TlsFacts | None) -> tuple[str, ...]:
    """As EHLO names them; those that do not show the password to this server first."""
    if listener.auth is None or facts is None:
        return ()
    plus = ("SCRAM-SHA-256-PLUS",) if scram.bindings(facts) else ()
    return (*plus, "SCRAM-SHA-256", "PLAIN", "LOGIN") if listener.scram else ("PLAIN", "LOGIN")


def begin(mechanism: str, facts: TlsFacts | None) -> "SaslExchange":
    """The exchange of a mechanism that was offered, its name in capitals."""
    match mechanism:
        case _ if facts is None:
            pass
        case "PLAIN":
            return SaslExchange(_plain)
        case "LOGIN":
            return SaslExchange(_login, b"Username:")
        case "SCRAM-SHA-256" | "SCRAM-SHA-256-PLUS":
            nonce = secrets.token_urlsafe(NONCE_SIZE).encode()
            return SaslExchange(partial(scram.dialogue, nonce=nonce, facts=facts, plus=mechanism.endswith("-PLUS")))
    raise CommandRefused(504, "5.5.4", "Unknown authentication mechanism")  # RFC 4954 4


class SaslExchange:
    """`opening`: the first prompt, for a client that sends no initial response."""

    def __init__(self, mechanism: Callable[[bytes], Dialogue], opening: bytes = b""):
        self._mechanism = mechanism
        self._opening = opening
        self._dialogue: Dialogue | None = None

    def start(self, initial: str | None) -> Step:
        """`initial`: the initial response, if there is one.  Raises CommandRefused."""
        if initial is None:
            return sasl.prompt(self._opening)
        return self._take(b"" if initial == "=" else _decode(initial))  # RFC 4954 4: "=" is the empty one

    def receive(self, line: str) -> Step:
        """The client's answer to a Prompt.  Raises CommandRefused."""
        if line == "*":
            raise CommandRefused(501, "5.5.2", "Authentication cancelled")
        return self._take(_decode(line))

    def answer(self, answer: Answer) -> Step:
        assert self._dialogue is not None
        return self._go_on(self._dialogue, answer)

    def _take(self, message: bytes) -> Step:
        if self._dialogue is not None:
            return self._go_on(self._dialogue, message)
        self._dialogue = self._mechanism(message)
        return self._go_on(self._dialogue, None)

    def _go_on(self, dialogue: Dialogue, sent: bytes | Answer | None) -> Step:
        try:
            return dialogue.send(sent)
        except StopIteration as ended:
            return ended.value


def _plain(message: bytes) -> Dialogue:
    """RFC 4616 2.  No user acts as another one."""
    parts = message.split(b"\0")
    if len(parts) != 3:
        raise sasl.malformed()
    user = sasl.user_name(parts[1])
    secret = sasl.password(parts[2])
    if parts[0] and not sasl.is_same_user(sasl.user_name(parts[0]), user):
        return AuthFailed(Verdict.NO)
    return (yield from _check(user, secret))


def _login(message: bytes) -> Dialogue:
    """As draft-murchison-sasl-login-00 describes it."""
    user = sasl.user_name(message)
    secret = yield sasl.prompt(b"Password:")
    return (yield from _check(user, sasl.password(secret)))


def _check(user: str, secret: str) -> Dialogue:
    checked = yield PasswordQuestion(user, secret)
    return AuthSucceeded(user) if checked.verdict is Verdict.YES else AuthFailed(checked.verdict)


def _decode(text: str) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise CommandRefused(501, "5.5.2", "Not base64") from None
