"""Text files that administrators write, as numbered lines.

    read_file(path)   the text of a regular file of at most FILE_SIZE_MAX bytes
    decode(bytes)     UTF-8 without a byte order mark; other bytes become lone surrogates (PEP 383), so that they do no
                      harm in a comment
    lines(text)       (1, "first"), (2, "second"), ...; LF, CR LF and CR all end a line
    line_fault(text)  why a line cannot be used: a NUL in it, or bytes that are not UTF-8

Malformed carries everything that is wrong with one file, each fault with the number of its line.
"""

import os
import re
import stat
from collections.abc import Iterator, Sequence

_SURROGATE = re.compile("[\ud800-\udfff]")
FILE_SIZE_MAX = 16 * 1024 * 1024  # bytes

LineFault = tuple[int, str]  # the number of a line, from 1; and what is wrong with it


class TextFileError(ValueError):
    """`faults` in the order of the lines; `line` and `reason` are those of the first one."""

    def __init__(self, line: int, reason: str, more: Sequence[LineFault] = ()):
        behind = f" (and {len(more)} more)" if more else ""
        super().__init__(f"line {line}: {reason}{behind}")
        self.line = line
        self.reason = reason
        self.faults = ((line, reason), *more)


def raise_faults(faults: Sequence[LineFault]) -> None:
    """Raises Malformed if there are any."""
    if faults:
        (line, reason), *more = sorted(faults)
        raise TextFileError(line, reason, more)


def decode(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape").removeprefix("\ufeff")


def lines(text: str) -> Iterator[tuple[int, str]]:
    return enumerate(text.replace("\r\n", "\n").replace("\r", "\n").split("\n"), 1)


def line_fault(text: str) -> str:
    """Empty if there is none."""
    if "\0" in text:
        return "a NUL character"
    return "not UTF-8" if _SURROGATE.search(text) else ""


def read_file(path: str) -> str:
    """Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError("not a regular file")
        content = file.read(FILE_SIZE_MAX + 1)
    if len(content) > FILE_SIZE_MAX:
        raise OSError("too large")
    return decode(content)
