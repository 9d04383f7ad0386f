"""The MIME fields of a header: what they say, and another label in their place."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.header.mime import BOUNDARY_MAX, Description, describe, with_encoding


@pytest.mark.parametrize(
    "header, kind, boundary",
    [
        (b"Content-Type: text/plain; charset=utf-8\n", b"text/plain", b""),
        (b"content-type:TEXT/Plain\n", b"text/plain", b""),
        (b"Content-Type: multipart/mixed; boundary=x\n", b"multipart/mixed", b"x"),
        (b'Content-Type: multipart/mixed;\n\tcharset=a ;\n boundary="a b:c"\n', b"multipart/mixed", b"a b:c"),
        (b'Content-Type: multipart/mixed; a="; boundary=no"; BOUNDARY = "y\\"z  "\n', b"multipart/mixed", b'y"z'),
        (b"Content-Type: multipart/mixed; boundary=x; boundary=y\n", b"multipart/mixed", b"x"),
        (b"Content-Type: a/b\nContent-Type: c/d\n", b"a/b", b""),
        (b"Content-Type: multipart/mixed; boundary=" + b"x" * (BOUNDARY_MAX + 1) + b"\n", b"multipart/mixed", b""),
        (b"Content-Type: text\n", b"", b""),
        (b"X-Content-Type: a/b\n Content-Type: a/b\n", b"", b""),
        (b"", b"", b""),
    ],
)
def test_the_kind_and_the_boundary(header, kind, boundary):
    assert describe(header) == Description(kind, boundary, b"")


@pytest.mark.parametrize(
    "header, encoding",
    [
        (b"Content-Transfer-Encoding: base64\n", b"base64"),
        (b"CONTENT-transfer-encoding:\n Binary(all of it)\n", b"binary"),
        (b"Content-Transfer-Encoding: 8bit;x\n", b"8bit"),
        (b"Content-Transfer-Encoding:\nA: binary\n", b""),
    ],
)
def test_the_encoding(header, encoding):
    assert describe(header).encoding == encoding


@pytest.mark.parametrize(
    "header, changed",
    [
        (b"A: b\n", b"A: b\nContent-Transfer-Encoding: 8bit\n"),
        (b"", b"Content-Transfer-Encoding: 8bit\n"),
        (b"Content-Transfer-Encoding:\n binary\nA: b", b"A: b\nContent-Transfer-Encoding: 8bit\n"),
    ],
)
def test_another_label(header, changed):
    assert with_encoding(header, b"8bit") == changed


def test_a_message_gets_the_version_that_a_label_needs():
    assert with_encoding(b"", b"8bit", version=True) == b"MIME-Version: 1.0\nContent-Transfer-Encoding: 8bit\n"
    assert with_encoding(b"mime-version: 1.0\n", b"8bit", version=True).count(b"ersion") == 1


@given(st.lists(st.sampled_from([b"Content-Type:", b"a/b", b";", b"boundary=", b'"', b"\\", b"\n", b" ", b"x"])))
@settings(max_examples=200)
def test_any_header_has_a_description(pieces):
    said = describe(b"".join(pieces))
    assert len(said.boundary) <= BOUNDARY_MAX and b"\n" not in said.boundary + said.kind + said.encoding


@pytest.mark.parametrize("piece", [b'; a="', b"; a=", b"\n ", b"\\", b" ", b";", b'="\\', b"Content-Type: a/b\n"])
def test_a_header_made_to_be_slow_is_not(piece):
    header = b"Content-Type: a/b" + piece * (200_000 // len(piece))
    begin = time.process_time()
    describe(header)
    with_encoding(header, b"8bit", version=True)
    assert time.process_time() - begin < 5
