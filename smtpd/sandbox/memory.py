"""No page of a process is both writable and executable.

A callback made with ctypes leaves one: libffi writes its few instructions there.  So whoever needs callbacks makes all
of them first; then the pages can be sealed.  What is mapped later, the filter sees to.

To read the list of mappings takes a millisecond, and a child of fork has its parent's.  So they are looked through once
before forking, and again only where there is more code than then, which is what a library brings.  A page that is
mapped so by hand between fork and filter, without a library, would go unnoticed.
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
_CODE = re.compile(rb"^Vm(?:Exe|Lib):\s*([0-9]+) kB$", re.MULTILINE)  # of /proc/self/status; together all that is r-x


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


_checked: tuple[int, list[str]] | None = None  # how much code there was, and what of it can be written


def check() -> list[str]:
    """Seal what can be sealed; one text for each mapping that stays writable and executable.  A process that forks
    sandboxed children does it once for all.  Raises OSError where there is no /proc."""
    global _checked
    if _checked is None or _checked[0] != _code():
        if writable := executable_writable_mappings():
            seal_callbacks()
            writable = executable_writable_mappings()
        _checked = _code(), writable
    return _checked[1]


def _code() -> int:
    """KiB that are executable and not writable, all libraries together."""
    with open("/proc/self/status", "rb") as status:
        return sum(map(int, _CODE.findall(status.read())))


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
