"""Address lists: what gets a domain, what is left alone, and that nothing is ever lost."""

from email.utils import getaddresses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.header.address_list import FOLD_WIDTH, addresses, complete, is_complete, masquerade


@pytest.mark.parametrize(
    "value, completed",
    [
        (b" bob", b" bob@here.test"),
        (b"bob", b"bob@here.test"),
        (b" <bob>", b" <bob@here.test>"),
        (b" < bob >", b" < bob@here.test >"),
        (b" Bob <bob>", b" Bob <bob@here.test>"),
        (b' "B. (x), <y>" <bob> (at (or near) home)', b' "B. (x), <y>" <bob@here.test> (at (or near) home)'),
        (b" bob (the \\) builder)", b" bob@here.test (the \\) builder)"),
        (b" (a, b) bob", b" (a, b) bob@here.test"),
        (b" bob.smith,amy@there.test", b" bob.smith@here.test,amy@there.test"),
        (b' "b\\"o"', b' "b\\"o"@here.test'),
        (b' "Bob S" <"bob s">', b' "Bob S" <"bob s"@here.test>'),
        (b" Friends: amy, B <bob>;, c", b" Friends: amy@here.test, B <bob@here.test>;, c@here.test"),
        (b" =?utf-8?q?a=2C?= <bob>,\n\tamy", b" =?utf-8?q?a=2C?= <bob@here.test>,\n\tamy@here.test"),
        (" böb, Bjørn <bjørn>".encode(), " böb@here.test, Bjørn <bjørn@here.test>".encode()),
        (b" ,, bob,", b" ,, bob@here.test,"),
        (b" Bob Smith, amy", b" Bob Smith, amy@here.test"),
        (b' "unclosed "quote, bob', b' "unclosed "quote, bob@here.test'),
        (b' bob, "amy, carol', b' bob@here.test, "amy, carol'),
    ],
)
def test_what_is_completed(value, completed):
    assert complete(value, b"here.test") == completed
    assert not is_complete(value)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" ",
        b" <>",
        b" undisclosed-recipients:;",
        b" Bob Smith",
        b' "Bob Smith"',
        b" =?utf-8?q?bob?=",
        b" .bob, bob., b..b",
        b" b\xff",
        b" <@a.test,@b.test:bob@here.test>",
        b" amy@there.test, <bob@here.test>, C <c@[192.0.2.1]>",
        b" mailto:bob",
        b" a; b; c",
        b" (bob",
        b" (a) (bob",
        b' "bob',
        b" <bob",
        b" Bob <bob, amy@there.test",
        b" bob > amy",
        b" bob\\",
        b" <bob> <amy>",
        b" amy <bob@x> y",
    ],
)
def test_what_is_left_alone(value):
    assert complete(value, b"here.test") == value


@pytest.mark.parametrize(
    "value",
    [
        b" bob@here.test",
        b' Bob <bob@here.test>, "A, B" <amy@there.test>,\n\tc@d.test',
        b" =?utf-8?q?x?= <a@b.test>",
        b" a@[192.0.2.1]",
    ],
)
def test_the_usual_list_is_whole(value):
    assert is_complete(value)


@pytest.mark.parametrize(
    "value", [b" a@b@c, bob", b' "a@b" <bob>', b" (a@b) bob", b" a@b bob", b" bob <a@b", b" x, a@b"]
)
def test_an_at_sign_elsewhere_makes_no_list_whole(value):
    assert not is_complete(value)


def test_lines_that_grow_are_folded():
    completed = complete(b" " + b", ".join([b"someone"] * 50), b"here.test")
    assert completed.count(b"someone@here.test") == 50
    assert all(len(line) <= FOLD_WIDTH + 1 for line in completed.split(b"\n"))
    assert completed.replace(b"\n", b"") == b" " + b", ".join([b"someone@here.test"] * 50)
    assert b"\n " in complete(b",".join([b"someone"] * 50), b"here.test")


@pytest.mark.parametrize(
    "value, masked",
    [
        (b" bob@x.test", b" m@here.test"),
        (b" Bob <bob@x.test>", b" Bob <m@here.test>"),
        (b' "B, <x@y>" <bob@x.test> (home), amy@there.test', b' "B, <x@y>" <m@here.test>'),
        (b" =?utf-8?q?=C3=84?=\n =?utf-8?q?b?= <b>", b" =?utf-8?q?=C3=84?=\n =?utf-8?q?b?= <m@here.test>"),
        (b" Us: A <a@x.test>, b@x.test;", b" A <m@here.test>"),
        (b" a@x.test, A <b@x.test>", b" m@here.test"),
        (b" a@x <b@x.test>", b" m@here.test"),
        (b' "unclosed <b@x.test>', b" m@here.test"),
        (b"", b" m@here.test"),
    ],
)
def test_masquerading(value, masked):
    assert masquerade(value, b"m@here.test") == masked


@pytest.mark.parametrize(
    "value, found",
    [
        (b"", []),
        (b" bob", [b"bob"]),
        (b" B. (x) <bob>,\n\tamy@there.test (home), ,", [b"bob", b"amy@there.test"]),
        (b"Friends: amy, <bob@x.test>;, carol", [b"amy", b"bob@x.test", b"carol"]),
        (b"undisclosed-recipients:;", []),
        (b'"a b"@x.test, "c, d" <"e@f"@x.test>', [b'"a b"@x.test', b'"e@f"@x.test']),
        (b"bob@x <bob@y.test>", [b"bob@y.test"]),
        (b"<@a.test:bob@y.test>, < bob >", [b"@a.test:bob@y.test", b"bob"]),
        (b"bob @ x.test, bob@[192.0.2.1]", [b"bob@x.test", b"bob@[192.0.2.1]"]),
    ],
)
def test_addresses(value, found):
    assert addresses(value) == found


@pytest.mark.parametrize(
    "value", [b"Bob Smith", b"<a@b> <c@d>", b"Friends: a@b", b"a@b, Friends: c@d", b"<a@b> c", b"bob . s"]
)
def test_an_ambiguous_list_has_no_addresses(value):
    with pytest.raises(ValueError):
        addresses(value)


SPLINTERS = st.lists(
    st.sampled_from(
        [b"bob", b"a@b.test", b" ", b"\n ", b",", b"<", b">", b"(", b")", b'"', b":", b";", b"\\", b"\xc3", b"."]
    ),
    max_size=20,
).map(b"".join)


@settings(max_examples=200)
@given(SPLINTERS)
def test_domains_are_put_in_and_nothing_else_is_touched(value):
    completed = complete(value, b"HERE")
    assert completed.replace(b"@HERE", b"").replace(b"\n", b"") == value.replace(b"\n", b"")
    assert b"\n\n" not in completed and not completed.endswith(b"\n")
    assert is_complete(value) <= (completed == value)


@settings(max_examples=200)
@given(SPLINTERS)
def test_a_completed_list_stays_as_it_is(value):
    completed = complete(value, b"here.test")
    assert complete(completed, b"here.test") == completed


@settings(max_examples=200)
@given(SPLINTERS)
def test_masquerading_leaves_one_address_whatever_was_there(value):
    masked = masquerade(value, b"m@here.test")
    assert masked.endswith((b" m@here.test", b" <m@here.test>"))
    assert getaddresses([masked.decode("latin-1").replace("\n", "")])[-1][1] == "m@here.test"


LISTS = st.lists(
    st.sampled_from(["bob", "A B <amy>", '"x, y" <carol>', "d@there.test", "E <e@there.test>"]), min_size=1
)


@settings(max_examples=200)
@given(LISTS)
def test_another_parser_finds_the_same_people(people):
    completed = complete(", ".join(people).encode(), b"here.test").decode()
    before, after = getaddresses([", ".join(people)]), getaddresses([completed])
    assert [address.decode() for address in addresses(completed.encode())] == [address for _, address in after]
    assert after == [(name, address if "@" in address else f"{address}@here.test") for name, address in before]
