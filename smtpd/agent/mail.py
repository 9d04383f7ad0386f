"""Header and content of a mail that queue has sent, and the results for a whole batch that fails.

The content is in the frame, or in a file whose descriptor came with it.  Another process may use the same open file
description, so it is always read by pread.
"""

import os
from collections.abc import Iterable

from mail_local import trace
from mail_local.maildir import pieces_of
from smtpd.agent.worker import Answer, TakenRequest
from smtpd.envelope import Outcome
from smtpd.errand import Deliver, Result


def header_of(mail: Deliver, descriptor: int) -> bytes:
    """The header, as far as `trace` searches it.  Raises OSError."""
    return trace.header_of(mail.content if descriptor < 0 else os.pread(descriptor, trace.HEADER_MAX, 0))


def content_of(mail: Deliver, descriptor: int, lines: bytes) -> Iterable[bytes]:
    """The content as it is delivered, with `lines` in front, piece by piece.  Iterating may raise OSError."""
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
    """The place and text of an unexpected exception.  No source line: the sandbox does not show the source files."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    place = f"{at.tb_frame.f_code.co_qualname} line {at.tb_lineno}" if at else "?"
    return f"defect in the agent: {place}: {error!r}"


def close(batch: Iterable[TakenRequest]) -> None:
    for _, descriptor in batch:
        if descriptor >= 0:
            os.close(descriptor)
