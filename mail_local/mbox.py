"""An mbox: all mails of a user in one file.

    From amy@there.test Sat Nov 21 09:16:04 2026    the envelope: sender, and local time of delivery
    Subject: hello                                  the mail, byte for byte, but that
                                                    each line that begins with "From " gets a ">" in front
    >From here one sees the sea.
                                                    an empty line, whether or not the mail ended with one

Every such line is quoted, in header and body, with or without an empty line before it: readers disagree about which
lines begin a mail.  If the file does not end with an empty line, as after a crash in the middle of a mail, the missing
line ends are written first.

`store` needs a descriptor that is open for reading and writing; the caller has locked the file (mailbox.py).

Knows nothing of mail and Content-Length: content is lines.
"""

import math
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from smtpd.ipc.os_error import describe_error

LOCK_TIME_OVER = "the disk is slow, and the mailbox must not stay locked for longer"

_FROM, _QUOTED = b"\nFrom ", b"\n>From "
_SENDER_MAX = 256  # RFC 5321 4.5.3.1.3
_UNSEEN = bytes.maketrans(bytes((*range(33), 127)), b"?" * 34)


@dataclass(frozen=True)
class MboxMail:
    """`content` is consumed once, piece by piece.  `received` in seconds since the epoch."""

    sender: str  # empty: the null sender
    received: float
    content: Iterable[bytes]


def envelope_line(sender: str, received: float) -> bytes:
    """The From_ line.  Nothing in an address can end it or look like its date; it is ASCII (RFC 4155, appendix A)."""
    address = sender.encode("ascii", "replace")[:_SENDER_MAX].translate(_UNSEEN) or b"MAILER-DAEMON"
    return b"From %s %s\n" % (address, time.asctime(time.localtime(received)).encode())


def framed(mail: MboxMail) -> Iterator[bytes]:
    """The mail as it is written to an mbox, piece by piece."""
    held = envelope_line(mail.sender, mail.received)
    for piece in mail.content:
        text = held + piece
        cut = _quotable(text)
        held = text[cut:]
        yield text[:cut].replace(_FROM, _QUOTED)
    held = held.replace(_FROM, _QUOTED)
    yield held + (b"\n" if held.endswith(b"\n") else b"\n\n")


def _quotable(text: bytes) -> int:
    """Length of the part that can be quoted before more content comes: all but what may begin a `From ` line."""
    cut = text.rfind(b"\n", -len(_FROM))
    return cut if cut >= 0 else len(text)


def store(descriptor: int, mails: list[MboxMail], until: float = math.inf) -> list[str]:
    """Append all mails.  For each: an empty text if it is durable, or the reason why not; then nothing is left.  None
    but the first is begun after `until` (monotonic clock): then the lock has to be released.

    Raises OSError if a partly written mail could not be removed: then none of them counts as stored.
    """
    begin = at = os.fstat(descriptor).st_size
    reasons = []
    try:
        for number, mail in enumerate(mails):
            if number and time.monotonic() >= until:
                reasons.append(LOCK_TIME_OVER)
                continue
            at, reason = _append(descriptor, at, mail)
            reasons.append(reason)
        os.fsync(descriptor)  # some file systems report a full disk or quota only here
    except OSError as error:
        os.ftruncate(descriptor, begin)
        return [describe_error(error)] * len(mails)
    except BaseException:
        os.ftruncate(descriptor, begin)
        raise
    return reasons


def _append(descriptor: int, begin: int, mail: MboxMail) -> tuple[int, str]:
    """The new end of the mailbox, and an empty text or the reason why the mail is not stored."""
    try:
        at = begin
        for piece in chain((_gap(descriptor, begin),), framed(mail)):
            at = _write_all(descriptor, at, piece)
        return at, ""
    except OSError as error:
        os.ftruncate(descriptor, begin)
        return begin, describe_error(error)


def _gap(descriptor: int, size: int) -> bytes:
    """The line ends that are missing after the last mail."""
    end = os.pread(descriptor, 2, max(size - 2, 0))
    if end in (b"", b"\n\n"):
        return b""
    return b"\n" if end.endswith(b"\n") else b"\n\n"


def _write_all(descriptor: int, at: int, piece: bytes) -> int:
    rest = memoryview(piece)
    while rest:
        written = os.pwrite(descriptor, rest, at)
        rest, at = rest[written:], at + written
    return at
