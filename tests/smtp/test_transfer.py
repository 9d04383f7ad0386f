"""Content on its way out: no text ends itself, and no byte of a binary body changes."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.smtp.transfer import chunked, stuffed


@pytest.mark.parametrize(
    "content, sent",
    [
        (b"", b".\r\n"),
        (b"a", b"a\r\n.\r\n"),
        (b"a\n", b"a\r\n.\r\n"),
        (b".\n", b"..\r\n.\r\n"),
        (b"a\n.\nb\n", b"a\r\n..\r\nb\r\n.\r\n"),
        (b"a\n..\n", b"a\r\n...\r\n.\r\n"),
        (b"a.b\n", b"a.b\r\n.\r\n"),
        (b"a\r\n.\r\n", b"a\r\n..\r\n.\r\n"),
        (b"a\n\r.\r\nMAIL", b"a\r\n..\r\nMAIL\r\n.\r\n"),
        (b"\r.\r\n", b"..\r\n.\r\n"),
    ],
)
def test_smuggling_no_content_ends_itself(content, sent):
    assert b"".join(stuffed([content])) == sent
    assert b"".join(stuffed([content[n : n + 1] for n in range(len(content))])) == sent


def received(sent):
    """What a server makes of it (RFC 5321 4.5.2), looking at each line alone."""
    *lines, end = sent.split(b"\r\n")
    assert end == b"" and lines.index(b".") == len(lines) - 1
    return b"".join(line.removeprefix(b".") + b"\n" for line in lines[:-1])


@given(
    st.lists(st.sampled_from([b".", b"\n", b"\r", b"\r\n", b"x", b"..", b"\n."]) | st.binary(max_size=8)).map(b"".join),
    st.lists(st.integers(0, 60), max_size=5),
)
@settings(max_examples=200)
def test_a_server_reads_what_was_written(content, places):
    ends = sorted(min(place, len(content)) for place in places)
    pieces = [content[a:b] for a, b in zip([0, *ends], [*ends, len(content)], strict=True)]
    sent = b"".join(stuffed(pieces))
    assert sent == b"".join(stuffed([content]))
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", sent)
    plain = content.replace(b"\r", b"")
    assert received(sent) == (plain if plain.endswith(b"\n") or not plain else plain + b"\n")


# -- binary content -----------------------------------------------------------------------------------


def unchunked(commands):
    """What a server makes of it (RFC 3030 2), by the sizes alone."""
    stream = b"".join(command for command, _ in commands)
    content, last = b"", False
    while not last:
        said = re.match(rb"BDAT ([0-9]+)( LAST)?\r\n", stream)
        size, last = int(said[1]), bool(said[2])
        content += stream[said.end() : said.end() + size]
        assert len(stream) >= said.end() + size
        stream = stream[said.end() + size :]
    assert stream == b""
    return content


@pytest.mark.parametrize(
    "content, sent",
    [
        (b"", b""),
        (b"\n", b"\r\n"),
        (b"a: b\n", b"a: b\r\n"),
        (b"a: b\n\n", b"a: b\r\n\r\n"),
        (b"a: b\n\n\n\n", b"a: b\r\n\r\n\n\n"),
        (b"\n\nx\n", b"\r\n\nx\n"),
        (b"a: b\n c\n\n\x00\r\xff\n.\n\r\n.\r\n", b"a: b\r\n c\r\n\r\n\x00\r\xff\n.\n\r\n.\r\n"),
        (b"a: b\r\n\n", b"a: b\r\n\r\n"),
    ],
)
def test_only_the_header_of_binary_content_has_lines(content, sent):
    assert unchunked(list(chunked([content]))) == sent
    assert unchunked(list(chunked([content[n : n + 1] for n in range(len(content))]))) == sent
    for cut in range(len(content)):
        assert unchunked(list(chunked([content[:cut], content[cut:]]))) == sent


@given(
    st.lists(st.sampled_from([b"\n", b"\r", b"\n\n", b"BDAT 1 LAST\r\n", b"x"]) | st.binary(max_size=8), max_size=20)
)
@settings(max_examples=200)
def test_a_server_counts_what_was_sent_and_only_the_last_chunk_says_so(pieces):
    commands = list(chunked(pieces))
    assert [last for _, last in commands] == [False] * (len(commands) - 1) + [True]
    content = b"".join(pieces)
    header = b"\n" if content.startswith(b"\n") else content.partition(b"\n\n")[0] + b"\n\n"
    body = content[len(header) :]
    sent = unchunked(commands)
    assert sent.endswith(body)
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", sent[: len(sent) - len(body)])
