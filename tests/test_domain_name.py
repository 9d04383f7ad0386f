"""Spellings of domains, against the tables of UTS 46 and RFC 3492, by way of names that registrars have."""

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from smtpd.domain_name import address_spellings, ascii_form, normal, normal_address, spellings

SAME = [
    ("here.test", "Here.TEST", "here.test."),
    (
        "müller.test",
        "MÜLLER.test",
        "xn--mller-kva.test",
        "XN--MLLER-KVA.test.",
        "mu\u0308ller.test",
        "müller\u3002test",
    ),
    ("a.müller.test", "A.xn--mller-kva.TEST"),
    ("straße.test", "xn--strae-oqa.test", "STRAẞE.test"),
    ("strasse.test", "STRASSE.test"),
    ("βόλος.com", "xn--nxasmm1c.com", "ΒΌΛΟς.com"),
    ("中文.test", "xn--fiq228c.test"),
    ("президент.рф", "xn--d1abbgf6aiiy.xn--p1ai", "ПРЕЗИДЕНТ.РФ"),
    ("نامه\u200cای.test", "xn--mgba3gch31f060k.test"),
    ("m\u00adüller.test", "müller.test"),
    ("ｗide.test", "wide.test", "Ｗide.test"),
    ("*.müller.test", "*.xn--mller-kva.test"),
    ("[192.0.2.1]", "[192.0.2.1]"),
    ("[IPv6:2001:db8::1]", "[ipv6:2001:DB8::1]"),
]


@pytest.mark.parametrize("names", SAME, ids=lambda names: names[0])
def test_these_are_one_domain(names):
    assert len(set(map(normal, names))) == 1
    assert len(set(map(ascii_form, names))) == 1
    assert len({normal_address(f"Bob@{name}") for name in names}) == 1


DIFFERENT = [
    ("straße.test", "strasse.test"),
    ("here.test", "here.test.."),
    ("xn--here-.test", "here.test"),
    ("xn--a.test", "a.test"),
    ("xn--mller-kvb.test", "müller.test"),
    ("xn--mller-kva", "xn--xn--mller-kva-"),
    ("a\uff20b.test", "a@b.test"),
    ("\uff0a.test", "*.test"),
    ("a\u2488test", "a1.test"),
    ("м.test", "m.test"),
]


@pytest.mark.parametrize("one, other", DIFFERENT)
def test_these_are_two(one, other):
    assert normal(one) != normal(other)
    assert ascii_form(one) != ascii_form(other)


def test_the_spellings_of_a_domain_and_of_an_address():
    assert spellings("XN--mller-kva.Test") == ("müller.test", "xn--mller-kva.test")
    assert spellings("Here.test.") == ("here.test",)
    assert address_spellings("Bob@MÜLLER.test") == ("bob@müller.test", "bob@xn--mller-kva.test")
    assert address_spellings("Bob.") == ("bob.",)
    assert address_spellings("@") == ("@",)


@pytest.mark.parametrize("label", ["xn--", "xn--\ud800", "xn--9999999999", "xn--" + "a" * 60, "xn--mller-kva" + "\0"])
def test_what_is_no_encoding_stands_for_itself(label):
    assert normal(f"{label}.test") == f"{label}.test"


@pytest.mark.parametrize("text", [f"xn--{tail}" for tail in ("ls8h", "0ca", "7a", "zlca")])
def test_no_letter_comes_out_of_an_encoding_that_would_not_go_in(text):
    assert all(char.isprintable() for char in normal(text))


ANY = st.text(st.sampled_from("aAzßẞςΣ.-xn09*@ \0üÜ\u0308\u3002\u200d\u00ad\ud800İı中") | st.characters(), max_size=24)


@settings(max_examples=500, deadline=None)
@given(ANY)
@example("xn--" + "z" * 59)
@example("\u1e9e\u0301.")
def test_any_text_has_a_normal_form_that_stays(text):
    form = normal(text)
    assert normal(form) == form
    assert ascii_form(form) == ascii_form(text)
    assert spellings(text)[0] == form
    assert normal_address(f"x@{text}") == f"x@{form}" or "@" in text


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(categories=["Ll", "Lo", "Nd"]), min_size=1, max_size=12), st.booleans())
def test_a_name_and_its_encoding_are_one(label, dot):
    name = f"{label}.test"
    encoded = ascii_form(name)
    assume(encoded.isascii())
    assert normal(encoded.upper() + "." * dot) == normal(name) == normal(encoded)


@settings(max_examples=300, deadline=None)
@given(st.from_regex(r"xn--[a-z0-9-]{0,59}", fullmatch=True))
def test_two_encodings_are_never_one_domain(label):
    """Or who has one of them would get the mail of the other."""
    assert ascii_form(label) == label
