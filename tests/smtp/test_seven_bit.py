"""8-bit content for a server without 8BITMIME: what it decodes to is the same, however it comes in pieces."""

import email
import email.policy
import quopri

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.smtp.client_content import ContentFacts
from smtpd.smtp.content_facts import ContentInspector
from smtpd.smtp.line_ending import TEXT_LINE_MAX
from smtpd.smtp.mime_walk import PARTS_MAX
from smtpd.smtp.seven_bit import QuotedPrintableLines, SevenBitConverter

GRUSS = "Gr\u00fc\u00dfe".encode()


def pieces(content, size):
    return [content[at : at + size] for at in range(0, len(content), size)]


def look(content, size=1 << 20):
    inspector = ContentInspector()
    for piece in pieces(content, size):
        inspector.look(piece)
    return inspector.facts()


def convert(content, size=1 << 20):
    """The same however it is cut."""
    facts = look(content, size)
    converter = SevenBitConverter(facts.parts)
    return b"".join([*map(converter.take, pieces(content, size)), converter.end()])


def part(label, content, kind=b"text/plain; charset=utf-8", extra=b""):
    encoding = b"Content-Transfer-Encoding: " + label + b"\n" if label else b""
    return extra + b"Content-Type: " + kind + b"\n" + encoding + b"\n" + content


def multipart(*parts, boundary=b"=_x", kind=b"mixed", label=b"8bit"):
    header = b'MIME-Version: 1.0\nContent-Type: multipart/%b; boundary="%b"\n' % (kind, boundary)
    header += b"Content-Transfer-Encoding: %b\n\nbefore \xff\n" % label
    return header + b"".join(b"--%b\n%b\n" % (boundary, one) for one in parts) + b"--%b--\nbehind \xfe\n" % boundary


def leaves(text):
    message = email.message_from_bytes(text, policy=email.policy.compat32)
    return [
        (leaf.get_content_type(), leaf.get_payload(decode=True).replace(b"\r\n", b"\n"))
        for leaf in message.walk()
        if not leaf.is_multipart()
    ]


def encodings(text):
    return [str(one["content-transfer-encoding"] or "") for one in email.message_from_bytes(text).walk()]


@pytest.mark.parametrize(
    "content, made",
    [
        (
            part(b"8bit", GRUSS + b" \nend\n", extra=b"MIME-Version: 1.0\n"),
            part(b"quoted-printable", b"Gr=C3=BC=C3=9Fe=20\nend\n", extra=b"MIME-Version: 1.0\n"),
        ),
        (
            part(b"8bit", b"ASCII\n", extra=b"MIME-Version: 1.0\n"),
            part(b"7bit", b"ASCII\n", extra=b"MIME-Version: 1.0\n"),
        ),
        (
            b"Subject: x\n\n" + GRUSS + b"\n",
            b"Subject: x\nContent-Type: text/plain; charset=unknown-8bit\nMIME-Version: 1.0\n"
            b"Content-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=C3=9Fe\n",
        ),
        (b"Subject: x\n\nASCII\n", b"Subject: x\n\nASCII\n"),
        (b"Subject: x\n", b"Subject: x\n"),
        (b"\n.\n" + GRUSS, None),
        (b"", b""),
    ],
)
def test_a_message_of_one_part(content, made):
    converted = convert(content)
    assert converted.isascii()
    assert made is None or converted == made
    assert all(convert(content, size) == converted for size in (1, 2, 3, 7))


def test_a_message_of_many_parts():
    content = multipart(
        part(b"8bit", GRUSS),
        part(b"", b"plain"),
        part(b"8bit", b"\x89PNG" + bytes(range(128, 256)) * 3, b"image/png"),
        part(b"quoted-printable", b"=C3=BC"),
        part(b"base64", b"AAAA"),
        b"Content-Type: message/rfc822\nContent-Transfer-Encoding: 8bit\n\n" + part(b"8bit", GRUSS + b"\n"),
        multipart(part(b"binary", GRUSS + b"\n" + GRUSS, b"text/html"), boundary=b"y", kind=b"alternative"),
    )
    converted = convert(content)
    assert converted.isascii() and b"before ?\n" in converted and b"behind ?\n" in converted
    assert leaves(converted) == leaves(content)
    assert encodings(converted) == [
        "7bit", "quoted-printable", "", "base64", "quoted-printable", "base64", "7bit", "quoted-printable", "7bit",
        "quoted-printable",
    ]  # fmt: skip
    assert max(map(len, converted.split(b"\n"))) <= 78
    assert all(convert(content, size) == converted for size in (1, 5, 64))


def test_a_part_that_needs_nothing_stays_byte_by_byte():
    plain = part(b"7bit", b"  \n\t\n--not a delimiter\n" + b"x" * 500 + b" \n.\n")
    content = multipart(plain, part(b"8bit", GRUSS))
    assert b"--=_x\n" + plain + b"\n--=_x\n" in convert(content)


@pytest.mark.parametrize(
    "content, convertible",
    [
        (b"DKIM-Signature: v=1\nSubject: x\n\n" + GRUSS, False),
        (b"ARC-Message-Signature : i=1\nSubject: x\n\n" + GRUSS, False),
        (b"X: dkim-signature: no\nSubject: x\n\n" + GRUSS, True),
        (b"Subject: x\n\nDKIM-Signature: v=1\n" + GRUSS, True),
        (b"DKIM-Signature: v=1\n\nASCII\n", True),
        (multipart(part(b"8bit", GRUSS), part(b"base64", b"AAAA", b"application/x-sig"), kind=b"signed"), False),
        (part(b"base64", GRUSS), False),
        (part(b"quoted-printable", GRUSS), False),
        (part(b"x-uuencode", GRUSS), False),
        (part(b"8bit", GRUSS, b"message/partial; id=1"), False),
        (part(b"8bit", GRUSS, b"multipart/mixed"), False),  # without a boundary: its parts are unknown
        (part(b"8bit", b"\xff" * (TEXT_LINE_MAX + 1)), False),
        (multipart(*[part(b"8bit", b"x")] * PARTS_MAX, part(b"8bit", GRUSS)), False),
        (part(b"8bit", GRUSS, b"application/octet-stream"), True),
        (b"Subject: " + GRUSS + b"\n\nASCII\n", True),  # a header has no other form
    ],
)  # fmt: skip
def test_what_can_be_converted(content, convertible):
    facts = look(content)
    assert facts.eight_bit == (not content.isascii()) and facts.convertible is convertible
    assert all(look(content, size)[:3] == facts[:3] for size in (1000, 4093))


@pytest.mark.parametrize(
    "content, header",
    [(b"Subject: " + GRUSS, True), (b"A: b\n\n" + GRUSS, False), (GRUSS + b": x\n\n", True), (b"", False)],
)
def test_a_header_beyond_ascii(content, header):
    assert look(content).utf8_header is header
    assert look(content, 1).utf8_header is header


def test_a_header_in_a_part_is_not_that_of_the_message():
    content = multipart(part(b"7bit", b"x", extra=b"Content-Description: " + GRUSS + b"\n"))
    assert look(content) == ContentFacts(True, False, True, frozenset())


labels = st.sampled_from([b"", b"7bit", b"8bit", b"binary"])
kinds = st.sampled_from([b"text/plain", b"text/html; charset=utf-8", b"application/octet-stream", b"image/png"])
texts = st.binary(max_size=80).map(lambda raw: raw.replace(b"\0", b"").replace(b"\r", b""))
parts = st.builds(part, labels, texts, kinds)


@given(st.lists(parts, min_size=1, max_size=5), st.integers(1, 40))
@settings(max_examples=200, deadline=None)
def test_the_decoded_content_is_the_same(made, size):
    content = multipart(*made, boundary=b"=_boundary")
    facts = look(content, size)
    assert facts == look(content)
    if facts.convertible:
        converted = convert(content, size)
        assert converted.isascii() and converted == convert(content)
        assert leaves(converted) == leaves(content)


@given(texts, st.integers(1, 20))
def test_quoted_printable_in_pieces(text, size):
    lines = QuotedPrintableLines()
    encoded = b"".join([*map(lines.take, pieces(text, size)), lines.end()])
    whole = QuotedPrintableLines()
    assert encoded == whole.take(text) + whole.end()
    assert quopri.decodestring(encoded) == text
    assert all(len(line) <= 76 for line in encoded.split(b"\n"))
