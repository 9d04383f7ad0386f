"""Content on its way out: it never ends itself, and the server reads the lines that were written."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.smtp.dot_stuffing import dot_stuffed


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
        (b"a\n\n\r.\r\nMAIL", b"a\r\n\r\n\r\n..\r\nMAIL\r\n.\r\n"),
        (b"\n\r.\r\n", b"\r\n\r\n..\r\n.\r\n"),
        (b"\n10%\r20%\r\n", b"\r\n10%\r\n20%\r\n.\r\n"),
        (b"\na\r.\rMAIL", b"\r\na\r\n..\r\nMAIL\r\n.\r\n"),
        (b"\na\r", b"\r\na\r\n.\r\n"),
        (b"A: b\rC: d\n\r.\r\n\r\n", b"A: b C: d\r\n .\r\n\r\n.\r\n"),
    ],
)
def test_smuggling_no_content_ends_itself(content, sent):
    assert b"".join(dot_stuffed([content])) == sent
    assert b"".join(dot_stuffed([content[n : n + 1] for n in range(len(content))])) == sent


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
    sent = b"".join(dot_stuffed(pieces))
    assert sent == b"".join(dot_stuffed([content]))
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", sent)
    plain = content.replace(b"\r\n", b"\n")
    header = 0 if plain.startswith(b"\n") else plain.find(b"\n\n") if b"\n\n" in plain else len(plain)
    plain = plain[:header].replace(b"\r", b" ") + plain[header:].replace(b"\r", b"\n")
    assert received(sent) == (plain if plain.endswith(b"\n") or not plain else plain + b"\n")
