"""The language of alias values and of .forward."""

import hashlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.errand import FORWARD_MAX
from smtpd.smtp.address import Address, parse_mailbox, parse_path
from smtpd.tables.alias_syntax import (
    AliasSyntaxError,
    Command,
    ErrorReply,
    File,
    Include,
    User,
    describe_faults,
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
    ("o'neil@there.test", [Address("o'neil", "there.test")]),
    ("o'neil@there.test, 'x'@there.test", [Address("o'neil", "there.test"), Address("'x'", "there.test")]),
    ("o'neil, bob", [User("o'neil"), User("bob")]),
    ("amy@mail_1.there_2.test", [Address("amy", "mail_1.there_2.test")]),
    ("amy@[192.0.2.1]", [Address("amy", "[192.0.2.1]")]),
    ("amy@[IPv6:2001:DB8:0::1]", [Address("amy", "[IPv6:2001:db8::1]")]),
    ("müller@bücher.test, jürgen", [Address("müller", "bücher.test"), User("jürgen")]),
    ('"a b"@c, bob', [Address("a b", "c"), User("bob")]),
    ('"a, \\"b\\""@c', [Address('a, "b"', "c")]),
    ("bob # the one", [User("bob")]),
    ("bob,\t# the one, amy", [User("bob")]),
    ("a#b@c, \\#@c, c#", [Address("a#b", "c"), Address("#", "c"), User("c#")]),
    ('"|cmd # x" # y', [Command("cmd # x")]),
    ("|cmd 'a # b, c' # d", [Command("cmd 'a # b, c'")]),
    ('|cmd "a # b, c"', [Command('cmd "a # b, c"')]),
    ("error:550 don't, # here", None),
    ("error:550 I don't # here", [ErrorReply(550, "I don't")]),
    ("/home/o'brien/mbox, bob", [File("/home/o'brien/mbox"), User("bob")]),
    ("|cmd", [Command("cmd")]),
    ('"|cmd one, two"', [Command("cmd one, two")]),
    ("\"| cmd 'x'\"", [Command("cmd 'x'")]),
    ('"|cmd \\"x\\""', [Command('cmd "x"')]),
    ("/var/mail/x", [File("/var/mail/x")]),
    ("include:/etc/staff", [Include("/etc/staff")]),
    (":include:/etc/staff", [Include("/etc/staff")]),
    ("error:550 gone", [ErrorReply(550, "gone")]),
    (":error:450 later please", [ErrorReply(450, "later please")]),
    (":error:450 one\\, two", [ErrorReply(450, "one, two")]),
    ("error:550 a@b.test", [ErrorReply(550, "a@b.test")]),  # by the first form that it has
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
    "a@b@c",
    "@b",
    "a@",
    "a@[192.0.2.256]",
    "a@[192.0.2.1",
    "a@b\N{RIGHT-TO-LEFT OVERRIDE}",
    "\N{ZERO WIDTH NO-BREAK SPACE}bob",
    "b\N{NO-BREAK SPACE}ob",
    "caf\udce9",
    "caf\udce9@c",
    "a@caf\udce9",
    "'bob'",
    "~/mail",
    "bob/mail",
    "$HOME",
    "bob;amy",
    "bob: amy",
    "# nothing",
    "|cmd 'x",
    "amy@there.test, |cmd don't",
    "a..b@c",
    ".a@c",
    "a@b..c",
    "a@-b",
    '"a b@c',
    'a "b"@c',
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
def test_words_that_are_not_in_the_language_are_refused(value):
    with pytest.raises(AliasSyntaxError):
        parse_value(value)


FORWARDS = [
    (b"", []),
    (b"# nothing\n", []),
    (b"bob", [User("bob")]),
    (b"bob\n", [User("bob")]),
    (b"bob\r\namy\r\n", [User("bob"), User("amy")]),
    (b"bob\ramy\r", [User("bob"), User("amy")]),
    (b"# caf\xe9\nbob, amy@there.test\n", [User("bob"), Address("amy", "there.test")]),
    (b"bob, \\\n  amy\n", [User("bob"), User("amy")]),
    (b"bob \\\n", [User("bob")]),
    (b"bo\\\nb\n", [User("bob")]),
    (b"# not \\\nbob\n", [User("bob")]),
    (b"  # blanks before\nbob", [User("bob")]),
    (b'"|caf\xe9 x"', [Command("caf\udce9 x")]),
    (b"bob # caf\xe9\namy\n", [User("bob"), User("amy")]),
    (b"bob # no \\\namy\n", [User("bob"), User("amy")]),
    (b"bob, \\\n# no\namy\n", [User("bob"), User("amy")]),
    (b"bob, \\\namy # no \\\njoe\n", [User("bob"), User("amy"), User("joe")]),
    (b'"|cmd \\\n  # x"\n', [Command("cmd # x")]),
    (b"# \0\nbob\n", [User("bob")]),
    (b"\xef\xbb\xbfbob\r\n", [User("bob")]),
    (
        b"o'brien@there.test\nm\xc3\xbcller@there.test",
        [Address("o'brien", "there.test"), Address("müller", "there.test")],
    ),
]


@pytest.mark.parametrize("content, targets", FORWARDS)
def test_a_forward(content, targets):
    assert parse_forward(content) == (targets, [])


@pytest.mark.parametrize("content", [b"bob \\", b"caf\xe9\n", b"bob\0", b"root:x:0:0:root\n"])
def test_a_forward_that_is_none(content):
    with pytest.raises(AliasSyntaxError):
        parse_forward(content)


def test_a_forward_may_have_so_many_bytes_and_no_more():
    assert parse_forward(b"a,".ljust(FORWARD_MAX, b"\n")).targets == [User("a")]
    with pytest.raises(AliasSyntaxError):
        parse_forward(b"a,".ljust(FORWARD_MAX + 1, b"\n"))


def test_the_refusal_does_not_repeat_the_file():
    with pytest.raises(AliasSyntaxError) as refused:
        parse_forward(b"root:$y$secret:19000\n")
    assert "secret" not in str(refused.value)


def test_an_include_file_is_comments_and_targets_of_any_number():
    many = b"".join(b"user%d\n" % number for number in range(1000))
    targets, troubles = parse_include(b"# bob\nbob, amy@there.test # all\n" + many)
    assert troubles == []
    assert targets[:2] == [User("bob"), Address("amy", "there.test")]
    assert targets[2:] == [User(f"user{number}") for number in range(1000)]


def test_a_comment_in_an_include_file_takes_no_other_line_with_it():
    assert parse_include(b"amy\n# bob \\\njoe\n#\\\nkim") == ([User("amy"), User("joe"), User("kim")], [])


def test_invalid_lines_of_an_include_file_are_reported():
    content = b'bob\nb o b\namy,\\\n"joe\nkim \\'
    targets, troubles = parse_include(content)
    assert targets == [User("bob")]
    assert [number for number, _ in troubles] == [2, 4, 5]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200) | st.text('ab@,|/:\\"# \n', max_size=60).map(str.encode))
def test_any_bytes_are_an_include_file(content):
    lines = content.count(b"\n") + content.count(b"\r") + 1
    assert all(1 <= number <= lines for number, _ in parse_include(content)[1])


def test_a_digest_is_of_the_bytes_as_written():
    assert digest(File("/var/mail/x")) == "c5d44bc079bf30f6c6919abf8d469832ce9a09df88206734126312637f9dec06"
    assert digest(Command("caf\udce9")) == hashlib.sha256(b"|caf\xe9").hexdigest()
    assert digest(Command("/x")) != digest(File("/x")) != digest(File("|/x"))


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text("ab@.,|/:\\\"'# \n", max_size=60).map(str.encode)))
def test_any_bytes_are_targets_or_malformed_and_names_are_only_names(content):
    try:
        targets, _ = parse_forward(content)
    except AliasSyntaxError:
        return
    for target in targets:
        if isinstance(target, User):
            assert not set(target.name) & set(' \t\r\n\0;|@/~$*`"\\<>')
        elif isinstance(target, Address):
            assert parse_mailbox(str(target)) == target
            assert not set(str(target)) & set("\r\n\0")


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
def test_nearly_valid_targets_get_a_hint(value, meant):
    with pytest.raises(AliasSyntaxError, match=meant):
        parse_value(value)


def test_what_one_line_does_wrong_costs_that_line():
    content = b"bob\na@b@c, amy\njoe\nb o b\n'x\ncaf\xe9\n\0\nkim \\\n"
    targets, troubles = parse_forward(content)
    assert targets == [User("bob"), User("joe"), User("kim")]
    assert [number for number, _ in troubles] == [2, 4, 5, 6, 7]
    assert troubles[0] == (2, "not an address: not of the form local-part@domain")


def test_a_forward_of_which_nothing_is_understood_says_what_is_wrong():
    with pytest.raises(AliasSyntaxError, match="^line 1: neither .*; line 3: a control character$"):
        parse_forward(b"b o b\n# nothing\nbob\0\n")


def test_only_the_first_faults_are_logged():
    lines = describe_faults([(number, "wrong") for number in range(1, 100)])
    assert lines == [*(f"line {number}: wrong" for number in range(1, 6)), "and 94 more lines"]


ATEXT = "abcXYZ019!#$%&'*+-/=?^_`{|}~üß日"
local_parts = st.lists(st.text(ATEXT, min_size=1, max_size=12), min_size=1, max_size=4).map(".".join)
quoted_parts = st.text("ab ,;:@<>()[]\\\"'#.", min_size=1, max_size=12)
domains = st.from_regex(r"\A[a-z0-9_][a-z0-9_-]{0,8}[a-z0-9](\.[a-z]{2,6}){0,3}\Z") | st.sampled_from(
    ["[192.0.2.1]", "[IPv6:2001:db8::1]", "bücher.test", "xn--bcher-kva.test"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.builds(Address, local_parts | quoted_parts, domains), min_size=1, max_size=4))
def test_what_rcpt_takes_an_alias_and_a_forward_can_name(addresses):
    """As it is printed; only what would be a command, a file, a comment or an escape needs a backslash in front."""
    assert [parse_path(f"<{address}>")[0] for address in addresses] == addresses
    value = ", ".join(f"\\{address}" if str(address)[0] in "#" else str(address) for address in addresses)
    if all(str(address)[0] not in "|/" for address in addresses):
        assert parse_value(value) == addresses
        assert parse_forward("\n".join(value.split(", ")).encode() if '"' not in value else value.encode()) == (
            addresses,
            [],
        )


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab@,|/:\\\"'# \t.ü", max_size=30), max_size=6), st.data())
def test_a_wrong_line_spoils_no_other_line(lines, data):
    lines = [line for line in lines if not line.strip().endswith("\\")]
    alone = [parse_include(line.encode()).targets for line in lines]
    assert parse_include("\n".join(lines).encode()).targets == [target for targets in alone for target in targets]


@settings(max_examples=200, deadline=None)
@given(st.text("ab@,|/:\\\"'# \t.ü", max_size=60), st.data())
def test_where_a_line_is_joined_does_not_matter(text, data):
    """But for blanks at the beginning of a line and comments, which end with theirs."""
    at = data.draw(st.integers(0, len(text)))
    if "#" in text or text[at:] != text[at:].lstrip() or text.strip().endswith("\\") or text[:at].endswith("\\"):
        return
    assert parse_include(f"{text[:at]}\\\n{text[at:]}".encode()).targets == parse_include(text.encode()).targets


def test_a_file_of_joined_lines_costs_no_more_than_its_length():
    begin = time.process_time()
    parse_include(b'" #" \\\n' * 40_000)
    assert time.process_time() - begin < 5
