"""The content of a message, behind DATA and in chunks, against a reader that sees all of it at once.

byte 0      DATA, chunks of text, chunks of a binary message; how small a limit; the size of pieces
the rest    what a client sends
"""

from smtpd.smtp.chunk import ChunkReader
from smtpd.smtp.data import DataReader
from smtpd.smtp.dot_stuffing import dot_stuffed
from smtpd.smtp.reply import CommandRefused
from tests.fuzz import invariants

END = b"\r\n.\r\n"
LIMIT = 100  # bytes


def fuzz(data: bytes) -> None:
    choice, data = data[0] if data else 0, data[1:]
    step = 1 + (choice >> 4)
    if choice & 3 == 0:
        _check_data(data, LIMIT if choice & 4 else 2**30, step)
    else:
        _check_chunks(data, choice & 3 > 1, step)


def _check_data(data: bytes, limit: int, step: int) -> None:
    seen = b"\r\n" + data
    end = seen.find(END)
    content = _text(seen[: end + 2]) if end >= 0 else None
    whole = _read_data(data, limit, len(data) or 1)
    assert _read_data(data, limit, step) == whole
    if whole is None:
        assert content is None
        return
    given, rest, ended, too_big = whole
    assert ended == (end >= 0)
    if not ended:
        return
    assert content is not None and rest == seen[end + len(END) :]
    content = _unstuffed(content)[1:]
    assert too_big == (len(content) + content.count(b"\n") > limit)
    if not too_big:
        assert given == content
        sent = b"".join(dot_stuffed([content]))
        assert _read_data(sent + b"rest", limit, len(sent) + 4) == (content, b"rest", True, False)


def _read_data(data: bytes, limit: int, step: int) -> tuple[bytes, bytes, bool, bool] | None:
    """Content, rest, whether it ended, whether it was too big; None: the session ends."""
    reader, given = DataReader(limit), []
    try:
        for at in range(0, len(data), step):
            given.append(reader.feed(data[at : at + step]))
            if reader.ended:
                content = b"" if reader.fault else b"".join(given)
                return content, reader.rest + data[at + step :], True, bool(reader.fault)
    except CommandRefused as refused:
        invariants.check_refusal(refused)
        assert refused.close
        return None
    return b"", b"", False, bool(reader.fault)


def _check_chunks(data: bytes, binary: bool, step: int) -> None:
    whole = _read_chunks(data, binary, len(data) or 1)
    assert _read_chunks(data, binary, step) == whole
    if not binary:
        assert whole == _counted(data)
    if whole is not None:
        assert b"\0" not in whole and b"\r" not in whole and whole[-1:] in (b"", b"\n")
        sent = b"".join(dot_stuffed([whole]))
        assert _read_data(sent, 2**30, len(sent)) == (whole, b"", True, False)


def _read_chunks(data: bytes, binary: bool, step: int) -> bytes | None:
    reader = ChunkReader(binary=binary)
    content = b"".join([*(reader.feed(data[at : at + step]) for at in range(0, len(data), step)), reader.end()])
    return None if reader.fault else content


def _text(seen: bytes) -> bytes | None:
    """With LF line ends, if it is text."""
    bare = seen.replace(b"\r\n", b"")
    return None if {b"\r", b"\n", b"\0"} & {bare[n : n + 1] for n in range(len(bare))} else seen.replace(b"\r\n", b"\n")


def _counted(data: bytes) -> bytes | None:
    """As smtp/line_ending.py says of a chunk."""
    content = data.replace(b"\r\n", b"\n")
    end = 1 if content.startswith(b"\n") else content.find(b"\n\n") + 2
    header, body = (content[:end], content[end:]) if end > 1 or content[:1] == b"\n" else (content, None)
    if b"\0" in content or body is None and b"\r" in header:
        return None
    lines = header.replace(b"\r", b" ") + (body or b"").replace(b"\r", b"\n")
    return lines if lines.endswith(b"\n") or not lines else lines + b"\n"


def _unstuffed(content: bytes) -> bytes:
    return b"\n".join(line[1:] if line.startswith(b".") else line for line in content.split(b"\n"))
