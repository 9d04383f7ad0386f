"""No page of ours is both writable and executable.

A callback made with ctypes leaves one: libffi writes its few instructions there.  So whoever needs callbacks makes all
of them first; then the pages can be sealed.  What is mapped later, the filter sees to.
"""

import ctypes
import gc
import mmap
from typing import NamedTuple

from smtpd.sandbox.libc import call


class _Mapping(NamedTuple):
    start: int
    length: int
    name: str


def _executable_writable() -> list[_Mapping]:
    found = []
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, access, _, _, _, *name = line.split(maxsplit=5)
            if "w" in access and "x" in access:
                start, end = (int(address, 16) for address in span.split("-"))
                found.append(_Mapping(start, end - start, name[0].strip() if name else ""))
    return found


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
