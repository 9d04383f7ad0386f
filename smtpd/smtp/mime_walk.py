"""The parts of a MIME message while it streams by: bytes in, what a subclass makes of them out, in bulk.

    HEADER --empty line--> CONTENT --delimiter line--> HEADER of the next part
       ^                           --the closing one--> CONTENT around the parts
       +-- a message in the message

    BinaryMimeConverter   binary_mime.py      binary parts become text
    ContentInspector      content_facts.py    where there are bytes beyond ASCII
    SevenBitConverter     seven_bit.py        such parts become ASCII

A part is ended by a delimiter line of any multipart around it, with CRLF or LF.  Bounded are the bytes that are held of
a header and of a delimiter, the depth and the number of parts.
"""

import re
from typing import NamedTuple

from smtpd.header.mime import BOUNDARY_MAX, IDENTITY, MESSAGES, Description, describe
from smtpd.smtp.line_ending import TextError

HEADER_MAX = 256 * 1024  # bytes of a header
DEPTH = 10  # multiparts around a part; what is deeper is text
PARTS_MAX = 1000  # of a message; each takes the time of some kilobytes of text,
MULTIPARTS_MAX = 100  # of a message; each takes the time of some hundred kilobytes

_PADDING = 64  # blanks after a delimiter (RFC 2046 5.1.1)
_DELIMITER_MAX = 2 + 2 + BOUNDARY_MAX + 2 + _PADDING + 2

_EMPTY_LINE = re.compile(rb"\n\r?\n")
_STRAY = re.compile(rb"\r(?!\n)")


class ConversionError(TextError):
    """The content cannot be made text; the argument says why."""


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


class MimeWalker:
    """Holds a header, or the beginning of a delimiter; a subclass may hold more.

    A subclass says what becomes of a header, of the content of a part, and of the text around parts.
    """

    def __init__(self) -> None:
        self._in_header = True
        self._raw = b""  # received, and not decided yet
        self._searched = 0  # bytes of it that hold neither the end of a header nor a delimiter
        self._at_start = True  # _raw begins a line
        self._ended_line = True  # the last bytes that were given out end a line
        self._around: list[Multipart] = []
        self._parts = self._multiparts = 0
        self._of_message = True  # the header is that of a message: MIME-Version stands in it

    def take(self, data: bytes) -> bytes:
        """The content that is decided now.  Raises TextError."""
        self._raw += data
        return self._proceed(final=False)

    def end(self) -> bytes:
        """The rest; the last line gets its end."""
        content = self._proceed(final=True)
        if self._in_header:
            if _STRAY.search(self._raw):
                raise TextError("The lines of the header end with a bare <CR>")
            content += self._give(self._pass_header(_header_text(self._raw)))
        else:
            content += self._take_content(self._raw) + self._end_content()
        return content if self._ended_line else content + b"\n"

    # -- for a subclass -------------------------------------------------------------------------------------

    def _pass_header(self, header: bytes) -> bytes:
        """A header without a content."""
        return header

    def _enter_container(self, header: bytes, said: Description) -> bytes:
        """The header of a multipart, or of a message in the message."""
        return header

    def _begin_part(self, header: bytes, said: Description) -> bytes:
        """The content of a part follows.  What is given out now."""
        raise NotImplementedError

    def _begin_text(self) -> None:
        """The text before or behind the parts of a multipart follows."""
        raise NotImplementedError

    def _take_content(self, content: bytes) -> bytes:
        raise NotImplementedError

    def _end_content(self) -> bytes:
        raise NotImplementedError

    def _keeps_line_end(self) -> bool:
        """Whether the line end before a delimiter is given out, as it was received."""
        return True

    # -- the way through the message ------------------------------------------------------------------------

    def _proceed(self, *, final: bool) -> bytes:
        given: list[bytes] = []
        while (self._step_in_header if self._in_header else self._step_in_content)(given, final):
            pass
        return b"".join(given)

    def _step_in_header(self, given: list[bytes], final: bool) -> bool:
        """Whether there is more to do with what has been received."""
        found, end = self._find_delimiter(final), _end_of_header(self._raw, self._searched)
        if found and (not end or found.line < end):  # a part without an empty line, and so without content
            self._check_header(found.start)
            given.append(self._give(self._pass_header(_header_text(self._take_raw(found.start)))))
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
        wants_end = found.line > found.start and (self._in_header or self._keeps_line_end())
        while self._around[-1].boundary != found.boundary:
            self._around.pop()
        if found.closing:
            self._around.pop()
            self._in_header = False
            self._begin_text()
        else:
            self._begin_header(of_message=False)
        return self._give((b"\n" if wants_end or not self._ended_line else b"") + line + b"\n")

    # -- a header, and the content that it describes -----------------------------------------------------------------

    def _begin_header(self, *, of_message: bool) -> None:
        self._parts += 1
        if self._parts > PARTS_MAX:
            raise ConversionError("Too many parts")
        self._in_header, self._of_message = True, of_message

    def _begin_content(self, header: bytes) -> bytes:
        said = describe(header)
        if not said.kind and self._around and not self._of_message:
            said = said._replace(kind=self._around[-1].default)
        plain = said.encoding in IDENTITY
        if plain and said.kind in MESSAGES:
            self._begin_header(of_message=True)
        elif plain and said.kind.startswith(b"multipart/") and said.boundary and len(self._around) < DEPTH:
            self._enter(said.boundary, MESSAGES[0] if said.kind == b"multipart/digest" else b"")
            self._in_header = False
            self._begin_text()
        else:
            self._in_header = False
            return self._begin_part(header, said)
        return self._give(self._enter_container(header, said) + b"\n")

    def _enter(self, boundary: bytes, default: bytes) -> None:
        self._multiparts += 1
        if self._multiparts > MULTIPARTS_MAX:
            raise ConversionError("Too many multiparts")
        around = (boundary, *(one.boundary for one in reversed(self._around)))
        line = rb"--(%b)(--)?+[ \t]{0,%d}+\r?(?:\n|\Z)" % (b"|".join(map(re.escape, around)), _PADDING)
        self._around.append(Multipart(boundary, default, re.compile(line), re.compile(rb"\n" + line)))


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
