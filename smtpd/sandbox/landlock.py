"""unveil(2) for Linux: Landlock, by its three system calls.

    letter   may
    r        read files and directories
    w        write to files
    x        execute files
    c        create, rename and remove files and directories

What is not named cannot be opened, and nothing outlives the process that asked.  Landlock does not look at stat, chmod,
path sockets and UDP; the filter does.  What an older ABI lacks is only said where the filter does not make up for it.
"""

import os
import stat
import struct
import sys
from collections.abc import Sequence

from smtpd.sandbox.libc import call

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION = 1
_PATH_BENEATH, _NET_PORT = 1, 2

# linux/landlock.h: bits of access to files
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << bit for bit in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15

_FILE = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV  # what makes sense for something not a directory

_KNOWN = {0: 0, 1: REFER - 1, 2: (REFER << 1) - 1, 3: (TRUNCATE << 1) - 1, 4: (TRUNCATE << 1) - 1}
_NEWEST = (IOCTL_DEV << 1) - 1  # from ABI 5 on

_LETTERS = {
    "r": READ_FILE | READ_DIR,
    "w": WRITE_FILE | TRUNCATE,
    "x": EXECUTE | READ_FILE,  # Landlock wants both for running a file
    "c": MAKE_REG | MAKE_DIR | REMOVE_FILE | REMOVE_DIR | REFER,
}

PORTS = "limit to TCP ports"  # how the line begins that says that it is missing

_BIND_TCP, _CONNECT_TCP = 1, 2
_SCOPE_ABSTRACT_SOCKETS, _SCOPE_SIGNALS = 1, 2


def abi() -> int:
    """The version this kernel speaks; 0 for none."""
    if sys.platform != "linux":
        return 0
    try:
        return call("syscall", _CREATE_RULESET, None, 0, _VERSION)
    except OSError:
        return 0


def rights(letters: str) -> int:
    """The access bits of `letters`.  Raises ValueError for an unknown letter."""
    if not letters or set(letters) - _LETTERS.keys():
        raise ValueError(f'unveil knows r, w, x and c, not "{letters}"')
    bits = 0
    for letter in letters:
        bits |= _LETTERS[letter]
    return bits


def restrict(
    paths: Sequence[tuple[str, str]],
    ports: Sequence[int] | None = None,
    *,
    alone: bool = False,
    sockets: bool = False,
    version: int | None = None,
) -> list[str]:
    """Leave this process nothing but `paths` (with their letters) and, unless None, TCP connections to `ports`.

    `alone`: it may signal nobody, and connect to no abstract socket, that has not grown out of it from here on; its
    children of until now are strangers too.  `sockets`: it may make Unix sockets, so their abstract names matter.
    `version` is for tests.  Returns what holds and, marked, what does not.  Raises FileNotFoundError and the like for a
    path that is not there.
    """
    version = abi() if version is None else version
    if version == 0:
        return ["missing: landlock (not in this kernel)"]
    if version == 1 and any("c" in letters for _, letters in paths):
        return ["missing: landlock (abi 1 forbids every rename between directories)"]
    ruleset = _create(version, ports is not None, alone)
    try:
        for path, letters in paths:
            _allow(ruleset, path, rights(letters) & _KNOWN.get(version, _NEWEST))
        if ports is not None and version >= 4:
            _add(ruleset, _NET_PORT, struct.pack("=QQ", _BIND_TCP, 0))  # 0: a port that the kernel picks
            for port in ports:
                _add(ruleset, _NET_PORT, struct.pack("=QQ", _CONNECT_TCP, port))
        call("syscall", _RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)
    held = [f"landlock abi {version}"]
    if ports is not None and version < 4:
        held.append(f"missing: {PORTS} (landlock abi {version})")
    if sockets and version < 6:
        held.append(f"missing: landlock of abstract sockets (abi {version})")
    return held


def _create(version: int, network: bool, alone: bool) -> int:
    attributes = struct.pack(
        "=QQQ",
        _KNOWN.get(version, _NEWEST),
        _BIND_TCP | _CONNECT_TCP if network else 0,
        _SCOPE_ABSTRACT_SOCKETS | _SCOPE_SIGNALS if alone else 0,
    )
    size = 8 if version < 4 else 16 if version < 6 else 24
    return call("syscall", _CREATE_RULESET, attributes, size, 0)


def _allow(ruleset: int, path: str, access: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            access &= _FILE
        _add(ruleset, _PATH_BENEATH, struct.pack("=Qi", access, descriptor))
    finally:
        os.close(descriptor)


def _add(ruleset: int, kind: int, rule: bytes) -> None:
    call("syscall", _ADD_RULE, ruleset, kind, rule, 0)
