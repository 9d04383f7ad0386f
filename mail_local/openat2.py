"""open and stat that fail where a file system is mounted on the name: openat2(2) with RESOLVE_NO_XDEV.

A user may mount a FUSE file system over a file, a mailbox too.  Where others may use it (fusermount3(1),
user_allow_other), every process that opens the file waits for that user's server, which need never answer.  openat2
fails before it asks the server.  On kernels without openat2 this is os.open and os.stat.
"""

import ctypes
import errno
import os
import struct
import sys

_OPENAT2 = 437  # on all architectures
_OPEN_HOW = struct.Struct("=QQQ")  # linux/openat2.h: flags, mode, resolve
_RESOLVE_NO_XDEV = 0x01

_libc = ctypes.CDLL(None, use_errno=True)


def open(name: str, flags: int, mode: int = 0, *, dir_fd: int) -> int:
    """As os.open.  Raises OSError with EXDEV if a file system is mounted on the name."""
    if "\0" in name:
        raise ValueError("embedded NUL in a file name")  # C would open the name before the NUL
    if sys.platform != "linux":
        return os.open(name, flags, mode, dir_fd=dir_fd)
    how = _OPEN_HOW.pack(flags, mode, _RESOLVE_NO_XDEV)
    opened = _libc.syscall(ctypes.c_long(_OPENAT2), dir_fd, os.fsencode(name), how, ctypes.c_size_t(len(how)))
    if opened >= 0:
        return int(opened)
    number = ctypes.get_errno()
    if number == errno.ENOSYS:
        return os.open(name, flags, mode, dir_fd=dir_fd)
    raise OSError(number, "something is mounted over it" if number == errno.EXDEV else os.strerror(number), name)


def stat(name: str, *, dir_fd: int) -> os.stat_result:
    """As os.lstat.  Raises as `open`."""
    if sys.platform != "linux":
        return os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    descriptor = open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        return os.fstat(descriptor)
    finally:
        os.close(descriptor)
