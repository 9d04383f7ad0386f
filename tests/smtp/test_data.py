"""The content of a message: what is stuffed arrives, what smuggles does not."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.smtp.data import DataReader
from smtpd.smtp.line_ending import TEXT_LINE_MAX
from smtpd.smtp.reply import CommandRefused

BIG = 1 << 30


def read(*pieces: bytes, max_size: int = BIG) -> tuple[DataReader, bytes]:
    reader = DataReader(max_size)
    content = b""
    for n, piece in enumerate(pieces):
        content += reader.feed(piece)
        if reader.ended:
            reader.rest += b"".join(pieces[n + 1 :])
            break
    return reader, content


def outcome(*pieces: bytes):
    try:
        reader, content = read(*pieces)
    except CommandRefused:
        return "refused"
    return content, reader.ended, reader.rest, reader.size


def stuffed(lines: list[bytes]) -> bytes:
    return b"".join(b"." * line.startswith(b".") + line + b"\r\n" for line in lines) + b".\r\n"


LINES = st.lists(
    st.one_of(st.binary(max_size=30), st.sampled_from([b".", b"..", b"", b"...", b". "])), max_size=20
).map(lambda lines: [bytes(c for c in line if c not in b"\r\n\0") for line in lines])
SPLINTERS = st.lists(st.sampled_from([b"\r", b"\n", b".", b"\r\n", b"\0", b"x", b"\r\n.", b".\r\n"]), max_size=15)


@settings(max_examples=200, deadline=None)
@given(LINES, st.binary(max_size=10), st.lists(st.integers(0, 400), max_size=4))
def test_stuffed_lines_arrive_as_they_were(lines, behind, cuts):
    data = stuffed(lines) + behind
    places = sorted({0, *(cut for cut in cuts if cut < len(data)), len(data)})
    reader, content = read(*(data[a:b] for a, b in zip(places, places[1:], strict=False)))
    assert content == b"".join(line + b"\n" for line in lines)
    assert reader.ended
    assert reader.rest == behind
    assert reader.size == sum(len(line) + 2 for line in lines)


@settings(max_examples=200, deadline=None)
@given(SPLINTERS)
def test_pieces_make_no_difference(splinters):
    data = b"".join(splinters) + b"\r\n.\r\n"
    whole = outcome(data)
    assert outcome(*(data[n : n + 1] for n in range(len(data)))) == whole
    for n in range(len(data)):
        assert outcome(data[:n], data[n:]) == whole


def by_the_book(data: bytes):
    """The same rules, line by line."""
    end = (b"\r\n" + data).find(b"\r\n.\r\n")
    lines, rest = data[:end], data[end + 3 :]
    if re.search(rb"\r(?!\n)|(?<!\r)\n|\0", lines):
        return "refused"
    content = b"".join(line.removeprefix(b".") + b"\n" for line in lines.split(b"\r\n")[:-1])
    return content, True, rest, len(content) + content.count(b"\n")


@settings(max_examples=200, deadline=None)
@given(SPLINTERS)
def test_bulk_is_as_good_as_line_by_line(splinters):
    data = b"".join(splinters) + b"\r\n.\r\n"
    assert outcome(data) == by_the_book(data)


@pytest.mark.parametrize("cut", range(1, 12))
def test_what_may_be_the_end_waits(cut):
    data = b"A: b\r\n\r\nx\r\n.\r\n"
    reader = DataReader(BIG)
    given_out = reader.feed(data[:cut])
    assert data.replace(b"\r\n", b"\n").startswith(given_out)
    assert given_out + reader.feed(data[cut:]) == b"A: b\n\nx\n"
    assert reader.ended


@pytest.mark.parametrize(
    "data",
    [
        b"\n.\n",
        b"x\n.\n",
        b"x\r\n.\n",
        b"x\n.\r\n",
        b"x\r.\r",
        b"x\r\n.\rx",
        b"x\r.\r\n",
        b"x\r\r\n",
        b"\rx",
        b"x\0",
        b"\0",
        b".\0\r\n",
        b"x\r\n.\0\r\n",
        b"\n\r",
        b"x\n\ry",
    ],
)
def test_smuggling(data):
    tail = b"\r\n.\r\nNOOP\r\n"
    assert outcome(data + tail) == "refused"
    assert outcome(*(bytes([c]) for c in data + tail)) == "refused"


def test_a_violation_costs_the_session():
    with pytest.raises(CommandRefused) as refused:
        read(b"x\ny")
    assert refused.value.close
    assert refused.value.reply.data.startswith(b"500 5.5.2 ")


@pytest.mark.parametrize("step", [1 << 20, 1000, 65535, 7])
def test_a_line_as_long_as_it_may_be_and_one_longer(step):
    def pieces(data):
        return [data[n : n + step] for n in range(0, len(data), step)]

    longest = b"x" * TEXT_LINE_MAX + b"\r\n"
    _, content = read(*pieces(longest * 3 + b".\r\n"))
    assert content == (b"x" * TEXT_LINE_MAX + b"\n") * 3
    for before in (b"", b"\r\n", longest):
        with pytest.raises(CommandRefused):
            read(*pieces(before + b"x" + longest + b".\r\n"))
        with pytest.raises(CommandRefused):
            read(*pieces(before + b"x" * (TEXT_LINE_MAX + 10)))


def test_the_size_counts_neither_stuffing_nor_the_last_dot():
    reader, _ = read(b"..a\r\n", b"b\r\n.\r\n")
    assert reader.size == 7


def test_what_is_too_big_is_still_watched():
    reader = DataReader(4)
    assert reader.feed(b"123456\r\n") == b""
    assert reader.fault and not reader.ended
    assert reader.feed(b"more\r\n.\r\nNOOP") == b""
    assert reader.ended and reader.rest == b"NOOP"
    reader = DataReader(4)
    reader.feed(b"123456\r\n")
    with pytest.raises(CommandRefused):
        reader.feed(b"more\n.\n")


def test_nothing_is_kept_of_what_was_given_out():
    reader = DataReader(BIG)
    for _ in range(100):
        reader.feed(b"x" * 998 + b"\r\n")
    assert reader.feed(b"") == b""
    assert reader.size == 998 + 99 * 1000  # the last CRLF could still belong to the end
