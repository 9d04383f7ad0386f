"""Families at the edges of what a mail can be: line ends, lengths, dots, bytes, headers that are hardly any."""

from collections.abc import Iterator

from tests.corpus.mail import Mail

HEADER = b"From: amy@there.test\nTo: bob@here.test\nSubject: a mail\nDate: Mon, 30 Nov 2026 10:00:00 +0000\n"
BODY = b"Dear Bob,\n\nthis is a mail.\n\nAmy\n"


def mails() -> Iterator[Mail]:
    for family in (
        empty,
        ends,
        dots,
        from_lines,
        lengths,
        buffers,
        line_ends,
        nuls,
        eight_bit,
        headers,
        received,
        large,
    ):
        for name, content, *raw in family():
            yield Mail(family.__name__, name, content, bool(raw))


def whole(body: bytes, more: bytes = b"") -> bytes:
    return HEADER + more + b"\n" + body


def empty():
    yield "nothing", b""
    yield "a-line-end", b"\n"
    yield "two-line-ends", b"\n\n"
    yield "no-header", b"\nonly a body\n"
    yield "header-only", HEADER
    yield "header-without-line-end", HEADER.rstrip()
    yield "header-and-empty-line", HEADER + b"\n"
    yield "empty-lines-for-a-body", HEADER + b"\n" * 20
    yield "blanks-for-a-body", whole(b" \n\t\n  \n")
    yield "one-field", b"Subject: x\n"
    yield "one-field-no-line-end", b"Subject: x"
    yield "one-letter", whole(b"x")


def ends():
    for number, tail in enumerate(
        [b"end", b"end.", b"end ", b"end\t", b"-- \nAmy", b"--=b--", b".", b"..", b"\n\nx", b"\xc3"]
    ):
        yield f"no-line-end-{number}", whole(BODY + tail)
    for count in (1, 2, 3, 50):
        yield f"{count}-empty-lines-at-the-end", whole(BODY + b"\n" * count)


def dots():
    lines = [b".", b"..", b"...", b".x", b". ", b".\t", b"..x", b". .", b".QUIT", b".\x0b"]
    for number, line in enumerate(lines):
        yield f"in-the-middle-{number}", whole(b"a\n" + line + b"\nb\n")
        yield f"at-the-beginning-{number}", whole(line + b"\nb\n")
        yield f"at-the-end-{number}", whole(b"a\n" + line + b"\n")
    yield "nothing-else", whole(b".\n" * 1000)
    yield "as-the-last-byte", whole(b"a\n.")
    yield "in-a-folded-header", HEADER + b"X-Dots: a\n .\n ..\n\nbody\n"


def from_lines():
    for number, line in enumerate(
        [b"From ", b"From amy", b"From amy Mon Nov 30 10:00:00 2026", b">From x", b">>From x", b"FROM x"]
    ):
        yield f"first-of-the-body-{number}", whole(line + b"\nrest\n")
        yield f"after-an-empty-line-{number}", whole(b"a\n\n" + line + b"\nrest\n")
        yield f"after-a-line-{number}", whole(b"a\n" + line + b"\nrest\n")
    yield "an-mbox-in-a-mail", whole(b"From amy Mon Nov 30 10:00:00 2026\n" + whole(BODY) + b"\n" * 2 + b"From bob\n")
    yield "first-of-all", b"From amy Mon Nov 30 10:00:00 2026\n" + whole(BODY)


def lengths():
    for size in (
        76,
        77,
        78,
        79,
        989,
        990,
        991,
        997,
        998,
        999,
        1000,
        1023,
        2048,
        4096,
        8191,
        8192,
        16384,
        60 * 1024,
        65533,
        65534,
    ):
        yield f"a-line-of-{size}", whole(b"a" * size + b"\nshort\n")
    for size in (65535, 65536, 100_000, 1_000_000):
        yield f"a-line-too-long-of-{size}", whole(b"a" * size + b"\n")
    for size in (998, 60 * 1024, 65534):
        yield f"many-lines-of-{size}", whole((b"b" * size + b"\n") * 8)
        yield f"a-last-line-of-{size}-without-end", whole(b"c" * size)


def buffers():
    """Line ends and dots around the places where what comes is cut."""
    for size in (1024, 4096, 8192, 16384, 65536, 131072):
        for shift in (-3, -2, -1, 0, 1):
            head = whole(b"")
            fill = b"y" * 70 + b"\n"
            count, rest = divmod(size + shift - len(head), len(fill))
            yield f"{size}{shift:+d}", head + fill * count + b"z" * rest + b"\n.\n..\n\nend\n"


def line_ends():
    crlf, lf, cr = whole(BODY).replace(b"\n", b"\r\n"), whole(BODY), whole(BODY).replace(b"\n", b"\r")
    head = HEADER.replace(b"\n", b"\r\n") + b"\r\n"
    yield "crlf", crlf, True
    yield "lf", lf, True
    yield "cr", cr, True
    yield "cr-and-an-empty-line", cr + b"\r\n\r\n", True
    bodies = [
        b"a\nb\r\n",
        b"a\rb\r\n",
        b"a\r\nb\r\nc\n",
        b"a\r\r\nb\r\n",
        b"a\n\rb\r\n",
        b"\ra\r\n",
        b"\na\r\n",
        b"a\r\n\r",
        b"10%\r20%\r30%\r\n",
    ]
    bodies += [
        b"a\r\n.\nb\r\n",
        b"a\n.\r\nb\r\n",
        b"a\r.\r\nb\r\n",
        b"a\n.\nMAIL FROM:<x@y.test>\r\n",
        b"a\r.\rb\r\n",
        b"a\r\n.\rb\r\n",
    ]
    for number, body in enumerate(bodies):
        yield f"mixed-{number}", head + body, True
    yield "a-cr-in-a-field", b"Subject: a\rX-Not: a field\r\n" + head + b"a\r\n", True
    yield "an-lf-in-the-header", b"Subject: a\nX-Is: a field\r\n" + head + b"a\r\n", True
    yield "header-lf-body-crlf", HEADER + b"\n" + b"a\r\nb\r\n", True
    yield "header-crlf-body-lf", head + b"a\nb\n", True
    yield "header-crlf-body-cr", head + b"a\rb\r", True
    yield "vertical-tab-form-feed", whole(b"a\x0bb\x0cc\x1cd\x85e\xe2\x80\xa8f\n")


def nuls():
    for number, body in enumerate(
        [b"\0", b"a\0b\n", b"a\n\0\nb\n", b"\0" * 1000 + b"\n", b"a\n.\0\n", b"end\0", "a\u0000ü\n".encode("utf-16-le")]
    ):
        yield f"in-the-body-{number}", whole(body)
    yield "behind-a-megabyte", whole((b"x" * 76 + b"\n") * 14_000 + b"\0\n")


def eight_bit():
    texts = {
        "utf-8": "Grüße, naïve café — 日本語 \U0001f600 עברית العربية\n",
        "iso-8859-1": "Grüße aus München, señor\n",
        "iso-8859-15": "100 € für Œuvre\n",
        "windows-1252": "“quotes” – and €\n",
        "koi8-r": "Привет, мир\n",
        "windows-1251": "Привет, мир\n",
        "iso-2022-jp": "日本語のメール\n",
        "shift_jis": "日本語のメール\n",
        "euc-jp": "日本語のメール\n",
        "gb18030": "中文邮件\n",
        "big5": "中文郵件\n",
        "euc-kr": "한국어 메일\n",
        "iso-8859-8": "עברית\n",
        "windows-1256": "العربية\n",
        "utf-7": "Grüße\n",
        "cp437": "Grüße █▓▒░\n",
    }
    for charset, text in texts.items():
        encoded = text.encode(charset)
        kind = (
            b"MIME-Version: 1.0\nContent-Type: text/plain; charset="
            + charset.encode()
            + b"\nContent-Transfer-Encoding: 8bit\n"
        )
        yield f"declared-{charset}", whole(encoded * 5, kind)
        yield f"not-declared-{charset}", whole(encoded * 5)
        yield (
            f"in-a-subject-{charset}",
            b"Subject: " + encoded + HEADER.replace(b"Subject: a mail\n", b"") + b"\nbody\n",
        )
        yield f"in-a-name-{charset}", b'From: "' + encoded.strip() + b'" <amy@there.test>\nTo: bob@here.test\n\nbody\n'
    every = bytes(code for code in range(1, 256) if code not in (10, 13))
    yield "every-byte", whole(every + b"\n")
    yield "every-byte-in-a-field", b"X-Bytes: " + every + b"\n" + whole(BODY)
    yield "broken-utf-8", whole(b"\xc3\n\xff\xfe\n\xed\xa0\x80\n\xf0\x9f\x98\n")
    yield "a-byte-order-mark", whole(b"\xef\xbb\xbfhello\n")
    yield "del-and-escapes", whole(b"\x1b[2J\x1b]0;title\x07\x7f\x80\x9b\n")


def headers():
    for number, line in enumerate(
        [
            b"Subject:",
            b"Subject:x",
            b"Subject:\tx",
            b"Subject : x",
            b"Subject: x ",
            b"subject: x\nSUBJECT: y\nSubject: z",
            b"X-Empty:",
            b"X-Colons: a:b:c",
            b"X: " + b"x" * 60_000,
            b"X-Folded: a\n b\n\tc\n  d",
            b"X-Folded-Empty:\n a",
            b"X-Blank-Line: a\n \n b",
            b"X-Blank-Lines: a\n" + b" \n" * 50 + b" b",
            b"X-Folds: a\n" + b" a line of a folded field\n" * 2000 + b" end",
            b"X-\x7f: a",
            b"1: a",
            b"X-Question?: =?utf-8?q?broken?=",
            b"X-Words: =?utf-8?B?w7w=?= =?utf-8?B?w7w=?=",
            b"X-Bad-Word: =?nothing?X?zzz?=",
            b"X-Long-Name-" + b"n" * 1000 + b": a",
            b"A name with blanks: a",
            b"To: undisclosed-recipients:;",
            b"To: Group: amy@there.test, bob@here.test;",
            b'Cc: "Doe, John" <john@there.test>, (a (nested) comment) bob@here.test',
            b"Cc: " + b", ".join(b"user%d@there.test" % number for number in range(500)),
            b'Cc: <>,,; , "unclosed',
            b"Cc: amy@there.test bob@here.test; eve@there.test",
            b"Date: yesterday",
            b"Date: Thu, 1 Jan 1970 00:00:00 -0000 (UTC)",
            b"Message-ID: no brackets at all",
            b"Message-ID: <a@b>\nMessage-ID: <c@d>",
            b"References: " + b" ".join(b"<%d@there.test>" % number for number in range(400)),
            b"Return-Path: <forged@there.test>",
            b"Bcc: eve@here.test",
            b"Delivered-To: somebody@else.test",
            b"Status: RO\nX-Status: A\nX-Keywords: a\nX-UID: 7",
            b"Content-Length: 7\nLines: 2",
            b"MIME-Version: 2.0",
            b"Received: from x",
        ]
    ):
        yield f"a-field-{number}", HEADER + line + b"\n\n" + BODY
    yield "many-fields", b"".join(b"X-%d: x\n" % number for number in range(3000)) + whole(BODY)
    yield "fields-of-64-kb", b"".join(b"X-%d: %b\n" % (number, b"v" * 60_000) for number in range(10)) + whole(BODY)
    yield "ten-megabytes", b"".join(b"X-%d: %b\n" % (number, b"v" * 60_000) for number in range(175)) + whole(BODY)
    yield "a-folded-field-of-ten-megabytes", b"X: a\n" + (b" " + b"v" * 1000 + b"\n") * 10_000 + whole(BODY)
    yield "a-thousand-and-one-to", b"To: a@there.test\n" * 1001 + b"Subject: x\n\n" + BODY
    for number, line in enumerate(
        [b"no colon", b": no name", b"X-Long-" + b"n" * 1100 + b": a", b"X: " + b"v" * 70_000]
    ):
        yield f"a-line-that-is-none-{number}", HEADER + line + b"\n\n" + BODY
    yield "a-fold-first", b" folded\n" + whole(BODY)


def received():
    line = (
        b"Received: from a.test (a.test [192.0.2.1]) by b.test with ESMTPS id %d;\n\tMon, 30 Nov 2026 10:00:00 +0000\n"
    )
    for count in (1, 2, 10, 30, 50, 98, 99, 100, 150):
        yield f"{count}", b"".join(line % number for number in range(count)) + whole(BODY)
    yield "in-the-body", whole(b"".join(line % number for number in range(150)))


def large():
    for size in (100_000, 1_000_000, 5_000_000):
        yield (
            f"text-of-{size}",
            whole(
                (b"The quick brown fox jumps over the lazy dog. " * 2)[:76] + b"\n" + (b"x" * 76 + b"\n") * (size // 77)
            ),
        )
    yield "a-hundred-thousand-empty-lines", whole(b"\n" * 100_000)
    yield "a-hundred-thousand-short-lines", whole(b"x\n" * 100_000)
