"""The answer of a policy host: complete, or refused, whatever comes and in whatever pieces (RFC 9112)."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smtpd.relay.http_answer import LINE_MAX, OVERHEAD_MAX, HttpAnswer, HttpError

TYPE = b"Content-Type: text/plain\r\n"
BODY = b"version: STSv1\r\nmode: none\r\nmax_age: 60\r\n"
SIZE_MAX = 1000
HEAD = b"HTTP/1.1 200 OK\r\nServer: there\r\n" + TYPE
COUNTED = HEAD + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
CHUNKED = (
    HEAD
    + b"Transfer-Encoding: chunked\r\n\r\n"
    + b"A\r\n%b\r\n%x;ext=1\r\n%b\r\n0\r\nTrailer: x\r\n\r\n"
    % (
        BODY[:10],
        len(BODY) - 10,
        BODY[10:],
    )
)
UNTIL_END = HEAD + b"\r\n" + BODY


def answer(*pieces, closed=None):
    """The body.  `closed`: whether TLS was closed in order, None: the connection stays open."""
    made = HttpAnswer("text/plain", SIZE_MAX)
    for piece in pieces:
        made.feed(piece)
    if closed is not None:
        made.end(closed)
    return made.body if made.done else None


def refused(*pieces, closed=None):
    with pytest.raises(HttpError) as error:
        answer(*pieces, closed=closed)
    return str(error.value)


@pytest.mark.parametrize("whole", [COUNTED, CHUNKED])
def test_an_answer_whole_byte_by_byte_and_cut_anywhere(whole):
    assert answer(whole) == BODY
    assert answer(*(whole[at : at + 1] for at in range(len(whole)))) == BODY
    for cut in range(len(whole)):
        assert answer(whole[:cut], whole[cut:]) == BODY
        refused(whole[:cut], closed=True)


def test_a_body_that_ends_with_the_connection():
    """RFC 9112 9.8: only where TLS has said so, as an attacker can end a connection."""
    assert answer(UNTIL_END) is None
    assert answer(UNTIL_END, closed=True) == BODY
    assert (
        refused(UNTIL_END, closed=False)
        == "the server has ended the connection: in a body that ends with the connection"
    )


def test_lines_may_end_with_lf_and_names_are_in_any_case():
    assert (
        answer(
            COUNTED.replace(b"\r\n", b"\n").replace(b"Content", b"CONTENT").replace(BODY.replace(b"\r\n", b"\n"), BODY)
        )
        == BODY
    )


def test_what_comes_behind_the_answer_is_not_looked_at():
    assert answer(COUNTED + b"HTTP/1.1 500 x\r\n") == BODY


def test_interim_answers_are_passed_over():
    """RFC 9110 15.2"""
    assert answer(b"HTTP/1.1 103 Early Hints\r\nContent-Type: image/png\r\n\r\n" + COUNTED) == BODY


def test_an_empty_body():
    assert answer(HEAD + b"Content-Length: 0\r\n\r\n") == b""


@pytest.mark.parametrize(
    "status", [b"301 Moved", b"302 Found", b"304 x", b"404 Not Found", b"500 x", b"201 Created", b"101 x"]
)
def test_any_other_status_is_no_policy(status):
    """RFC 8461 3.3: redirects MUST NOT be followed."""
    assert refused(b"HTTP/1.1 " + status + b"\r\nLocation: https://evil.test/\r\n") == f"status {status[:3].decode()}"


@pytest.mark.parametrize(
    "line", [b"SSH-2.0-x", b"HTTP/2 200", b"HTTP/1.1 2000 x", b"HTTP/1.1 20", b"", b"HTTP/1.1  200 OK"]
)
def test_what_is_not_http(line):
    assert refused(line + b"\r\n") == "not an HTTP answer"


@pytest.mark.parametrize(
    "header, why",
    [
        (b"Content-Type: text/html", "media type is not text/plain"),
        (b"Content-Type: text/plainx", "media type is not text/plain"),
        (b"X: y", "media type is not text/plain"),
        (TYPE + b"Content-Encoding: gzip", "body is encoded"),
        (TYPE + b"Transfer-Encoding: gzip, chunked", "unknown transfer coding"),
        (TYPE + b"Transfer-Encoding: chunked\r\nContent-Length: 5", "unknown transfer coding"),
        (TYPE + b"Content-Length: 5\r\nContent-Length: 6", "duplicate header field content-length"),
        (TYPE + b"Content-Length: -5", "a length is malformed"),
        (TYPE + b"Content-Length: 5, 5", "a length is malformed"),
        (TYPE + b"Content-Length: " + b"9" * 5000, "a length is malformed"),
        (TYPE + b"Content-Length: \xb2", "a length is malformed"),
        (TYPE + b"Content-Length: 1001", "body is longer than 1000 bytes"),
        (TYPE + b" folded", "a header field is malformed"),
        (TYPE + b"Content-Length : 5", "a header field is malformed"),
        (TYPE + b"no colon", "a header field is malformed"),
        (TYPE + b"X: a\rb", "a line holds what none may hold"),
    ],
)
def test_a_header_that_is_refused(header, why):
    assert refused(b"HTTP/1.1 200 OK\r\n" + header + b"\r\n\r\n") == why


@pytest.mark.parametrize("kind", [b"text/plain; charset=utf-8", b"Text/PLAIN", b" text/plain ;x"])
def test_the_media_type(kind):
    assert answer(COUNTED.replace(b"text/plain", kind)) == BODY


@pytest.mark.parametrize("size", [b"", b"g", b"-1", b"0x5", b"1" * 17, b"+5", b"1_0"])
def test_a_size_of_a_chunk_that_is_none(size):
    assert refused(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + size + b"\r\n") == "a length is malformed"


def test_a_chunk_that_is_longer_than_its_size():
    assert refused(HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nxy\r\n") == "a chunk is longer than its size"


# -- attacks ------------------------------------------------------------------------------------------


def endless(head, piece, most=10_000):
    """Bytes that were taken until it was refused, and why."""
    made = HttpAnswer("text/plain", SIZE_MAX)
    made.feed(head)
    taken = 0
    with pytest.raises(HttpError) as error:
        for _ in range(most):
            made.feed(piece)
            taken += len(piece)
    return taken, str(error.value)


@pytest.mark.parametrize(
    "head, piece",
    [
        (b"", b"x"),  # a status line that does not end
        (HEAD, b"x"),
        (HEAD, b"X: y\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n"),  # trailers
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x"),  # an extension
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1;" + b"x" * 1000 + b"\r\nx\r\n"),
    ],
)
def test_an_answer_without_an_end(head, piece):
    taken, why = endless(head, piece)
    assert taken <= OVERHEAD_MAX + LINE_MAX and why in ("a line is too long", "header or chunks are too long")


@pytest.mark.parametrize(
    "head, piece",
    [
        (HEAD + b"\r\n", b"x"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"fa\r\n" + b"x" * 250 + b"\r\n"),
    ],
)
def test_a_body_without_an_end(head, piece):
    taken, why = endless(head, piece)
    assert taken <= SIZE_MAX * len(piece) and why == "body is longer than 1000 bytes"


def test_a_chunk_of_all_the_bytes_there_are():
    assert refused(HEAD + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n") == "body is longer than 1000 bytes"


def test_a_field_of_blanks_is_looked_through_once():
    """A regular expression that tries each division of the blanks takes a second for 16 KiB of them."""
    begun = time.process_time()
    assert refused(HEAD + b"X:" + b" " * (LINE_MAX - 10) + b"\0\r\n") == "a line holds what none may hold"
    assert refused(*[HEAD + b"X:", *[b" " * 16] * LINE_MAX]) == "a line is too long"
    assert time.process_time() - begun < 0.3


pieces = st.lists(
    st.sampled_from([HEAD, TYPE, b"\r\n", b"\n", b"0\r\n", b"5\r\nhello\r\n", b"Content-Length: 5\r\n", BODY])
    | st.sampled_from([b"Transfer-Encoding: chunked\r\n", b"HTTP/1.1 100 \r\n", b":", b"\r"])
    | st.binary(max_size=20),
    max_size=12,
)


@given(pieces, st.integers(1, 7), st.booleans())
def test_any_answer_is_the_same_in_any_pieces(parts, step, closed):
    data = b"".join(parts)

    def outcome(*pieces):
        try:
            return answer(*pieces, closed=closed)
        except HttpError as error:
            return str(error)

    whole = outcome(data)
    assert outcome(*(data[at : at + step] for at in range(0, len(data), step))) == whole
    assert not isinstance(whole, bytes) or len(whole) <= SIZE_MAX
