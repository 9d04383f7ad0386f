"""xtext: any text as one word of a command line (RFC 3461 4).

    "bob+2Bx@here.test"   ->  "bob+x@here.test"
    "a+20b"               ->  "a b"
    "a+0Ab", "a=b", "+2"  ->  ValueError

Decoded text is written into lines: a control character in it is refused like a malformed code.
"""

import re

_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*+")
_OTHER = re.compile(r"[^!-*,-<>-~]")
_CODE = re.compile(rb"\+([0-9A-F]{2})")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def decode(text: str) -> str:
    """Raises ValueError, also for what is not UTF-8 underneath."""
    if not _XTEXT.fullmatch(text):
        raise ValueError("not xtext")
    decoded = _CODE.sub(lambda code: bytes.fromhex(code[1].decode()), text.encode()).decode()
    if _CONTROL.search(decoded):
        raise ValueError("control character in xtext")
    return decoded


def encode(text: str) -> str:
    """The xtext that `decode` makes `text` of."""
    return _OTHER.sub(lambda found: "".join(f"+{byte:02X}" for byte in found[0].encode()), text)
