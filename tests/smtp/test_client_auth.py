"""The client's mechanisms of AUTH against our own server's, and against servers that cheat."""

import base64
import hashlib
import hmac

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.smtp.auth import begin
from smtpd.smtp.client_action import AuthError
from smtpd.smtp.client_auth import (
    AUTH_LINE_MAX,
    ITERATIONS_MAX,
    RESPONSE_LINE_MAX,
    ClientExchange,
    ClientLogin,
    Credentials,
    mechanisms,
)
from smtpd.smtp.question import (
    PasswordAnswer,
    PasswordQuestion,
    ScramProofAnswer,
    ScramProofQuestion,
    ScramSeedAnswer,
    ScramSeedQuestion,
    Verdict,
)
from smtpd.smtp.reply import CommandRefused
from smtpd.smtp.sasl import AuthFailed, AuthSucceeded, Prompt
from smtpd.tables.scram import Verifier, make_verifier
from smtpd.tls.facts import TlsFacts
from tests.smtp.client_player import ClientDriver

PLAIN_TLS = TlsFacts("TLSv1.3", "X", 256, verified=True)
BOUND = TlsFacts("TLSv1.3", "X", 256, verified=True, exporter=b"exporter", end_point=b"certificate")
OLD = TlsFacts("TLSv1.2", "X", 256, verified=True, exporter=b"exporter", unique=b"unique")
AMY = Credentials("amy", "secret")
ALL = ["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"]


def b64(message):
    return base64.b64encode(message).decode()


def log_in(mechanism, credentials, facts=PLAIN_TLS, *, password="secret", offered=(), server_facts=None):
    """The server's last word."""
    client = ClientExchange(mechanism, credentials, facts, list(offered or ALL))
    verifier = make_verifier(password.encode(), 4096, b"salt")
    server = begin(mechanism, server_facts or facts)
    initial = client.command().decode().split()[2:]
    step = server.start(initial[0] if initial else None)
    while True:
        match step:
            case Prompt(text):
                step = server.receive(client.answer(text).decode().removesuffix("\r\n"))
            case AuthSucceeded():
                client.check_success()
                return step
            case AuthFailed():
                return step
            case question:
                step = server.answer(answer(question, verifier, password))


def answer(question, verifier: Verifier, password):
    match question:
        case PasswordQuestion(password=given):
            return PasswordAnswer(Verdict.YES if given == password else Verdict.NO)
        case ScramSeedQuestion():
            return ScramSeedAnswer(Verdict.YES, verifier.salt, verifier.iterations)
        case ScramProofQuestion(message=message, proof=proof):
            signature = verifier.finish(message, proof)
            return ScramProofAnswer(Verdict.YES, signature) if signature else ScramProofAnswer(Verdict.NO)
    raise TypeError(question)


@pytest.mark.parametrize("facts", [BOUND, OLD], ids=["TLS 1.3", "TLS 1.2"])
@pytest.mark.parametrize("mechanism", ALL)
def test_our_own_server_lets_the_client_in(mechanism, facts):
    assert log_in(mechanism, AMY, facts) == AuthSucceeded("amy")
    assert log_in(mechanism, AMY, facts, password="other") == AuthFailed(Verdict.NO)


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_user_and_password_that_the_server_takes(user, secret):
    for mechanism in ("PLAIN", "LOGIN", "SCRAM-SHA-256"):
        try:
            result = log_in(mechanism, Credentials(user, secret), password=secret)
        except (CommandRefused, AuthError, UnicodeEncodeError):
            continue
        assert isinstance(result, AuthSucceeded)


def test_a_server_that_offers_no_binding_is_told_that_the_client_has_one():  # RFC 5802 6
    exchange = ClientExchange("SCRAM-SHA-256", AMY, BOUND, ["SCRAM-SHA-256"])
    assert base64.b64decode(exchange.command().split()[2]).startswith(b"y,,n=amy,r=")
    exchange = ClientExchange("SCRAM-SHA-256", AMY, PLAIN_TLS, ["SCRAM-SHA-256"])
    assert base64.b64decode(exchange.command().split()[2]).startswith(b"n,,n=amy,r=")


def test_a_server_that_offered_a_binding_notices_that_it_was_removed_on_the_way():
    assert log_in("SCRAM-SHA-256", AMY, BOUND, offered=["SCRAM-SHA-256"]) == AuthFailed(Verdict.NO)


def test_a_relayed_login_has_the_binding_of_another_connection():
    other = BOUND._replace(exporter=b"of the attacker")
    assert log_in("SCRAM-SHA-256-PLUS", AMY, BOUND, server_facts=other) == AuthFailed(Verdict.NO)


@pytest.mark.parametrize(
    "credentials, offered, facts, chosen",
    [
        (AMY, ALL, BOUND, ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256", "PLAIN", "LOGIN"]),
        (AMY, ["SCRAM-SHA-256-PLUS", "LOGIN"], PLAIN_TLS, ["LOGIN"]),
        (AMY, ["CRAM-MD5", "XOAUTH2"], BOUND, []),
        (Credentials("amy", "t", token=True), ["XOAUTH2", "PLAIN", "OAUTHBEARER"], BOUND, ["OAUTHBEARER", "XOAUTH2"]),
    ],
)  # fmt: skip
def test_which_mechanism(credentials, offered, facts, chosen):
    assert mechanisms(credentials, offered, facts) == chosen
    assert [exchange.mechanism for exchange in ClientLogin(credentials).exchanges(offered, facts)] == chosen


def test_credentials_are_not_printed():
    assert repr(Credentials("amy", "secret")) == "Credentials(user='amy')" == str(Credentials("amy", "secret"))


# -- a server that cheats --------------------------------------------------------------------------------


def begun(secret="secret"):
    exchange = ClientExchange("SCRAM-SHA-256", Credentials("amy", secret), PLAIN_TLS, ["SCRAM-SHA-256"])
    first = base64.b64decode(exchange.command().split()[2])
    return exchange, first.partition(b"r=")[2]


@pytest.mark.parametrize(
    "challenge",
    [
        b"r=%bx,s=c2FsdA==,i=4095",
        b"r=%bx,s=c2FsdA==,i=1",
        b"r=%bx,s=c2FsdA==,i=" + str(ITERATIONS_MAX + 1).encode(),
        b"r=%bx,s=c2FsdA==,i=999999999",
        b"r=%b,s=c2FsdA==,i=4096",  # nothing of the server's own
        b"r=x%b,s=c2FsdA==,i=4096",
        b"r=other,s=c2FsdA==,i=4096",
        b"m=x,r=%bx,s=c2FsdA==,i=4096",  # RFC 5802 5.1: a mandatory extension that is not known
        b"r=%bx,s=c2Fsd,i=4096",
        b"r=%bx,i=4096",
        b"e=unknown-user",
        b"",
        b"r=%bx,s=" + b"A" * 4000 + b",i=4096",
    ],
)
def test_a_challenge_that_no_server_needs_ends_the_login(challenge):
    exchange, nonce = begun()
    with pytest.raises(AuthError) as raised:
        exchange.answer(b64(challenge % nonce if b"%b" in challenge else challenge))
    assert "secret" not in str(raised.value) and not exchange.complete


def test_a_server_that_does_not_know_the_password_is_not_believed():
    exchange, nonce = begun()
    exchange.answer(b64(b"r=%bx,s=c2FsdA==,i=4096" % nonce))
    with pytest.raises(AuthError, match="does not know the password"):
        exchange.answer(b64(b"v=" + base64.b64encode(b"x" * 32)))


@pytest.mark.parametrize("steps", [0, 1])
def test_a_server_that_says_yes_before_it_has_proved_itself(steps):
    """Whoever pretends to be the server could take the mail."""
    exchange, nonce = begun()
    if steps:
        exchange.answer(b64(b"r=%bx,s=c2FsdA==,i=4096" % nonce))
    with pytest.raises(AuthError, match="has not proved"):
        exchange.check_success()


def test_a_server_that_says_yes_before_it_has_proved_itself_ends_the_session():
    driver = ClientDriver({"smtps": "", "login": "amy/secret"})
    driver.feed(b"220 mx\r\n")
    driver.feed(b"250-mx\r\n250 AUTH SCRAM-SHA-256\r\n")
    driver.feed(b"235 welcome\r\n")
    assert driver.ended.text == "the server has not proved that it knows the password"


def test_a_password_is_prepared_as_the_server_does():
    """RFC 4013: the two write the same letters in different ways."""
    assert log_in("SCRAM-SHA-256", Credentials("amy", "\u2168"), password="IX") == AuthSucceeded("amy")
    assert log_in("SCRAM-SHA-256", Credentials("a=,y", "x\u0000y"), password="x\u0000y") == AuthSucceeded("a=,y")


def test_the_example_of_rfc_7677():
    from unittest.mock import patch

    with patch("secrets.token_urlsafe", lambda size: "rOprNGfwEbeRWgbNEkqO"):
        exchange = ClientExchange("SCRAM-SHA-256", Credentials("user", "pencil"), PLAIN_TLS, ["SCRAM-SHA-256"])
        assert base64.b64decode(exchange.command().split()[2]) == b"n,,n=user,r=rOprNGfwEbeRWgbNEkqO"
    challenge = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
    assert base64.b64decode(exchange.answer(b64(challenge))) == (
        b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="
    )
    assert exchange.answer(b64(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")) == b"\r\n"
    exchange.check_success()


def test_a_challenge_too_many():
    exchange = ClientExchange("LOGIN", AMY, PLAIN_TLS, ["LOGIN"])
    assert exchange.command() == b"AUTH LOGIN\r\n"
    assert [exchange.answer("") for _ in range(2)] == [b"YW15\r\n", b"c2VjcmV0\r\n"]
    assert exchange.answer("") == b"\r\n"
    with pytest.raises(AuthError):
        exchange.answer("")


def test_endless_challenges_end():
    """Each mechanism says what it has, then nothing."""
    for mechanism in ("PLAIN", "LOGIN", "XOAUTH2", "OAUTHBEARER"):
        exchange = ClientExchange(mechanism, Credentials("amy", "t", token="OAUTH" in mechanism), PLAIN_TLS, [])
        exchange.command()
        with pytest.raises(AuthError):
            for _ in range(20):
                exchange.answer("")


# -- what fits into a line ----------------------------------------------------------------------------------


def test_a_long_secret_is_sent_by_itself():  # RFC 4954 4
    exchange = ClientExchange("PLAIN", Credentials("amy", "x" * 600), PLAIN_TLS, ["PLAIN"])
    assert exchange.command() == b"AUTH PLAIN\r\n"
    assert base64.b64decode(exchange.answer("")) == b"\0amy\0" + b"x" * 600
    room = (AUTH_LINE_MAX - len("AUTH PLAIN ")) // 4 * 3 - len("\0amy\0")
    exchange = ClientExchange("PLAIN", Credentials("amy", "x" * room), PLAIN_TLS, ["PLAIN"])
    assert len(exchange.command()) <= AUTH_LINE_MAX + 2 and exchange.complete is False


def test_a_secret_that_fits_into_no_line_is_not_sent():
    exchange = ClientExchange("XOAUTH2", Credentials("amy", "x" * RESPONSE_LINE_MAX, token=True), PLAIN_TLS, [])
    exchange.command()
    with pytest.raises(AuthError, match="too long"):
        exchange.answer("")


@pytest.mark.parametrize(
    "mechanism, credentials",
    [
        ("PLAIN", Credentials("a\0b", "x")),
        ("PLAIN", Credentials("a", "x\0")),
        ("XOAUTH2", Credentials("a", "to ken", token=True)),
        ("OAUTHBEARER", Credentials("a", "to\1ken", token=True)),
        ("OAUTHBEARER", Credentials("a\1auth=x", "token", token=True)),
        ("XOAUTH2", Credentials("a\1auth=x", "token", token=True)),
    ],
)
def test_what_would_end_a_field_is_not_sent(mechanism, credentials):
    with pytest.raises(AuthError):
        ClientExchange(mechanism, credentials, PLAIN_TLS, [mechanism]).command()


@given(st.lists(st.binary(max_size=60), max_size=4), st.sampled_from([*ALL, "XOAUTH2", "OAUTHBEARER"]))
def test_whatever_a_server_sends_it_gets_a_line_or_an_error(challenges, mechanism):
    exchange = ClientExchange(mechanism, Credentials("amy", "secret", token="OAUTH" in mechanism), BOUND, ALL)
    assert exchange.command().endswith(b"\r\n")
    try:
        for challenge in challenges:
            line = exchange.answer(b64(challenge))
            assert line.endswith(b"\r\n") and b"\n" not in line[:-2]
    except AuthError as error:
        assert "secret" not in str(error)


def test_the_signature_that_is_checked_is_that_of_this_exchange():
    exchange, nonce = begun()
    challenge = b"r=%bx,s=c2FsdA==,i=4096" % nonce
    final = base64.b64decode(exchange.answer(b64(challenge))).partition(b",p=")[0]
    verifier = make_verifier(b"secret", 4096, b"salt")
    message = b",".join((b"n=amy,r=" + nonce, challenge, final))
    replayed = hmac.digest(verifier.server_key, message[:-1], "sha256")
    with pytest.raises(AuthError):
        exchange.answer(b64(b"v=" + base64.b64encode(replayed)))
    assert len(replayed) == hashlib.sha256().digest_size
