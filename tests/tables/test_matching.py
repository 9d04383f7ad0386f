"""When a key matches an entry."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.domain_name import normal
from smtpd.slice import Service
from smtpd.tables.matching import Addresses, Domains, Networks, Strings, make_matcher

DOMAINS = [
    ("example.com", "example.com", True),
    ("example.com", "EXAMPLE.Com", True),
    ("Example.COM", "example.com", True),
    ("example.com", "a.example.com", False),
    ("*.example.com", "a.example.com", True),
    ("*.example.com", ".example.com", True),
    ("*.example.com", "example.com", False),
    ("*.example.com", "a.b.example.com", False),
    ("*.*.example.com", "a.b.example.com", True),
    ("mail*.example.com", "mail7.example.com", True),
    ("mail*.example.com", "mail.example.com", True),
    ("mail*.example.com", "mail.a.example.com", False),
    ("*example.com", "here.example.com", True),
    ("*example.com", "a.b.example.com", True),
    ("example.*", "example.co.uk", True),
    ("example.*", "example.", False),
    ("*", "any.thing", True),
    ("*", "", False),
    ("**", "any.thing", True),
    ("[192.0.2.1]", "[192.0.2.1]", True),
    ("a.b", "axb", False),
    ("a*b", "a+b", True),
    ("a(*b", "a(x.yb", True),
    ("example.com.", "example.com", True),
    ("example.com", "Example.com.", True),
    ("müller.test", "xn--mller-kva.test", True),
    ("XN--mller-kva.test.", "MÜLLER.test", True),
    ("*.müller.test", "a.xn--mller-kva.test", True),
    ("*.xn--mller-kva.test", "ü.müller.test", True),
    ("mü*.test", "xn--mller-kva.test", True),
    ("xn--*.test", "müller.test", True),
    ("xn--*.test", "muller.test", False),
    ("*.test", "xn--mller-kva.test", True),
    ("xn--here-.test", "here.test", False),
]


@pytest.mark.parametrize("entry, key, matches", DOMAINS)
def test_domains(entry, key, matches):
    assert Domains([entry]).check(key) is matches


ADDRESSES = [
    ("bob@here.test", "bob@here.test", True),
    ("bob@here.test", "BOB@Here.Test", True),
    ("bob@here.test", "bob+lists@here.test", True),
    ("bob+lists@here.test", "bob+lists@here.test", True),
    ("bob+lists@here.test", "bob@here.test", False),
    ("bob+lists@here.test", "bob+other@here.test", False),
    ("bob@here.test", "bob@there.test", False),
    ("bob", "bob@anywhere.test", True),
    ("bob", "bob+lists@anywhere.test", True),
    ("bob", "amy@anywhere.test", False),
    ("@here.test", "anybody@here.test", True),
    ("@here.test", "anybody@a.here.test", False),
    ("@*.here.test", "anybody@a.here.test", True),
    ("bob@*.here.test", "bob+x@a.here.test", True),
    ("bob@*.here.test", "amy@a.here.test", False),
    ("@", "anybody@any.where", True),
    ("@", "@", True),
    ("@*", "@", False),
    ("@here.test", '"a@b"@here.test', True),
    ("bob@müller.test", "Bob+x@xn--mller-kva.test", True),
    ("@xn--mller-kva.test.", "bob@müller.test", True),
    ("bob@*.müller.test", "bob@a.xn--mller-kva.test", True),
]


@pytest.mark.parametrize("entry, key, matches", ADDRESSES)
def test_addresses(entry, key, matches):
    assert Addresses([entry], "+").check(key) is matches


@pytest.mark.parametrize("char", [*map(chr, range(32, 127)), "\u00bf", "\u00a0", "\u00e4", "\u2028", "\U0001f600"])
def test_any_character_beside_a_star_stands_for_itself(char):
    if char != "*":
        matcher = Domains([f"*{char}x"])
        assert matcher.check(f"a{char}x") and not matcher.check(f"a{char}y")


def test_another_delimiter_makes_plus_an_ordinary_character():
    assert Addresses(["bob"], "-").check("bob-lists@here.test")
    assert not Addresses(["bob"], "-").check("bob+lists@here.test")


NETWORKS = [
    ("192.0.2.1", "192.0.2.1", True),
    ("192.0.2.1", "192.0.2.2", False),
    ("192.0.2.1", "192.0.2.0", False),
    ("192.0.2.1/32", "192.0.2.1", True),
    ("192.0.2.1/32", "192.0.2.0", False),
    ("192.0.2.0/24", "192.0.2.200", True),
    ("192.0.2.77/24", "192.0.2.200", True),
    ("192.0.2.0/24", "192.0.3.1", False),
    ("10/8", "10.1.2.3", True),
    ("0.0.0.0/0", "192.0.2.1", True),
    ("0.0.0.0/0", "2001:db8::1", False),
    ("::/0", "2001:db8::1", True),
    ("::/0", "192.0.2.1", False),
    ("2001:db8::/32", "2001:db8:1::1", True),
    ("2001:DB8::1", "2001:db8:0:0::1", True),
    ("[2001:db8::1]", "2001:db8::1", True),
    ("[IPv6:2001:db8::1]", "2001:db8::1", True),
    ("192.0.2.1", "::ffff:192.0.2.1", True),
    ("fe80::/10", "fe80::1%eth0", True),
    ("local", "local", True),
    ("local", "127.0.0.1", False),
    ("192.0.2.0/24", "local", False),
    ("192.0.2.0/24", "", False),
    ("192.0.2.0/24", "192.0.2.1\0", False),
]


@pytest.mark.parametrize("entry, key, matches", NETWORKS)
def test_networks(entry, key, matches):
    assert Networks([entry]).check(key) is matches


@pytest.mark.parametrize("entry", ["192.0.2.0/33", "host/24", "192.0.2.0/", "::/129", "192.0.2.0/-1", "1.2.3.4.5/8"])
def test_a_malformed_network_is_an_error(entry):
    with pytest.raises(ValueError):
        Networks([entry])


def test_case_counts_in_expressions_only():
    assert Strings(["Inside"]).check("iNSIDE")
    assert Strings(["amy@müller.test"]).check("Amy@xn--mller-kva.test")
    assert not make_matcher(Service.REGEX, ["^A"], "+").check("abc")
    assert make_matcher(Service.REGEX, ["x", "^A"], "+").check("Abc")


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab.*@+/[]:0(\\", max_size=8), max_size=4), st.text(max_size=12))
def test_any_entry_is_understood_or_a_value_error(entries, key):
    for service in Service:
        try:
            made = make_matcher(service, entries, "+")
        except ValueError:
            continue
        assert made.check(key) in (True, False)


@settings(max_examples=200, deadline=None)
@given(st.text("ab.*", min_size=1, max_size=6), st.text("ab.", max_size=8))
def test_a_star_before_a_dot_is_one_label(entry, key):
    """The same by trying all ways."""

    def fits(entry, key):
        if not entry:
            return not key
        if entry[0] != "*":
            return key[:1] == entry[0] and fits(entry[1:], key[1:])
        rest = entry.lstrip("*")
        if not rest:
            return bool(key)
        return any(fits(rest, key[n:]) for n in range(len(key) + 1) if not (rest[0] == "." and "." in key[:n]))

    assert Domains([entry]).check(key) is fits(normal(entry), normal(key))
