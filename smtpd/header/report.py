"""Composes a notice: what became of a message, for its sender (RFC 3461, 3464, 6522, 6533), and for people.

    multipart/report
        text/plain                    what has happened, to whom, what the other server said, what to do
        message/delivery-status       the same in fields; message/global-delivery-status if an address is not ASCII
        message/rfc822                the message, if all of it is wanted, and is plain ASCII;
        text/rfc822-headers           otherwise its header; message/global-headers if that is UTF-8

All of it is 7bit, as the way back may have neither 8BITMIME nor SMTPUTF8; only an address of the sender's that is not
ASCII needs the latter.  What is not plain is encoded.

SECURITY
    The content is a stranger's, the texts are those of other servers.  A text becomes one line of characters that
    print (report_field.py); no boundary occurs in a part.
"""

import base64
import binascii
import hashlib
import itertools
import re

from smtpd.header import report_text
from smtpd.header.report_facts import Action, Report
from smtpd.header.report_field import ascii_line, delivery_status, field, timestamp

CONTENT_MAX = 64 * 1024  # bytes of the message that are given
PLAIN_LINE_MAX = 998  # bytes of a line, RFC 5322 2.1.1

SUBJECTS = {
    Action.FAILED: "Your mail could not be delivered",
    Action.DELAYED: "Your mail is delayed",
    Action.DELIVERED: "Your mail has been delivered",
    Action.RELAYED: "Your mail has been passed on",
    Action.EXPANDED: "Your mail has been passed on to several recipients",
}
SEVERAL = "What became of your mail"

_NOT_PLAIN = re.compile(rb"[^\t\n\x20-\x7e]|[^\n]{%d}" % (PLAIN_LINE_MAX + 1))


def compose(report: Report) -> bytes:
    """The notice, header and body, with LF line ends."""
    content, is_whole = _given(report)
    parts = [
        _text_part(report_text.text(report, is_whole)),
        _status_part(delivery_status(report)),
        _content_part(content, is_whole),
    ]
    boundary = _boundary(report.id, parts)
    body = b"".join(b"--%b\n%b\n" % (boundary, part) for part in parts)
    return b"%b\n%b--%b--\n" % (_header(report, boundary), body, boundary)


def _header(report: Report, boundary: bytes) -> bytes:
    host = ascii_line(report.host)
    actions = {recipient.action for recipient in report.recipients}
    subject = SUBJECTS[actions.pop()] if len(actions) == 1 else SEVERAL
    fields = (
        field("From", f"Mail Delivery System <MAILER-DAEMON@{host}>"),
        field("To", f"<{report.to}>"),
        field("Subject", subject),
        field("Date", timestamp(report.now)),
        f"Message-ID: <{report.id}@{host}>\n",
        "Auto-Submitted: auto-replied\n",  # RFC 3834 5.2
        "MIME-Version: 1.0\n",
        f'Content-Type: multipart/report; report-type=delivery-status;\n  boundary="{boundary.decode()}"\n',
    )
    return "".join(fields).encode()


def _given(report: Report) -> tuple[bytes, bool]:
    """What of the message is given, and whether that is all of it."""
    if report.is_whole and len(report.content) <= CONTENT_MAX and not _NOT_PLAIN.search(report.content):
        return report.content, True
    end = 0 if report.content.startswith(b"\n") else report.content.find(b"\n\n") + 1
    header = report.content[:end] if end or report.content.startswith(b"\n") else report.content
    if len(header) > CONTENT_MAX:
        header = header[: header.rfind(b"\n", 0, CONTENT_MAX) + 1]
    return header, False


def _boundary(id: str, parts: list[bytes]) -> bytes:
    """One that occurs in no part.  Ids of notices can be guessed, so a mail may hold the first ones."""
    for number in itertools.count():
        boundary = b"=_" + hashlib.sha256(f"{number} {id}".encode()).hexdigest()[:32].encode()
        if not any(boundary in part for part in parts):
            break
    return boundary


def _text_part(text: str) -> bytes:
    return _part(b"text/plain; charset=utf-8", text)


def _status_part(fields: str) -> bytes:
    return _part(b"message/delivery-status" if fields.isascii() else b"message/global-delivery-status", fields)


def _part(kind: bytes, text: str) -> bytes:
    """A part of our own making; of text/plain and message/global-delivery-status an encoding is allowed."""
    if text.isascii():
        return b"Content-Type: %b\n\n%b" % (kind, text.encode())
    encoded = binascii.b2a_qp(text.encode(), istext=True)
    return b"Content-Type: %b\nContent-Transfer-Encoding: quoted-printable\n\n%b" % (kind, encoded)


def _content_part(content: bytes, is_whole: bool) -> bytes:
    if not _NOT_PLAIN.search(content):
        kind = b"message/rfc822" if is_whole else b"text/rfc822-headers"
        return b"Content-Type: %b\n\n%b" % (kind, content)
    kind = b"message/global-headers" if _is_utf8(content) else b"text/rfc822-headers"
    encoded = base64.encodebytes(content)
    return b"Content-Type: %b\nContent-Transfer-Encoding: base64\n\n%b" % (kind, encoded)


def _is_utf8(content: bytes) -> bool:
    try:
        return not content.decode().isascii()
    except UnicodeDecodeError:
        return False
