"""A mail's content as it goes over the wire, piece by piece.

    stuffed    text, for DATA: lines end with CRLF, dots are doubled, a dot alone ends it
    chunked    binary, for BDAT: the header's lines end with CRLF, behind it every byte is as it came

What is stored has LF line ends, in binary content those of the header.
"""

TYPE_CHECKING = False  # as typing has it: sendmail has no time to load more
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


def stuffed(pieces: "Iterable[bytes]") -> "Iterator[bytes]":
    """Content with LF line ends as it goes over the wire, final dot included (RFC 5321 4.5.2).

    A CR is left out wherever it stands: before an LF it is one too many, and elsewhere some servers would take it for
    the end of a line.
    """
    at_start, held = True, b""  # of a line; so that the final dot needs no packet of its own
    for piece in pieces:
        text = piece.translate(None, b"\r") if b"\r" in piece else piece
        if not text:
            continue
        if b"\n." in text:
            text = text.replace(b"\n.", b"\n..")
        dot = b"." if at_start and text.startswith(b".") else b""
        at_start = text.endswith(b"\n")
        if held:
            yield held
        held = dot + text.replace(b"\n", b"\r\n")
    yield held + (b".\r\n" if at_start else b"\r\n.\r\n")


def chunked(pieces: "Iterable[bytes]") -> "Iterator[tuple[bytes, bool]]":
    """Commands with their chunks, and whether it is the last one (RFC 3030 2)."""
    held = b""
    for piece in _with_lines_in_header(pieces):
        if held:
            yield b"BDAT %d\r\n%s" % (len(held), held), False
        held = piece
    yield b"BDAT %d LAST\r\n%s" % (len(held), held), True


def _with_lines_in_header(pieces: "Iterable[bytes]") -> "Iterator[bytes]":
    in_header, at_start = True, True  # of a line
    for piece in filter(None, pieces):
        if not in_header:
            yield piece
            continue
        end = _end_of_header(piece, at_start)
        in_header, at_start = not end, piece.endswith(b"\n")
        cut = end or len(piece)
        yield piece[:cut].translate(None, b"\r").replace(b"\n", b"\r\n") + piece[cut:]


def _end_of_header(piece: bytes, at_start: bool) -> int:
    """Behind the empty line; 0 when it is not in this piece."""
    if at_start and piece.startswith(b"\n"):
        return 1
    found = piece.find(b"\n\n")
    return found + 2 if found >= 0 else 0
