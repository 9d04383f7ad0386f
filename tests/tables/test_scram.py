"""What a server keeps for SCRAM-SHA-256."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.tables.scram import Verifier, VerifierError, make_verifier, parse_verifier

# RFC 7677 3: user "user", password "pencil".
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
MESSAGE = (
    b"n=user,r=rOprNGfwEbeRWgbNEkqO,"
    b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,"
    b"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
)
PROOF = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
SIGNATURE = base64.b64decode("6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")

PENCIL = make_verifier(b"pencil", 4096, SALT)


def test_the_example_of_rfc_7677():
    assert PENCIL.finish(MESSAGE, PROOF) == SIGNATURE


def test_what_is_written_is_read():
    assert parse_verifier(str(PENCIL)) == PENCIL


@pytest.mark.parametrize("at", range(32))
def test_a_client_proof_with_one_wrong_bit_is_refused(at):
    wrong = bytearray(PROOF)
    wrong[at] ^= 1
    assert PENCIL.finish(MESSAGE, bytes(wrong)) is None


@pytest.mark.parametrize("proof", [b"", PROOF[:-1], PROOF + b"\0", bytes(32)])
def test_what_is_no_proof(proof):
    assert PENCIL.finish(MESSAGE, proof) is None


def test_a_proof_is_for_one_exchange():
    assert PENCIL.finish(MESSAGE + b"x", PROOF) is None


def test_the_password_itself_fits_too():
    assert PENCIL.check(b"pencil") and not PENCIL.check(b"Pencil")


def test_a_password_is_what_its_client_makes_of_it():
    """RFC 4013 3; what SASLprep prohibits stays as it is."""
    assert make_verifier("I\u00adX".encode(), 4096, SALT) == make_verifier(b"IX", 4096, SALT)
    assert make_verifier("\u2168".encode(), 4096, SALT).check(b"IX")
    assert make_verifier(b"a\x07b", 4096, SALT).check(b"a\x07b")
    assert make_verifier(b"\xff", 4096, SALT).check(b"\xff")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SCRAM-SHA-256",
        str(PENCIL) + "=",
        str(PENCIL) + "\n",
        str(PENCIL).replace("4096", "1"),
        str(PENCIL).replace("4096", "999999999"),
        str(PENCIL).replace("SHA-256", "SHA-1"),
        str(Verifier(4096, b"", bytes(32), bytes(32))),
        str(Verifier(4096, SALT, bytes(20), bytes(32))),
        str(Verifier(4096, SALT, bytes(32), bytes(31))),
    ],
)
def test_what_is_no_verifier(text):
    with pytest.raises(VerifierError):
        parse_verifier(text)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("$:=4096ab+/SCRAM-H25\n\xe4"), max_size=40), st.integers(0, 130))
def test_garbage_is_malformed_and_nothing_else(garbage, at):
    for text in (garbage, str(PENCIL)[:at] + garbage, garbage + str(PENCIL)[at:]):
        try:
            parse_verifier(text)
        except VerifierError:
            pass


def test_keys_do_not_show_in_a_repr():
    assert repr(PENCIL.stored_key) not in repr(PENCIL) and repr(PENCIL.server_key) not in repr(PENCIL)
