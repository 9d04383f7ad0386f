"""What a notice says: rows of the database and the content of the message, as a Report for header/report.py.

    content that is returned (RFC 3461 4.3)
      RET=FULL, something has failed, at most WHOLE_MAX bytes     the message; not with REQUIRETLS (RFC 8689 5)
      otherwise                                                   its header, up to HEADER_MAX bytes
      it cannot be read                                           nothing

Opens the spool file, as it runs in a thread of its own.  What strangers wrote goes into the notice by way of
header/report.py only.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import closing

from smtpd.header.report import compose
from smtpd.header.report_facts import Action, RecipientReport, Report
from smtpd.queue.store.recipient_status import RecipientStatus, ReportAction
from smtpd.queue.store.spool import Spool
from smtpd.queue.store.store import Message

WHOLE_MAX = 64 * 1024  # bytes of a message that is returned as a whole
HEADER_MAX = 16 * 1024  # bytes of a header that is returned
_HEADER_END = re.compile(rb"\n\n|\A\n")


def compose_notice(
    host: str, rows: Sequence[RecipientStatus], content: Callable[[int], bytes], size: int, now: float, id: str
) -> bytes:
    """`rows` have one sender; `content(n)` reads the first n bytes of their message, which has `size` of them; `id` is
    that of the notice."""
    first = rows[0]
    failed = any(row.action is ReportAction.FAILED for row in rows)
    is_whole = failed and size <= WHOLE_MAX and any(row.ret == "FULL" and not row.require_tls for row in rows)
    returned = content(WHOLE_MAX if is_whole else HEADER_MAX)
    return compose(
        Report(
            host=host,
            to=first.sender,
            envelope_id=first.envid or None,
            arrival=first.created,
            recipients=tuple(_recipient(row, host) for row in rows),
            content=returned if is_whole else header_of(returned),
            is_whole=is_whole,
            now=now,
            id=id,
        )
    )


def header_of(content: bytes) -> bytes:
    """The header at the beginning of `content`, without the empty line; whole lines, if it does not end there."""
    end = _HEADER_END.search(content)
    if end is not None:
        return content[: end.start() + 1] if end.start() else content[: end.start()]
    return content[: content.rfind(b"\n") + 1]


def reader(spool: Spool, message: Message | None) -> Callable[[int], bytes]:
    """What reads the beginning of the content of `message`; of a file no more than that.  It may raise ContentDamaged,
    KeyMissing and OSError."""

    def read(count: int) -> bytes:
        if message is None:
            return b""
        if message.content is not None:
            return message.content[:count]
        content = bytearray()
        with closing(spool.pieces(message)) as pieces:
            for piece in pieces:
                content += piece
                if len(content) >= count and message.size > count:
                    break
        return bytes(content[:count])

    return read


def _recipient(row: RecipientStatus, host: str) -> RecipientReport:
    return RecipientReport(
        recipient=row.recipient if "@" in row.recipient else f"{row.recipient}@{host}",
        original=row.original or None,
        action=Action[row.action.name],
        status=row.status or "5.0.0",
        reason=row.reason,
        remote=row.remote or None,
        diagnostic=row.diagnostic or None,
        last_attempt=row.last_try or None,
        retry_until=row.expires if row.action is ReportAction.DELAYED else None,
    )
