"""The header of a mail that is being delivered: what is added in front of it, and the two questions asked of it.

    Return-Path: <sender>         not for the null sender
    Delivered-To: recipient       a later delivery to the same address finds it: a loop
    (the mail as it was stored)

Looks at the header block only, and no further than HEADER_MAX into it; understands no other field and no MIME.
"""

import re

HEADER_MAX = 64 * 1024  # bytes that are searched

_FOLD = rb"(?:[ \t]|\r?\n[ \t])*"
_DELIVERED_TO = re.compile(rb"^delivered-to:" + _FOLD + rb"([^\r\n]*)", re.MULTILINE)
_JUNK = re.compile(rb"^x-spam(?:-flag)?:" + _FOLD + rb"yes\b", re.MULTILINE)

# Also what ends a line for a reader that takes the mail for text: NEL and its like.
_CONTROLS = {code: "?" for code in (*range(32), *range(127, 160), 0x2028, 0x2029)}


def added_lines(sender: str, recipient: str) -> bytes:
    """The lines in front of the mail; an empty address leaves its line out.  Nothing in one begins another line."""
    path = f"Return-Path: <{sender.translate(_CONTROLS)}>\n" if sender else ""
    delivered = f"Delivered-To: {recipient.translate(_CONTROLS)}\n" if recipient else ""
    return (path + delivered).encode(errors="replace")


def header_of(start: bytes) -> bytes:
    """The header block at the start of a mail, in lower case, without the empty line that ends it."""
    start = start[:HEADER_MAX]
    if start.startswith((b"\n", b"\r\n")):
        return b""
    ends = [end for end in (start.find(b"\n\n"), start.find(b"\n\r\n")) if end >= 0]
    return start[: min(ends, default=len(start))].lower()


def was_delivered_to(header: bytes, address: str) -> bool:
    """True when the mail has passed a delivery to `address` before (as the reference: case does not matter)."""
    if b"delivered-to:" not in header:
        return False
    wanted = address.lower().encode(errors="replace")
    return any(value.strip().strip(b"<>").lower() == wanted for value in _DELIVERED_TO.findall(header))


def is_junk(header: bytes) -> bool:
    """True when a filter on the way here wrote X-Spam: yes, or X-Spam-Flag: yes."""
    return b"x-spam" in header and bool(_JUNK.search(header))
