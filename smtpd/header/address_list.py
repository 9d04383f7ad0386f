"""Address lists of To, Cc and From (RFC 5322 3.4): addresses without a domain are completed, or all are replaced.

    bob, "B. (x)" <bob> (at home)         ->  bob@here.test, "B. (x)" <bob@here.test> (at home)
    Friends: amy, carol@there.test;       ->  Friends: amy@here.test, carol@there.test;
    undisclosed-recipients:;              ->  as it is
    Bob Smith, =?utf-8?q?x?=, <>, "a      ->  as it is: no address, or it is unclear where one ends

    addresses    B <bob>, (x) amy@y.test  ->  bob, amy@y.test
                 bob; amy@y.test;         ->  bob, amy@y.test    a semicolon outside of a group ends an address, too
    masquerade   =?utf-8?q?=C3=84?= <amy@elsewhere.test>, x@y.test   ->   =?utf-8?q?=C3=84?= <amy@here.test>

Missing domains are put in; all other bytes stay, folding and comments among them.  Bytes beyond ASCII are taken for
letters.  Not understood: routes, and local parts in several pieces (`bob . smith`); these are left alone.
"""

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

FOLD_WIDTH = 78  # bytes; completion begins another line where one would get longer (RFC 5322 2.1.1)

_ATOM = rb'[^\x00-\x20\x7f()<>\[\]:;@\\,"]++'  # dots are part of it
_DOMAIN = rb'[^\x00-\x20\x7f()<>:;@\\,"]++'
_PHRASE = rb'(?:"[^"\\]*+"|[^\x7f()<>\[\]:;@\\,"]++)*+'
_QUOTED = rb'"(?:[^"\\]|\\.)*+"'
_BLANKS = rb"[ \t\n]*+"

# What most mail has: complete addresses and nothing unusual between them.
_WHOLE = re.compile(
    rb"(?:%b(?:%b@%b%b|%b<%b@%b>%b)(?:,|\Z))++" % (_BLANKS, _ATOM, _DOMAIN, _BLANKS, _PHRASE, _ATOM, _DOMAIN, _BLANKS)
)
_TOKEN = re.compile(
    rb"(?P<blank>[ \t\n]++)|(?P<atom>%b)|(?P<quoted>%b)|(?P<angle><(?:[^<>\"]|%b)*+>)|(?P<mark>.)"
    % (_ATOM, _QUOTED, _QUOTED),
    re.DOTALL,
)
_OF_COMMENT = re.compile(rb"[()]|\\.", re.DOTALL)
_IN_ANGLES = re.compile(rb"<%b(%b|%b)%b>" % (_BLANKS, _ATOM, _QUOTED, _BLANKS), re.DOTALL)
_DOT_ATOM = re.compile(rb"(?!=\?)[^.]++(?:\.[^.]++)*+")  # and no encoded word (RFC 2047 5)


class _Token(NamedTuple):
    kind: str  # "atom", "quoted", "angle", "mark"
    start: int
    end: int
    text: bytes


def is_complete(value: bytes) -> bool:
    """No address lacks its domain, for certain: a cheap check that is true for most mail."""
    return _WHOLE.fullmatch(value) is not None


def complete(value: bytes, domain: bytes) -> bytes:
    """The value of a field, after its colon, with the domain added to each local part without one.

    Looks at each word: up to 2 us a byte.
    """
    places = [(mailbox[0].start, place) for mailbox in _mailboxes(value) if (place := _maybe_incomplete(mailbox))]
    return _put_in(value, b"@" + domain, places) if places else value


def masquerade(value: bytes, address: bytes) -> bytes:
    """The one address instead of all, with the display name of the first of them."""
    for *name, last in filter(None, _mailboxes(value)):
        if name and last.kind == "angle" and _is_phrase(name):
            return b" %b <%b>" % (value[name[0].start : name[-1].end], address)
        break
    return b" " + address


def addresses(value: bytes) -> list[bytes]:
    """The addresses: the text between angle brackets, or without any; whether it is valid is not checked.

    Raises ValueError where it is ambiguous: no recipient may be left out, or added."""
    mailboxes, is_whole = _split(value, separators=(b",", b";"))
    if not is_whole:
        raise ValueError("a group without an end")
    return [_address(mailbox) for mailbox in mailboxes if mailbox]


def _address(mailbox: list[_Token]) -> bytes:
    last = mailbox[-1]
    angles = [token for token in mailbox if token.kind == "angle"]
    if angles == [last]:
        return last.text[1:-1].strip(b" \t\n")
    words = [token.kind in ("atom", "quoted") for token in mailbox]
    if angles or any(one and other for one, other in pairwise(words)):
        raise ValueError("several words that are no address")
    return b"".join(token.text for token in mailbox)


def _mailboxes(value: bytes) -> list[list[_Token]]:
    """The text between the commas, in groups too, but not in a group without an end."""
    return _split(value)[0]


def _split(value: bytes, separators: tuple[bytes, ...] = (b",",)) -> tuple[list[list[_Token]], bool]:
    """The mailboxes, and whether these are all.  `separators`: what ends one outside of a group."""
    found: list[list[_Token]] = []
    members: list[list[_Token]] | None = None  # of the group that is open
    tokens: list[_Token] = []
    for token in _tokens(value):
        if token.text in separators and members is None:
            found.append(tokens)
            tokens = []
        elif token.text == b"," and members is not None:
            members.append(tokens)
            tokens = []
        elif token.text == b":" and members is None and tokens:
            members, tokens = [], []
        elif token.text == b";" and members is not None:
            found += [*members, tokens]
            members, tokens = None, []
        else:
            tokens.append(token)
    return (found, False) if members is not None else ([*found, tokens], True)


def _tokens(value: bytes) -> Iterator[_Token]:
    """Without blanks and comments.  Where a quote, a comment or a bracket has no end, a mark is the last one."""
    at = 0
    while 0 <= at < len(value):
        found = _TOKEN.match(value, at)
        assert found and found.lastgroup
        text = found[0]
        at = _end_of_comment(value, at) if text == b"(" else -1 if text in (b'"', b"<") else found.end()
        if at < 0 or found.lastgroup != "blank" and text != b"(":
            yield _Token(found.lastgroup, found.start(), found.end(), text)


def _end_of_comment(value: bytes, start: int) -> int:
    """The place after the comment; -1 if it has no end.  Comments nest."""
    depth = 0
    for found in _OF_COMMENT.finditer(value, start):
        depth += {b"(": 1, b")": -1}.get(found[0], 0)
        if not depth:
            return found.end()
    return -1


def _maybe_incomplete(mailbox: list[_Token]) -> int | None:
    """The place where its domain is missing."""
    if not mailbox:
        return None
    *name, last = mailbox
    if last.kind == "angle" and _is_phrase(name):
        found = _IN_ANGLES.fullmatch(last.text)
        return last.start + found.end(1) if found and _is_local(found[1]) else None
    if name or b" " in last.text:  # quotes around blanks: a display name rather than a mailbox
        return None
    return last.end if last.kind in ("atom", "quoted") and _is_local(last.text) else None


def _is_phrase(tokens: list[_Token]) -> bool:
    return all(token.kind in ("atom", "quoted") for token in tokens)


def _is_local(text: bytes) -> bool:
    try:
        text.decode()  # RFC 6532 3.2: what is not ASCII is UTF-8
    except UnicodeDecodeError:
        return False
    return text.startswith(b'"') or _DOT_ATOM.fullmatch(text) is not None


def _put_in(value: bytes, piece: bytes, places: list[tuple[int, int]]) -> bytes:
    """The piece at each of the places: (where the mailbox begins, where it goes)."""
    whole = bytearray()
    at = 0
    for start, place in places:
        whole += value[at:start]
        column = len(whole) - whole.rfind(b"\n") - 1
        if column + place - start + len(piece) > FOLD_WIDTH:
            _fold(whole)
        whole += value[start:place] + piece
        at = place
    return bytes(whole + value[at:])


def _fold(text: bytearray) -> None:
    """A line end before the blanks that the text ends in."""
    end = len(text)
    while end and text[end - 1] in b" \t":
        end -= 1
    if end and text[end - 1] != 0x0A:
        text[end:] = b"\n" + (text[end:] or b" ")
