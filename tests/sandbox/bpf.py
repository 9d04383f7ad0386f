"""What the kernel makes of a seccomp program, for the few instructions that libseccomp writes."""

import struct
from collections.abc import Sequence

ALLOW, KILL_PROCESS, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000

X86_64, I386 = 0xC000003E, 0x40000003


def run(program: bytes, number: int, arguments: Sequence[int] = (), architecture: int = X86_64) -> int:
    """The verdict: what the program returns for this system call."""
    padded = [argument & 0xFFFFFFFFFFFFFFFF for argument in (*arguments, *[0] * 6)][:6]
    data = struct.pack("=iIQ6Q", number if number < 1 << 31 else number - (1 << 32), architecture, 0, *padded)
    instructions = list(struct.iter_unpack("=HBBI", program))
    accumulator = at = 0
    while True:
        code, yes, no, constant = instructions[at]
        at += 1
        match code:
            case 0x20:  # load a word
                (accumulator,) = struct.unpack_from("=I", data, constant)
            case 0x54:  # and
                accumulator &= constant
            case 0x05:  # jump
                at += constant
            case 0x15:
                at += yes if accumulator == constant else no
            case 0x25:
                at += yes if accumulator > constant else no
            case 0x35:
                at += yes if accumulator >= constant else no
            case 0x06:
                return constant
            case _:
                raise AssertionError(f"instruction {code:#x} at {at - 1}")
