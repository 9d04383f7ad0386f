"""Families of MIME as it should be, and as programs write it: nothing here is understood by a server, all of it has to
arrive as it was sent."""

import base64
import quopri
import random
from collections.abc import Iterator

from tests.corpus.edge import HEADER
from tests.corpus.mail import Mail

VERSION = b"MIME-Version: 1.0\n"
TEXT = b"Content-Type: text/plain; charset=utf-8\n"
PART = b"Content-Type: text/plain\n\npart\n"


def mails() -> Iterator[Mail]:
    for family in (multipart, broken_multipart, encodings, broken_encodings, types, attachments, nested):
        for name, content in family():
            yield Mail(family.__name__, name, content)


def typed(kind: bytes, body: bytes, more: bytes = b"") -> bytes:
    return HEADER + VERSION + b"Content-Type: " + kind + b"\n" + more + b"\n" + body


def parts(boundary: bytes, *contents: bytes, preamble: bytes = b"", epilogue: bytes = b"") -> bytes:
    opened = b"".join(b"--" + boundary + b"\n" + content + b"\n" for content in contents)
    return preamble + opened + b"--" + boundary + b"--\n" + epilogue


def octets(size: int, seed: int) -> bytes:
    return random.Random(seed).randbytes(size)


def encoded(content: bytes) -> bytes:
    return base64.encodebytes(content)


def multipart():
    html = b"Content-Type: text/html; charset=utf-8\n\n<p>part</p>\n"
    for kind in (b"mixed", b"alternative", b"related", b"digest", b"parallel", b"report", b"signed", b"x-unknown"):
        yield f"multipart-{kind.decode()}", typed(b"multipart/" + kind + b'; boundary="b"', parts(b"b", PART, html))
    boundaries = [
        b"a",
        b"=_" + b"x" * 68,
        b"b.b",
        b"----=_NextPart_000_0001",
        b"'quoted'",
        b"a b",
        b"(x)",
        b"=",
        b"--",
        b"-" * 60,
    ]
    for number, boundary in enumerate(boundaries):
        yield f"boundary-{number}", typed(b'multipart/mixed; boundary="' + boundary + b'"', parts(boundary, PART, html))
    yield "not-in-quotes", typed(b"multipart/mixed; boundary=abc", parts(b"abc", PART))
    yield "folded-parameter", typed(b'multipart/mixed;\n\tboundary="abc";\n\ttype="text/html"', parts(b"abc", PART))
    yield (
        "preamble-and-epilogue",
        typed(
            b"multipart/mixed; boundary=b", parts(b"b", PART, preamble=b"This is MIME.\n\n", epilogue=b"\nbye\n--b\n")
        ),
    )
    yield "an-empty-part", typed(b"multipart/mixed; boundary=b", parts(b"b", b"\n", b"", PART))
    yield "no-part", typed(b"multipart/mixed; boundary=b", b"--b--\n")
    yield "500-parts", typed(b"multipart/mixed; boundary=b", parts(b"b", *[PART] * 500))


def broken_multipart():
    whole = parts(b"b", PART, PART)
    kind = b"multipart/mixed; boundary=b"
    yield "never-closed", typed(kind, whole.removesuffix(b"--b--\n"))
    yield "never-opened", typed(kind, b"just text\n")
    yield "no-boundary", typed(b"multipart/mixed", whole)
    yield "an-empty-boundary", typed(b'multipart/mixed; boundary=""', b"--\n\npart\n----\n")
    yield "another-boundary", typed(b"multipart/mixed; boundary=c", whole)
    yield "two-boundaries", typed(b"multipart/mixed; boundary=b; boundary=c", whole)
    yield "a-quote-that-is-not-closed", typed(b'multipart/mixed; boundary="b', whole)
    yield "a-boundary-of-200", typed(b"multipart/mixed; boundary=" + b"x" * 200, parts(b"x" * 200, PART))
    yield "a-boundary-that-begins-another", typed(kind, b"--bb\n\none\n--b\n\ntwo\n--bbb--\n--b--\n")
    yield "blanks-behind-a-boundary", typed(kind, whole.replace(b"--b\n", b"--b \t \n"))
    yield (
        "a-boundary-in-the-header",
        HEADER + VERSION + b"Content-Type: multipart/mixed; boundary=b\nX-B: a\n --b\n\n" + whole,
    )
    yield "a-boundary-in-a-line", typed(kind, b"text --b\n" + whole + b" --b--\n")
    yield "no-empty-line-in-a-part", typed(kind, b"--b\npart\n--b\nContent-Type: text/plain\n--b--\n")
    yield (
        "a-part-with-a-bad-header",
        typed(kind, parts(b"b", b"no colon\n\npart\n", b": x\n\npart\n", b" folded\n\npart\n")),
    )
    yield "cut-in-a-boundary", typed(kind, whole.removesuffix(b"-\n"))
    yield "cut-in-a-part-header", typed(kind, b"--b\nContent-Type: text/pl")
    yield (
        "two-content-types",
        HEADER + VERSION + b"Content-Type: text/plain\nContent-Type: multipart/mixed; boundary=b\n\n" + whole,
    )
    yield "no-version", HEADER + b"Content-Type: multipart/mixed; boundary=b\n\n" + whole
    yield "the-boundary-alone", typed(kind, b"--b")
    yield "a-thousand-boundaries", typed(kind, b"--b\n" * 1000)
    yield "closed-twice", typed(kind, whole + whole)
    yield "dots-for-parts", typed(kind, parts(b"b", b"\n.\n..\n", b"\n.\n"))


def encodings():
    text = "Grüße, naïve café — über 990 Zeichen in einer Zeile, wenn man sie nicht faltet. ".encode() * 20
    quoted = quopri.encodestring(text)
    for name, encoding, body in [
        ("quoted-printable", b"quoted-printable", quoted),
        ("base64", b"base64", encoded(text)),
        ("base64-in-one-line", b"base64", base64.b64encode(text) + b"\n"),
        (
            "base64-in-lines-of-4",
            b"base64",
            b"".join(base64.b64encode(text)[at : at + 4] + b"\n" for at in range(0, 400, 4)),
        ),
        ("8bit", b"8bit", b"caf\xc3\xa9\n" * 10),
        ("7bit", b"7bit", b"cafe\n" * 10),
        ("7bit-that-is-8bit", b"7bit", b"caf\xc3\xa9\n" * 10),
        ("capitals", b"BASE64", encoded(text)),
        ("with-a-comment", b"base64 (as usual)", encoded(text)),
        ("x-uuencode", b"x-uuencode", b"begin 644 a\n#0V%T\n`\nend\n"),
        ("nothing-known", b"x-nothing", b"text\n"),
        ("two", b"8bit\nContent-Transfer-Encoding: base64", encoded(text)),
    ]:
        yield name, typed(b"text/plain; charset=utf-8", body, b"Content-Transfer-Encoding: " + encoding + b"\n")


def broken_encodings():
    qp = [
        b"=\n",
        b"=",
        b"=ZZ\n",
        b"=e4\n",
        b"a =\n",
        b"=00=01\n",
        b"a" * 900 + b"=\n",
        b"=3D=\n=3D=\n",
        b"soft=   \nbreak\n",
    ]
    for number, body in enumerate(qp):
        yield f"quoted-printable-{number}", typed(b"text/plain", body, b"Content-Transfer-Encoding: quoted-printable\n")
    b64 = [
        b"=\n",
        b"abc\n",
        b"ab=c\n",
        b"====\n",
        b"!!!!\n",
        b"YQ==YQ==\n",
        b"YWJj\n.\nYWJj\n",
        b"YWJj \t\n\n\nYWJj",
        b"Y\nW\nJ\nj\n",
    ]
    for number, body in enumerate(b64):
        yield f"base64-{number}", typed(b"text/plain", body, b"Content-Transfer-Encoding: base64\n")


def types():
    kinds = [
        b"",
        b"text",
        b"/",
        b"text/",
        b"text/plain;",
        b"text/plain; charset",
        b"text/plain; charset=",
        b"text/plain;;;charset=x",
    ]
    kinds += [
        b'text/plain; charset="utf-8',
        b"TEXT/PLAIN; CHARSET=UTF-8",
        b"text/plain; charset=nothing",
        b"a" * 900 + b"/b",
    ]
    kinds += [
        b"text/plain; name*=utf-8''%C3%A4; name*0=a; name*1=b",
        b"text/html; charset=utf-16",
        b"application/octet-stream",
    ]
    kinds += [
        b"message/partial; id=1; number=1; total=2",
        b"message/external-body; access-type=local-file",
        b"(comment) text/plain",
    ]
    for number, kind in enumerate(kinds):
        yield f"content-type-{number}", typed(kind, b"text\n")


def attachments():
    for number, size in enumerate([0, 1, 2, 3, 56, 57, 58, 1000, 4096, 65_536, 300_000, 2_000_000]):
        part = b'Content-Type: application/octet-stream; name="a.bin"\nContent-Transfer-Encoding: base64\n'
        part += b'Content-Disposition: attachment; filename="a.bin"\n\n' + encoded(octets(size, number))
        yield f"of-{size}-bytes", typed(b"multipart/mixed; boundary=b", parts(b"b", PART, part))
    names = [
        b'"a b.txt"',
        b"a",
        b'"../../etc/passwd"',
        b'"=?utf-8?q?=C3=A4?="',
        b'"\xc3\xa4.txt"',
        b'"' + b"n" * 300 + b'"',
        b'""',
        b'"a\\"b"',
    ]
    for number, name in enumerate(names):
        part = b"Content-Type: text/plain\nContent-Disposition: attachment; filename=" + name + b"\n\ntext\n"
        yield f"named-{number}", typed(b"multipart/mixed; boundary=b", parts(b"b", part))


def nested():
    message = HEADER + b"\nan inner mail\n.\nFrom bob\n"
    yield "a-mail-in-a-mail", typed(b"message/rfc822", message)
    yield "a-digest", typed(b"multipart/digest; boundary=b", parts(b"b", *[b"\n" + message] * 20))
    for depth in (2, 10, 100):
        body = PART
        for level in range(depth):
            body = b"Content-Type: multipart/mixed; boundary=b%d\n\n" % level + parts(b"b%d" % level, body)
        yield f"multipart-{depth}-deep", HEADER + VERSION + body
        inner = message
        for _ in range(depth):
            inner = HEADER + VERSION + b"Content-Type: message/rfc822\n\n" + inner
        yield f"mails-{depth}-deep", inner
    yield (
        "the-same-boundary-inside",
        typed(
            b"multipart/mixed; boundary=b",
            parts(b"b", b"Content-Type: multipart/mixed; boundary=b\n\n" + parts(b"b", PART)),
        ),
    )
