"""The MIME fields of a header (RFC 2045): what kind of content follows, and how it is encoded.

    header         b"Content-Type: multipart/mixed; boundary=x\n"
    describe       Description(kind=b"multipart/mixed", boundary=b"x", encoding=b"")
    with_encoding  the header with another Content-Transfer-Encoding, and MIME-Version where a message has none

A header is text with LF line ends, each line with its end, without the empty line.  Of several fields of one name the
first counts.  Not understood: parameters in several pieces or another character set (RFC 2231), comments in a boundary.
"""

import re
from typing import NamedTuple

BOUNDARY_MAX = 128  # bytes; RFC 2046 5.1.1 allows 70
IDENTITY = (b"", b"7bit", b"8bit", b"binary")  # encodings without a transformation; empty: 7bit (RFC 2045 6.1)
MESSAGES = (b"message/rfc822", b"message/global")  # kinds whose content is a message (RFC 2046 5.2.1, RFC 6532 3.7)

_FOLDED = rb"[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)\n?"
_TYPE = re.compile(rb"^content-type" + _FOLDED, re.MULTILINE | re.IGNORECASE)
_ENCODING = re.compile(rb"^content-transfer-encoding" + _FOLDED, re.MULTILINE | re.IGNORECASE)
_VERSION = re.compile(rb"^mime-version[ \t]*+:", re.MULTILINE | re.IGNORECASE)
_KIND = re.compile(rb"\s*+([!#-'*+.0-9A-Z^_`a-z{|}~-]++\s*+/\s*+[!#-'*+.0-9A-Z^_`a-z{|}~-]++)")
_PARAMETER = re.compile(rb';\s*+([^=\s;"]++)\s*+=\s*+("(?:[^"\\]|\\.)*+"|[^\s;"]++)', re.DOTALL)
_PAIR = re.compile(rb"\\(.)", re.DOTALL)
_WORD = re.compile(rb"\s*+([^\s;(]++)")


class Description(NamedTuple):
    """In lower case, except the boundary; empty where the header has none."""

    kind: bytes  # type/subtype
    boundary: bytes
    encoding: bytes


def describe(header: bytes) -> Description:
    encoding = _ENCODING.search(header)
    word = _WORD.match(encoding[1]) if encoding else None
    kind, boundary = _kind_of(header)
    return Description(kind, boundary, word[1].lower() if word else b"")


def with_encoding(header: bytes, encoding: bytes, *, version: bool = False) -> bytes:
    """With this Content-Transfer-Encoding only.  `version`: also with MIME-Version, without which it means nothing."""
    fields = _ENCODING.sub(b"", header)
    if fields and not fields.endswith(b"\n"):
        fields += b"\n"
    if version and not _VERSION.search(header):
        fields += b"MIME-Version: 1.0\n"
    return fields + b"Content-Transfer-Encoding: " + encoding + b"\n"


def _kind_of(header: bytes) -> tuple[bytes, bytes]:
    field = _TYPE.search(header)
    kind = _KIND.match(field[1]) if field else None
    if field is None or kind is None:
        return b"", b""
    for name, value in _PARAMETER.findall(field[1], kind.end()):
        if name.lower() == b"boundary":
            plain = _PAIR.sub(rb"\1", value[1:-1]) if value.startswith(b'"') else value
            plain = plain.replace(b"\n", b"").rstrip(b" \t")
            return b"".join(kind[1].split()).lower(), plain if len(plain) <= BOUNDARY_MAX else b""
    return b"".join(kind[1].split()).lower(), b""
