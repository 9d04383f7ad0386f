"""What is an address, what is none, and that each prints as what it was read from."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.smtp.address import NULL, Address, AddressError, parse_domain, parse_mailbox, parse_path


@pytest.mark.parametrize(
    "text, address",
    [
        ("<bob@here.test>", Address("bob", "here.test")),
        ("<Bob.Smith+list@HERE.test>", Address("Bob.Smith+list", "HERE.test")),
        ("<!#$%&'*/?^`{|}~+-=_@here.test>", Address("!#$%&'*/?^`{|}~+-=_", "here.test")),
        ("<bob@localhost>", Address("bob", "localhost")),
        ("<bob@under_score.test>", Address("bob", "under_score.test")),
        ("<bob@1.2.test>", Address("bob", "1.2.test")),
        ('<"bob"@here.test>', Address("bob", "here.test")),
        ('<"b o b"@here.test>', Address("b o b", "here.test")),
        (r'<"b\"o\\b>@"@here.test>', Address(r'b"o\b>@', "here.test")),
        (r'<"b\o\b"@here.test>', Address("bob", "here.test")),
        ('<".bob."@here.test>', Address(".bob.", "here.test")),
        ("<bob@[192.0.2.1]>", Address("bob", "[192.0.2.1]")),
        ("<bob@[IPv6:2001:DB8::1]>", Address("bob", "[IPv6:2001:db8::1]")),
        ("<bob@[ipv6:::1]>", Address("bob", "[IPv6:::1]")),
        ("<bob@[::1]>", Address("bob", "[IPv6:::1]")),
        ("<bob@here.test.>", Address("bob", "here.test")),
        ("<bob@mü.test.>", Address("bob", "mü.test")),
        ("<@a.test:bob@here.test>", Address("bob", "here.test")),
        ("<@a.test,@[192.0.2.1]:bob@here.test>", Address("bob", "here.test")),
        ("<postmaster>", Address("postmaster", "")),
        ("<böb@hére.test>", Address("böb", "hére.test")),
        ("<क्‍ष@उदाहरण.test>", Address("क्‍ष", "उदाहरण.test")),
        ("<>", NULL),
        ("< >", NULL),
        ("<\t bob@here.test >", Address("bob", "here.test")),
        ("bob@here.test", Address("bob", "here.test")),
        ('"b o b"@here.test', Address("b o b", "here.test")),
        ("postmaster", Address("postmaster", "")),
        ("<" + "a" * 255 + "@here.test>", Address("a" * 255, "here.test")),
        ("<bob@" + ".".join(["a" * 63] * 3) + ".test>", Address("bob", ".".join(["a" * 63] * 3) + ".test")),
    ],
)
def test_a_path(text, address):
    assert parse_path(text + " SIZE=1") == (address, " SIZE=1")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<bob@here.test",
        "bob@here.test>",
        "bob@here.test,eve@here.test",
        "bob@",
        "bob;id",
        "<<bob@here.test>>",
        "<bob @here.test>",
        "<@here.test>",
        "<@>",
        "<bob@>",
        "<.bob@here.test>",
        "<bob.@here.test>",
        "<b..b@here.test>",
        "<b@b@here.test>",
        '<""@here.test>',
        '<"bob@here.test>',
        '<bob"@here.test>',
        '<"bob"x@here.test>',
        '<"bob\\"@here.test>',
        "<bob@here..test>",
        "<bob@.here.test>",
        "<bob@here.test..>",
        "<bob@.>",
        "<bob@-here.test>",
        "<bob@here-.test>",
        "<bob@here/test>",
        "<bob@here,test>",
        "<bob@[]>",
        "<bob@[1.2.3]>",
        "<bob@[1.2.3.4.5]>",
        "<bob@[01.2.3.4]>",
        "<bob@[256.2.3.4]>",
        "<bob@[IPv6:1.2.3.4]>",
        "<bob@[IPv6:fe80::1%em0]>",
        "<bob@[IPv6:1::2::3]>",
        "<bob@[X400:c=de]>",
        "<bob@[192.0.2.1]x>",
        "<bob@here。test>",  # an ideographic full stop would become a dot later
        "<bob@-é.test>",
        "<@a.test bob@here.test>",
        "<" + "a" * 256 + "@here.test>",
        "<" + "ö" * 128 + "@here.test>",
        "<bob@" + "a" * 64 + ".test>",
        "<bob@" + ".".join(["a" * 60] * 5) + ">",
        # CVE-2020-7247
        "<;id;>",
        "<;id;@here.test>",
        "<bob;id@here.test>",
        "<bob@here.test;id>",
        "<$(id)@here.test>",
        "<bob\n@here.test>",
        "<bob\r\n@here.test>",
        "<bob\0@here.test>",
        "<bob\x7f@here.test>",
        "<bob\x1b@here.test>",
        '<"bob\n"@here.test>',
        '<"bob\\\n"@here.test>',
        '<"bob\t"@here.test>',
        "<bob@here.test\n>",
        "<bob\u0085@here.test>",
        "<bob\u2028@here.test>",
        "<bob\u00a0@here.test>",
        "<bob\u202e@here.test>",
        "<bob@here\u202e.test>",
        "<bob\ufeff@here.test>",
    ],
)
def test_no_path(text):
    with pytest.raises(AddressError):
        parse_path(text)


SOUP = st.text(alphabet='ab.@"\\<>:,[]-_ ;$\n\0é\u202e0:1IPv6', max_size=30)


@settings(max_examples=200)
@given(st.one_of(SOUP, st.text(max_size=30)).map(lambda text: f"<{text}>"))
def test_whatever_is_taken_can_be_printed_and_read_again(text):
    try:
        address, _ = parse_path(text)
    except AddressError:
        return
    shown = str(address)
    assert all(unicodedata.category(char) not in ("Cc", "Zl", "Zp", "Cs") for char in shown)
    if address != NULL:
        assert address.local
        assert parse_mailbox(shown) == address
        assert parse_path(f"<{shown}>rest") == (address, "rest")


@settings(max_examples=200)
@given(st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), min_size=1, max_size=60))
def test_any_printable_local_part_survives_quoting(local):
    address = Address(local, "here.test")
    assert parse_mailbox(str(address)) == address


@settings(max_examples=200)
@given(SOUP)
def test_a_domain_is_its_own_canonical_form(text):
    try:
        canonical = parse_domain(text)
    except AddressError:
        return
    assert parse_domain(canonical) == canonical
    assert not set(canonical) & set(' "<>@\\\n\0;')


def test_a_hostile_path_costs_no_time():
    for bare in ("a." * 100000, "a" * 200000 + ";"):
        with pytest.raises(AddressError):
            parse_path(bare)
    for text in (
        "<" + " " * 200000,
        "<" + "a." * 100000,
        '<"' + "\\a" * 100000,
        "<" + "@a," * 100000,
        "<" + "a" * 200000 + "@",
    ):
        with pytest.raises(AddressError):
            parse_path(text)


@pytest.mark.parametrize("text", ["caf\udce9@here.test", "bob@caf\udce9.test", "caf\udce9"])
def test_what_was_no_utf8_is_no_address(text):
    """As it comes from the command line, or from a file."""
    with pytest.raises(AddressError):
        parse_mailbox(text)


@pytest.mark.parametrize("text", ["\u07b2", "a\u07b2@here.test", "\ue000@here.test"], ids=ascii)
def test_a_character_that_is_unassigned_or_private_is_in_no_local_part(text):
    with pytest.raises(AddressError):
        parse_mailbox(text)
