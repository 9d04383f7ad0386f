"""The header of a message on its way in: checked and completed, in pieces of any size.

    a line                                verdict
    Subject: hello                        a field
    <blank or tab>more of the same        continues the field above; malformed as the very first line, which would
                                          otherwise continue the trace line that is put on top
    no colon                              malformed
    a name of 1024 bytes or more          malformed
    a value of 65536 bytes or more        malformed; that of To, Cc and From unfolded, of others each line of it
    Received: ..., for the 100th time     a loop (RFC 5321 6.3)
    To, Cc, From, Bcc 1001 times          too large
    (empty)                               the end: nothing behind it is looked at

    a field             is
    Bcc                 removed (RFC 5322 3.6.3)
    To, Cc, From        completed: a local part alone gets the server's domain (header/address_list.py)
    From                replaced, where the user may write under one address only
    Date, Message-ID    added after the others if missing, where that is asked for (RFC 6409 8.2, 8.3)

All other bytes stay as they are, Resent- fields too.  A message without a header, or an empty one, passes.  Not
understood: MIME, and the body.
"""

import re
from enum import Enum
from typing import NamedTuple

from smtpd.header import address_list
from smtpd.header.received import date as date_text

MAX_RECEIVED = 99
MAX_NAME = 1023  # bytes
MAX_VALUE = 65535  # bytes
FIELD_LINE_MAX = MAX_NAME + 1 + MAX_VALUE
MAX_BLOCK = 1024 * 1024  # bytes, as it came
MAX_FIELDS = 1000  # of To, Cc, From and Bcc: each takes the time of a kilobyte of any other field
MAX_MENDED = 8 * 1024  # bytes of address lists that are parsed, in 50 ms; the rest stays as it is

_LINES = re.compile(rb"(?:(?:[\t ]|[^\n:\t ][^\n:]{0,%d}+:)[^\n]{0,%d}+\n)*+" % (MAX_NAME - 1, MAX_VALUE))
# Below, the line end comes before its line: so a field is removed with the match.
_CONTINUATION = re.compile(rb"(?:\n[\t ][^\n]*+)*+")
_FIELD = re.compile(rb"(\n(to|cc|from|bcc)[\t ]*+:)([^\n]*+%b)" % _CONTINUATION.pattern, re.IGNORECASE)
_DATE = re.compile(rb"\ndate[\t ]*+:", re.IGNORECASE)
_MESSAGE_ID = re.compile(rb"\nmessage-id[\t ]*+:", re.IGNORECASE)


class HeaderFault(Enum):
    """Why a message cannot be taken: code, enhanced code, text."""

    LOOP = (500, "5.4.6", "Routing loop detected")
    MALFORMED = (550, "5.7.1", "Malformed message header")
    TOO_LARGE = (552, "5.3.4", "Message header too large")


class HeaderEditor:
    """Fed with content (LF line ends) in pieces; how they are cut makes no difference to the result.

    Holds one field at most: To, Cc or From, or the beginning of a line.  With a fault, its output means nothing.

    domain      completes addresses
    masquerade  the only address of From, empty for any
    date        seconds since 1970, for a message without Date; None: none is added
    message_id  without its brackets, for a message without Message-ID; empty: none is added
    """

    __slots__ = (
        "_begun",
        "_date",
        "_domain",
        "_ended",
        "_field",
        "_fields",
        "_held",
        "_malformed",
        "_masquerade",
        "_mended",
        "_message_id",
        "_received",
        "_replaced",
        "_size",
    )

    def __init__(self, *, domain: str, masquerade: str = "", date: int | None = None, message_id: str = ""):
        self._domain = domain
        self._masquerade = masquerade
        self._date = date
        self._message_id = message_id
        self._begun = False  # a line has been seen
        self._ended = False  # the empty line has been seen
        self._held = b""  # the beginning of a line that has no end yet
        self._field: _Field | None = None  # one to complete, that may go on
        self._fields = 0  # that are looked at
        self._malformed = False
        self._replaced = False  # a From, by the masquerade address
        self._received = 0
        self._mended = 0
        self._size = 0

    @property
    def fault(self) -> HeaderFault | None:
        """The verdict on what was fed so far; a fault does not go away with more."""
        if self._malformed:
            return HeaderFault.MALFORMED
        if self._received > MAX_RECEIVED:
            return HeaderFault.LOOP
        return HeaderFault.TOO_LARGE if self._size > MAX_BLOCK or self._fields > MAX_FIELDS else None

    def feed(self, content: bytes) -> bytes:
        """The content that is decided now."""
        if self._ended or self._malformed:
            return content
        block = self._held + content
        lines = self._take_lines(block)
        self._size += len(lines) - len(self._held) if self._ended else len(content)
        edited = self._edit(lines) if lines and not self._malformed else b""
        rest = block[len(lines) :]
        if self._ended:
            self._held = b""
            return b"".join((edited, self._close(), rest))
        self._held = rest
        return edited

    def end(self) -> bytes:
        """The message is over, perhaps in its header.  The rest, and fields that are missing."""
        edited = self.feed(b"\n") if self._held else b""
        if self._ended:
            return edited
        self._ended = True
        return edited + self._close()

    def _take_lines(self, block: bytes) -> bytes:
        """The whole lines of the header that the block begins with."""
        found = _LINES.match(block)
        assert found
        end = found.end()
        self._ended = block.startswith(b"\n", end)
        broken = not self._ended and (block.find(b"\n", end) >= 0 or len(block) - end > FIELD_LINE_MAX)
        if broken or b"\r" in found[0] or not self._begun and found[0].startswith((b" ", b"\t")):
            self._malformed = True
        self._begun = self._begun or end > 0
        return found[0]

    def _edit(self, lines: bytes) -> bytes:
        """The lines, completed; without a field at their end that may go on."""
        text = b"\n" + lines[:-1]
        self._received += text.lower().count(b"\nreceived:")
        self._look_for_missing(text)
        edited: list[bytes] = []
        at = self._go_on(text, edited) if self._field else 0
        for found in _FIELD.finditer(text, at):
            self._fields += 1
            if self._fields > MAX_FIELDS:
                break
            start, name, value = found.groups()
            name = name.lower()
            if found.end() < len(text) and self._may_stay(name, value):
                continue
            edited.append(text[at : found.start()])
            at = found.end()
            self._field = _Field(name, start, bytearray(value))
            if at < len(text):
                edited.append(self._take_field(self._field))
        if not edited and not at:
            return lines
        return _as_lines([*edited, text[at:]])

    def _look_for_missing(self, text: bytes) -> None:
        if self._date is not None and _DATE.search(text):
            self._date = None
        if self._message_id and _MESSAGE_ID.search(text):
            self._message_id = ""

    def _may_stay(self, name: bytes, value: bytes) -> bool:
        """No byte of the field is to be changed."""
        if name == b"bcc" or name == b"from" and self._masquerade:
            return False
        return len(value) <= MAX_VALUE and address_list.is_complete(value)

    def _go_on(self, text: bytes, edited: list[bytes]) -> int:
        """Continue the field that the last piece ended in; returns the length of the continuation."""
        assert self._field
        found = _CONTINUATION.match(text)
        assert found
        if self._field.name != b"bcc":
            self._field.value.extend(found[0])
            self._check_length(self._field.value)
        if found.end() < len(text):
            edited.append(self._take_field(self._field))
        return found.end()

    def _take_field(self, field: "_Field") -> bytes:
        """The complete field, as it goes out."""
        self._field = None
        self._check_length(field.value)
        value = bytes(field.value)
        if field.name == b"bcc":
            return b""
        if field.name == b"from" and self._masquerade:
            return self._replace(field, value)
        if not address_list.is_complete(value) and self._take_time(value):
            value = address_list.complete(value, self._domain.encode())
        return field.start + value

    def _replace(self, field: "_Field", value: bytes) -> bytes:
        """From, with the only address that it may have; a second From is removed (RFC 5322 3.6)."""
        if self._replaced:
            return b""
        self._replaced = True
        return field.start + address_list.masquerade(
            value if self._take_time(value) else b"", self._masquerade.encode()
        )

    def _take_time(self, value: bytes) -> bool:
        """Whether the time for parsing lists is not used up."""
        self._mended += len(value)
        return self._mended <= MAX_MENDED

    def _check_length(self, value: bytearray) -> None:
        if len(value) > MAX_VALUE and len(value) - value.count(b"\n") > MAX_VALUE:
            self._malformed = True

    def _close(self) -> bytes:
        """What follows the last line: the field that it belongs to, and missing fields."""
        fields = [self._take_field(self._field)] if self._field else []
        if self._date is not None:
            fields.append(b"\nDate: " + date_text(self._date).encode())
        if self._message_id:
            fields.append(b"\nMessage-ID: <%b>" % self._message_id.encode())
        return _as_lines(fields)


class _Field(NamedTuple):
    name: bytes  # in small letters
    start: bytes  # as it came: line end, name, colon
    value: bytearray


def _as_lines(fields: list[bytes]) -> bytes:
    """Text with line ends before the lines, with line ends after them."""
    text = b"".join(fields)
    return text[1:] + b"\n" if text else b""
