"""SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677): the server's side, without the password.

    C: n,,n=amy,r=CLIENT                             ->  ScramSeedQuestion("amy")       salt and iterations
    S: r=CLIENTSERVER,s=SALT,i=4096
    C: c=biws,r=CLIENTSERVER,p=PROOF                 ->  ScramProofQuestion             proof, and signature
    S: v=SIGNATURE
    C: (empty)                                       ->  Done("amy")

The first letters say how the client sees channel binding (RFC 5802 6), the binding of the login to this very TLS
connection:

    n        it supports none                                 SCRAM-SHA-256
    y        it supports one, and thinks the server does not  refused if the server does: -PLUS was removed on the way
    p=TYPE   the binding follows in c=                        SCRAM-SHA-256-PLUS

Whether the user exists is not known here.  Not understood: mandatory extensions (m=).
"""

import base64
import binascii
import re
from hmac import compare_digest

from smtpd.smtp.question import ScramProofQuestion, ScramSeedQuestion, Verdict
from smtpd.smtp.sasl import AuthFailed, AuthSucceeded, Dialogue, is_same_user, malformed, prompt, user_name
from smtpd.tls.facts import TlsFacts

MAX_MESSAGE = 2048  # bytes

_NONCE = rb"[!-+\--~]+"
_EXTENSIONS = rb"(?:,[A-Za-z]=[^,\0]+)"
_BASE64 = rb"[A-Za-z0-9+/]+={0,2}"
_FIRST = re.compile(
    rb"(?P<gs2>(?P<flag>[ny]|p=(?P<type>[A-Za-z0-9.-]+)),(?:a=(?P<other>[^,\0]+))?,)"
    rb"(?P<bare>n=(?P<user>[^,\0]+),r=(?P<nonce>%b)%b*+)" % (_NONCE, _EXTENSIONS)
)
_FINAL = re.compile(
    rb"(?P<bare>c=(?P<binding>%b),r=(?P<nonce>%b)%b*?),p=(?P<proof>%b)" % (_BASE64, _NONCE, _EXTENSIONS, _BASE64)
)
_ESCAPE = re.compile(rb"=(2C|3D)?")  # RFC 5802 5.1


def bindings(facts: TlsFacts) -> dict[bytes, bytes]:
    """The types of channel binding of a connection (RFC 9266, RFC 5929 3 and 4), each with its data."""
    known = {
        b"tls-exporter": facts.exporter,
        b"tls-unique": facts.unique,
        b"tls-server-end-point": facts.end_point,
    }
    return {type: data for type, data in known.items() if data}


def dialogue(first: bytes, *, nonce: bytes, facts: TlsFacts, plus: bool) -> Dialogue:
    """`nonce`: of this server, never used before."""
    begun = _matched(_FIRST, first)
    user = _unescaped(begun["user"])
    if begun["other"] is not None and not is_same_user(_unescaped(begun["other"]), user):
        return AuthFailed(Verdict.NO)
    binding = _maybe_binding(begun, facts, plus)
    if binding is None:
        return AuthFailed(Verdict.NO)

    seed = yield ScramSeedQuestion(user)
    if seed.verdict is not Verdict.YES:
        return AuthFailed(seed.verdict)
    nonce = begun["nonce"] + nonce
    challenge = b"r=%b,s=%b,i=%d" % (nonce, base64.b64encode(seed.salt), seed.iterations)

    finished = _matched(_FINAL, (yield prompt(challenge)))
    proof = _decoded(finished["proof"])
    if not compare_digest(_decoded(finished["binding"]), begun["gs2"] + binding) or finished["nonce"] != nonce:
        return AuthFailed(Verdict.NO)
    message = b",".join((begun["bare"], challenge, finished["bare"]))  # AuthMessage, RFC 5802 3
    checked = yield ScramProofQuestion(user, message, proof)
    if checked.verdict is not Verdict.YES:
        return AuthFailed(checked.verdict)
    if (yield prompt(b"v=" + base64.b64encode(checked.signature))):
        raise malformed()
    return AuthSucceeded(user)


def _maybe_binding(begun: re.Match[bytes], facts: TlsFacts, plus: bool) -> bytes | None:
    """The data that the client has to repeat; None if it must not go on."""
    offered = bindings(facts)
    if plus:
        return offered.get(begun["type"])
    return None if begun["type"] or begun["flag"] == b"y" and offered else b""


def _matched(form: re.Pattern[bytes], message: bytes) -> re.Match[bytes]:
    found = form.fullmatch(message) if len(message) <= MAX_MESSAGE else None
    if not found:
        raise malformed()
    return found


def _unescaped(name: bytes) -> str:
    if any(found[1] is None for found in _ESCAPE.finditer(name)):
        raise malformed()
    return user_name(name.replace(b"=2C", b",").replace(b"=3D", b"="))


def _decoded(text: bytes) -> bytes:
    try:
        return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        raise malformed() from None
