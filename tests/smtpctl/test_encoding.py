"""What SMTP cannot carry is encoded so that a reader gets what was written, and the rest stays as it is."""

import email
import email.header
import io
import quopri
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpctl import encoding
from smtpctl.mime_part import walk
from smtpctl.raw_mail import MAX_HEADER, MAX_LINE, RawMail
from smtpd.smtp.line_ending import TEXT_LINE_MAX as SERVER_LINE

HUGE = b"0123456789" * 8000


def sent(mail):
    with RawMail(io.BytesIO(mail)) as letter:
        return b"".join(letter.pieces())


def payloads(mail):
    """Of each part that has no parts: its type, and what it holds when it is decoded."""
    parts = [part for part in email.message_from_bytes(mail).walk() if not part.is_multipart()]
    return [(part.get_content_type(), part.get_payload(decode=True)) for part in parts]


def assert_carried(mail):
    assert b"\0" not in mail and max(map(len, mail.split(b"\n"))) <= SERVER_LINE


# -- a mail without parts -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        b"Subject: x\n",
        b"MIME-Version: 1.0\nContent-Type: text/html; charset=utf-8\n",
        b"Subject: x\nMIME-Version: 1.0\nContent-Transfer-Encoding: 8bit\nTo: b\n",
        b"Content-Type: application/octet-stream\nContent-Transfer-Encoding: 7BIT (x)\n",
        b"Content-Transfer-Encoding:\n binary\n",
        b"Content-Type: nonsense\n",
    ],
)
@pytest.mark.parametrize("body", [b"a\0b\n", b"\0", b"\xff\0\xc3\xa4\n.\n", b"\0" * 10_000, HUGE + b"\n"])
def test_a_body_that_cannot_be_carried_is_quoted_printable(header, body):
    made = sent(header + b"\n" + body)
    assert_carried(made)
    message = email.message_from_bytes(made)
    assert message.get_payload(decode=True) == body
    assert message.get_all("content-transfer-encoding") == ["quoted-printable"]
    assert message["mime-version"] == "1.0" and len(message.get_all("content-type")) == 1


def test_without_a_header_there_is_one_then():
    made = sent(b"core \0 dump\n")
    assert email.message_from_bytes(made).get_payload(decode=True) == b"core \0 dump\n"


@pytest.mark.parametrize("field", [b"8bit", b"7bit", b"quoted-printable", b"base64", b"x-unknown"])
def test_a_line_that_the_server_takes_stays_where_the_mail_says_how_it_is_encoded(field):
    mail = b"Content-Transfer-Encoding: " + field + b"\n\n" + b"QUJD" * MAX_LINE + b"\n"
    assert sent(mail) == mail


def test_what_is_quoted_printable_already_is_not_encoded_twice():
    made = sent(b"Content-Transfer-Encoding: quoted-printable\n\na=3D\0b=\nc =E4=0A\nd=20\n" + b"=41" * 40_000 + b"\n")
    assert_carried(made)
    payload = email.message_from_bytes(made).get_payload(decode=True)
    assert payload == b"a=\0bc \xe4\n\nd \n" + b"A" * 40_000 + b"\n"


def test_base64_is_broken_into_lines_and_loses_what_is_none():
    made = sent(b"Content-Transfer-Encoding: base64\n\nSGVs\0bG8=" + b"\n")
    assert made.endswith(b"\n\nSGVsbG8=\n")
    made = sent(b"Content-Transfer-Encoding: base64\n\n" + b"QUJD" * 100_000)
    assert_carried(made)
    assert email.message_from_bytes(made).get_payload(decode=True) == b"ABC" * 100_000


def test_an_encoding_that_is_not_known_only_loses_its_nuls():
    assert sent(b"Content-Transfer-Encoding: x-uu\n\na\0b\n") == b"Content-Transfer-Encoding: x-uu\n\nab\n"


# -- parts --------------------------------------------------------------------------------------

MIXED = b"""\
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary="x y"

pre\0amble
--x y
Content-Type: text/plain

plain

--x y
Content-Type: application/octet-stream
Content-Transfer-Encoding: binary

bi\0nary
--x y
Content-Type: image/png
Content-Transfer-Encoding: base64

QUJ\0D
--x y
Content-Type: multipart/alternative; boundary=z

--z

no header \0
--z
Content-Type: message/rfc822

Subject: a \0b c
Content-Type: text/html

nested \0
--z--
--x y--
epi\0logue
"""


def test_each_part_is_encoded_for_itself():
    made = sent(MIXED)
    assert_carried(made)
    assert payloads(made) == [
        ("text/plain", b"plain\n"),
        ("application/octet-stream", b"bi\0nary"),
        ("image/png", b"ABC"),
        ("text/plain", b"no header \0"),
        ("text/html", b"nested \0"),
    ]
    assert b"\n--x y\nContent-Type: text/plain\n\nplain\n\n--x y\n" in made  # what can be carried stays
    assert b"\npreamble\n" in made and made.endswith(b"\nepilogue\n")
    assert b"\nSubject: a =?utf-8?q?=00b?= c\n" in made


def test_a_part_with_a_line_that_is_too_long_is_encoded_and_the_others_stay():
    mail = (
        b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\n" + b"y" * 2000 + b"\n--x\n"
        b"Content-Transfer-Encoding: base64\n\n" + b"QUJD" * 20_000 + b"\n--x\n\n" + HUGE + b"\n--x--\n"
    )
    made = sent(mail)
    assert_carried(made)
    assert payloads(made) == [("text/plain", b"y" * 2000), ("text/plain", b"ABC" * 20_000), ("text/plain", HUGE)]
    assert made.startswith(mail[:2000])


def test_long_lines_that_the_server_takes_stay_in_parts():
    mail = b"Content-Type: multipart/mixed; boundary=x\n\n--x\n\n" + b"y" * 60_000 + b"\n--x--\n"
    assert sent(mail) == mail


def test_a_long_word_in_a_header_costs_time_in_proportion():
    header = b"X-Long: " + b"a" * 200_000 + b"\nX-Nul: b\0\n"
    begun = time.process_time()
    assert encoding.mended(header) == header.replace(b"b\0", b"=?utf-8?q?b=00?=")
    assert time.process_time() - begun < 5


def test_a_header_of_many_lines_in_a_part_costs_time_in_proportion():
    mail = b"--x\n" + b"a\n" * (MAX_HEADER // 2) + b"\nhello\n--x--\n"
    begun = time.process_time()
    assert len(list(walk(b"Content-Type: multipart/mixed; boundary=x\n", io.BytesIO(mail)))) == 5
    assert time.process_time() - begun < 5


def test_a_message_in_a_digest_needs_no_type():
    mail = b"Content-Type: multipart/digest; boundary=x\n\n--x\n\nSubject: \0\n\n\0\n--x--\n"
    assert payloads(sent(mail)) == [("text/plain", b"\0")]


LINES = st.lists(
    st.sampled_from(
        [b"--x", b"--x--", b"--y", b"--y--", b"", b"a\0", b"\0", b"text", b"Content-Transfer-Encoding: base64"]
        + [b"Content-Type: multipart/mixed; boundary=y", b"Content-Type: message/rfc822", b"Subject: \0", b" \0more"]
        + [
            b"Content-Transfer-Encoding: quoted-printable",
            b"Content-Type: multipart/digest;\n boundary=x",
            b"=41=",
            b"=",
        ]
    )
    | st.binary(max_size=8),
    max_size=16,
).map(b"\n".join)
HEADERS = st.sampled_from(
    [b"multipart/mixed; boundary=x", b"message/rfc822", b"text/plain", b'multipart/x; boundary="']
)


@settings(max_examples=300)
@given(HEADERS, LINES, st.booleans())
def test_no_mail_makes_it_send_a_nul(kind, lines, ended):
    made = sent(b"Subject: x\nContent-Type: " + kind + b"\n\n" + lines + b"\n" * ended)
    assert_carried(made)


@settings(max_examples=300)
@given(HEADERS, LINES)
def test_the_walk_passes_over_every_byte_once(kind, lines):
    header = b"Content-Type: " + kind + b"\n"
    assert b"".join(text for _, text, _ in walk(header, io.BytesIO(lines))) == lines


@settings(max_examples=200)
@given(st.lists(st.binary(min_size=1, max_size=60), min_size=1, max_size=5))
def test_every_part_is_what_it_was(bodies):
    bodies = [body.replace(b"\r", b"") for body in bodies]
    if any(b"--x" in body for body in bodies):
        return
    mail = b"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n"
    mail += b"".join(b"--x\nContent-Transfer-Encoding: 8bit\n\n" + body + b"\n" for body in bodies) + b"--x--\n"
    assert [payload for _, payload in payloads(sent(mail))] == [body for _, body in payloads(mail)] == bodies


# -- encodings ----------------------------------------------------------------------------------


@settings(max_examples=100)
@given(st.binary(max_size=300), st.integers(3, 20))
def test_quoted_printable_written_anew_says_the_same(body, size):
    text = quopri.encodestring(body.replace(b"\r", b""))
    before, encoding.PIECE = encoding.PIECE, size
    try:
        again = b"".join(encoding.requoted(encoding._lines(io.BytesIO(text))))
    finally:
        encoding.PIECE = before
    assert quopri.decodestring(again) == quopri.decodestring(text)
    assert max(map(len, again.split(b"\n"))) <= 76


@settings(max_examples=200)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1, max_size=120))
def test_encoded_words_say_the_same_and_are_short(text):
    words = encoding.encoded_words(text)
    assert max(map(len, words.split("\n "))) <= 75
    decoded = email.header.make_header(email.header.decode_header(words.replace("\n ", " ")))
    assert str(decoded) == text
