"""The content of a message on its way out: bytes, or a file that queue has opened; read in pieces, as often as needed.

The client may want it several times: once to look for 8-bit content, once for each transaction.
"""

import os

PIECE_MAX = 64 * 1024  # bytes that are read at a time


class OutgoingContent:
    """`descriptor` is ours; without one all of the content is `inline`."""

    def __init__(self, inline: bytes, descriptor: int | None = None):
        self._inline, self._descriptor = inline, descriptor
        self._position = 0

    def rewind(self) -> None:
        self._position = 0

    def read(self, most: int) -> bytes:
        """The next piece; empty at the end.  Raises OSError."""
        size = min(most, PIECE_MAX)
        if self._descriptor is None:
            piece = self._inline[self._position : self._position + size]
        else:
            piece = os.pread(self._descriptor, size, self._position)
        self._position += len(piece)
        return piece

    @property
    def is_at_end(self) -> bool:
        """There is nothing more to read.  Of a file only `read` says so."""
        return self._descriptor is None and self._position >= len(self._inline)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        self._inline = b""
