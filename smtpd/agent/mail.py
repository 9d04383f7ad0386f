"""A mail that queue handed over: its header, its content, and what is answered when there is trouble.

The content came in the frame, or stands behind a descriptor that somebody else may be reading too: always by pread.
"""

import os
from collections.abc import Iterable

from mail_local import trace
from mail_local.maildir import pieces_of
from smtpd.agent.worker import Answer, TakenRequest
from smtpd.envelope import Outcome
from smtpd.errand import Deliver, Result


def header_of(mail: Deliver, descriptor: int) -> bytes:
    """As far as `trace` searches it.  Raises OSError."""
    return trace.header_of(mail.content if descriptor < 0 else os.pread(descriptor, trace.HEADER_MAX, 0))


def content_of(mail: Deliver, descriptor: int, lines: bytes) -> Iterable[bytes]:
    """As it is delivered, with `lines` in front, piece by piece; the pieces raise OSError."""
    stored = (mail.content,) if descriptor < 0 else pieces_of(descriptor, mail.size)
    return trace.delivered(lines, stored)


def loop(mail: Deliver) -> Result:
    return Result(mail.envelope, Outcome.LOOP, "Loop detected")


def deferred(batch: Iterable[TakenRequest], reason: str) -> list[Answer]:
    return _all(batch, Outcome.DEFERRED, reason)


def failed(batch: Iterable[TakenRequest], reason: str) -> list[Answer]:
    return _all(batch, Outcome.FAILED, reason)


def _all(batch: Iterable[TakenRequest], outcome: Outcome, reason: str) -> list[Answer]:
    return [Result(mail.envelope, outcome, reason) for mail, _ in batch if isinstance(mail, Deliver)]


def defect(error: Exception) -> str:
    """Where it was raised, without reading a source file: there is none to be seen from here."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    place = f"{at.tb_frame.f_code.co_qualname} line {at.tb_lineno}" if at else "?"
    return f"defect in the agent: {place}: {error!r}"


def close(batch: Iterable[TakenRequest]) -> None:
    for _, descriptor in batch:
        if descriptor >= 0:
            os.close(descriptor)
