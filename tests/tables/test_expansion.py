"""The language of alias values and of .forward."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.tables.expansion import (
    FORWARD_MAX,
    Address,
    Command,
    Error,
    File,
    Include,
    Malformed,
    User,
    digest,
    parse_forward,
    parse_include,
    parse_value,
)

VALUES = [
    ("bob", [User("bob")]),
    ("bob, amy", [User("bob"), User("amy")]),
    (" bob ,, amy ,", [User("bob"), User("amy")]),
    ("\\bob", [User("bob")]),
    ("bob+lists", [User("bob+lists")]),
    ("amy@there.test", [Address("amy", "there.test")]),
    ("a/b@there.test", [Address("a/b", "there.test")]),
    ("a!#$%*/?|^{}`~&'+-=_.0'Z@there-1.test", [Address("a!#$%*/?|^{}`~&'+-=_.0'Z", "there-1.test")]),
    ("x" * 255 + "@c", [Address("x" * 255, "c")]),
    ("x" * 255, [User("x" * 255)]),
    ("0-a.b_c", [User("0-a.b_c")]),
    ("o'neil@there.test, 'x", None),
    ("|cmd", [Command("cmd")]),
    ('"|cmd one, two"', [Command("cmd one, two")]),
    ("\"| cmd 'x'\"", [Command("cmd 'x'")]),
    ('"|cmd \\"x\\""', [Command('cmd "x"')]),
    ("/var/mail/x", [File("/var/mail/x")]),
    ("include:/etc/staff", [Include("/etc/staff")]),
    (":include:/etc/staff", [Include("/etc/staff")]),
    ("error:550 gone", [Error(550, "gone")]),
    (":error:450 later please", [Error(450, "later please")]),
    (":error:450 one\\, two", [Error(450, "one, two")]),
    ("error:550 a@b.test", [Error(550, "a@b.test")]),  # by the first form that it has
    ("include:/a@b.test", [Include("/a@b.test")]),
    ("|/a@b.test", [Command("/a@b.test")]),
    ("/a@b.test", [File("/a@b.test")]),
]


@pytest.mark.parametrize("value, targets", [(value, targets) for value, targets in VALUES if targets])
def test_a_value(value, targets):
    assert parse_value(value) == targets


MALFORMED = [
    "",
    " , ",
    "bob\\",
    '"bob',
    "'bob",
    "bob amy",
    "böb",
    "a@b@c",
    "@b",
    "a@",
    "a@[192.0.2.1]",
    "a..b@c",
    ".a@c",
    "a@b..c",
    "a@-b",
    '"a b"@c',
    "<a@b>",
    "a;b@c",
    "|",
    '"|"',
    ":include:relative",
    ":error:250 ok",
    ":error:550",
    ":error:550 !",
    "x" * 256,
    "x" * 256 + "@c",
    "bob\0",
    "bob\namy",
    "bob\x7f",
    "|cmd\0x",
    "/tmp/\x1bx",
    "error:550 a\rb",
    '"/tmp/x"',
    '"bob"',
    "error:550  two blanks",
    "Error:550 gone",
    "/etc/x:y\n",
]


@pytest.mark.parametrize("value", MALFORMED)
def test_what_is_not_in_the_language_is_refused(value):
    with pytest.raises(Malformed):
        parse_value(value)


FORWARDS = [
    (b"", []),
    (b"# nothing\n", []),
    (b"bob", [User("bob")]),
    (b"bob\n", [User("bob")]),
    (b"bob\r\namy\r\n", [User("bob"), User("amy")]),
    (b"# caf\xe9\nbob, amy@there.test\n", [User("bob"), Address("amy", "there.test")]),
    (b"bob, \\\n  amy\n", [User("bob"), User("amy")]),
    (b"bob \\\n", [User("bob")]),
    (b"bo\\\nb\n", [User("bob")]),
    (b"# not \\\nbob\n", [User("bob")]),
    (b"  # blanks before\nbob", [User("bob")]),
    (b'"|caf\xe9 x"', [Command("caf\udce9 x")]),
]


@pytest.mark.parametrize("content, targets", FORWARDS)
def test_a_forward(content, targets):
    assert parse_forward(content) == targets


@pytest.mark.parametrize("content", [b"bob \\", b"caf\xe9\n", b"bob\0", b"root:x:0:0:root\n"])
def test_a_forward_that_is_none(content):
    with pytest.raises(Malformed):
        parse_forward(content)


def test_a_forward_may_have_so_many_bytes_and_no_more():
    assert len(parse_forward(b"a,".ljust(FORWARD_MAX, b"\n"))) == 1
    with pytest.raises(Malformed):
        parse_forward(b"a,".ljust(FORWARD_MAX + 1, b"\n"))


def test_the_refusal_does_not_repeat_the_file():
    with pytest.raises(Malformed) as refused:
        parse_forward(b"root:$y$secret:19000\n")
    assert "secret" not in str(refused.value)


def test_an_include_file_is_comments_and_targets_of_any_number():
    many = b"".join(b"user%d\n" % number for number in range(1000))
    targets, troubles = parse_include(b"# bob\nbob, amy@there.test # all\n" + many)
    assert troubles == [(2, "not an address")]
    assert targets == [User(f"user{number}") for number in range(1000)]


def test_a_comment_in_an_include_file_takes_no_other_line_with_it():
    assert parse_include(b"amy\n# bob \\\njoe\n#\\\nkim") == ([User("amy"), User("joe"), User("kim")], [])


def test_what_is_not_understood_in_an_include_file_is_told_by_its_line():
    content = b'bob\nb o b\namy,\\\n"joe\nkim \\'
    targets, troubles = parse_include(content)
    assert targets == [User("bob")]
    assert [number for number, _ in troubles] == [2, 4, 5]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text('ab@,|/:\\"# \n', max_size=60).map(str.encode))
def test_any_bytes_are_an_include_file(content):
    lines = content.count(b"\n") + 1
    assert all(1 <= number <= lines for number, _ in parse_include(content)[1])


def test_a_digest_is_that_of_the_bytes_that_stand_there():
    assert digest(File("/var/mail/x")) == "c5d44bc079bf30f6c6919abf8d469832ce9a09df88206734126312637f9dec06"
    assert digest(Command("caf\udce9")) == hashlib.sha256(b"|caf\xe9").hexdigest()
    assert digest(Command("/x")) != digest(File("/x")) != digest(File("|/x"))


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text("ab@.,|/:\\\"'# \n", max_size=60).map(str.encode)))
def test_any_bytes_are_targets_or_malformed_and_names_are_only_names(content):
    try:
        targets = parse_forward(content)
    except Malformed:
        return
    for target in targets:
        if isinstance(target, User):
            assert target.name.isascii() and "/" not in target.name and not set(target.name) & set(" \t\n\0;|@")
        elif isinstance(target, Address):
            assert f"{target.local}{target.domain}".isascii() and not set(target.local) & set(' \t\n\0;<>"@')


@settings(max_examples=100, deadline=None)
@given(st.lists(st.from_regex(r"\A[a-z0-9_.+-]{1,20}\Z"), min_size=1, max_size=8))
def test_names_come_out_as_they_went_in(names):
    assert parse_value(", ".join(names)) == [User(name) for name in names]


@pytest.mark.parametrize(
    "value, meant",
    [
        ("include:lists", "absolute path"),
        (":include:lists", "absolute path"),
        (":error:999 x", "code"),
        ("error:x", "code"),
    ],
)
def test_what_is_nearly_a_form_is_told_what_it_lacks(value, meant):
    with pytest.raises(Malformed, match=meant):
        parse_value(value)
