"""A mail as a program writes it, and what is sent of it."""

import io
import quopri
from email import message_from_bytes

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpctl import encoding
from smtpctl import raw_mail as module
from smtpctl.raw_mail import MAX_HEADER, MAX_LINE, RawMail, RawMailError
from smtpd.header.editor import HeaderEditor


def letter(mail):
    return RawMail(io.BytesIO(mail))


def sent(mail, *more):
    with letter(mail) as made:
        return b"".join(made.pieces(*more))


def original(mail):
    with letter(mail) as made:
        return b"".join(made.original())


@pytest.mark.parametrize(
    "mail, expected",
    [
        (b"Subject: x\n\nhello\n", b"Subject: x\n\nhello\n"),
        (b"Subject: x\r\n\r\nhello\r\n", b"Subject: x\n\nhello\n"),
        (b"Subject: x\nhello\nyou\n", b"Subject: x\n\nhello\nyou\n"),
        (b"Subject: x\n y: z\n\nhello", b"Subject: x\n y: z\n\nhello"),
        (b"Subject: x", b"Subject: x\n\n"),
        (b"Subject: x\n", b"Subject: x\n\n"),
        (b"error: disk full\n", b"\nerror: disk full\n"),
        (b"error: disk full\n\nmore\n", b"\nerror: disk full\n\nmore\n"),
        (b"error: a\nTo: b\n\nmore\n", b"error: a\nTo: b\n\nmore\n"),
        (b"\nSubject: x\n", b"\nSubject: x\n"),
        (b" Subject: x\n", b"\n Subject: x\n"),
        (b"hello", b"\nhello"),
        (b"", b"\n"),
        (b"From amy Sat Nov 21\nTo: b\n\nx\n", b"To: b\n\nx\n"),
        (b"From here on, trouble\n", b"\nFrom here on, trouble\n"),
        (b"To: b\nFrom amy\n", b"To: b\n\nFrom amy\n"),
        (b"Return-Path: <x@y>\nTo: b\nreturn-path: z\n w\n\nx", b"To: b\n\nx"),
        (b"X-Y: z\n\nx\n", b"X-Y: z\n\nx\n"),
        (b"To: b\n\n.\nnot the end\n", b"To: b\n\n.\nnot the end\n"),
        (b">From amy Sat Nov 21\nTo: b\n\nx\n", b"To: b\n\nx\n"),
        (b"To: b\n>From amy\n", b"To: b\n\n>From amy\n"),
        (b">From here on, trouble\n", b"\n>From here on, trouble\n"),
        (b"To: b\rSubject: a\n\nc\rd\n", b"To: b\nSubject: a\n\nc\nd\n"),
        (b"To: b\r\rx\ry\r", b"To: b\n\nx\ny\n"),
        (b"Subject: x\n\n 0%\r 50%\r100%\r\n", b"Subject: x\n\n 0%\n 50%\n100%\n"),
        (b"Subject: x\n\na\r\r\nb", b"Subject: x\n\na\n\nb"),
        (b"To: b\nResent-Bcc: c\n d\nResent-To: e\n\nx\n", b"To: b\nResent-To: e\n\nx\n"),
    ],
)
def test_what_is_sent(mail, expected):
    assert sent(mail) == expected


def test_fields_that_are_added_stand_on_top():
    assert sent(b"To: b\n\nx\n", b"From: a") == b"From: a\nTo: b\n\nx\n"
    assert sent(b"x\n", b"From: a") == b"From: a\n\nx\n"


def test_the_original_is_what_came():
    mail = b"To: b\r\nBcc: c\r\n\r\n" + b"x" * 2000 + b"\r\n"
    assert original(mail) == mail.replace(b"\r", b"")


@pytest.mark.parametrize(
    "mail",
    [
        b"To: b\n" + b"X-Y: z\n" * (MAX_HEADER // 7),
        b"To: " + b"b, " * (MAX_HEADER // 3),
        b"To: b\n" + b" \n" * (MAX_HEADER // 2),
    ],
    ids=["fields", "a line", "continuations"],
)
def test_a_header_without_end_is_not_read_to_its_end(mail):
    stream = io.BytesIO(mail * 2)
    with pytest.raises(RawMailError):
        RawMail(stream)
    assert stream.tell() <= MAX_HEADER + module.PIECE


def test_a_body_without_lines_is_no_header():
    mail = b"z" * (2 * MAX_HEADER)
    assert original(mail) == b"\n" + mail


def test_a_huge_body_stays_out_of_memory():
    read = []

    class Endless(io.RawIOBase):
        def readinto(self, buffer):
            if len(read) > 400:
                return 0
            read.append(len(buffer))
            buffer[:] = b"x" * (len(buffer) - 1) + b"\n"
            return len(buffer)

        readable = lambda self: True  # noqa: E731

    with RawMail(io.BufferedReader(Endless(), 1 << 16)) as made:
        assert not isinstance(made._body, io.BytesIO) and made.size > 10 * module.IN_MEMORY


# -- long lines -------------------------------------------------------------------------------------

LONG = b"x" * MAX_LINE


def test_a_line_that_fits_stays():
    assert sent(b"To: b\n\n" + LONG + b"\n") == b"To: b\n\n" + LONG + b"\n"


@pytest.mark.parametrize(
    "body, charset",
    [
        (LONG + b"y\n", "us-ascii"),
        ("ü".encode() * 800, "utf-8"),
        (b"\xfc" * 991 + b"\n.\n=3D\n", "unknown-8bit"),
        (b"a \n" + LONG * 200 + b" \nb", "us-ascii"),
        (LONG * 67 + b"\n" * 3 + b"\t\n", "us-ascii"),
    ],
)
def test_a_line_that_is_too_long_is_sent_as_quoted_printable(body, charset):
    content = sent(b"Subject: x\n\n" + body)
    message = message_from_bytes(content)
    assert message["MIME-Version"] == "1.0" and message.get_content_charset() == charset
    assert message["Content-Transfer-Encoding"] == "quoted-printable"
    assert message.get_payload(decode=True) == body
    assert max(map(len, content.split(b"\n"))) <= 76 and content.isascii()


def test_the_type_that_the_mail_has_stays():
    content = sent(b"MIME-Version: 1.0\nContent-Type: text/html\n\n" + LONG + LONG)
    assert content.startswith(
        b"MIME-Version: 1.0\nContent-Type: text/html\nContent-Transfer-Encoding: quoted-printable\n\n"
    )


@pytest.mark.parametrize(
    "field",
    [
        b"Content-Transfer-Encoding: 8bit",
        b"Content-Type: multipart/mixed; boundary=x",
        b"Content-type:\n message/rfc822",
    ],
)
def test_what_is_encoded_in_its_own_way_stays(field):
    mail = field + b"\n\n" + LONG + LONG
    assert sent(mail) == mail


# -- anything ---------------------------------------------------------------------------------------

TEXT = st.lists(
    st.sampled_from(
        [b"To: b", b"Subject: x", b" more", b"\t", b"", b"From a", b"x", b"x:", b": y", b"\0", b"\r", b"To:\xff"]
    )
    | st.binary(max_size=20),
    max_size=8,
).map(b"\n".join)


@settings(max_examples=200)
@given(TEXT)
def test_whatever_comes_is_a_header_and_a_body_to_the_server(mail):
    content = sent(mail)
    editor = HeaderEditor(domain="here.test")
    editor.feed(content)
    editor.end()
    assert editor.fault is None and b"\r" not in content


@settings(max_examples=100)
@given(TEXT, st.integers(1, 9))
def test_pieces_make_no_difference(mail, size):
    class Slow(io.RawIOBase):
        left = io.BytesIO(mail)
        readable = lambda self: True  # noqa: E731

        def readinto(self, buffer):
            piece = self.left.read(min(size, len(buffer)))
            buffer[: len(piece)] = piece
            return len(piece)

    with RawMail(io.BufferedReader(Slow())) as made:
        assert b"".join(made.pieces()) == sent(mail)


@settings(max_examples=100)
@given(st.binary(max_size=300).map(lambda data: data.replace(b"\r", b"")), st.integers(1, 20))
def test_quoted_printable_is_what_the_standard_library_decodes(body, size):
    before, encoding.PIECE = encoding.PIECE, size
    try:
        text = b"".join(encoding.quoted(encoding._lines(io.BytesIO(body))))
    finally:
        encoding.PIECE = before
    assert quopri.decodestring(text) == body
    assert all(len(line) <= 76 for line in text.split(b"\n"))
