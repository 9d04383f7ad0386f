"""Replies of other servers: whole, byte by byte, cut anywhere; and what is none."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.smtp.response import MAX_LINES, MAX_TEXT, Response, ResponseError, ResponseReader


def read(*pieces):
    reader, found = ResponseReader(), []
    for piece in pieces:
        reader.feed(piece)
        while response := reader.maybe_response():
            found.append(response)
    return found


@pytest.mark.parametrize(
    "data, code, lines, text",
    [
        (b"250 2.0.0 bob Saved\r\n", 250, ("2.0.0 bob Saved",), "250 2.0.0 bob Saved"),
        (b"250\r\n", 250, ("",), "250"),
        (b"250 \r\n", 250, ("",), "250"),
        (b"250-mx\r\n250-SIZE 100\r\n250 X\r\n", 250, ("mx", "SIZE 100", "X"), "250 mx SIZE 100 X"),
        (b"550-5.1.1 no bob\r\n550 5.1.1 here\r\n", 550, ("5.1.1 no bob", "5.1.1 here"), "550 5.1.1 no bob here"),
        (b"452-\r\n452 4.2.2 full\r\n", 452, ("", "4.2.2 full"), "452 4.2.2 full"),
        (b"354 go\x1b[2J\xc3\xa4\r\n", 354, ("go?[2J??",), "354 go?[2J??"),
    ],
)
def test_a_reply_cut_anywhere(data, code, lines, text):
    (whole,) = read(data)
    assert (whole.code, whole.lines, str(whole)) == (code, lines, text)
    assert read(*[data[n : n + 1] for n in range(len(data))]) == [whole]
    assert all(read(data[:n], data[n:]) == [whole] for n in range(len(data)))
    assert read(data[:-1]) == []


@pytest.mark.parametrize(
    "line, enhanced",
    [
        ("2.1.5 ok", "2.1.5"),
        ("5.1.1 ok", ""),  # of another kind than the code
        ("2.1 ok", ""),
        ("2.1.5ok", ""),
        ("2.1.5", "2.1.5"),
        ("2.1.5555 ok", ""),
    ],
)
def test_the_enhanced_code_agrees_with_the_code(line, enhanced):
    assert Response(250, (line,)).enhanced == enhanced


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n",
        b"ok\r\n",
        b"25 ok\r\n",
        b"2500 ok\r\n",
        b"150 ok\r\n",
        b"650 ok\r\n",
        b"250ok\r\n",
        b"250\tok\r\n",
        b" 250 ok\r\n",
        b"250-a\r\n251 b\r\n",
        b"250-a\r\nb\r\n",
        b"250-a\r\n250\tb\r\n",
        b"\xb2\xb5\xb0 ok\r\n",
    ],
)
def test_what_is_no_reply(data):
    with pytest.raises(ResponseError):
        read(data)


def test_a_line_feed_that_the_server_repeats_is_no_second_reply():
    with pytest.raises(ResponseError, match="bare <LF>"):
        read(b"550 no such user: bob\n250 saved\r\n")
    with pytest.raises(ResponseError, match="Bare <CR>"):
        read(b"550 no such user: bob\r250 saved\r\n")


def test_an_endless_line():
    with pytest.raises(ResponseError, match="too long"):
        read(b"250 ", *[b"x" * 100] * 100)


def test_an_endless_reply():
    assert len(read(b"250-x\r\n" * (MAX_LINES - 1) + b"250 x\r\n")) == 1
    with pytest.raises(ResponseError, match="Too many"):
        read(b"250-x\r\n" * (MAX_LINES + 1))


def test_a_long_reply_is_shown_in_short():
    (response,) = read(b"550-" + b"x" * 300 + b"\r\n550 " + b"y" * 300 + b"\r\n")
    assert len(str(response)) == MAX_TEXT


awkward = st.lists(
    st.sampled_from([b"250", b"550", b" ", b"-", b"\r\n", b"\r", b"\n", b"\0", b"x", b"5.1.1 ", b"\xff"])
)


@given(awkward.map(b"".join) | st.binary(max_size=60), st.integers(0, 100))
@settings(max_examples=200)
def test_any_bytes_are_replies_or_malformed_wherever_they_are_cut(data, place):
    outcomes = []
    for pieces in ([data], [data[:place], data[place:]], [data[n : n + 1] for n in range(len(data))]):
        try:
            outcomes.append(read(*pieces))
        except ResponseError as malformed:
            outcomes.append(str(malformed))
    assert outcomes[0] == outcomes[1] == outcomes[2]
    if isinstance(outcomes[0], list):
        assert all(str(response).isprintable() and 200 <= response.code < 600 for response in outcomes[0])
