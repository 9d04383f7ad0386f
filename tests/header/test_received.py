"""The trace line: its layout, and that nobody writes it but us."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.header.received import date, literal, protocol_word, received

GOOD = {
    "helo": "relay.test",
    "client": "mail.there.test",
    "address": "192.0.2.1",
    "server": "mx.here.test",
    "product": "smtpd",
    "protocol": "ESMTP",
    "message": "1a2b3c4d",
    "recipient": "bob@here.test",
    "epoch": 1795243823,
}


def test_the_layout():
    assert received(**GOOD) == (
        b"Received: from relay.test (mail.there.test [192.0.2.1])\n"
        b"\tby mx.here.test (smtpd) with ESMTP id 1a2b3c4d\n"
        b"\tfor <bob@here.test>;\n"
        b"\tSat, 21 Nov 2026 06:50:23 +0000 (UTC)\n"
    )


def test_without_a_recipient():
    assert received(**GOOD | {"recipient": "", "client": "<unknown>"}) == (
        b"Received: from relay.test (<unknown> [192.0.2.1])\n"
        b"\tby mx.here.test (smtpd) with ESMTP id 1a2b3c4d;\n"
        b"\tSat, 21 Nov 2026 06:50:23 +0000 (UTC)\n"
    )


@pytest.mark.parametrize(
    "address, shown",
    [
        ("192.0.2.1", "[192.0.2.1]"),
        ("2001:db8::1", "[IPv6:2001:db8::1]"),
        ("fe80::1%em0", "[IPv6:fe80::1]"),  # CVE-2023-29323
        ("local", "[local]"),
    ],
)
def test_addresses_of_clients(address, shown):
    assert literal(address) == shown


@settings(max_examples=200)
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_no_name_breaks_out_of_its_place(helo, client, address):
    text = received(**GOOD | {"helo": helo, "client": client, "address": address})
    assert text.count(b"\n") == 4 and text.count(b"\n\t") == 3
    first = text.split(b"\n")[0]
    assert first.count(b"(") == first.count(b")") == 1 and first.isascii() and b"\r" not in text


@settings(max_examples=200)
@given(st.integers(0, 2**33))
def test_the_date_is_that_of_the_c_library(epoch):
    assert date(epoch) == time.strftime("%a, %d %b %Y %H:%M:%S +0000 (UTC)", time.gmtime(epoch))


def test_protocol_words():
    assert protocol_word(esmtp=False, utf8=False) == "SMTP"
    assert protocol_word(esmtp=True, utf8=False) == "ESMTP"
    assert protocol_word(esmtp=True, utf8=True) == "UTF8SMTP"
