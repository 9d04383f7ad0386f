"""Binary content becomes text: what it decodes to is the same, octet for octet, however it comes."""

import email
import email.policy

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from smtpd.smtp.binary_mime import HELD_MAX, BinaryMimeConverter, base64_lines
from smtpd.smtp.line_ending import TextError
from smtpd.smtp.mime_walk import DEPTH, HEADER_MAX, MULTIPARTS_MAX, PARTS_MAX, ConversionError

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 3 + b"\n.\r\n"
HEADER = b"From: amy@there.test\r\nMIME-Version: 1.0\r\n"


def convert(*pieces):
    converter = BinaryMimeConverter()
    return b"".join([*map(converter.take, pieces), converter.end()])


def fields(*lines):
    return b"".join(line + b"\r\n" for line in lines) + b"\r\n"


def labelled(label, *more):
    return fields(*more, b"Content-Transfer-Encoding: " + label)


def multipart(*parts, boundary=b"=_x", kind=b"mixed", label=b"binary"):
    """A whole entity."""
    header = labelled(label, b'Content-Type: multipart/%b; boundary="%b"' % (kind, boundary))
    body = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
    return header + b"before\r\n" + body + b"--" + boundary + b"--\r\nbehind\r\n"


def leaves(text):
    """What a mail reader decodes: kind, encoding and bytes of each part."""
    message = email.message_from_bytes(text, policy=email.policy.compat32)
    return [
        (part.get_content_type(), str(part["content-transfer-encoding"] or ""), part.get_payload(decode=True))
        for part in message.walk()
        if not part.is_multipart()
    ]


def is_text(content):
    return b"\0" not in content and b"\r" not in content and (not content or content.endswith(b"\n"))


# -- one part -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "came, kept",
    [
        (b"Subject: x\r\n\r\nhello\r\n.\r\n", b"Subject: x\n\nhello\n.\n"),
        (b"Subject: x\r\n\r\nGr\xc3\xbc\xc3\x9fe", b"Subject: x\n\nGr\xc3\xbc\xc3\x9fe\n"),
        (labelled(b"binary") + b"hello\r\n", b"Content-Transfer-Encoding: 8bit\n\nhello\n"),
        (labelled(b"BINARY (x)") + b"", b"Content-Transfer-Encoding: 8bit\n\n"),
        (labelled(b"8bit") + b"a\nb\r\n", b"Content-Transfer-Encoding: 8bit\n\na\nb\n"),
        (labelled(b"base64") + b"aGk=\r\n", b"Content-Transfer-Encoding: base64\n\naGk=\n"),
        (b"A: b\r\n\r\na\0b", b"A: b\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\nYQBi\n"),
        (HEADER + b"\r\n\0", b"From: amy@there.test\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\nAA==\n"),
        (b"\r\n\0", b"MIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\nAA==\n"),
        (b"A: b\r\n", b"A: b\n"),
        (b"A: b", b"A: b\n"),
        (b"", b""),
        (b"\r\n", b"\n"),
    ],
)
def test_a_message_of_one_part(came, kept):
    assert convert(came) == kept
    assert convert(*(came[n : n + 1] for n in range(len(came)))) == kept


@pytest.mark.parametrize("content", [PNG, b"a\nb\r\n", b"a\rb\r\n", b"x" * 1000 + b"\r\n", b"\0"])
def test_what_says_binary_and_is_binary_is_base64(content):
    kept = convert(labelled(b"binary", b"MIME-Version: 1.0", b"Content-Type: image/png") + content)
    assert leaves(kept) == [("image/png", "base64", content)]
    assert is_text(kept)


def test_a_line_of_998_bytes_is_8bit():
    kept = convert(labelled(b"binary") + b"x" * 998 + b"\r\n")
    assert kept == b"Content-Transfer-Encoding: 8bit\n\n" + b"x" * 998 + b"\n"


def test_a_long_binary_part_is_base64_as_the_rest_is_unknown():
    content = b"hello\r\n" * (HELD_MAX // 7 + 1)
    assert leaves(convert(labelled(b"binary") + content)) == [("text/plain", "base64", content)]


def test_a_nul_behind_much_text_that_does_not_say_so_is_refused():
    came = b"A: b\r\n\r\n" + b"hello\r\n" * (HELD_MAX // 7 + 1) + b"\0"
    for step in (1000, HELD_MAX, len(came)):
        with pytest.raises(ConversionError):
            convert(*(came[n : n + step] for n in range(0, len(came), step)))


@pytest.mark.parametrize("label", [b"base64", b"quoted-printable", b"x-uuencode"])
def test_what_is_encoded_holds_no_nul(label):
    with pytest.raises(ConversionError):
        convert(labelled(label) + b"a\0")


def test_the_last_label_is_the_only_one():
    came = fields(b"content-transfer-encoding:\r\n binary", b"Content-Transfer-Encoding: 7bit", b"A: b") + b"\0"
    assert convert(came) == b"A: b\nMIME-Version: 1.0\nContent-Transfer-Encoding: base64\n\nAA==\n"


# -- several ------------------------------------------------------------------------------------------


def test_each_part_is_kept_as_what_it_is():
    parts = [
        labelled(b"binary", b"Content-Type: text/plain; charset=utf-8") + "Grüße\r\n\r\n".encode(),
        labelled(b"binary", b"Content-Type: image/png") + PNG,
        labelled(b"7bit") + b"hello\nyou",
        labelled(b"base64", b"Content-Type: image/gif") + b"R0lG",
        b"\r\n",
        labelled(b"binary", b"Content-Type: image/png") + b"",
    ]
    came = HEADER + multipart(*parts)
    kept = convert(came)
    assert leaves(kept) == [
        ("text/plain", "8bit", "Grüße\n\n".encode()),
        ("image/png", "base64", PNG),
        ("text/plain", "7bit", b"hello\nyou"),
        ("image/gif", "base64", b"GIF"),
        ("text/plain", "", b""),
        ("image/png", "8bit", b""),
    ]
    assert is_text(kept) and b"\nbefore\n" in kept and kept.endswith(b"\n--=_x--\nbehind\n")
    assert kept.startswith(b'From: amy@there.test\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="=_x"\n')
    assert b"Content-Transfer-Encoding: 8bit\n\nbefore" in kept
    for step in (1, 2, 3, 50):
        assert convert(*(came[n : n + step] for n in range(0, len(came), step))) == kept


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
@pytest.mark.parametrize("padding", [b"", b" \t"])
@pytest.mark.parametrize("last", [b"", b"\r\n", b"\n"])
def test_a_delimiter_however_its_line_ends(end, padding, last):
    lines = (
        b"Content-Type: multipart/mixed; boundary=b",
        b"",
        b"--b" + padding,
        b"Content-Transfer-Encoding: binary",
        b"",
    )
    kept = convert(end.join((*lines, b"\0\rx", b"--b--" + padding)) + last)
    assert leaves(kept)[0][2] == b"\0\rx" and kept.endswith(b"\n--b--" + padding + b"\n")


def test_multiparts_in_multiparts_and_messages_in_messages():
    picture = labelled(b"binary", b"Content-Type: image/png") + PNG
    inner = multipart(picture, boundary=b"=_xx")
    message = labelled(b"binary", b"Content-Type: message/rfc822") + b"Subject: in\r\n" + inner
    kept = convert(HEADER + multipart(message, inner, picture))
    assert [content for kind, _, content in leaves(kept) if kind == "image/png"] == [PNG] * 3
    assert is_text(kept) and b"Content-Transfer-Encoding: binary" not in kept
    assert b"\nMIME-Version: 1.0\n" not in kept[len(HEADER) :]  # of a part that has none


def test_the_parts_of_a_digest_are_messages():
    part = b"\r\nSubject: in\r\n" + labelled(b"binary", b"Content-Type: image/png") + PNG
    kept = convert(multipart(part, kind=b"digest"))
    assert leaves(kept) == [("image/png", "base64", PNG)]


def test_a_delimiter_of_one_around_ends_what_is_not_closed():
    inner = multipart(b"\r\ntext", boundary=b"in").partition(b"--in--")[0]
    came = multipart(inner, labelled(b"binary") + PNG, boundary=b"out")
    kept = convert(came)
    assert leaves(kept)[-1][2] == PNG and kept.endswith(b"\n--out--\nbehind\n")


def test_what_only_looks_like_a_delimiter_is_content():
    content = b"\0--=_x\r\n--=_xy\r\n--=_\r\n --=_x\r\n--=_x-\r\n--=_x" + b" " * 100 + b"\r\n"
    kept = convert(multipart(labelled(b"binary") + content))
    assert leaves(kept)[0][2] == content


def test_binary_between_the_parts_is_refused():
    with pytest.raises(ConversionError):
        convert(multipart().replace(b"before", b"\0"))


@pytest.mark.parametrize("boundary", [b"", b"; boundary=", b'; boundary=""', b"; boundary=" + b"x" * 200])
def test_a_multipart_without_boundary_is_text(boundary):
    header = fields(b"Content-Type: multipart/mixed" + boundary)
    assert convert(header + b"--\r\n") == header.replace(b"\r\n", b"\n") + b"--\n"
    with pytest.raises(ConversionError):
        convert(header + b"\0")


# -- attacks --------------------------------------------------------------------------------------------


def test_what_is_too_deep_is_text():
    came = b"".join(
        fields(b"Content-Type: multipart/mixed; boundary=%d" % n) + b"--%d\r\n" % n for n in range(DEPTH + 5)
    )
    assert convert(came + b"\r\nhello") == (came + b"\r\nhello\r\n").replace(b"\r\n", b"\n")


@pytest.mark.parametrize(
    "came",
    [
        fields(b"Content-Type: multipart/mixed; boundary=b") + b"--b\r\n\r\n" * (PARTS_MAX + 1),
        fields(b"Content-Type: message/rfc822") * (PARTS_MAX + 1),
        fields(b"Content-Type: multipart/mixed; boundary=b")
        + b"".join(
            b"--b\r\n" + fields(b"Content-Type: multipart/mixed; boundary=%d" % n) for n in range(MULTIPARTS_MAX)
        ),
    ],
)
def test_there_is_an_end_of_parts(came):
    with pytest.raises(ConversionError):
        convert(came)


def test_a_header_without_end_is_not_held():
    converter = BinaryMimeConverter()
    with pytest.raises(TextError):
        for _ in range(HEADER_MAX // 1000 + 2):
            converter.take(b"A: " + b"b" * 995 + b"\r\n")


def test_a_header_that_comes_in_pieces_is_not_searched_again_and_again():
    converter = BinaryMimeConverter()
    converter.take(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n")
    for _ in range(1000):
        converter.take(b"A: b\r\n")
        assert len(converter._raw) - converter._searched < 300


def test_a_part_is_not_held_longer_than_that():
    converter = BinaryMimeConverter()
    converter.take(labelled(b"binary"))
    given = sum(len(converter.take(b"\0" * 1000)) for _ in range(1000))
    assert given > 1_000_000 * 4 // 3 - 4 * HELD_MAX


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_base64_in_lines(count):
    content = bytes(range(57)) * count
    assert base64_lines(content) == b"".join(
        email.base64mime.body_encode(content[n : n + 57]).encode() for n in range(0, len(content), 57)
    )


PIECES = [
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\0",
    b"x",
    b"--b",
    b"--b--",
    b"--",
    b"\r\n--b\r\n",
    b"\n--c\n",
    b"--c--\r\n",
    b" ",
    b"Content-Type: multipart/mixed; boundary=b\r\n",
    b"Content-Type: multipart/digest; boundary=c\r\n\r\n",
    b"Content-Type: message/rfc822\r\n\r\n",
    b"Content-Transfer-Encoding: binary\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
]


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.binary(max_size=5), max_size=20).map(b"".join))
@example(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n\0\r\n--b\r\n--b--")
def test_any_bytes_cut_anywhere_become_text_or_are_refused(came):
    def converted(*pieces):
        try:
            return convert(*pieces)
        except TextError as error:
            return type(error)

    kept = converted(came)
    if isinstance(kept, bytes):
        assert is_text(kept)
    assert converted(*(came[n : n + 1] for n in range(len(came)))) == kept
    for n in range(len(came)):
        assert converted(came[:n], came[n:]) == kept


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"\r\n", b"\n", b"\r\n\r\n"]), st.integers(1, 60))
def test_any_bytes_that_say_binary_decode_to_what_came(content, end, step):
    came = HEADER + multipart(labelled(b"binary", b"Content-Type: application/x") + content + end)
    kept = convert(*(came[n : n + step] for n in range(0, len(came), step)))
    ((_, encoding, decoded),) = leaves(kept)
    assert decoded == (content + end if encoding == "base64" else (content + end).replace(b"\r\n", b"\n"))
