"""libseccomp by ctypes: the few functions of it that compile a filter.

Loaded when the first filter is compiled, by its soname: a search for the file would start another program (ldconfig),
as root, in each process.
"""

import ctypes
import os
from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_uint, c_uint32, c_uint64, c_void_p
from functools import cache
from typing import Any

SONAME = "libseccomp.so.2"

# seccomp.h
KILL_PROCESS, ALLOW, _ERRNO = 0x80000000, 0x7FFF0000, 0x00050000
BAD_ARCHITECTURE, OPTIMIZE = 2, 8  # attributes: SCMP_FLTATR_ACT_BADARCH, SCMP_FLTATR_CTL_OPTIMIZE
NATIVE = 0
X86, X86_64, X32, ARM, AARCH64 = 0x40000003, 0xC000003E, 0x4000003E, 0x40000028, 0xC00000B7
_MASKED_EQUAL = 7

# name -> what it gives back, what it takes
_FUNCTIONS: dict[str, tuple[Any, ...]] = {
    "seccomp_init": (c_void_p, c_uint32),
    "seccomp_release": (None, c_void_p),
    "seccomp_attr_set": (c_int, c_void_p, c_int, c_uint32),
    "seccomp_arch_add": (c_int, c_void_p, c_uint32),
    "seccomp_arch_native": (c_uint32,),
    "seccomp_rule_add_array": (c_int, c_void_p, c_uint32, c_int, c_uint, c_void_p),
    "seccomp_export_bpf": (c_int, c_void_p, c_int),
    "seccomp_syscall_resolve_name_arch": (c_int, c_uint32, c_char_p),
    "seccomp_syscall_resolve_num_arch": (c_void_p, c_uint32, c_int),
}


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp"""

    _fields_ = [("argument", c_uint), ("operator", c_int), ("mask", c_uint64), ("value", c_uint64)]


@cache
def _library() -> ctypes.CDLL:
    """Raises OSError."""
    library = ctypes.CDLL(SONAME)
    for name, (result, *arguments) in _FUNCTIONS.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def native_architecture() -> int:
    """Of this machine, as AUDIT_ARCH_… has it.  Raises OSError where there is no libseccomp, as all functions here."""
    architecture: int = _library().seccomp_arch_native()
    return architecture


def number_of(name: str) -> int:
    """The number of a system call; negative: this architecture does not have it (-1: none has)."""
    number: int = _library().seccomp_syscall_resolve_name_arch(NATIVE, name.encode())
    return number


def name_of(architecture: int, number: int) -> str | None:
    """The name of a system call, or None."""
    pointer = _library().seccomp_syscall_resolve_num_arch(architecture, number)
    if pointer is None:
        return None
    name = ctypes.string_at(pointer).decode()
    free = ctypes.CDLL(None).free
    free.argtypes = (c_void_p,)
    free(pointer)
    return name


def refuse(errno: int) -> int:
    """The action that has a system call fail with `errno`."""
    return _ERRNO | errno


class Filter:
    """A filter in the making.  A function that fails raises OSError."""

    def __init__(self, otherwise: int, bad_architecture: int):
        """The actions for a system call that no rule names, and for one of another architecture."""
        self._library = _library()
        self._filter = self._library.seccomp_init(otherwise)
        if self._filter is None:
            raise MemoryError("seccomp_init")
        self._attribute(BAD_ARCHITECTURE, bad_architecture)
        self._attribute(OPTIMIZE, 2)  # a binary tree of the numbers instead of a list

    def __del__(self) -> None:
        if getattr(self, "_filter", None) is not None:
            self._library.seccomp_release(self._filter)

    def _attribute(self, attribute: int, value: int) -> None:
        _check(self._library.seccomp_attr_set(self._filter, attribute, value))

    def add_architecture(self, architecture: int) -> None:
        _check(self._library.seccomp_arch_add(self._filter, architecture))

    def add_rule(self, action: int, call: int, conditions: Sequence[tuple[int, int, int]]) -> None:
        """`conditions`: (number of an argument, mask, value); all hold, or the rule does not apply."""
        comparisons = (_Comparison * len(conditions))(
            *[_Comparison(argument, _MASKED_EQUAL, mask, value) for argument, mask, value in conditions]
        )
        _check(self._library.seccomp_rule_add_array(self._filter, action, call, len(conditions), comparisons))

    def export(self) -> bytes:
        """The program, as struct sock_filter[]."""
        with open(os.memfd_create("filter"), "w+b") as file:
            _check(self._library.seccomp_export_bpf(self._filter, file.fileno()))
            file.seek(0)
            return file.read()


def _check(result: int) -> None:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
