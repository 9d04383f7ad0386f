"""Lines in front of a delivered mail, and what its header is asked."""

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mail_local.trace import (
    BLOCK_MAX,
    HEADER_MAX,
    added_lines,
    delivered,
    delivered_to,
    header_of,
    is_junk,
    was_delivered_to,
)


def header(*lines):
    return header_of("\n".join((*lines, "", "body")).encode())


def test_the_lines_name_sender_and_recipient():
    expected = b"Return-Path: <amy@there.test>\nDelivered-To: bob@here.test\n"
    assert added_lines("amy@there.test", "bob@here.test") == expected


def test_the_null_sender_has_an_empty_return_path():
    """RFC 5321 4.4"""
    assert added_lines("", "bob@here.test") == b"Return-Path: <>\nDelivered-To: bob@here.test\n"


def test_without_a_recipient_there_is_no_delivered_to():
    assert added_lines("amy@there.test", "") == b"Return-Path: <amy@there.test>\n"
    assert delivered_to("") == b""


def test_an_international_address_is_utf8():
    assert "Delivered-To: bøb@here.test\n".encode() in added_lines("", "bøb@here.test")


def test_an_address_that_is_no_text_is_marked():
    """An argument of a program that is not UTF-8."""
    assert added_lines("\udcff", "\udcff") == b"Return-Path: <?>\nDelivered-To: ?\n"
    assert not was_delivered_to(header("Delivered-To: bob"), "\udcff")


@given(st.text(), st.text())
@example("amy\x85X-Spam: no", "bob\u2028X-Spam: no")
@settings(max_examples=200)
def test_no_address_can_begin_another_line(sender, recipient):
    added = added_lines(sender, recipient)
    assert added.count(b"\n") == 1 + bool(recipient)
    assert added[-1:] == b"\n" and b"\r" not in added and b"\0" not in added
    assert len(added.decode().splitlines()) == 1 + bool(recipient)


@pytest.mark.parametrize(
    "line",
    [
        "Delivered-To: bob@here.test",
        "delivered-to:bob@here.test",
        "DELIVERED-TO:   BOB@Here.Test  ",
        "Delivered-To:\n bob@here.test",
        "Delivered-To: <bob@here.test>",
    ],
)
def test_a_mail_that_was_here_before_is_a_loop(line):
    assert was_delivered_to(header("Received: from x", line, "Subject: y"), "bob@here.test")


@pytest.mark.parametrize(
    "line",
    [
        "Delivered-To: bobby@here.test",
        "Delivered-To: bob@here.test.example",
        "X-Delivered-To: bob@here.test",
        "Subject: Delivered-To: bob@here.test",
        "Subject: x\n Delivered-To: bob@here.test",
        "Delivered-To:",
    ],
)
def test_what_only_looks_like_it_is_none(line):
    assert not was_delivered_to(header(line), "bob@here.test")


def test_the_body_is_not_searched():
    assert not was_delivered_to(header("Subject: x", "", "Delivered-To: bob@here.test"), "bob@here.test")
    assert not was_delivered_to(header_of(b"\nDelivered-To: bob@here.test\n\n"), "bob@here.test")
    assert not was_delivered_to(header_of(b"A: b\r\n\r\nDelivered-To: bob@here.test\n\n"), "bob@here.test")


def test_a_header_that_no_empty_line_ends_is_searched():
    assert was_delivered_to(header_of(b"Subject: x\nDelivered-To: bob@here.test\n"), "bob@here.test")


def test_no_further_than_its_bound():
    start = b"A: " + b"x" * HEADER_MAX + b"\nDelivered-To: bob@here.test\n\n"
    assert not was_delivered_to(header_of(start), "bob@here.test")


@pytest.mark.parametrize("line", ["X-Spam: yes", "X-Spam-Flag: YES", "x-spam-flag:yes", "X-Spam: Yes, score=9"])
def test_a_spam_header_means_junk(line):
    assert is_junk(header("Subject: x", line))


@pytest.mark.parametrize("line", ["X-Spam: no", "X-Spam-Flag: yesterday", "X-Spam-Status: yes", "Subject: X-Spam: yes"])
def test_other_headers_do_not_mean_junk(line):
    assert not is_junk(header(line))


def test_a_spam_line_in_the_body_does_not_mean_junk():
    assert not is_junk(header("Subject: x", "", "X-Spam: yes"))


@given(st.binary(max_size=300), st.text(max_size=30))
@settings(max_examples=200)
def test_any_bytes_have_an_answer(start, address):
    found = header_of(start)
    assert len(found) <= len(start)
    was_delivered_to(found, address)
    is_junk(found)


def test_a_header_made_to_be_slow_is_not():
    fold = b"Delivered-To:" + b" \n " * 20000
    assert not was_delivered_to(header_of(fold), "bob@here.test")
    assert not is_junk(header_of(b"X-Spam:" + b" \n " * 20000))


@pytest.mark.parametrize("rest", [b"\n\n", b"\n\r\n", b"\r\n\r\n", b"\n\n\r\n", b"\n\r\n\n", b"\n\r\n\nb: c\n\n"])
def test_a_header_ends_at_the_first_empty_line(rest):
    assert header_of(b"A: b" + rest).rstrip(b"\r") == b"a: b"


# -- Return-Path --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mail, left",
    [
        (b"Return-Path: <eve@x.test>\nA: b\n\nx\n", b"A: b\n\nx\n"),
        (b"A: b\nRETURN-PATH :\n <eve@x.test>\n\t(x)\nC: d\n\nx\n", b"A: b\nC: d\n\nx\n"),
        (b"return-path:x\nReturn-path: y\n\nx\n", b"\nx\n"),
        (b"A: b\nReturn-Path: x", b"A: b\n"),
        (b"A: b\r\nReturn-Path: x\r\n y\r\n\r\nReturn-Path: z\r\n", b"A: b\r\n\r\nReturn-Path: z\r\n"),
        (b"A: b\n\nReturn-Path: z\n", b"A: b\n\nReturn-Path: z\n"),
        (b"\nReturn-Path: z\n", b"\nReturn-Path: z\n"),
        (b"X-Return-Path: a\nA: b\n Return-Path: z\n\n", b"X-Return-Path: a\nA: b\n Return-Path: z\n\n"),
        (b"A: " + b"x" * HEADER_MAX + b"\nReturn-Path: z\n\n", b"A: " + b"x" * HEADER_MAX + b"\n\n"),
        (b"", b""),
    ],
)
def test_the_only_return_path_is_ours(mail, left):
    assert b"".join(delivered(b"T: u\n", [mail])) == b"T: u\n" + left
    assert b"".join(delivered(b"", [mail[n : n + 1] for n in range(min(len(mail), 200))] + [mail[200:]])) == left


@given(
    st.lists(
        st.sampled_from([b"Return-Path:", b"\n", b" ", b"\r\n", b"x", b"\n\n", b"A: b\n"]) | st.binary(max_size=4)
    ),
    st.lists(st.integers(0, 80), max_size=4),
)
@settings(max_examples=200)
def test_no_return_path_is_left_and_nothing_else_is_gone(parts, places):
    mail = b"".join(parts)
    ends = sorted(min(place, len(mail)) for place in places)
    pieces = [mail[a:b] for a, b in zip([0, *ends], [*ends, len(mail)], strict=True)]
    left = b"".join(delivered(b"", pieces))
    assert left == b"".join(delivered(b"", [mail]))
    assert not any(line.startswith(b"return-path:") for line in header_of(left).split(b"\n"))
    if b"return-path" not in mail.lower():
        assert left == mail


def test_a_header_without_end_is_not_held_for_ever():
    read = []

    def pieces():
        for number in range(100):
            read.append(number)
            yield b"A: b\n" * 20_000

    first = next(delivered(b"", pieces()))
    assert len(first) <= BLOCK_MAX + 100_000 and len(read) < 30


@pytest.mark.parametrize("start", [b"A: b\n\nbody", b"\nbody", b"\r\nbody"])
def test_no_more_is_held_than_the_header(start):
    read = []

    def pieces():
        for piece in (start, b"more\n"):
            read.append(piece)
            yield piece

    assert next(delivered(b"T: u\n", pieces())) == b"T: u\n" + start
    assert read == [start]


def test_return_paths_made_to_be_slow_are_not():
    mail = b"Return-Path:" + b"\n " * 300_000 + b"\n" + b"return-path :x\n" * 40_000
    assert b"".join(delivered(b"", [mail])) == b""
