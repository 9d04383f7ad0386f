"""Values of a table of credentials."""

import pytest
from argon2 import PasswordHasher
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.tables.credential import (
    Argon2,
    CredentialError,
    CredentialLocked,
    make_hash,
    make_verifier,
    parse_credential,
)
from smtpd.tables.crypt import Crypt
from smtpd.tables.scram import Verifier

ARGON2 = PasswordHasher(time_cost=1, memory_cost=64, parallelism=2).hash("secret")
YESCRYPT = "$y$j9T$abcdefgh$IUWJt2doU4Kf6E/JP1UkAT3S5O3Q7SSA8SJirXIlEu9"


@pytest.mark.parametrize("make", [make_hash, make_verifier])
def test_what_is_made_here_is_checked_here(make):
    made = make(b"s\xc3\xa4cret")
    assert parse_credential(made).check(b"s\xc3\xa4cret")
    assert not parse_credential(made).check(b"s\xc3\xa4cret ")
    assert make(b"x") != make(b"x")


def test_a_hash_of_another_argon2():
    assert parse_credential(ARGON2).check(b"secret")
    assert not parse_credential(ARGON2).check(b"secret ")
    assert not parse_credential(ARGON2).check(b"")


@pytest.mark.parametrize("user", ["", "bob:", "bob@here.test:"])
def test_a_user_name_may_precede_the_hash(user):
    assert isinstance(parse_credential(user + YESCRYPT), Crypt)
    assert isinstance(parse_credential(user + make_verifier(b"x")), Verifier)
    assert isinstance(parse_credential(user + ARGON2), Argon2)


@pytest.mark.parametrize(
    "value, kind",
    [
        ("{ARGON2ID}" + ARGON2, Argon2),
        ("{crypt}" + YESCRYPT, Crypt),
        ("bob:{SHA512-CRYPT}$6$saltsalt$" + "a" * 86, Crypt),
        ("{BLF-CRYPT}$2y$05$" + "a" * 53, Crypt),
    ],
)
def test_a_hash_as_dovecot_keeps_it(value, kind):
    assert isinstance(parse_credential(value), kind)


def test_a_verifier_as_dovecot_keeps_it():
    ours = make_verifier(b"s\xc3\xa4cret")
    _, rest = ours.split("$", 1)
    theirs = "{SCRAM-SHA-256}" + rest.replace("$", ",").replace(":", ",")
    assert parse_credential(theirs) == parse_credential(ours)


DOVEADM_PW = [  # of "secret", by Dovecot 2.3
    "{SCRAM-SHA-256}4096,73ea1QrlH8bl3P/IL/8wug==,WAPL2g+adKsA9LIV12cASdKyQhMzoXGgDuDuYmTssjo=,"
    "8pMlqrbFC6hrhE0I2EkY6TonmwgdKgA8IXcjSPHuDJA=",
    "{SHA512-CRYPT}$6$Qx7cjEujwGYQbnZR$RTh.Tw7pWEvWJ3uNMa5k7DdeVcRGsA5xA8mlZ1mH5wf493"
    "BijJUErdondQFH5mM0tzl2AdyX1YEf1DuTPNSMb0",
    "{BLF-CRYPT}$2y$05$tXNL0AJev7jPUVPO22uEYexSzVyquJ4kNFjnEMwKNBFGGfmBmgVCm",
]


@pytest.mark.parametrize("value", DOVEADM_PW)
def test_what_doveadm_has_made_is_checked_here(value):
    assert parse_credential(value).check(b"secret")
    assert not parse_credential(value).check(b"Secret")


@pytest.mark.parametrize(
    "value",
    [
        "{PLAIN}secret",
        "{SSHA}c2VjcmV0",
        "{SHA512-CRYPT}secret",
        "{SCRAM-SHA-256}1,2,secret",
        "{}secret",
        "{CRYPT.B64}secret",
    ],
)
def test_an_unknown_scheme_is_an_error(value):
    with pytest.raises(CredentialError) as refused:
        parse_credential(value)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    "value", ["", "x", "*", "{CRYPT}!", "{CRYPT}", "!", "!" + YESCRYPT, "*LK*", "bob:", "bob:!", "bob:x"]
)
def test_locked_accounts(value):
    with pytest.raises(CredentialLocked):
        parse_credential(value)


@pytest.mark.parametrize("value", ["secret", "bob:secret", "$1$abc$iCQ2D3nhptRYi27fDYv2s1", "SCRAM-SHA-1$4096:a$b:c"])
def test_a_password_in_the_clear_or_a_weak_hash_is_an_error(value):
    with pytest.raises(CredentialError) as refused:
        parse_credential(value)
    assert "secret" not in str(refused.value)


def argon2(memory=64, passes=1, lanes=1, salt="c2FsdHNhbHQ", hashed="A" * 43, kind="argon2id", version=19):
    return f"${kind}$v={version}$m={memory},t={passes},p={lanes}${salt}${hashed}"


def test_the_form_is_right_where_only_its_numbers_are_wrong():
    assert isinstance(parse_credential(argon2()), Argon2)


@pytest.mark.parametrize(
    "value",
    [
        argon2(memory=4 * 1024 * 1024),
        argon2(memory=256 * 1024, passes=1000),
        argon2(passes=2**31),
        argon2(lanes=200, memory=2000),
        argon2(memory=0),
        argon2(memory=15, lanes=2),
        argon2(passes=0),
        argon2(lanes=0),
        argon2(salt="AAAA"),
        argon2(salt="A" * 200),
        argon2(hashed="AAAA"),
        argon2(hashed="A" * 200),
        argon2(hashed="A" * 41),
        argon2(kind="argon2i"),
        argon2(version=16),
        argon2() + "\n",
    ],
)
def test_an_argon2_that_asks_for_too_much_or_makes_no_sense(value):
    with pytest.raises(CredentialError):
        parse_credential(value)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("$:=,mtp19argon2id+/A!*\n\xe4\0"), max_size=30), st.integers(0, 90))
def test_garbage_is_malformed_and_nothing_else(garbage, at):
    for text in (garbage, ARGON2[:at] + garbage, garbage + ARGON2[at:]):
        try:
            parse_credential(text)
        except (CredentialError, CredentialLocked) as refused:
            assert ARGON2 not in str(refused)


def test_a_hash_does_not_show_in_its_repr():
    assert "hashed" not in repr(parse_credential(ARGON2)) and "salt" not in repr(parse_credential(ARGON2))
