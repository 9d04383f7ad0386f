"""No page of ours is both writable and executable.

A callback made with ctypes leaves one: libffi writes its few instructions there.  So whoever needs callbacks makes all
of them first; then the pages can be sealed.  What is mapped later, the filter sees to.
"""

import ctypes
import gc
import mmap
import os
import re
from typing import NamedTuple

from smtpd.sandbox.libc import call

# A line of /proc/self/maps that is writable and executable: its addresses, and a file's name or the like.
_EXECUTABLE_WRITABLE = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) .wx. \S+ \S+ \S+ *(.*)$", re.MULTILINE)


class _Mapping(NamedTuple):
    start: int
    length: int
    name: str


def _executable_writable() -> list[_Mapping]:
    with open("/proc/self/maps", "rb") as maps:
        found = _EXECUTABLE_WRITABLE.findall(maps.read())
    return [_Mapping(int(start, 16), int(end, 16) - int(start, 16), os.fsdecode(name)) for start, end, name in found]


def executable_writable_mappings() -> list[str]:
    """One text for each mapping that is writable and executable.  Raises OSError where there is no /proc."""
    return [f"{start:x}, {length} bytes {name}".strip() for start, length, name in _executable_writable()]


def seal_callbacks() -> None:
    """Take the right to write from the pages of libffi's callbacks.  Those that are there work and stay for good; to
    make another one is a crash from now on."""
    pages = [mapping for mapping in _executable_writable() if not mapping.name]
    if not pages:
        return
    for thing in gc.get_objects():
        if type(thing).__name__ == "CThunkObject":
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))  # freeing it would write to its page
    for start, length, _ in pages:
        call("mprotect", start, length, mmap.PROT_READ | mmap.PROT_EXEC)
