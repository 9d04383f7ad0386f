"""Re-encoding of content that SMTP cannot carry: NUL, lines that are too long, names that are not ASCII.

    a body, or a part of one, says      and becomes               where it has a NUL, or a line that the server refuses,
    7bit, 8bit, binary                  quoted-printable
    nothing                             quoted-printable          and a mail without parts also for a line over MAX_LINE
    quoted-printable                    the same, written anew
    base64                              the same, written anew    a NUL means nothing there (RFC 2045 6.8)
    anything else, or it is no part     itself, without NUL

    NUL in a header                     the word that it is in as an encoded word (RFC 2047) in Subject, Comments and X-
                                        fields; elsewhere `?`

Each part is encoded for itself, as a multipart cannot be (RFC 2045 6.4), and what can be carried stays as it is.
"""

import binascii
import codecs
import itertools
import re

from smtpctl.mime_part import MimePart, first_part, walk
from smtpctl.raw_mail import MAX_LINE, PIECE
from smtpd.header.mime import IDENTITY, with_encoding
from smtpd.smtp.line_ending import TEXT_LINE_MAX as SERVER_LINE

TYPE_CHECKING = False  # see raw_mail.py
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import BinaryIO

MAX_WORD = 75  # characters; RFC 2047 2
_WIDTH = 76  # of a line of base64

_TYPE = re.compile(rb"^content-type[\t ]*:", re.MULTILINE | re.IGNORECASE)
_FIELD = re.compile(rb"^([^:\n]*+:)([^\n]*+(?:\n[ \t][^\n]*+)*+)", re.MULTILINE)
_UNSTRUCTURED = re.compile(rb"(?:subject|comments|x-[!-9;-~]*)[\t ]*:", re.IGNORECASE)
_WORD = re.compile(rb"(?<![^ \t\n])[^ \t\n\0]*+\0[^ \t\n]*+")  # from its beginning only: a word may be long
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!*+-/")  # RFC 2047 5 (3)
_QUOTED = b"quoted-printable"


def encoded(header: bytes, body: "BinaryIO", longest: int, has_nul: bool) -> "tuple[bytes, Iterator[bytes]]":
    """The header and the body that are sent; `longest` line and `has_nul` are the body's.

    The modules for that are loaded when this returns: the pieces may be read by a process that has given up root."""
    header = mended(header)
    whole = first_part(header)
    is_fit = not has_nul and longest <= SERVER_LINE
    if whole is None:
        return header, _as_it_is(body) if is_fit else _with_parts(header, body)
    if is_fit and (longest <= MAX_LINE or whole.encoding or not whole.is_encodable):
        return header, _as_it_is(body)
    if whole.is_encodable and whole.encoding in IDENTITY:
        if not _TYPE.search(header):
            header += b"Content-Type: text/plain; charset=%b\n" % _charset(body)
        header = with_encoding(header, _QUOTED, version=True)
    return header, _encoded(whole, _lines(body))


def _with_parts(header: bytes, body: "BinaryIO") -> "Iterator[bytes]":
    unfit = {
        part.number
        for part, text, is_header in walk(header, body)
        if part and not is_header and (b"\0" in text or len(text) > SERVER_LINE + 1)
    }
    for (part, is_header), run in itertools.groupby(walk(header, body), lambda found: (found[0], found[2])):
        texts = (text for _, text, _ in run)
        if is_header:
            label = part and part.number in unfit and part.is_encodable and part.encoding in IDENTITY
            for text in map(mended, texts):
                yield with_encoding(text, _QUOTED) if label else text
        elif part and part.number in unfit:
            yield from _encoded(part, texts)
        else:
            yield from map(_without_nul, texts)


def _lines(body: "BinaryIO") -> "Iterator[bytes]":
    """Or pieces of long ones."""
    body.seek(0)
    while line := body.readline(PIECE):
        yield line


def _as_it_is(body: "BinaryIO") -> "Iterator[bytes]":
    body.seek(0)
    while piece := body.read(PIECE):
        yield piece


def _charset(body: "BinaryIO") -> bytes:
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_ascii = True
    try:
        for piece in _as_it_is(body):
            decoder.decode(piece)
            is_ascii = is_ascii and piece.isascii()
    except UnicodeDecodeError:
        return b"unknown-8bit"  # RFC 1428
    return b"us-ascii" if is_ascii else b"utf-8"


# -- bodies ------------------------------------------------------------------------------------


def _encoded(part: MimePart, lines: "Iterable[bytes]") -> "Iterator[bytes]":
    if part.is_encodable and part.encoding in IDENTITY:
        return quoted(lines)
    if part.encoding == _QUOTED:
        return requoted(lines)
    return rewrapped(lines) if part.encoding == b"base64" else map(_without_nul, lines)


def quoted(lines: "Iterable[bytes]") -> "Iterator[bytes]":
    """RFC 2045 6.7.  Where a long line comes in several pieces, there is a soft line break between them."""
    for line in lines:
        text = line.removesuffix(b"\n")
        yield binascii.b2a_qp(text) + (b"\n" if line.endswith(b"\n") else b"=\n" if len(line) == PIECE else b"")


def requoted(lines: "Iterable[bytes]") -> "Iterator[bytes]":
    held = b""  # the beginning of `=41`, where a long line was cut
    for line in lines:
        is_cut = len(line) == PIECE and not line.endswith(b"\n")
        text = held + (line if is_cut else line.rstrip(b" \t\n"))
        held = text[found:] if is_cut and (found := text.find(b"=", max(0, len(text) - 2))) >= 0 else b""
        text = text[: len(text) - len(held)]
        mark = b"=\n" if is_cut or text.endswith(b"=") else b"\n" if line.endswith(b"\n") else b""
        yield binascii.b2a_qp(binascii.a2b_qp(text), istext=False) + mark
    yield held


def rewrapped(lines: "Iterable[bytes]") -> "Iterator[bytes]":
    """Base64: lines of 76 characters, without what is none of them."""
    held = b""
    for line in lines:
        text = held + line.translate(None, b"\0 \t\n")
        end = len(text) - len(text) % _WIDTH
        yield b"".join(text[at : at + _WIDTH] + b"\n" for at in range(0, end, _WIDTH))
        held = text[end:]
    if held:
        yield held + b"\n"


def _without_nul(text: bytes) -> bytes:
    return text.translate(None, b"\0") if b"\0" in text else text


# -- headers -----------------------------------------------------------------------------------


def mended(header: bytes) -> bytes:
    """Without NUL."""
    return _FIELD.sub(_mend, header).replace(b"\0", b"?") if b"\0" in header else header


def _mend(field: "re.Match[bytes]") -> bytes:
    name, value = field.groups()
    if not _UNSTRUCTURED.fullmatch(name):
        return field[0]
    return name + _WORD.sub(lambda word: _encoded_word(word[0]).encode(), value)


def _encoded_word(octets: bytes) -> str:
    try:
        return encoded_words(octets.decode())
    except UnicodeDecodeError:
        return _quoted(octets, "unknown-8bit")


def encoded_words(text: str) -> str:
    """As encoded words in UTF-8 (RFC 2047), a line each, in the shorter of the two encodings."""
    octets = text.encode()
    base64 = 4 * ((len(octets) + 2) // 3) < sum(1 if octet in _PLAIN or octet == 32 else 3 for octet in octets)
    encode = _base64 if base64 else _quoted
    words, rest = [], text
    while rest:
        length = min(len(rest), MAX_WORD)
        while len(word := encode(rest[:length].encode())) > MAX_WORD:
            length -= 1
        words.append(word)
        rest = rest[length:]
    return "\n ".join(words)


def _base64(octets: bytes) -> str:
    return f"=?utf-8?b?{binascii.b2a_base64(octets, newline=False).decode()}?="


def _quoted(octets: bytes, charset: str = "utf-8") -> str:
    marks = (chr(octet) if octet in _PLAIN else "_" if octet == 32 else f"={octet:02X}" for octet in octets)
    return f"=?{charset}?q?{''.join(marks)}?="
