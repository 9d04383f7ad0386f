"""The file of a mail that was handed in while smtpd did not run: its envelope, and its content as it came.

    bytes  what
    8      MAGIC
    4      length of the envelope
    8      length of the content
    …      the envelope: fields, each with its length (4 bytes) in front: sender, RET, ENVID (xtext), NOTIFY, "8" for
           8BITMIME, and one for each recipient
    …      the content, lines end with LF

Numbers are big-endian.  A file that is shorter or longer than it says has been changed, and is refused.
"""

import os

from smtpctl.submission import PIECE, SubmissionMail
from smtpd.smtp.address import NULL, AddressError, parse_path

TYPE_CHECKING = False  # see raw_mail.py
if TYPE_CHECKING:
    from collections.abc import Iterator

MAGIC = b"smtpd\0\0\1"
HEAD_SIZE = len(MAGIC) + 4 + 8
ENVELOPE_MAX = 1024 * 1024  # bytes
NULL_SENDER = ""
_RET = ("", "FULL", "HDRS")
_NOTIFY = {"", "NEVER", "SUCCESS", "FAILURE", "DELAY"}


class OfflineFileError(Exception):
    """It is not a file that sendmail has written."""


def pack_head(mail: SubmissionMail, content_size: int) -> bytes:
    """All that stands before the content.  Raises OfflineFileError for an envelope that is too large."""
    fields = (mail.sender, mail.ret, mail.envid, mail.notify, "8" * mail.eight_bit, *mail.recipients)
    encoded = [field.encode() for field in fields]
    envelope = b"".join(len(field).to_bytes(4) + field for field in encoded)
    if len(envelope) > ENVELOPE_MAX:
        raise OfflineFileError("too many recipients")
    return MAGIC + len(envelope).to_bytes(4) + content_size.to_bytes(8) + envelope


class OfflineFile:
    """One that is open.  Raises OfflineFileError, OSError."""

    def __init__(self, descriptor: int):
        self._descriptor = descriptor
        head = os.pread(descriptor, HEAD_SIZE, 0)
        if len(head) < HEAD_SIZE or not head.startswith(MAGIC):
            raise OfflineFileError("not written by sendmail")
        envelope_size = int.from_bytes(head[len(MAGIC) : -8])
        self._content_size = int.from_bytes(head[-8:])
        self._begin = HEAD_SIZE + envelope_size
        if envelope_size > ENVELOPE_MAX or self._begin + self._content_size != os.fstat(descriptor).st_size:
            raise OfflineFileError("incomplete, or changed")
        self.mail = _mail(_fields(os.pread(descriptor, envelope_size, HEAD_SIZE)), self._content_size)

    def content(self) -> "Iterator[bytes]":
        """Raises OfflineFileError where the file has become shorter meanwhile: what is sent has no end then."""
        at, end = self._begin, self._begin + self._content_size
        while at < end:
            piece = os.pread(self._descriptor, min(PIECE, end - at), at)
            if not piece:
                raise OfflineFileError("changed while it was read")
            at += len(piece)
            yield piece


def _fields(envelope: bytes) -> list[str]:
    fields, at = list[str](), 0
    while at < len(envelope):
        size = int.from_bytes(envelope[at : at + 4])
        field = envelope[at + 4 : at + 4 + size]
        if at + 4 + size > len(envelope):
            raise OfflineFileError("malformed envelope")
        try:
            fields.append(field.decode())
        except UnicodeDecodeError:
            raise OfflineFileError("malformed envelope") from None
        at += 4 + size
    return fields


def _mail(fields: list[str], size: int) -> SubmissionMail:
    """Each field is looked at as those of a command line are: it can end no command."""
    if len(fields) < 6:
        raise OfflineFileError("malformed envelope")
    sender, ret, envid, notify, eight_bit, *recipients = fields
    if ret not in _RET or not _NOTIFY.issuperset(notify.split(",")) or eight_bit not in ("", "8"):
        raise OfflineFileError("malformed envelope")
    if not (envid.isascii() and envid.isprintable() and " " not in envid):
        raise OfflineFileError("malformed envelope")
    if sender != NULL_SENDER:
        _check_address(sender)
    for recipient in recipients:
        _check_address(recipient)
    mail = SubmissionMail(sender, tuple(recipients), size, eight_bit == "8", ret, notify=notify)
    mail.envid = envid  # it is xtext already
    return mail


def _check_address(text: str) -> None:
    try:
        address, rest = parse_path(f"<{text}>")
    except (AddressError, ValueError):
        raise OfflineFileError("malformed address") from None
    if rest or address == NULL:
        raise OfflineFileError("malformed address")
