"""Nothing but CRLF ends a command line."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.smtp.line import COMMAND_LINE_MAX, LineReader
from smtpd.smtp.reply import CommandRefused


def lines(*pieces: bytes) -> list[bytes | str]:
    reader, found = LineReader(), []
    for piece in pieces:
        reader.feed(piece)
        try:
            while (line := reader.maybe_line()) is not None:
                found.append(line)
        except CommandRefused as refused:
            assert refused.close
            return [*found, refused.reply.text]
    return found


@settings(max_examples=200)
@given(st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b"x", b"\xff", b"NOOP"]), max_size=20))
def test_pieces_make_no_difference(splinters):
    data = b"".join(splinters)
    whole = lines(data)
    assert lines(*(data[n : n + 1] for n in range(len(data)))) == whole
    for n in range(len(data)):
        assert lines(data[:n], data[n:]) == whole


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=20).map(lambda line: bytes(c for c in line if c not in b"\r\n\0"))))
def test_lines_arrive_as_they_were(sent):
    assert lines(b"".join(line + b"\r\n" for line in sent)) == sent


@pytest.mark.parametrize(
    "data", [b"a\n", b"\n", b"a\rb\r\n", b"a\r\r\n", b"\r\r\n", b"a\0\r\n", b"a\r\0\n", b"a\r\n\n"]
)
def test_smuggling(data):
    assert str(lines(data)[-1]).startswith("500 5.5.2 ")


@pytest.mark.parametrize("step", [1, 100, 5000])
def test_a_line_as_long_as_it_may_be_and_one_longer(step):
    def pieces(data):
        return [data[n : n + step] for n in range(0, len(data), step)]

    longest = b"x" * COMMAND_LINE_MAX
    assert lines(*pieces(longest + b"\r\n" + longest + b"\r\n")) == [longest, longest]
    assert lines(*pieces(longest + b"x\r\n")) == ["500 5.5.2 Line too long"]
    assert lines(*pieces(longest + b"xxxx")) == ["500 5.5.2 Line too long"]


def test_the_rest_is_as_it_came():
    reader = LineReader()
    reader.feed(b"DATA\r\nno\nline\0")
    assert reader.maybe_line() == b"DATA"
    assert not reader.is_empty() and reader.has_line()
    assert reader.take_rest() == b"no\nline\0"
    assert reader.is_empty() and not reader.has_line()
