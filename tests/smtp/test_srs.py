"""SRS: what is rewritten comes back, for a while, with the key; and nothing else does."""

import base64
import hashlib

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from smtpd.smtp.address import AddressError, parse_mailbox
from smtpd.smtp.srs import BASE32, CLOCK_DRIFT, DAY_SECONDS, DAYS, LENGTH_MAX, Rewriter, SrsError, is_rewritten

NOW = 20_000.5 * DAY_SECONDS
OURS = Rewriter("our key")


def hashed(key: str, text: str) -> str:
    return base64.b64encode(hashlib.sha1((key + text).encode()).digest())[:4].decode()


def test_the_format_is_that_of_opensmtpd():
    """HHHH is 4 characters of base64 of SHA-1 over the key and what follows; TT is the day modulo 1024, in base32."""
    stamp = BASE32[(20_000 % 1024) >> 5] + BASE32[20_000 % 32]
    text = f"{stamp}=there.test=amy@here.test"
    first = OURS.rewrite("amy@there.test", "here.test", NOW)
    assert first == f"SRS0={hashed('our key', text)}={text}"
    text = f"here.test=={first.removeprefix('SRS0=').partition('@')[0]}@else.test"
    second = OURS.rewrite(first, "else.test", NOW)
    assert second == f"SRS1={hashed('our key', text)}={text}"
    text = text.replace("@else.test", "@third.test")
    assert OURS.rewrite(second, "third.test", NOW) == f"SRS1={hashed('our key', text)}={text}"


def test_each_hop_can_be_reversed_by_the_host_that_made_it():
    hops = [Rewriter(key) for key in ("one", "two", "three")]
    first = hops[0].rewrite("amy@there.test", "a.test", NOW)
    second = hops[1].rewrite(first, "b.test", NOW)
    third = hops[2].rewrite(second, "c.test", NOW)
    assert hops[2].reverse(third, NOW) == first, "straight to the first host, which the second one is no more part of"
    assert hops[1].reverse(second, NOW) == first
    assert hops[0].reverse(first, NOW) == "amy@there.test"


@pytest.mark.parametrize("key", ["our key", "other", ""])
def test_the_hash_needs_the_key(key):
    made = OURS.rewrite("amy@there.test", "here.test", NOW)
    if key == "our key":
        assert Rewriter(key).reverse(made, NOW) == "amy@there.test"
    else:
        with pytest.raises(SrsError, match="hash is wrong"):
            Rewriter(key).reverse(made, NOW)


def test_an_address_of_the_backup_key_is_accepted_and_none_is_made_with_it():
    made = OURS.rewrite("amy@there.test", "here.test", NOW)
    rotated = Rewriter("new key", "our key")
    assert rotated.reverse(made, NOW) == "amy@there.test"
    assert rotated.rewrite("amy@there.test", "here.test", NOW) == Rewriter("new key").rewrite(
        "amy@there.test", "here.test", NOW
    )


def test_an_empty_backup_key_accepts_nothing():
    made = Rewriter("").rewrite("amy@there.test", "here.test", NOW)
    with pytest.raises(SrsError):
        OURS.reverse(made, NOW)


@pytest.mark.parametrize("forged", ["", "AAAA", "aaaa", "AAA", "AAAAA", "\u00e5\u00e5\u00e5\u00e5"])
@pytest.mark.parametrize("rest", ["=RA=victim.test=amy", "=victim.test==AAAA=RA=victim.test=amy"])
def test_attack_a_forged_hash_is_refused(forged, rest):
    for prefix in ("SRS0", "SRS1"):
        with pytest.raises(SrsError):
            OURS.reverse(f"{prefix}={forged}{rest}@here.test", NOW)


@pytest.mark.parametrize(
    "change",
    [
        lambda made: made.replace("there.test", "other.test"),
        lambda made: made.replace("=amy@", "=eve@"),
        lambda made: made.replace("@here.test", "@else.test"),
        lambda made: made.replace("=amy@", "=AMY@"),
        lambda made: made.replace("SRS0", "SRS1"),
        lambda made: made.swapcase().replace("SRS0", "SRS0"),
    ],
)
def test_attack_no_part_can_be_changed(change):
    made = OURS.rewrite("amy@there.test", "here.test", NOW)
    assert change(made) != made
    with pytest.raises(SrsError):
        OURS.reverse(change(made), NOW)


def test_the_prefix_and_the_domain_may_have_any_case():
    made = OURS.rewrite("amy@there.test", "Here.TEST", NOW)
    assert made.endswith("@here.test")
    other = made.replace("SRS0", "srs0").removesuffix("@here.test") + "@HERE.Test"
    assert OURS.reverse(other, NOW) == "amy@there.test"


@pytest.mark.parametrize("ttl", [1, 4, 512])
def test_an_address_expires_after_its_days(ttl):
    ours = Rewriter("our key", ttl=ttl)
    made = ours.rewrite("amy@there.test", "here.test", NOW)
    for days in (-CLOCK_DRIFT, 0, 1, ttl):
        assert ours.reverse(made, NOW + days * DAY_SECONDS) == "amy@there.test"
    for days in (-CLOCK_DRIFT - 1, ttl + 1, DAYS - CLOCK_DRIFT - 1):
        with pytest.raises(SrsError, match="expired"):
            ours.reverse(made, NOW + days * DAY_SECONDS)


def test_a_further_hop_expires_likewise():
    made = OURS.rewrite(OURS.rewrite("amy@there.test", "here.test", NOW), "else.test", NOW)
    with pytest.raises(SrsError, match="expired"):
        OURS.reverse(made, NOW + 5 * DAY_SECONDS)


def signed(prefix: str, rest: str) -> str:
    """An address with a right hash, whatever stands behind it: what a host with our key could have made."""
    return f"{prefix}={hashed('our key', f'{rest}@here.test')}={rest}@here.test"


@pytest.mark.parametrize(
    "prefix, rest",
    [
        ("SRS0", "RA=there.test"),
        ("SRS0", "RA=there.test="),
        ("SRS0", "RA==amy"),
        ("SRS0", "R=there.test=amy"),
        ("SRS0", "R1=there.test=amy"),
        ("SRS0", "ra=there.test=amy"),
        ("SRS0", "RAA=there.test=amy"),
        ("SRS0", "there.test"),
        ("SRS1", "here.test"),
        ("SRS1", "here.test="),
        ("SRS1", "here.test=AAAA=RA=there.test=amy"),
        ("SRS1", "here.test=="),
        ("SRS1", "here.test==AAAA=RA"),
        ("SRS1", "==AAAA=RA=there.test=amy"),
        ("SRS1", "a-.test==AAAA=RA=there.test=amy"),
    ],
)
def test_what_is_incomplete_is_refused_even_with_a_right_hash(prefix, rest):
    with pytest.raises(SrsError):
        OURS.reverse(signed(prefix, rest), NOW)


def test_attack_nested_srs1_does_not_grow():
    """Each further hop replaces the last one."""
    address, longest = OURS.rewrite("amy@there.test", "here.test", NOW), 0
    for hop in range(50):
        address = OURS.rewrite(address, f"h{hop % 10}.test", NOW)
        longest = max(longest, len(address))
    assert address.startswith("SRS1=")
    assert longest == len(address)


@pytest.mark.parametrize("sender", ["", "amy", "SRS1=@there.test", "SRS1=AAAA@there.test", "no address"])
def test_a_sender_that_has_no_such_form_stays(sender):
    assert OURS.rewrite(sender, "here.test", NOW) == sender


def test_attack_an_address_that_would_be_too_long_stays():
    fits = f"{'a' * (LENGTH_MAX - len('SRS0=HHHH=TT=there.test=@here.test'))}@there.test"
    assert len(OURS.rewrite(fits, "here.test", NOW)) == LENGTH_MAX
    for local in (f"a{fits}", f"{'a' * 240}@there.test"):
        assert OURS.rewrite(local, "here.test", NOW) == local


def test_domains_beyond_ascii_are_written_as_in_dns():
    made = OURS.rewrite("amy@m\u00fcller.test", "\u00fcber.test", NOW)
    assert made.isascii()
    assert OURS.reverse(made, NOW) == "amy@xn--mller-kva.test"


SENDERS = ['"a b"@there.test', '"a\\"@b"@there.test', "amy@[IPv6:2001:db8::1]", "a=b=c@there.test"]


@pytest.mark.parametrize("sender", SENDERS)
def test_any_address_survives(sender):
    made = OURS.rewrite(sender, "here.test", NOW)
    assert is_rewritten(made)
    assert OURS.reverse(made, NOW) == sender


LOCAL = st.text(st.sampled_from('ab=+-.SR01"\\ @\u00e5'), min_size=1, max_size=80)
DOMAIN = st.sampled_from(["there.test", "a.b-c.test", "[192.0.2.1]", "x"])


@settings(max_examples=200)
@given(LOCAL, DOMAIN, st.lists(DOMAIN, min_size=1, max_size=4))
def test_a_bounce_finds_its_way_back_through_any_number_of_hops(local, domain, hops):
    try:
        sender = str(parse_mailbox(f'"{local}"@{domain}' if not local.isalnum() else f"{local}@{domain}"))
    except AddressError:
        assume(False)
    assume(not is_rewritten(sender))
    address = first = OURS.rewrite(sender, hops[0], NOW)
    for hop in hops[1:]:
        address = OURS.rewrite(address, hop, NOW)
    assume(is_rewritten(address))
    back = OURS.reverse(address, NOW)
    if len(hops) > 1:
        assert back == first
        back = OURS.reverse(back, NOW)
    assert back == sender


@given(st.text(max_size=60) | st.builds("SRS{}={}@here.test".format, st.sampled_from("01"), st.text(max_size=40)))
def test_any_text_is_refused(text):
    with pytest.raises(SrsError):
        OURS.reverse(text, NOW)


@given(LOCAL, st.text(max_size=10), st.floats(0, 2**40))
def test_any_sender_gives_an_address_or_stays(local, domain, now):
    sender = f"{local}@{domain}"
    made = OURS.rewrite(sender, "here.test", now)
    if made != sender:
        assert len(made.encode()) <= LENGTH_MAX
        assert str(parse_mailbox(made)) == made


@pytest.mark.parametrize(
    "address, expected",
    [
        ("SRS0=x@a", True),
        ("srs1=x@a", True),
        ('"SRS0=a b"@a', True),
        ("SRS2=x@a", False),
        ("SRS0+x@a", False),
        ("xSRS0=x@a", False),
        ("", False),
    ],
)
def test_what_looks_rewritten(address, expected):
    assert is_rewritten(address) is expected
