"""The header of a message: what is mended in it, and what is not, against fields found by another hand.

byte 0      what is added, masqueraded; the size of pieces
the rest    content with LF line ends
"""

import re
from email.utils import getaddresses

from smtpd.header.editor import MAX_MENDED, HeaderEditor
from smtpd.header.received import received
from tests.fuzz import invariants

NOON = 1795243823
DOMAIN = b"@here.test"
ADDRESS = "amy@here.test"
ADDED = (b"Date: Sat, 21 Nov 2026 06:50:23 +0000 (UTC)", b"Message-ID: <1a2b3c4d@here.test>")

_NAME = re.compile(rb"([^:\n\t ][^:\n]*?)[\t ]*:", re.DOTALL)
_MENDED = (b"to", b"cc", b"from", b"bcc")


def fuzz(data: bytes) -> None:
    choice, content = data[0] if data else 0, data[1:]
    _check_trace(content)
    masked, submitted = choice & 1, choice & 2
    whole = _edit(content, len(content) or 1, masked, submitted)
    assert _edit(content, 1 + (choice >> 4), masked, submitted) == whole
    if whole is not None:
        _check(content, whole, masked, submitted)


def _edit(content: bytes, step: int, masked: int, submitted: int) -> bytes | None:
    editor = HeaderEditor(
        domain="here.test",
        masquerade=ADDRESS if masked else "",
        date=NOON if submitted else None,
        message_id="1a2b3c4d@here.test" if submitted else "",
    )
    edited = [editor.feed(content[at : at + step]) for at in range(0, len(content), step)]
    edited.append(editor.end())
    return None if editor.fault else b"".join(edited)


def _check(content: bytes, edited: bytes, masked: int, submitted: int) -> None:
    before, body = _split(content)
    after, body_after = _split(edited)
    assert body_after == body
    assert len(edited) <= len(content) + 200 + 8 * min(len(content), MAX_MENDED) + masked * len(ADDRESS)
    for field in after:
        assert _NAME.match(field) and b"\r" not in field, field
    names = {_name(field) for field in before}
    missing = [field for field in ADDED if _name(field) not in names] if submitted else []
    assert after[len(after) - len(missing) :] == missing
    after = after[: len(after) - len(missing)]
    assert [field for field in after if _name(field) not in _MENDED] == [
        field for field in before if _name(field) not in _MENDED
    ]
    kept = [field for field in before if _name(field) in _MENDED and _name(field) != b"bcc"]
    mended = [field for field in after if _name(field) in _MENDED]
    if masked:
        _check_masked(kept, mended)
        kept, mended = ([field for field in fields if _name(field) != b"from"] for fields in (kept, mended))
    assert [_bare(field) for field in mended] == [_bare(field) for field in kept]


def _check_masked(before: list[bytes], after: list[bytes]) -> None:
    """One From, and in it our address and no other."""
    senders = [field.partition(b":")[2] for field in after if _name(field) == b"from"]
    assert len(senders) == any(_name(field) == b"from" for field in before)
    for sender in senders:
        text = sender.decode("latin-1")
        assert [address for _, address in getaddresses([text], strict=False) if address] == [ADDRESS], sender


def _split(content: bytes) -> tuple[list[bytes], bytes]:
    """Fields, folded as they are, and all behind them with its empty line."""
    end = (b"\n" + content).find(b"\n\n")
    header, body = (content[:end], content[end:]) if end >= 0 else (content, b"")
    return [field for field in re.split(rb"\n(?![ \t])", header) if field], body


def _name(field: bytes) -> bytes:
    found = _NAME.match(field)
    return found[1].lower() if found else b""


def _bare(field: bytes) -> bytes:
    """Without blanks, and without the domain that may have been put in."""
    bare, before = re.sub(rb"[ \t\n]", b"", field), b""
    while bare != before:
        bare, before = bare.replace(DOMAIN, b""), bare
    return bare


def _check_trace(content: bytes) -> None:
    """What a client calls itself cannot get out of its place."""
    helo, client, user = (content.decode("latin-1").split("\n") + ["", ""])[:3]
    line = received(
        helo=helo or "x",
        client=client or "<unknown>",
        address="192.0.2.1",
        server="mx.here.test",
        product="smtpd",
        protocol="ESMTPSA",
        message="1a2b3c4d",
        recipient="",
        epoch=NOON,
        tls="TLSv1.3:TLS_AES_256_GCM_SHA384:256:NO",
        user=user,
        received_auth=True,
    )
    assert invariants.get_untraced(line) == b""
