"""Content in chunks: cut anywhere it is the same, and what smuggles does not arrive."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.smtp.chunk import ChunkReader
from smtpd.smtp.data import DataReader
from smtpd.smtp.dot_stuffing import dot_stuffed
from smtpd.smtp.line_ending import TEXT_LINE_MAX
from smtpd.smtp.reply import CommandRefused

SPLINTERS = st.lists(
    st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\0", b"x", b"A: b\r\n", b"\r\n\r\n", b"\r\n.\r\n"]), max_size=12
)
LINES = st.lists(st.sampled_from([b".", b"..", b"", b"A: b", b"\xff"]), max_size=12)


def read(*pieces: bytes, binary: bool = False) -> bytes | None:
    """None: it cannot be taken."""
    reader = ChunkReader(binary=binary)
    content = b"".join(reader.feed(piece) for piece in pieces) + reader.end()
    return None if reader.fault else content


@settings(max_examples=200, deadline=None)
@given(SPLINTERS, st.booleans())
def test_pieces_make_no_difference(splinters, binary):
    data = b"".join(splinters)
    whole = read(data, binary=binary)
    assert read(*(data[n : n + 1] for n in range(len(data))), binary=binary) == whole
    for n in range(len(data)):
        assert read(data[:n], data[n:], binary=binary) == whole


@settings(max_examples=200, deadline=None)
@given(SPLINTERS)
def test_what_data_would_take_is_the_same_in_chunks(splinters):
    data = b"".join(splinters)
    reader, stuffed = DataReader(1000), (b"\r\n" + data).replace(b"\r\n.", b"\r\n..")[2:]
    end = b".\r\n" if not data or data.endswith(b"\r\n") else b"\r\n.\r\n"
    try:
        expected = reader.feed(stuffed + end)
    except CommandRefused:
        return
    if not data.endswith(b"\r"):  # which would be half of a CRLF there
        assert read(data) == expected


@settings(max_examples=200, deadline=None)
@given(SPLINTERS, st.booleans())
def test_whatever_ends_a_line_what_is_given_out_has_lf_only(splinters, binary):
    content = read(b"".join(splinters), binary=binary)
    if content is not None:
        assert not {b"\r"[0], 0} & {*content}
        assert content.endswith(b"\n") or not content


@pytest.mark.parametrize(
    "data, content",
    [
        (b"A: b\n\nx\ny\r\nz", b"A: b\n\nx\ny\nz\n"),
        (b"A: b\r\n\r\n10%\r20%\r30%\r\n", b"A: b\n\n10%\n20%\n30%\n"),
        (b"A: b\r\n\r\nx\r\r\ny", b"A: b\n\nx\n\ny\n"),
        (b"A: b\r\n\r\nx\r", b"A: b\n\nx\n"),
        (b"A: b\n\r\nx\n.\n.\r\n", b"A: b\n\nx\n.\n.\n"),
        (b"\r\n\r", b"\n\n"),
        (b"\n\n", b"\n\n"),
    ],
)
def test_a_bare_cr_or_lf_ends_a_line_of_the_body(data, content):
    assert read(data) == content
    assert read(*(data[n : n + 1] for n in range(len(data)))) == content
    assert read(data, binary=True) == content


@pytest.mark.parametrize("binary", [False, True])
def test_smuggling_a_bare_cr_begins_no_header_field(binary):
    data = b"Subject: hello\rBcc: eve@x.test\r\nTo: bob\r\n\r\nx"
    assert read(data, binary=binary) == b"Subject: hello Bcc: eve@x.test\nTo: bob\n\nx\n"
    data = b"Subject: hello\r\rx\r\n\r\ny\r\n"
    assert read(data, binary=binary) == b"Subject: hello  x\n\ny\n"


@pytest.mark.parametrize("binary", [False, True])
def test_a_message_with_bare_cr_only_is_refused_with_that_reason(binary):
    """There is no end of its header to be found, and so no body."""
    reader = ChunkReader(binary=binary)
    reader.feed(b"From: amy\rSubject: x\r\rhello\r")
    reader.end()
    assert reader.fault.text == "550 5.6.0 The lines of the header end with a bare <CR>"


@pytest.mark.parametrize("binary", [False, True])
def test_what_cannot_be_taken_is_given_out_no_further(binary):
    reader = ChunkReader(binary=binary)
    assert reader.feed(b"A: b\r\n") + reader.feed(b"\0\r\n\r\n") in (b"A: b\n", b"")
    assert reader.feed(b"y\r\n\r\n") == reader.end() == b""
    assert reader.fault.text == "550 5.6.0 NUL received"


def test_a_line_without_end():
    assert read(b"x" * TEXT_LINE_MAX) == b"x" * TEXT_LINE_MAX + b"\n"
    assert read(b"x" * 40000, b"x" * 40000) is None
    assert read(b"\r\n" + b"x" * 80000) is None


@settings(max_examples=300, deadline=None)
@given(SPLINTERS, st.lists(st.integers(0, 80), max_size=5), st.integers(1, 9), st.booleans())
def test_smuggling_what_came_in_chunks_is_one_mail_for_the_next_server(splinters, places, step, binary):
    """Cut anywhere on its way in, and anywhere on its way out."""
    data = b"A: b\r\n\r\n" + b"".join(splinters)
    ends = sorted(min(place, len(data)) for place in places)
    content = read(*(data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)), binary=binary)
    if content is None:
        return
    sent = b"".join(dot_stuffed(content[n : n + step] for n in range(0, len(content), step)))
    assert sent.count(b"\r") == sent.count(b"\n") == sent.count(b"\r\n")
    reader = DataReader(10_000)
    assert reader.feed(sent + b"QUIT\r\n") == content
    assert reader.ended and reader.rest == b"QUIT\r\n"
