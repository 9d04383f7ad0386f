"""The values of smarthosts and of their credentials."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.tables.relay_credential import RelayCredential, RelayCredentialError, parse_relay_credential
from smtpd.tables.relay_host import RelayHost, RelayHostError, RelayProtocol, parse_relay_host, without_label

GOOD = {
    "mail.example.org": RelayHost(RelayProtocol.SMTP, "mail.example.org", 25),
    "smtp://Mail.Example.ORG.": RelayHost(RelayProtocol.SMTP, "mail.example.org", 25),
    "SMTP+TLS://amy@mail.example.org:587": RelayHost(RelayProtocol.SMTP_TLS, "mail.example.org", 587, "amy"),
    "smtps://amy@example.org@mail.example.org": RelayHost(
        RelayProtocol.SMTPS, "mail.example.org", 465, "amy@example.org"
    ),
    "smtp+notls://192.0.2.1": RelayHost(RelayProtocol.SMTP_NOTLS, "192.0.2.1", 25, numeric=True),
    "lmtp://[2001:DB8:0::1]:24": RelayHost(RelayProtocol.LMTP, "2001:db8::1", 24, numeric=True),
    "[192.0.2.1]:2525": RelayHost(RelayProtocol.SMTP, "192.0.2.1", 2525, numeric=True),
    "[IPv6:::1]": RelayHost(RelayProtocol.SMTP, "::1", 25, numeric=True),
    "smtp://m\u00fcller.test/": RelayHost(RelayProtocol.SMTP, "xn--mller-kva.test", 25),
    "localhost": RelayHost(RelayProtocol.SMTP, "localhost", 25),
}


@pytest.mark.parametrize("text", GOOD)
def test_a_smarthost(text):
    assert parse_relay_host(text) == GOOD[text]


BAD = {
    "": "host is missing",
    "smtps://": "host is missing",
    "::1": "not [protocol",
    "[::1": "not [protocol",
    "a b": "neither a name nor an address",
    "-a.test": "neither a name",
    "a..test": "neither a name",
    "192.0.2.256": "not a valid address",
    "12345": "not a valid address",
    "[mail.example.org]": "not a valid address",
    "[fe80::1%" + "x" * 60 + "]": "link-local address",
    "smtp://[fe80::1%eth0]:25": "link-local address",
    "a.test:0": "out of range",
    "a.test:65536": "out of range",
    "a.test:smtp": "not [protocol",
    "a.test/path": "not [protocol",
    "a" * 64 + ".test": "neither a name",
    ".".join(["a" * 60] * 5): "neither a name",
    "https://a.test": "unknown protocol",
    "lmtp://a.test": "requires a port",
    "smtp://amy@a.test": "would not protect the password",
    "amy@a.test": "would not protect the password",
    "smtp+notls://amy@a.test": "would not protect the password",
    "lmtp://amy@a.test:24": "would not protect the password",
    "smtps://amy:secret@a.test": "a password does not belong here",
    "smtps://@a.test": "has 0 characters",
    f"smtps://{'a' * 256}@a.test": "has 256 characters",
}


@pytest.mark.parametrize("text", BAD)
def test_what_is_no_smarthost(text):
    with pytest.raises(RelayHostError, match=re.escape(BAD[text])) as error:
        parse_relay_host(text)
    assert "secret" not in str(error.value)


ANY = st.text(st.sampled_from("ab1:/@[].+-%%stmplASX ") | st.characters(), max_size=40)


@given(ANY, st.sampled_from(["", "smtps://", "smtp+tls://", "lmtp://"]))
def test_any_text_is_a_smarthost_or_an_error(text, protocol):
    try:
        host = parse_relay_host(protocol + text)
    except RelayHostError:
        return
    assert host.host
    assert host.host.isascii()
    assert 1 <= host.port <= 65535
    if host.label:
        assert host.protocol in (RelayProtocol.SMTP_TLS, RelayProtocol.SMTPS)
    literal = f"[{host.host}]" if host.numeric else host.host
    label = f"{host.label}@" if host.label else ""
    assert parse_relay_host(f"{host.protocol}://{label}{literal}:{host.port}") == host


@pytest.mark.parametrize(
    "text, shown",
    [
        ("smtps://a:pass@b@c", "smtps://...@c"),
        ("a:b@c", "...@c"),
        ("smtp://c", "smtp://c"),
        ("x://y://z@", "x://y://...@"),
    ],
)
def test_what_may_be_a_password_is_not_shown(text, shown):
    assert without_label(text) == shown


@pytest.mark.parametrize(
    "value, user, password",
    [("amy:a b", "amy", "a b"), ("amy@x.test:a:b:", "amy@x.test", "a:b:"), ("\u00e5:\u00df", "\u00e5", "\u00df")],
)
def test_credentials_are_split_at_the_first_colon(value, user, password):
    assert parse_relay_credential(value) == RelayCredential(user, password)
    assert password not in repr(parse_relay_credential(value))


NO_CREDENTIALS = ["", "amy", ":x", "amy:", "a\x00:x", "a\n:x", "a:x\ny", "a" * 257 + ":x", "a:" + "x" * 1025]


@pytest.mark.parametrize("value", NO_CREDENTIALS)
def test_what_is_no_credential_is_not_shown(value):
    with pytest.raises(RelayCredentialError) as error:
        parse_relay_credential(value)
    assert len(str(error.value)) < 60


@given(st.text())
def test_any_text_is_a_credential_or_an_error(text):
    try:
        made = parse_relay_credential(text)
    except RelayCredentialError:
        return
    assert f"{made.user}:{made.password}" == text
