"""Addresses beyond ASCII, for peers without SMTPUTF8."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.smtp.idna import ascii_address, ascii_domain


@pytest.mark.parametrize(
    "address, plain",
    [
        ("amy@there.test", "amy@there.test"),
        ("", ""),
        ("amy@müller.test", "amy@xn--mller-kva.test"),
        ("amy@MÜLLER.Test", "amy@xn--mller-kva.test"),
        ('"a@b"@bücher.test', '"a@b"@xn--bcher-kva.test'),
        ("åmy@there.test", None),
        ("åmy", None),
        ("amy@fußball.test", None),
        ("amy@ü..test", None),
        ("amy@" + "ü" * 80 + ".test", None),
        ("amy@\udcff.test", None),
    ],
)
def test_an_address_in_ascii(address, plain):
    assert ascii_address(address) == plain


@given(st.text(max_size=30))
@settings(max_examples=200)
def test_any_domain_has_an_answer(text):
    plain = ascii_domain(text)
    assert plain is None or plain.isascii()
    assert plain is None or ascii_domain(plain) == plain
