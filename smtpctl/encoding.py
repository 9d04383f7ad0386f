"""What SMTP cannot carry as it is: lines that are too long, and names that are not ASCII.

A body with long lines becomes quoted-printable, unless the mail says how it is encoded, or has parts of its own.
"""

import binascii
import codecs
import re

from smtpctl.letter import PIECE

TYPE_CHECKING = False  # see letter.py
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

MAX_WORD = 75  # characters; RFC 2047 2

_NAME = re.compile(rb"^([!-9;-~]+)[\t ]*:", re.MULTILINE)  # RFC 5322 2.2
_WITH_PARTS = re.compile(rb"^content-type[\t ]*:[\t\n ]*(?:multipart|message)/", re.MULTILINE | re.IGNORECASE)
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")  # RFC 2047 5 (3)


def encoded(header: bytes, body: "BinaryIO") -> "tuple[bytes, Iterator[bytes]]":
    """The header with the fields that say so, and the body."""
    names = {found[1].lower() for found in _NAME.finditer(header)}
    if b"content-transfer-encoding" in names or _WITH_PARTS.search(header):  # RFC 2045 6.4
        return header, _as_it_is(body)
    made = [] if b"mime-version" in names else [b"MIME-Version: 1.0\n"]
    if b"content-type" not in names:
        made.append(b"Content-Type: text/plain; charset=%b\n" % _charset(body))
    return b"".join([*made, b"Content-Transfer-Encoding: quoted-printable\n", header]), quoted(body)


def _as_it_is(body: "BinaryIO") -> "Iterator[bytes]":
    body.seek(0)
    while piece := body.read(PIECE):
        yield piece


def _charset(body: "BinaryIO") -> bytes:
    body.seek(0)
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_ascii = True
    try:
        while piece := body.read(PIECE):
            decoder.decode(piece)
            is_ascii = is_ascii and piece.isascii()
    except UnicodeDecodeError:
        return b"unknown-8bit"  # RFC 1428
    return b"us-ascii" if is_ascii else b"utf-8"


def quoted(body: "BinaryIO") -> "Iterator[bytes]":
    """RFC 2045 6.7.  A long line comes in several pieces, with a soft line break between them."""
    body.seek(0)
    while piece := body.readline(PIECE):
        text = piece.removesuffix(b"\n")
        yield binascii.b2a_qp(text) + (b"\n" if piece.endswith(b"\n") else b"=\n" if len(piece) == PIECE else b"")


def encoded_words(text: str) -> str:
    """As encoded words in UTF-8 (RFC 2047), a line each, in the shorter of the two encodings."""
    octets = text.encode()
    base64 = 4 * ((len(octets) + 2) // 3) < sum(1 if octet in _PLAIN or octet == 32 else 3 for octet in octets)
    encode = _base64 if base64 else _quoted
    words, rest = [], text
    while rest:
        length = len(rest)
        while len(word := encode(rest[:length])) > MAX_WORD:
            length = min(length - 1, MAX_WORD)
        words.append(word)
        rest = rest[length:]
    return "\n ".join(words)


def _base64(text: str) -> str:
    return f"=?utf-8?b?{binascii.b2a_base64(text.encode(), newline=False).decode()}?="


def _quoted(text: str) -> str:
    marks = (chr(octet) if octet in _PLAIN else "_" if octet == 32 else f"={octet:02X}" for octet in text.encode())
    return f"=?utf-8?q?{''.join(marks)}?="
