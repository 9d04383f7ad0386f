"""Where in the memory of processes the secret numbers of a private key lie.

    RSA     d p q dmp1 dmq1 iqmp        EC    the scalar

Each as its bytes in both orders (DER has the one, OpenSSL's numbers on most machines the other), as words of 64 bits
with the lowest first, and as what a PEM file has of it.  A piece is enough: also of what was overwritten in part.
"""

import base64
import contextlib
import re
from pathlib import Path

import re2
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

PIECE = 16  # bytes: not to be found by chance, nor in a public key
_LINE = 64  # characters of base64 in a PEM file
_MAPPING = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) r(\S)\S+ \S+ \S+ \S+ *(.*)$", re.MULTILINE)
_OF_THE_KERNEL = ("[vvar", "[vsyscall", "[vdso")


def numbers(key):
    """Name -> bytes, the highest first."""
    private = key.private_numbers()
    if isinstance(key, rsa.RSAPrivateKey):
        found = {name: getattr(private, name) for name in ("d", "p", "q", "dmp1", "dmq1", "iqmp")}
    else:
        found = {"scalar": private.private_value}
    return {name: number.to_bytes((number.bit_length() + 7) // 8) for name, number in found.items()}


def forms(key):
    """(name of a number, form) -> its pieces."""
    der = key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    found = {}
    for name, number in numbers(key).items():
        words = number.rjust(-(-len(number) // 8) * 8, b"\0")
        found[name, "high"] = _pieces(number)
        found[name, "low"] = _pieces(number[::-1])
        found[name, "words"] = _pieces(b"".join(words[at - 8 : at] for at in range(len(words), 0, -8)))
        found[name, "pem"] = _in_pem(der, number)
    return found


def _pieces(number):
    """The beginning, the middle and the end."""
    middle = (len(number) - PIECE) // 2
    return {number[:PIECE], number[middle : middle + PIECE], number[-PIECE:]}


def _in_pem(der, number):
    """The characters that say nothing but the number, line by line."""
    text, start = base64.b64encode(der), der.index(number)
    first, last = -(-start * 4 // 3), (start + len(number)) * 4 // 3
    cuts = [first, *range(first - first % _LINE + _LINE, last, _LINE), last]
    lines = [text[start:end] for start, end in zip(cuts, cuts[1:], strict=False)]
    return {line for line in lines if len(line) >= PIECE}


def memory(pid):
    """All that the process can read, mapping by mapping, but files of which it has nothing changed."""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        for start, end, writable, name in _MAPPING.findall(Path(f"/proc/{pid}/maps").read_text()):
            if name.startswith(_OF_THE_KERNEL) or (name.startswith("/") and writable != "w"):
                continue
            with contextlib.suppress(OSError):  # beyond the end of a file, or guarded
                file.seek(int(start, 16))
                yield _read(file, int(end, 16) - int(start, 16))


def _read(file, length):
    pieces = []
    while length > 0 and (piece := file.read(length)):
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def found_in(pid, *keys):
    """(number of the key, name, form) of all that is there of those keys."""
    wanted = {}  # piece -> what it is of: on most machines of two forms
    for at, key in enumerate(keys):
        for form, pieces in forms(key).items():
            for piece in pieces:
                wanted.setdefault(piece, set()).add((at, *form))
    some = _one_of(wanted)
    found = set()
    for content in memory(pid):
        if some.search(content):
            found.update(*(of for piece, of in wanted.items() if piece in content))
    return found


def _one_of(pieces):
    """A pattern that looks for all of them at once: they are many, and most of the memory has none."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    return re2.compile("|".join("".join(f"\\x{byte:02x}" for byte in piece) for piece in pieces).encode(), options)
