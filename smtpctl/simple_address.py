"""Parses addresses in simple spellings, without the address parser: loading that takes longer than everything else that
sendmail does.

    bob@here.test                          ->  ["bob@here.test"]
    Bob Smith <bob@here.test>, amy         ->  ["bob@here.test", "amy"]
    "Bob, S." <b@x>, b@x (home), jö@x, …   ->  None: for smtpd/header/address_list.py and smtpd/smtp/address.py to say

What is found here is what these two find; what they do not take is not found here.
"""

MAX_PART = 255  # bytes on either side of the @
MAX_LABEL = 63

_LETTERS_AND_DIGITS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_ATEXT = _LETTERS_AND_DIGITS + "!#$%&'*+-/=?^_`{|}~"  # RFC 5322 3.2.3
VISIBLE = _ATEXT + '"(),.:;<>@[\\]'  # all that prints and is no blank
_OF_DOMAIN = _LETTERS_AND_DIGITS + "-_."
_OF_PHRASE = _ATEXT + ". \t\n"


def maybe_addresses(value: bytes) -> list[str] | None:
    """What the list holds, if all of it is written in a usual way."""
    if not value.isascii():
        return None
    found = []
    for item in value.decode().split(","):
        address = _maybe_address(item.strip(" \t\n"))
        if address is None:
            return None
        if address:
            found.append(address)
    return found


def _maybe_address(item: str) -> str | None:
    """Empty between two commas."""
    if item.endswith(">"):
        phrase, _, item = item[:-1].partition("<")
        if phrase.strip(_OF_PHRASE) or not item:
            return None
        item = item.strip(" \t\n")
    elif not item:
        return ""
    return item if is_address(item) else None


def is_address(text: str) -> bool:
    """Whether it is certainly one, with or without a domain."""
    local, at, domain = text.partition("@")
    return _is_dot_atom(local) and (not at or _is_domain(domain))


def is_word(text: str) -> bool:
    """An atom: it needs no quotes in a name."""
    return bool(text) and not text.strip(_ATEXT)


def _is_dot_atom(local: str) -> bool:
    return len(local) <= MAX_PART and all(map(is_word, local.split(".")))


def _is_domain(domain: str) -> bool:
    if domain.strip(_OF_DOMAIN) or len(domain) > MAX_PART:
        return False
    return all(0 < len(label) <= MAX_LABEL and label[0] != "-" != label[-1] for label in domain.split("."))
