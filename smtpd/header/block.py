"""Check of the header block of a message while it comes in.

    a line                                verdict
    Subject: hello                        a field
    <blank or tab>more of the same        continues the field above; malformed as the very first line, which would
                                          otherwise continue the trace line that is put on top
    no colon                              malformed
    a name of 1024 bytes or more          malformed
    Received: …, for the 100th time       a loop (RFC 5321 6.3)
    (empty)                               the end: nothing behind it is looked at

A message without any header, or without anything at all, is none of our business and passes.  Values of fields are not
looked at.
"""

import re
from enum import Enum

MAX_RECEIVED = 99
MAX_NAME = 1023  # bytes
MAX_BLOCK = 1024 * 1024  # bytes

_LINES = re.compile(rb"(?:(?:[\t ]|[^\n:\t ][^\n:]{0,%d}+:)[^\n]*+\n)*+" % (MAX_NAME - 1))


class Fault(Enum):
    """Why a message cannot be taken: code, enhanced code, text."""

    LOOP = (500, "5.4.6", "Routing loop detected")
    MALFORMED = (550, "5.7.1", "Malformed message header")
    TOO_LARGE = (552, "5.3.4", "Message header too large")


class HeaderCheck:
    """Fed with content (LF line ends) in pieces of any size, which make no difference to the verdict.

    ended   the block is over, no more need be fed
    """

    __slots__ = ("_begun", "_held", "_malformed", "_received", "_size", "ended")

    def __init__(self) -> None:
        self.ended = False
        self._begun = False  # a line has been seen
        self._held = b""  # the beginning of a line that has no end yet
        self._malformed = False
        self._received = 0
        self._size = 0

    @property
    def fault(self) -> Fault | None:
        """The verdict on what was fed so far; a fault does not go away with more."""
        if self._malformed:
            return Fault.MALFORMED
        if self._received > MAX_RECEIVED:
            return Fault.LOOP
        return Fault.TOO_LARGE if self._size > MAX_BLOCK else None

    def feed(self, content: bytes) -> None:
        if self.ended or not content:
            return
        lines = self._complete_lines(content)
        if not lines:
            return
        if not self._begun and lines.startswith((b" ", b"\t")) or not _LINES.fullmatch(lines):
            self._malformed = True
        self._begun = True
        self._received += _count_received(lines)

    def _complete_lines(self, content: bytes) -> bytes:
        """The whole lines of the block that are there now; notes where it ends."""
        block = self._held + content
        end = _find_end(block)
        self.ended = end >= 0
        self._size += end - len(self._held) if self.ended else len(content)
        if not self.ended:
            end = block.rfind(b"\n") + 1
        # what a line is shows in its beginning, so of an endless one no more is held
        self._held = block[end : end + MAX_NAME + 1]
        return block[:end]


def _find_end(block: bytes) -> int:
    """Where the empty line stands in a block that begins with a line; -1 for nowhere."""
    if block.startswith(b"\n"):
        return 0
    before = block.find(b"\n\n")
    return before + 1 if before >= 0 else -1


def _count_received(lines: bytes) -> int:
    lowered = lines.lower()
    return lowered.count(b"\nreceived:") + lowered.startswith(b"received:")
