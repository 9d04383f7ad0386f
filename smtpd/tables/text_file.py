"""Text files that administrators write, as numbered lines.

    read_file(path)   the text of a regular file of at most FILE_SIZE_MAX bytes
    decode(bytes)     UTF-8 without a byte order mark; invalid bytes become lone surrogates (PEP 383), so that they are
                      harmless in a comment
    lines(text)       (1, "first"), (2, "second"), ...; LF, CR LF and CR all end a line
    line_fault(text)  why a line is invalid: a NUL, or bytes that are not UTF-8

TextFileError carries all faults of one file, each with the number of its line.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence

_SURROGATE = re.compile("[\ud800-\udfff]")
FILE_SIZE_MAX = 16 * 1024 * 1024  # bytes

LineFault = tuple[int, str]  # (line number from 1, reason)


class TextFileError(ValueError):
    """The faults of a text file, in the order of their lines; `line` and `reason` are those of the first one."""

    def __init__(self, line: int, reason: str, more: Sequence[LineFault] = ()):
        behind = f" (and {len(more)} more)" if more else ""
        super().__init__(f"line {line}: {reason}{behind}")
        self.line = line
        self.reason = reason
        self.faults = ((line, reason), *more)


def raise_faults(faults: Sequence[LineFault]) -> None:
    """Raises TextFileError if there are any faults."""
    if faults:
        (line, reason), *more = sorted(faults)
        raise TextFileError(line, reason, more)


def decode(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def lines(text: str) -> Iterator[tuple[int, str]]:
    return enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1)


def line_fault(text: str) -> str:
    """Why a line is invalid; empty if it is valid."""
    if "\0" in text:
        return "a NUL character"
    return "not UTF-8" if _SURROGATE.search(text) else ""


def read_file(path: str) -> str:
    """The text of a regular file of at most FILE_SIZE_MAX bytes.  Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        content = file.read(FILE_SIZE_MAX + 1)
    if len(content) > FILE_SIZE_MAX:
        raise OSError("too large")
    return decode(content)
