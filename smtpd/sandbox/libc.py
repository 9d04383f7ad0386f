"""C functions and system calls that Python does not offer, called by ctypes."""

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)


def call(function: str, *arguments: "int | bytes | None | ctypes.Array[ctypes.c_char]") -> int:
    """`function(arguments…)`: numbers as longs, bytes and buffers as pointers to them.  Raises OSError where C returns
    -1, and AttributeError where this libc has no such function."""
    result = getattr(_libc, function)(*[ctypes.c_long(a) if isinstance(a, int) else a for a in arguments])
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{function}: {os.strerror(number)}")
    return result


def prctl(option: int, *arguments: int) -> int:
    """prctl(2); the arguments that an option does not use must be zero."""
    return call("prctl", option, *arguments, *[0] * (4 - len(arguments)))
