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
from typing import Any

from smtpd.sandbox import openbsd, privilege, promise
from smtpd.sandbox.libc import prctl

_PR_SET_SECCOMP, _MODE_FILTER = 22, 2

# linux/bpf_common.h, linux/filter.h: one instruction is code, jump if true, jump if false, constant
_INSTRUCTION = struct.Struct("=HBBI")
_CONSTANT = 4  # where it stands in an instruction
_SELF = struct.pack("=I", promise.SELF)
_LOAD, _EQUAL, _GREATER, _AT_LEAST, _RETURN = 0x20, 0x15, 0x25, 0x35, 0x06
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
_X32 = 0x40000000  # the number of a system call made by the x32 ABI has this bit
_ERRNO = 0x00050000  # SECCOMP_RET_ERRNO

_COMPAT = {"X86_64": ("X86", "X32"), "AARCH64": ("ARM",)}


class _Program(ctypes.Structure):
    """struct sock_fprog"""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p)]


def _libseccomp() -> Any:
    # Not at the top of the file: it would be loaded into every process that only installs.
    import pyseccomp  # type: ignore[import-untyped]

    return pyseccomp


@cache
def compile(promises: str) -> bytes:
    """The filter that `promises` mean, to be installed here or elsewhere on this machine.  Raises ValueError for a word
    that is no promise, and RuntimeError or ImportError where there is no libseccomp."""
    library = _libseccomp()
    program = library.SyscallFilter(library.KILL_PROCESS)
    program.set_attr(library.Attr.ACT_BADARCH, library.KILL_PROCESS)
    return _newer_is_unknown(library.system_arch()) + _export(program, promise.rules(promises))


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
            (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
        )
    )


def _export(program: Any, rules: list[promise.Rule]) -> bytes:
    library = _libseccomp()
    program.set_attr(library.Attr.CTL_OPTIMIZE, 2)  # a binary tree of the numbers instead of a list
    for rule in rules:
        number = library.resolve_syscall(library.Arch.NATIVE, rule.call)
        if number == -1:
            continue  # no such call on this architecture, or too new for this libseccomp
        action = library.ERRNO(rule.errno) if rule.errno else library.ALLOW
        conditions = [library.Arg(w.argument, library.MASKED_EQ, w.mask, w.value) for w in rule.where]
        program.add_rule(action, number, *conditions)
    with open(os.memfd_create("filter"), "w+b") as file:
        program.export_bpf(file)
        file.seek(0)
        return file.read()


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
    library = _libseccomp()
    program = library.SyscallFilter(library.ALLOW)
    program.set_attr(library.Attr.ACT_BADARCH, library.ERRNO(errno.EPERM))
    for native, others in _COMPAT.items():
        if library.system_arch() == getattr(library.Arch, native):
            for other in others:
                program.add_arch(getattr(library.Arch, other))
    return _export(program, promise.denials())


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
    except (OSError, ImportError, RuntimeError) as error:
        return ["no_new_privs", f"missing: deny filter ({error})"]
    return ["no_new_privs", "deny filter"]


def name_of(number: int, architecture: int) -> str:
    """The name of a system call, or its number where libseccomp is missing."""
    try:
        name = _libseccomp().resolve_syscall(architecture, number)
    except (ImportError, RuntimeError, ValueError):
        return f"number {number}"
    return name.decode()
