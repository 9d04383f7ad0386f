"""Content in chunks: cut anywhere it is the same, and what smuggles does not arrive."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.smtp.chunk import ChunkReader
from smtpd.smtp.data import DataReader
from smtpd.smtp.reply import Refuse
from smtpd.smtp.text import MAX_LINE

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
def test_text_is_taken_exactly_when_data_would_take_it(splinters):
    data = b"".join(splinters)
    reader, stuffed = DataReader(1000), (b"\r\n" + data).replace(b"\r\n.", b"\r\n..")[2:]
    end = b".\r\n" if not data or data.endswith(b"\r\n") else b"\r\n.\r\n"
    try:
        expected = reader.feed(stuffed + end)
    except Refuse:
        expected = None
    if not data.endswith(b"\r"):  # which would be half of a CRLF there
        assert read(data) == expected
    else:
        assert read(data) is None


@settings(max_examples=100, deadline=None)
@given(LINES, st.binary(max_size=30))
def test_the_body_of_a_binary_message_is_kept_byte_by_byte(lines, body):
    header = b"".join(line + b"\r\n" for line in lines if line)
    assert read(header + b"\r\n" + body, binary=True) == header.replace(b"\r\n", b"\n") + b"\n" + body


@pytest.mark.parametrize("binary", [False, True])
def test_what_cannot_be_taken_is_given_out_no_further(binary):
    reader = ChunkReader(binary=binary)
    assert reader.feed(b"A: b\r\n") + reader.feed(b"x\n") in (b"A: b\n", b"A: b")
    assert reader.feed(b"y\r\n\r\n") == reader.end() == b""
    assert reader.fault.text.startswith("550 5.6.0 ")


def test_a_line_without_end():
    assert read(b"x" * MAX_LINE) == b"x" * MAX_LINE + b"\n"
    assert read(b"x" * 40000, b"x" * 40000) is None
    assert read(b"\r\n" + b"x" * 80000, binary=True) == b"\n" + b"x" * 80000
