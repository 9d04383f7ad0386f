"""The table of promises compiled to a seccomp filter.

    promise.rules --libseccomp--> program (bytes) --prctl--> this thread and all it starts, for good

A program is made without knowing whose pid it will guard: install writes the pid in.  Only compile and deny need
libseccomp; a process that is handed its program does without.
"""

import ctypes
import errno
import os
import struct
import sys
from functools import cache

from smtpd.sandbox import libseccomp, openbsd, privilege, promise
from smtpd.sandbox.libc import prctl

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

# linux/bpf_common.h, linux/filter.h: one instruction is code, jump if true, jump if false, constant
_INSTRUCTION = struct.Struct("=HBBI")
_CONSTANT = 4  # where it stands in an instruction
_SELF = struct.pack("=I", promise.SELF)
_LOAD, _EQUAL, _GREATER, _AT_LEAST, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x06
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_X32 = 0x40000000  # the number of a system call made by the x32 ABI has this bit

# What else a machine of that architecture executes.
_COMPAT = {libseccomp.X86_64: (libseccomp.X86, libseccomp.X32), libseccomp.AARCH64: (libseccomp.ARM,)}


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


@cache
def compile(promises: str) -> bytes:
    """The filter that `promises` mean, to be installed here or elsewhere on this machine.  Raises ValueError for a word
    that is no promise, and OSError where there is no libseccomp."""
    rules = promise.rules(promises)
    filter = libseccomp.Filter(libseccomp.KILL_PROCESS, bad_architecture=libseccomp.KILL_PROCESS)
    return _newer_is_unknown(libseccomp.native_architecture()) + _export(filter, rules)


def _newer_is_unknown(architecture: int) -> bytes:
    """The beginning of a filter: what is newer than our list does not exist, so that libraries fall back."""
    return b"".join(
        _INSTRUCTION.pack(*instruction)
        for instruction in (
            (_LOAD, 0, 0, _ARCHITECTURE),
            (_EQUAL, 0, 4, architecture),
            (_LOAD, 0, 0, _NUMBER),
            (_AT_LEAST, 2, 0, _X32),
            (_GREATER, 0, 1, promise.LAST_KNOWN),
            (_RETURN, 0, 0, libseccomp.refuse(errno.ENOSYS)),
        )
    )


def _export(filter: libseccomp.Filter, rules: list[promise.Rule]) -> bytes:
    for rule in rules:
        number = libseccomp.number_of(rule.call)
        if number == -1:
            continue  # no such call on this architecture, or too new for this libseccomp
        action = libseccomp.refuse(rule.errno) if rule.errno else libseccomp.ALLOW
        filter.add_rule(action, number, [(w.argument, w.mask, w.value) for w in rule.where])
    return filter.export()


def install(program: bytes) -> None:
    """Load a compiled filter; this process must have no_new_privs.  Raises OSError."""
    mine = with_pid(program, os.getpid())
    structure = _Program(len(mine) // _INSTRUCTION.size, mine)
    prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.addressof(structure))


def with_pid(program: bytes, pid: int) -> bytes:
    """The filter for one process: `pid` wherever something is compared with SELF.  Searched and not decoded: every
    agent does this, and a filter has some hundred instructions."""
    mine = bytearray(program)
    at = program.find(_SELF)
    while at >= 0:
        start, inside = at - _CONSTANT, at % _INSTRUCTION.size
        if inside == _CONSTANT and _INSTRUCTION.unpack_from(program, start)[0] == _EQUAL:
            struct.pack_into("=I", mine, at, pid)
        at = program.find(_SELF, at + 1)
    return bytes(mine)


@cache
def compile_denials() -> bytes:
    """The filter that lets everything through but what promise.DENIED names, for every ABI of this machine: a 32-bit
    program gets EPERM as any other."""
    filter = libseccomp.Filter(libseccomp.ALLOW, bad_architecture=libseccomp.refuse(errno.EPERM))
    for other in _COMPAT.get(libseccomp.native_architecture(), ()):
        filter.add_architecture(other)
    return _export(filter, promise.denials())


def deny() -> list[str]:
    """For a process that stays root, before it starts another: refuse it and all descendants what attacks on a kernel
    begin with.  Gives no_new_privs to all of them.  Returns what holds."""
    if sys.platform.startswith("openbsd"):
        openbsd.pledge(openbsd.PARENT)
        return [f"pledge {openbsd.PARENT}"]
    if not privilege.LINUX:
        return ["missing: deny filter (no seccomp)"]
    privilege.set_no_new_privileges()
    try:
        install(compile_denials())
    except OSError as error:
        return ["no_new_privs", f"missing: deny filter ({error})"]
    return ["no_new_privs", "deny filter"]


def name_of(number: int, architecture: int) -> str:
    """The name of a system call, or its number where libseccomp is missing."""
    try:
        name = libseccomp.name_of(architecture, number)
    except OSError:
        name = None
    return f"number {number}" if name is None else name
