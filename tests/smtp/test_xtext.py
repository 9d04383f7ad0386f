"""xtext: what it stands for, and that no line end gets through it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.smtp.xtext import decode, encode


@pytest.mark.parametrize(
    "text, decoded",
    [("", ""), ("bob@here.test", "bob@here.test"), ("a+2Bb", "a+b"), ("a+20b+3D", "a b="), ("h+C3+A9", "hé")],
)
def test_what_it_stands_for(text, decoded):
    assert decode(text) == decoded


@pytest.mark.parametrize(
    "text", ["a+0Ab", "a+0D", "a+00", "a+7F", "+C2+85", "a b", "a=b", "+2", "+", "+2b", "+FF", "é"]
)
def test_what_is_no_xtext_or_hides_a_control_character_is_refused(text):
    with pytest.raises(ValueError):
        decode(text)


@settings(max_examples=200)
@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp"))))
def test_what_was_encoded_comes_back(text):
    assert decode(encode(text)) == text
    assert encode(text).isascii() and not set(encode(text)) & set(" =")


@settings(max_examples=200)
@given(st.text(alphabet="+0123456789ABCDEFa=\n "))
def test_nothing_that_ends_a_line_comes_out(text):
    try:
        decoded = decode(text)
    except ValueError:
        return
    assert len(decoded.splitlines()) <= 1 and "\0" not in decoded
