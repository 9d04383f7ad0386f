"""Internationalised domains: one normal form for all spellings of a domain.

    Here.Test   here.test.                                         here.test
    Müller.test   xn--mller-kva.test   MU\\u0308LLER.test           müller.test

    normal(domain)         the normal form; compare domains in this form only
    normal_address(text)   the same for user@domain; the user in lower case
    ascii_form(domain)     as in DNS and TLS: xn--mller-kva.test
    spellings(domain)      the normal form and the ASCII form: both may be in databases of others
    address_spellings      the same for user@domain

Labels are compared as registrars do (UTS 46, not transitional; IDNA 2008): ß and ss differ, width and case do not.  A
label that begins with xn-- and is not a valid encoding, and characters that no name can have, stay unchanged.  Nothing
here raises or checks whether such a domain can exist.

Only names that are not ASCII, or have a label with xn--, cost more than a comparison of text.
"""

import codecs
import re
import unicodedata
from functools import lru_cache

LABEL_MAX = 63  # octets, RFC 1035 2.3.4; a longer label is not decoded
PREFIX = "xn--"
_PUNYCODE = codecs.lookup("punycode")  # loaded now, as a sandbox allows no import later
_DOTS = str.maketrans("\u3002\uff0e\uff61", "...")  # UTS 46 2.3
_KEPT = "\u00df\u1e9e\u03c2\u200c\u200d"  # UTS 46 4: kept, although casefold() would map them
# Characters that UTS 46 removes: the soft hyphen, variation selectors and the like.
_IGNORED = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2060-\u2064\u206a-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0100-\U000e01ef]"
)
_MARKS = "\u200c\u200d\u00b7\u0375\u05f3\u05f4\u0f0b\u30fb"  # RFC 5892 A, 2.6
_IN_ASCII = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


def normal(domain: str) -> str:
    lower = domain.lower()
    if not lower.isascii() or PREFIX in lower:
        lower = _normal(domain)
    return lower[:-1] if lower.endswith(".") and lower[-2:-1] not in ("", ".") else lower


@lru_cache(maxsize=1024)
def _normal(domain: str) -> str:
    return ".".join(_decoded(_folded(label)) for label in domain.translate(_DOTS).split("."))


def normal_address(text: str) -> str:
    """The normal form of user@domain, or of a user without an @."""
    user, at, domain = text.rpartition("@")
    return f"{user.lower()}@{normal(domain)}" if at else text.lower()


def ascii_form(domain: str) -> str:
    """The domain as in DNS and TLS; a label that cannot be encoded stays unchanged."""
    text = normal(domain)
    return text if text.isascii() else ".".join(map(_encoded, text.split(".")))


def spellings(domain: str) -> tuple[str, ...]:
    """The normal form, then the ASCII form if it differs."""
    text = normal(domain)
    return (text,) if text.isascii() else tuple(dict.fromkeys((text, ascii_form(text))))


def address_spellings(text: str) -> tuple[str, ...]:
    user, at, domain = text.rpartition("@")
    return tuple(f"{user.lower()}@{spelling}" for spelling in spellings(domain)) if at else (text.lower(),)


def _folded(label: str) -> str:
    """The label as UTS 46 maps it."""
    if label.isascii():
        return label.lower()
    letters = unicodedata.normalize("NFC", _IGNORED.sub("", label))
    return unicodedata.normalize("NFC", "".join(map(_folded_letter, letters)))


def _folded_letter(letter: str) -> str:
    """One character, mapped; unchanged if it would become ASCII that no name can have, such as a wide @ or *."""
    if letter.isascii() or letter in _KEPT:
        return letter.lower()
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", letter).casefold())
    return folded if all(char in _IN_ASCII or not char.isascii() for char in folded) else letter


def _decoded(label: str) -> str:
    if not label.startswith(PREFIX) or not label.isascii() or len(label) > LABEL_MAX:
        return label
    try:
        text, _ = _PUNYCODE.decode(label.removeprefix(PREFIX).encode("ascii"), "strict")
    except (UnicodeError, ValueError, OverflowError):
        return label
    return text if _is_name(text) and _folded(text) == text and _encoded(text) == label else label


def _is_name(text: str) -> bool:
    """Whether the text is a label beyond ASCII, without blanks, control characters and surrogates."""
    return not text.isascii() and all(
        char in _IN_ASCII if char.isascii() else char in _MARKS or unicodedata.category(char)[0] in "LMNS"
        for char in text
    )


def _encoded(label: str) -> str:
    if not _is_name(label):
        return label
    try:
        encoded = PREFIX + _PUNYCODE.encode(label, "strict")[0].decode("ascii")
    except (UnicodeError, ValueError, OverflowError):
        return label
    return encoded if len(encoded) <= LABEL_MAX else label
