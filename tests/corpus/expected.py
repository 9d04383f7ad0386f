"""What smtpd(8), "Incoming mail", and sendmail(8) say that becomes of a mail.

Written from there, for one mail at a time and without regard to speed."""

import re

from tests.corpus.mail import Changed, Encoded, Mail, Outcome, Refused, Same

MAX_LINE = 65534  # bytes
MAX_NAME, MAX_VALUE = 1023, 65535
MAX_HEADER = 1024 * 1024
MAX_HEADER_BINARYMIME = 256 * 1024
MAX_RECEIVED = 99
MAX_FIELDS = 1000
LOOKED_AT = 64 * 1024  # bytes of a part with BODY=BINARYMIME
LONG = 990  # bytes of a line that sendmail sends as it is, in a mail without parts

BARE = Refused("bare CR or LF, or a NUL, behind DATA", 500, "5.5.2", closes=True)
LONG_DATA = Refused("a line longer than 65534 bytes, behind DATA", 500, "5.5.2", closes=True)
LONG_CHUNK = Refused("a line longer than 65534 bytes", 550, "5.6.0")
LARGE_HEADER = Refused("a header of more than 256 KB, with BODY=BINARYMIME", 550, "5.6.0")
LATE_NUL = Refused("a NUL behind the first 64 KB of a part, with BODY=BINARYMIME", 554, "5.6.3")
NUL = Refused("a NUL in a chunk", 550, "5.6.0")
CR_HEADER = Refused("all lines of the header end with a CR alone", 550, "5.6.0")
MALFORMED = Refused("a header line that is none, or that is too long", 550, "5.7.1")
LOOP = Refused("a hundredth Received", 500, "5.4.6")
TOO_LARGE = Refused("a header of more than 1 MB", 552, "5.3.4")
CR_ALONE = {
    "bdat": "a CR alone ends a line of the body, and is a blank in the header",
    "binarymime": "a CR alone ends a line of the body, and is a blank in the header",
    "sendmail": "a CR alone ends a line",
}
UNSENT = Refused("a header of more than 1 MB is not sent", 0, "")  # by sendmail itself

_FIELD = re.compile(rb"[^:\t \n][^:\n]{0,%d}:[^\n]{0,%d}" % (MAX_NAME - 1, MAX_VALUE))
_KNOWN = re.compile(
    rb"(from|sender|reply-to|to|cc|bcc|subject|date|message-id|in-reply-to|references|mime-version|user-agent|received|"
    rb"return-path|precedence|auto-submitted|content-[!-9;-~]*|resent-[!-9;-~]*|list-[!-9;-~]*|x-[!-9;-~]*)[\t ]*:",
    re.IGNORECASE,
)
_NAME = re.compile(rb"[!-9;-~]+[\t ]*:")


def expected(mail: Mail, way: str) -> Outcome:
    outcome = {"data": _data, "bdat": _bdat, "binarymime": _binarymime, "sendmail": _sendmail}[way](mail)
    if isinstance(outcome, Same) and re.search(rb"\r(?!\n)", mail.content):
        return Changed(CR_ALONE[way], outcome.body)
    return outcome


def _data(mail: Mail) -> Outcome:
    sent = mail.as_data().removesuffix(b".\r\n")
    if b"\0" in sent or re.search(rb"\r(?!\n)|(?<!\r)\n", sent):
        return BARE
    text = re.sub(rb"(?m)^\.", b"", sent.replace(b"\r\n", b"\n"))
    return LONG_DATA if _is_long(text) else _stored(text)


def _bdat(mail: Mail) -> Outcome:
    sent = mail.as_chunk()
    if b"\0" in sent:
        return NUL
    text = sent.replace(b"\r\n", b"\n")
    found = re.match(rb"\n|.*?\n\n", text, re.DOTALL)
    header, body = (found[0], text[found.end() :]) if found else (text, b"")
    if b"\r" in header and not found:
        return CR_HEADER
    text = header.replace(b"\r", b" ") + body.replace(b"\r", b"\n")
    if text and not text.endswith(b"\n"):
        text += b"\n"
    return LONG_CHUNK if _is_long(text) else _stored(text)


def _binarymime(mail: Mail) -> Outcome:
    """Of mails without parts; those of the corpus that have some are text in each of them."""
    header, _, body = mail.as_chunk().partition(b"\r\n\r\n")
    if len(header) > MAX_HEADER_BINARYMIME:
        return LARGE_HEADER
    if max(map(len, header.split(b"\n"))) > MAX_LINE:
        return MALFORMED
    if b"\0" not in body:
        return _bdat(mail)
    if b"\0" in body[:LOOKED_AT]:
        return Encoded("a part with NUL is base64", body)
    return LATE_NUL


def _sendmail(mail: Mail) -> Outcome:
    text = mail.content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    header, body = _letter(text)
    if sum(map(len, header)) > MAX_HEADER:
        return UNSENT
    if max(map(len, header), default=0) > MAX_LINE:
        return LONG_DATA
    if fault := _fault(header):
        return fault
    if body and not body.endswith(b"\n"):
        body += b"\n"
    longest = max(map(len, body.split(b"\n")))
    says = b"".join(header).lower()
    if b"\0" in body or longest > MAX_LINE:
        return Encoded("a part with NUL or with a line longer than 65534 bytes is encoded", body)
    if longest > LONG and b"multipart/" not in says and b"content-transfer-encoding" not in says:
        return Encoded("lines longer than 990 bytes in a mail without parts are encoded", body)
    return Same(body)


def _letter(text: bytes) -> tuple[list[bytes], bytes]:
    """The lines of the header, and the body."""
    lines = text.splitlines(keepends=True)
    header: list[bytes] = []
    skipped = 1 if lines and re.match(rb">?From ", lines[0]) else 0
    for line in lines[skipped:]:
        if not (_NAME.match(line) or header and line.startswith((b" ", b"\t"))):
            break
        header.append(line)
    if header and not any(map(_KNOWN.match, header)):
        return [], text
    rest = b"".join(lines[skipped + len(header) :])
    return header, rest.removeprefix(b"\n")


def _stored(text: bytes) -> Outcome:
    """What is stored of text in lines that end with LF."""
    if text.startswith(b"\n"):
        header, body = b"", text[1:]
    else:
        header, empty, body = text.partition(b"\n\n")
        header += b"\n" if empty else b""
    return _fault(header.splitlines(keepends=True)) or Same(body)


def _fault(header: list[bytes]) -> Refused | None:
    names = [line.partition(b":")[0].strip().lower() for line in header if not line.startswith((b" ", b"\t"))]
    for number, line in enumerate(header):
        bare = line.removesuffix(b"\n")
        if line.startswith((b" ", b"\t")):
            if number == 0 or len(bare) > MAX_VALUE + 1:
                return MALFORMED
        elif not _FIELD.fullmatch(bare):
            return MALFORMED
    if names.count(b"received") > MAX_RECEIVED:
        return LOOP
    large = (
        sum(map(len, header)) > MAX_HEADER
        or sum(name in (b"to", b"cc", b"from", b"bcc") for name in names) > MAX_FIELDS
    )
    return TOO_LARGE if large else None


def _is_long(text: bytes) -> bool:
    return any(len(line) > MAX_LINE for line in text.split(b"\n"))
