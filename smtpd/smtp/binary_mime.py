"""BODY=BINARYMIME: content with binary parts becomes text as it comes in; bytes in, LF line ends out, in bulk.

    a part says                     and holds                                           it is kept as
    binary                          only lines with CRLF, of 998 bytes at most,         8bit, with LF line ends
                                    and is not longer than HELD_MAX
    binary                          anything else                                       base64
    7bit, 8bit, nothing             a NUL in its first HELD_MAX bytes                   base64
    7bit, 8bit, nothing             no NUL                                              text, as it is (line_ending.py)
    base64, quoted-printable, ...   no NUL                                              text, as it is
    multipart, message/rfc822       parts                                               these; "binary" becomes 8bit
    anything else with a NUL                                                            ConversionError

RFC 3030 3 lets a gateway change the encoding of a part; its decoded content is the same, octet for octet.  So no store
and no server that the message goes to has to know binary content, and all that is kept has LF line ends.  The cost: a
signature over content that is encoded here is not valid any more (RFC 6376 5.3 has signers expect that).

    HEADER --empty line--> HOLD --part ends, or HELD_MAX --> TEXT | BASE64 --delimiter line--> HEADER of the next part
       ^                                                                    --the closing one--> TEXT around the parts
       +-- a message in the message

A part is ended by a delimiter line of any multipart around it, with CRLF or LF.  Bounded are the bytes that are held of
a part, a header, the depth and the number of parts.
"""

import binascii
import re
from enum import Enum
from typing import NamedTuple

from smtpd.header.mime import BOUNDARY_MAX, IDENTITY, MESSAGES, describe, with_encoding
from smtpd.smtp.line_ending import LineEnds, LineLength, TextError

HELD_MAX = 64 * 1024  # bytes of a part that are looked at before it is decided what becomes of it
HEADER_MAX = 256 * 1024  # bytes of a header
DEPTH = 10  # multiparts around a part; what is deeper is text
PARTS_MAX = 1000  # of a message; each takes the time of some kilobytes of text,
MULTIPARTS_MAX = 100  # of a message; each takes the time of some hundred kilobytes
LINE_MAX = 998  # RFC 2045 2.8: what 8bit may have in a line

_PADDING = 64  # blanks after a delimiter (RFC 2046 5.1.1)
_DELIMITER_MAX = 2 + 2 + BOUNDARY_MAX + 2 + _PADDING + 2
_GROUP = 57  # bytes that make a line of base64
_WIDTH = 76

_EMPTY_LINE = re.compile(rb"\n\r?\n")
_LONG = re.compile(rb"^[^\n]{%d}" % (LINE_MAX + 2), re.MULTILINE)  # with its CR
_STRAY = re.compile(rb"\r(?!\n)")


class ConversionError(TextError):
    """The content cannot be made text; the argument says why."""


class ConverterState(Enum):
    HEADER = "in the header of a message or a part"
    HOLD = "at the beginning of a part"
    TEXT = "in text"
    BASE64 = "in bytes that are encoded"


class Multipart(NamedTuple):
    """`at_start` and `behind` find the delimiters of this one and of those around it: at the beginning of the data, and
    after the end of another line."""

    boundary: bytes
    default: bytes  # the kind of parts without Content-Type (RFC 2046 5.1.5)
    at_start: re.Pattern[bytes]
    behind: re.Pattern[bytes]


class Delimiter(NamedTuple):
    start: int  # where the line end before it begins, which belongs to it
    line: int  # where its own line begins
    end: int  # after that line
    boundary: bytes
    closing: bool


class BinaryMimeConverter:
    """Holds a header, the beginning of a part, the beginning of a delimiter, or part of a line."""

    def __init__(self) -> None:
        self._state = ConverterState.HEADER
        self._raw = b""  # received, and not decided yet
        self._searched = 0  # bytes of it that hold neither the end of a header nor a delimiter
        self._at_start = True  # _raw begins a line
        self._ended_line = True  # the last bytes that were given out end a line
        self._around: list[Multipart] = []
        self._parts = self._multiparts = 0
        self._of_message = True  # the header is that of a message: MIME-Version stands in it
        self._header = self._encoding = b""  # of the part that is held
        self._encodable = False
        self._held: list[bytes] = []
        self._size = 0  # of that
        self._ends = LineEnds()
        self._lines = LineLength()
        self._rest = b""  # too little for a line of base64

    def take(self, data: bytes) -> bytes:
        """The content that is decided now.  Raises TextError."""
        self._raw += data
        return self._proceed(final=False)

    def end(self) -> bytes:
        """The rest; the last line gets its end."""
        content = self._proceed(final=True)
        if self._state is ConverterState.HEADER:
            if _STRAY.search(self._raw):
                raise TextError("The lines of the header end with a bare <CR>")
            content += self._give(_header_text(self._raw))
        else:
            content += self._take_content(self._raw) + self._end_content()
        return content if self._ended_line else content + b"\n"

    def _proceed(self, *, final: bool) -> bytes:
        given: list[bytes] = []
        while (self._step_in_header if self._state is ConverterState.HEADER else self._step_in_content)(given, final):
            pass
        return b"".join(given)

    def _step_in_header(self, given: list[bytes], final: bool) -> bool:
        """Whether there is more to do with what has been received."""
        found, end = self._find_delimiter(final), _end_of_header(self._raw, self._searched)
        if found and (not end or found.line < end):  # a part without an empty line, and so without content
            self._check_header(found.start)
            given.append(self._give(_header_text(self._take_raw(found.start))))
            given.append(self._pass(found))
        elif end:
            self._check_header(end)
            given.append(self._begin_content(_header_text(self._take_raw(end))[:-1]))
        else:
            self._check_header(len(self._raw))
            self._searched = max(len(self._raw) - _DELIMITER_MAX, 0)
            return False
        return True

    def _step_in_content(self, given: list[bytes], final: bool) -> bool:
        found = self._find_delimiter(final)
        given.append(self._take_content(self._take_raw(found.start if found else self._certain())))
        if found:
            given.append(self._end_content())
            given.append(self._pass(found))
        return found is not None

    def _check_header(self, size: int) -> None:
        if size > HEADER_MAX:
            raise TextError("Header of a message or part too long")

    def _take_raw(self, size: int) -> bytes:
        taken, self._raw, self._searched = self._raw[:size], self._raw[size:], 0
        if taken:
            self._at_start = taken.endswith(b"\n")
        return taken

    def _give(self, content: bytes) -> bytes:
        if content:
            self._ended_line = content.endswith(b"\n")
        return content

    # -- delimiters end a part -------------------------------------------------------------------------------

    def _find_delimiter(self, final: bool) -> Delimiter | None:
        """`final`: the end of the content is the end of its line."""
        if not self._around:
            return None
        raw, inner = self._raw, self._around[-1]
        found = inner.at_start.match(raw) if self._at_start else None
        line = 0
        if not found:
            found = inner.behind.search(raw, self._searched)
            line = found.start() + 1 if found else 0
        if not found or not (final or found[0].endswith(b"\n")):
            return None
        start = line - 2 if raw.endswith(b"\r\n", 0, line) else max(line - 1, 0)
        return Delimiter(start, line, found.end(), found[1], bool(found[2]))

    def _certain(self) -> int:
        """How many of the bytes are no part of a delimiter, whatever comes next."""
        raw = self._raw
        if not self._around:
            return len(raw)
        end = raw.rfind(b"\n", max(len(raw) - _DELIMITER_MAX, 0))
        if end >= 0:
            return end - raw.endswith(b"\r", 0, end)
        if self._at_start and len(raw) <= _DELIMITER_MAX:
            return 0
        return len(raw) - raw.endswith(b"\r")

    def _pass(self, found: Delimiter) -> bytes:
        """Take the delimiter; everything before it has been taken."""
        line = self._take_raw(found.end - found.start)[found.line - found.start :].rstrip(b"\r\n")
        wants_end = found.line > found.start and self._state is not ConverterState.BASE64
        while self._around[-1].boundary != found.boundary:
            self._around.pop()
        if found.closing:
            self._around.pop()
            self._begin_text()
        else:
            self._begin_header(of_message=False)
        return self._give((b"\n" if wants_end or not self._ended_line else b"") + line + b"\n")

    # -- a header, and the content that it describes -----------------------------------------------------------------

    def _begin_header(self, *, of_message: bool) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise ConversionError("Too many parts")
        self._state, self._of_message = ConverterState.HEADER, of_message

    def _begin_content(self, header: bytes) -> bytes:
        said = describe(header)
        kind = said.kind or (self._around[-1].default if self._around and not self._of_message else b"")
        plain = said.encoding in IDENTITY
        if plain and kind.startswith(b"multipart/") and said.boundary and len(self._around) < DEPTH:
            self._enter(said.boundary, MESSAGES[0] if kind == b"multipart/digest" else b"")
            self._begin_text()
        elif plain and kind in MESSAGES:
            self._begin_header(of_message=True)
        else:
            self._header, self._encoding = header, said.encoding
            self._encodable = plain and not kind.startswith(b"multipart/")
            self._state, self._held, self._size = ConverterState.HOLD, [], 0
            return b""
        return self._give((with_encoding(header, b"8bit") if said.encoding == b"binary" else header) + b"\n")

    def _enter(self, boundary: bytes, default: bytes) -> None:
        self._multiparts += 1
        if self._multiparts > MULTIPARTS_MAX:
            raise ConversionError("Too many multiparts")
        around = (boundary, *(one.boundary for one in reversed(self._around)))
        line = rb"--(%b)(--)?+[ \t]{0,%d}+\r?(?:\n|\Z)" % (b"|".join(map(re.escape, around)), _PADDING)
        self._around.append(Multipart(boundary, default, re.compile(line), re.compile(rb"\n" + line)))

    # -- content ------------------------------------------------------------------------------------------------------

    def _take_content(self, content: bytes) -> bytes:
        if self._state is ConverterState.TEXT:
            return self._give(self._as_text(self._ends.take(content)))
        if self._state is ConverterState.BASE64:
            return self._give(self._as_base64(content))
        self._held.append(content)
        self._size += len(content)
        return self._decide(ended=False) if self._size > HELD_MAX else b""

    def _end_content(self) -> bytes:
        given = self._decide(ended=True) if self._state is ConverterState.HOLD else b""
        if self._state is ConverterState.TEXT:
            return given + self._give(self._as_text(self._ends.end()))
        rest, self._rest = self._rest, b""
        return given + self._give(binascii.b2a_base64(rest) if rest else b"")

    def _decide(self, *, ended: bool) -> bytes:
        """Decide what becomes of the part that is held."""
        content, self._held = b"".join(self._held), []
        is_binary = self._encoding == b"binary"
        is_text = ended and _is_lines(content) if is_binary else b"\0" not in content[:HELD_MAX]
        if is_text or not self._encodable:
            self._begin_text()
            header = with_encoding(self._header, b"8bit") if is_binary else self._header
        else:
            self._state = ConverterState.BASE64
            header = with_encoding(self._header, b"base64", version=self._of_message)
        return self._give(header + b"\n") + self._take_content(content)

    def _begin_text(self) -> None:
        self._state, self._ends, self._lines = ConverterState.TEXT, LineEnds(), LineLength()

    def _as_text(self, content: bytes) -> bytes:
        if b"\0" in content:
            raise ConversionError("Binary content in a part that does not say so")
        content = content.replace(b"\r", b"\n")
        self._lines.check(content)
        return content

    def _as_base64(self, content: bytes) -> bytes:
        content = self._rest + content
        cut = len(content) - len(content) % _GROUP
        self._rest = content[cut:]
        return base64_lines(content[:cut])


def base64_lines(content: bytes) -> bytes:
    """As many bytes as make whole lines.  A column of all of them is written at a time."""
    text = binascii.b2a_base64(content, newline=False)
    lines = bytearray(b"\n") * (len(text) + len(text) // _WIDTH)
    for column in range(_WIDTH):
        lines[column :: _WIDTH + 1] = text[column::_WIDTH]
    return bytes(lines)


def _end_of_header(raw: bytes, searched: int) -> int:
    """The place after the empty line; 0 when there is none.  The first `searched` bytes are before it."""
    if raw.startswith((b"\n", b"\r\n")):
        return raw.index(b"\n") + 1
    found = _EMPTY_LINE.search(raw, searched)
    return found.end() if found else 0


def _header_text(raw: bytes) -> bytes:
    """As of any message in chunks (line_ending.py)."""
    if b"\0" in raw:
        raise TextError("NUL received")
    return raw.replace(b"\r\n", b"\n").replace(b"\r", b" ")


def _is_lines(content: bytes) -> bool:
    """Whether it is text in the sense of 8bit (RFC 2045 2.8), but for LF line ends."""
    count = content.count(b"\r\n")
    return b"\0" not in content and content.count(b"\r") == count == content.count(b"\n") and not _LONG.search(content)
