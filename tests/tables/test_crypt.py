"""Hashes of crypt(3)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.tables import crypt
from smtpd.tables.crypt import CryptHashError, parse_crypt

LETTERS = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

# Of the password "secret", by libxcrypt 4.4.33; those of SHA-2 by OpenSSL 3.0 too.
HASHES = [
    "$6$abc$IdWKNKTJEb8LxY7CGg8YBXlvtfZzFw7Mp/r6niK9YB2mdvgY..TKjv1T..8RadRt2qvUHYRLr/TsVArtr91iR1",
    "$5$abc$qsg6EHbUzHQzF1POlD7zUwBINSELQxypPaeDcZe6vH0",
    "$y$j9T$abcdefgh$IUWJt2doU4Kf6E/JP1UkAT3S5O3Q7SSA8SJirXIlEu9",
    "$gy$j9T$abcdefgh$Fi3mUfLMwr2ZyDlmydp6rw5RwzYJnsb1LquZlQ2CYq0",
    "$7$CU..../....abcdefgh$XWs9HxtpA2.6U5CDBBbcW.h3o9pYlC.MIIb8JqMgZx6",
]

YESCRYPT = HASHES[2]


@pytest.mark.parametrize("stored", HASHES)
def test_the_password_fits_and_no_other(stored):
    assert parse_crypt(stored).check(b"secret")
    assert not parse_crypt(stored).check(b"Secret")
    assert not parse_crypt(stored).check(b"")


def test_bcrypt():
    made = crypt._crypt(b"secret", b"$2b$04$abcdefghijklmnopqrstuu").decode()
    assert parse_crypt(made).check(b"secret") and not parse_crypt(made).check(b"secret2")


def test_the_part_before_a_nul_is_not_the_password():
    assert not parse_crypt(HASHES[0]).check(b"secret\0more")


@pytest.mark.parametrize(
    "stored",
    [
        "secret",
        "ab1xqS5RzHDEM",  # DES
        "$1$abc$iCQ2D3nhptRYi27fDYv2s1",
        "$2x$04$abcdefghijklmnopqrstuuT1Iwu6o8Wx7BoOyIMHfgVJq6JO/IJhW",
        "$6$",
        "$6$salt",
        HASHES[0] + "\n",
        HASHES[0][:-1],
        "$y$j9T$abcdefgh$",
        "$y$j9T2.$abcdefgh$IUWJt2doU4Kf6E/JP1UkAT3S5O3Q7SSA8SJirXIlEu9",
        "*0",
    ],
)
def test_hashes_that_are_not_accepted(stored):
    with pytest.raises(CryptHashError):
        parse_crypt(stored)


@pytest.mark.parametrize(
    "stored",
    [
        "$6$rounds=2147483647$" + HASHES[0].removeprefix("$6$"),
        "$6$rounds=1000001$" + HASHES[0].removeprefix("$6$"),
        "$2b$31$abcdefghijklmnopqrstuuT1Iwu6o8Wx7BoOyIMHfgVJq6JO/IJhW",
        "$y$jFT$abcdefgh$IUWJt2doU4Kf6E/JP1UkAT3S5O3Q7SSA8SJirXIlEu9",  # 1 GiB
        "$y$jzz$abcdefgh$IUWJt2doU4Kf6E/JP1UkAT3S5O3Q7SSA8SJirXIlEu9",
        "$7$zzzzzzzzzzzabcdefgh$XWs9HxtpA2.6U5CDBBbcW.h3o9pYlC.MIIb8JqMgZx6",
        "$7$CU....zzzzzabcdefgh$XWs9HxtpA2.6U5CDBBbcW.h3o9pYlC.MIIb8JqMgZx6",
    ],
)
def test_a_hash_that_asks_for_too_much(stored):
    with pytest.raises(CryptHashError) as refused:
        parse_crypt(stored)
    assert stored not in str(refused.value)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("$=,:ygj29T567./rounds0\n"), max_size=40), st.integers(0, 90))
def test_garbage_is_malformed_and_nothing_else(garbage, at):
    for text in (garbage, YESCRYPT[:at] + garbage, garbage + YESCRYPT[at:]):
        try:
            parse_crypt(text)
        except CryptHashError:
            pass


def test_a_hash_does_not_show_in_its_repr():
    assert "IUWJt2doU" not in repr(parse_crypt(YESCRYPT))


def test_without_the_library_logins_fail_temporarily(monkeypatch):
    monkeypatch.setattr(crypt, "_crypt_rn", None)
    with pytest.raises(OSError, match="libcrypt"):
        parse_crypt(HASHES[0]).check(b"secret")
