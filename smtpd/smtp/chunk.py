"""The content of a message in chunks (RFC 3030): bytes as they come in, content with LF line ends out, in bulk.

    BDAT 5          b"one\\r\\n"       ->  b"one\\n"
    BDAT 4 LAST     b".two"          ->  b".two\\n"        a dot is a dot; the last line gets its end

The client says how long a chunk is, so no content can be taken for commands, and a chunk can be read to its end
whatever is wrong with it.  Chunks may be cut anywhere, also between CR and LF.

    BODY=7BIT, 8BITMIME     text with any line ends (line_ending.py); other bytes cost the message: 550 5.6.0
    BODY=BINARYMIME         becomes text (binary_mime.py); where it cannot: 554 5.6.3
"""

from collections.abc import Callable

from msgspec import Struct

from smtpd.smtp.binary_mime import BinaryMimeConverter
from smtpd.smtp.line_ending import ChunkText, TextError
from smtpd.smtp.mime_walk import ConversionError
from smtpd.smtp.reply import Reply
from smtpd.smtp.state import State


class Chunk(Struct):
    """A BDAT under way."""

    left: int  # bytes still to come
    size: int
    last: bool
    before: State  # that BDAT came in
    refusal: Reply | None


class ChunkReader:
    """Reads one message.  `fault`: why it cannot be taken; from then on nothing is given out."""

    __slots__ = ("_text", "fault")

    def __init__(self, *, binary: bool):
        self.fault: Reply | None = None
        self._text = BinaryMimeConverter() if binary else ChunkText()

    def feed(self, data: bytes) -> bytes:
        """The content that is decided now, perhaps nothing."""
        return self._give(lambda: self._text.take(data))

    def end(self) -> bytes:
        """The last chunk has come: the rest, and the end of the last line."""
        return self._give(self._text.end)

    def _give(self, step: Callable[[], bytes]) -> bytes:
        if self.fault:
            return b""
        try:
            return step()
        except ConversionError as error:  # RFC 3463 X.6.3: conversion required but not supported
            self.fault = Reply(554, "5.6.3", str(error))
        except TextError as error:
            self.fault = Reply(550, "5.6.0", str(error))
        return b""
