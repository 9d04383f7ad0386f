"""Header fields of a final delivery: Return-Path and Delivered-To are added, old Return-Paths removed, loops found.

    Return-Path: <sender>         always, `<>` for the null sender; not for an LMTP server, which adds its own
    Delivered-To: recipient       a later delivery to the same address finds it: a loop
    (the stored mail)             without the Return-Path fields of its header (RFC 5321 4.4)

Reads only the header: to find a loop or a spam mark its first HEADER_MAX bytes, to remove Return-Path up to BLOCK_MAX.
Knows no other field and no MIME.
"""

import re
from collections.abc import Iterable, Iterator

HEADER_MAX = 64 * 1024  # bytes that are searched
BLOCK_MAX = 2 * 1024 * 1024  # bytes of a header that Return-Path is removed from; larger than SMTP accepts

_FOLD = rb"(?:[ \t]|\r?\n[ \t])*"
_DELIVERED_TO = re.compile(rb"^delivered-to:" + _FOLD + rb"([^\r\n]*)", re.MULTILINE)
_RETURN_PATH = re.compile(rb"^return-path[ \t]*+:[^\n]*+(?:\n[ \t][^\n]*+)*+(?:\n|\Z)", re.MULTILINE | re.IGNORECASE)
_JUNK = re.compile(rb"^x-spam(?:-flag)?:" + _FOLD + rb"yes\b", re.MULTILINE)

# Includes what ends a line in Unicode text: NEL, LINE SEPARATOR, PARAGRAPH SEPARATOR.
_CONTROLS = {code: "?" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


def added_lines(sender: str, recipient: str) -> bytes:
    """Return-Path and Delivered-To, to be put in front of the mail.  No address can begin another line."""
    return f"Return-Path: <{sender.translate(_CONTROLS)}>\n".encode(errors="replace") + delivered_to(recipient)


def delivered_to(recipient: str) -> bytes:
    """The Delivered-To line; empty for an empty address."""
    return f"Delivered-To: {recipient.translate(_CONTROLS)}\n".encode(errors="replace") if recipient else b""


def delivered(lines: bytes, content: Iterable[bytes]) -> Iterator[bytes]:
    """The mail as it is delivered, piece by piece: `lines` first, and no other Return-Path."""
    pieces = iter(content)
    block, end = b"", -1
    for piece in pieces:
        block += piece
        end = _end_of_header(block)
        if end >= 0 or len(block) > BLOCK_MAX:
            break
    header = block[:end] if end >= 0 else block
    if b"return-path" in header.lower():
        block = _RETURN_PATH.sub(b"", header) + block[len(header) :]
    yield lines + block
    yield from pieces


def header_of(start: bytes) -> bytes:
    """The header block at the start of a mail, in lower case, without the empty line that ends it."""
    start = start[:HEADER_MAX]
    end = _end_of_header(start)
    return start[: max(end - 1, 0)].lower() if end >= 0 else start.lower()


def _end_of_header(start: bytes) -> int:
    """Where the empty line stands that ends the header; -1 when there is none."""
    if start.startswith((b"\n", b"\r\n")):
        return 0
    end = start.find(b"\n\n")
    earlier = start.find(b"\n\r\n", 0, end + 1 if end >= 0 else len(start))  # they may share a line end
    if earlier >= 0:
        return earlier + 1
    return end + 1 if end >= 0 else -1


def was_delivered_to(header: bytes, address: str) -> bool:
    """True if the mail has been delivered to `address` before; case does not matter, as in OpenSMTPD."""
    if b"delivered-to:" not in header:
        return False
    wanted = address.lower().encode(errors="replace")
    return any(value.strip().strip(b"<>").lower() == wanted for value in _DELIVERED_TO.findall(header))


def is_junk(header: bytes) -> bool:
    """True if the header has X-Spam: yes or X-Spam-Flag: yes."""
    return b"x-spam" in header and bool(_JUNK.search(header))
