"""The Received line: its layout, and that no client can write a part of it."""

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


def test_tls_and_the_authenticated_user():
    secured = GOOD | {"protocol": "ESMTPSA", "tls": "TLSv1.3:TLS_AES_256_GCM_SHA384:256:NO", "received_auth": True}
    assert received(**secured | {"user": "amy@here.test"}).split(b"\n")[1] == (
        b"\tby mx.here.test (smtpd) with ESMTPSA id 1a2b3c4d"
        b" (TLSv1.3:TLS_AES_256_GCM_SHA384:256:NO) auth=yes user=amy@here.test"
    )
    assert received(**secured).split(b"\n")[1].endswith(b":NO) auth=no")


def test_a_user_is_named_only_where_that_is_asked_for():
    assert b"amy" not in received(**GOOD | {"tls": "TLSv1.3:TLS_AES_256_GCM_SHA384:256:NO", "user": "amy"})
    assert b"amy" not in received(**GOOD | {"user": "amy", "received_auth": True})


def test_a_masked_source_leaves_no_trace():
    text = received(**GOOD | {"mask_src": True})
    assert text.startswith(b"Received: by mx.here.test (smtpd) with ESMTP id 1a2b3c4d\n\tfor <bob@here.test>;\n")
    assert not any(secret in text for secret in (b"relay.test", b"mail.there.test", b"192.0.2.1"))


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
@given(st.text(max_size=40), st.text(max_size=40), st.text(max_size=40), st.text(max_size=40))
def test_no_name_breaks_out_of_its_place(helo, client, address, user):
    names = {"helo": helo, "client": client, "address": address, "user": user}
    text = received(**GOOD | names | {"tls": "TLSv1.2:X:128:NO", "received_auth": True})
    assert text.count(b"\n") == 4 and text.count(b"\n\t") == 3 and text.count(b"auth=") == 1
    first = text.split(b"\n")[0]
    assert first.count(b"(") == first.count(b")") == 1 and first.isascii() and b"\r" not in text


@settings(max_examples=200)
@given(st.integers(0, 2**33))
def test_the_date_is_that_of_the_c_library(epoch):
    assert date(epoch) == time.strftime("%a, %d %b %Y %H:%M:%S +0000 (UTC)", time.gmtime(epoch))


def test_protocol_words():
    assert protocol_word(esmtp=False, utf8=False) == "SMTP"
    assert protocol_word(esmtp=False, utf8=False, tls=True) == "SMTP"
    assert protocol_word(esmtp=True, utf8=False) == "ESMTP"
    assert protocol_word(esmtp=True, utf8=False, tls=True) == "ESMTPS"
    assert protocol_word(esmtp=True, utf8=False, tls=True, auth=True) == "ESMTPSA"
    assert protocol_word(esmtp=True, utf8=False, auth=True) == "ESMTPA"
    assert protocol_word(esmtp=True, utf8=True) == "UTF8SMTP"
    assert protocol_word(esmtp=True, utf8=True, tls=True, auth=True) == "UTF8SMTPSA"
