"""XCLIENT: what a proxy may say of its client, and what it may not."""

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.smtp.reply import CommandRefused
from smtpd.smtp.xclient_attributes import ATTRIBUTES, XclientOverrides, parse_xclient


@pytest.mark.parametrize(
    "argument, said",
    [
        ("NAME=mail.there.test", XclientOverrides(name="mail.there.test")),
        ("name=[unavailable]", XclientOverrides(name="<unknown>")),
        ("NAME=[TEMPUNAVAIL]", XclientOverrides(name="<unknown>")),
        ("NAME=a.test ADDR=192.0.2.1 PORT=4711", XclientOverrides(name="a.test", address="192.0.2.1", port=4711)),
        ("ADDR=IPV6:2001:DB8:0::1 NAME=a.test", XclientOverrides(name="a.test", address="2001:db8::1", port=0)),
        ("ADDR=IPV6:::ffff:192.0.2.1 NAME=a.test", XclientOverrides(name="a.test", address="192.0.2.1", port=0)),
        ("addr=ipv6:::1 name=a.test", XclientOverrides(name="a.test", address="::1", port=0)),
        ("PROTO=smtp  HELO=there.test", XclientOverrides(protocol="SMTP", helo="there.test")),
        ("PROTO=ESMTP HELO=[192.0.2.1]", XclientOverrides(protocol="ESMTP", helo="[192.0.2.1]")),
        ("HELO=[UNAVAILABLE]", XclientOverrides(helo="")),
        ("LOGIN=amy+2Bx@here.test", XclientOverrides(login="amy+x@here.test")),
        ("LOGIN=[UNAVAILABLE]", XclientOverrides(login="")),
        ("DESTADDR=192.0.2.25 DESTPORT=25", XclientOverrides(destination="192.0.2.25", destination_port=25)),
        ("DESTADDR=[UNAVAILABLE] DESTPORT=[UNAVAILABLE]", XclientOverrides(destination="", destination_port=0)),
        ("PORT=[UNAVAILABLE]", XclientOverrides(port=0)),
        ("PORT=65535", XclientOverrides(port=65535)),
    ],
)
def test_what_may_be_said(argument, said):
    assert parse_xclient(argument) == said


def test_another_address_does_not_keep_the_name_of_the_one_before():
    assert parse_xclient("ADDR=192.0.2.1") == XclientOverrides(name="<unknown>", address="192.0.2.1", port=0)


@pytest.mark.parametrize(
    "argument",
    [
        "",
        " ",
        "ADDR",
        "ADDR=",
        "=192.0.2.1",
        "ADDR=[UNAVAILABLE]",  # the address of the proxy must not be taken for it
        "ADDR=192.0.2.01",
        "ADDR=192.0.2.1/32",
        "ADDR=[192.0.2.1]",
        "ADDR=2001:db8::1",
        "ADDR=IPV6:192.0.2.1",
        "ADDR=IPV6:fe80::1%25em0",
        "ADDR=IPV6:fe80::1%em0",
        "ADDR=192.0.2.1 ADDR=192.0.2.2",
        "ADDR=192.0.2.1 addr=192.0.2.2",
        "NAME=",
        "NAME=<unknown>",
        "NAME=a+20b",
        "NAME=[192.0.2.1]",
        "NAME=a..b",
        "NAME=" + "a." * 200 + "test",
        "NAME=a+0D+0AMAIL",
        "HELO=a+0Ab",
        "HELO=",
        "PORT=-1",
        "PORT=65536",
        "PORT=025",
        "PORT=２５",
        "PORT=1+41",
        "HELO=h+C3+A9.test",
        "PROTO=LMTP",
        "PROTO=",
        "LOGIN=",
        "LOGIN=a+0Ab",
        "LOGIN=a+00b",
        "LOGIN=" + "a" * 256,
        "LOGIN=+FF",
        "REVERSE_NAME=x",
        "NAME=x\tADDR=192.0.2.1",
    ],
)
def test_what_may_not(argument):
    with pytest.raises(CommandRefused) as refused:
        parse_xclient(argument)
    assert refused.value.reply.text.startswith("501 5.5.4 ")


def test_what_ehlo_names():
    assert ATTRIBUTES == "NAME ADDR PORT PROTO HELO LOGIN DESTADDR DESTPORT"


VALUES = st.one_of(
    st.text(max_size=20), st.sampled_from(["192.0.2.1", "IPV6:::1", "[UNAVAILABLE]", "a.test", "25", "+0A"])
)
SAID = st.lists(st.tuples(st.sampled_from(ATTRIBUTES.split()), VALUES), max_size=5)


@settings(max_examples=200)
@given(SAID)
def test_garbage_is_refused_or_harmless(said):
    try:
        got = parse_xclient(" ".join(f"{word}={value}" for word, value in said))
    except CommandRefused as refused:
        assert refused.reply.code == 501
        return
    assert got.address is None or ipaddress.ip_address(got.address)
    text = "".join(str(value) for value in got)
    assert not any(ord(char) < 32 or ord(char) == 127 for char in text)
