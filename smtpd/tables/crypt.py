"""Password hashes of the C library's crypt(3), and limits on the cost of checking one.

    $y$j9T$SALT$HASH, $gy$…        yescrypt     128 * r * N bytes; j, N and r are a letter each
    $7$CU..../....SALT$HASH        scrypt       the same, p times over
    $2b$12$SALTHASH, $2a$, $2y$    bcrypt       2^12 rounds
    $6$rounds=N$SALT$HASH, $5$     SHA-2        N rounds, 5000 by default

The writer of a table can keep only the table's own users from logging in: a hash that needs more memory or time than
the limits below is refused.

Not accepted, although crypt(3) knows them: hashes that are broken in minutes today ($1$, $md5, $sha1$, DES) and $2x$,
which is wrong for some passwords.
"""

import ctypes
import errno
import hmac
import os
import re
from contextlib import suppress
from dataclasses import dataclass, field

LIBRARIES = ("libcrypt.so.1", "libcrypt.so.2")  # libxcrypt: with the old interface, without it
DATA_SIZE = 32768  # bytes of struct crypt_data

MEMORY_MAX = 256 * 1024 * 1024  # bytes
WORK_MAX = 1024 * 1024 * 1024  # bytes of memory traffic: about a second
ROUNDS_MAX = 1_000_000  # of SHA-2
COST_MAX = 14  # of bcrypt: a second

_LETTERS = "./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_L = "[./0-9A-Za-z]"
_YESCRYPT = re.compile(rf"\$g?y\$j({_L})({_L})\${_L}{{0,86}}\${_L}{{43}}")
_SCRYPT = re.compile(rf"\$7\$({_L})({_L}{{5}})({_L}{{5}}){_L}{{0,86}}\${_L}{{43}}")
_BCRYPT = re.compile(rf"\$2[aby]\$([0-9]{{2}})\${_L}{{53}}")
_SHA = re.compile(rf"\$(?:5|6)\$(?:rounds=([1-9][0-9]{{3,9}})\$)?{_L}{{0,16}}\$(?:{_L}{{43}}|{_L}{{86}})")


class CryptHashError(ValueError):
    """Not an accepted hash.  The text does not repeat the value."""


@dataclass(frozen=True)
class Crypt:
    stored: bytes = field(repr=False)

    def check(self, password: bytes) -> bool:
        """Whether the password is right.  Slow on purpose; releases the GIL.  Raises OSError when memory is short."""
        return hmac.compare_digest(_crypt(password, self.stored) or b"", self.stored)


def parse_crypt(text: str) -> Crypt:
    """A hash in the format of crypt(3), within the limits.  Raises CryptHashError."""
    if found := _YESCRYPT.fullmatch(text):
        n, r = (_LETTERS.index(letter) + 1 for letter in found.groups())
        _limit(n, r, 1)
    elif found := _SCRYPT.fullmatch(text):
        _limit(_LETTERS.index(found[1]), _number(found[2]), _number(found[3]))
    elif found := _BCRYPT.fullmatch(text):
        if not 4 <= int(found[1]) <= COST_MAX:
            raise CryptHashError(f"a cost of {found[1]}")
    elif found := _SHA.fullmatch(text):
        if int(found[1] or 0) > ROUNDS_MAX:
            raise CryptHashError(f"{found[1]} rounds")
    else:
        raise CryptHashError("unsupported hash format")
    return Crypt(text.encode())


def _limit(n: int, r: int, p: int) -> None:
    memory = 128 * r << n
    if memory > MEMORY_MAX or memory * p > WORK_MAX:
        raise CryptHashError(f"needs {memory >> 20} MiB, {p} times")


def _number(letters: str) -> int:
    """A number in base 64, least significant digit first."""
    return sum(_LETTERS.index(letter) << 6 * at for at, letter in enumerate(letters))


def _find() -> "ctypes._NamedFuncPointer | None":
    """crypt_rn(phrase, setting, data, size); None without libcrypt.  Loaded at import: a sandbox allows none later."""
    for name in LIBRARIES:
        with suppress(OSError, AttributeError):
            function = ctypes.CDLL(name, use_errno=True).crypt_rn
            function.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int)
            function.restype = ctypes.c_char_p
            return function
    return None


_crypt_rn = _find()


def _crypt(password: bytes, setting: bytes) -> bytes | None:
    if _crypt_rn is None:
        raise OSError(errno.ENOSYS, f"no {LIBRARIES[0]} here")
    if b"\0" in password:
        return None  # C would use the part before the NUL
    data = ctypes.create_string_buffer(DATA_SIZE)
    ctypes.set_errno(0)
    hashed = _crypt_rn(password, setting, data, DATA_SIZE)
    if hashed is None and ctypes.get_errno() == errno.ENOMEM:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    return hashed
