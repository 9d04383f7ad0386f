"""Storing mails into the user's Maildir, on queue's word.

    Deliver --> header --> loop?  --> LOOP
                       \\-> folder --> Maildir.store --> DELIVERED, once it is durable
                                                   \\-> DEFERRED, and nothing is left of it

Whatever the user has done to the Maildir, and whatever a disk says, is a reason to try later: never a bounce.
"""

import os
from collections.abc import Iterable
from itertools import chain

from mail_local import trace
from mail_local.maildir import Earlier, Mail, Maildir, host_part, pieces_of
from smtpd.agent.hand import Answer, Errand, Taken
from smtpd.envelope import Outcome
from smtpd.ipc.errand import Deliver, Result


class Storage:
    """The trade of an agent for one Maildir.  `trouble`: why no mail can be stored, found before the sandbox."""

    ERRAND: type[Errand] = Deliver
    HANDS = 4
    BATCH = 8
    BATCH_BYTES = 1024 * 1024

    def __init__(self, root: str, junk: bool, trouble: str = ""):
        self.root = root
        self.junk = junk
        self.trouble = trouble
        self.over = bool(trouble)
        self.places = [(root, "rwc")] if root else []
        self.host = host_part(os.uname().nodename)
        self.earlier = Earlier(self.host)

    def work(self, *_: object) -> "Storer":
        return Storer(self)

    def name(self, mail: Deliver) -> str:
        """The same at every try."""
        return f"{mail.created}.E{mail.envelope:016x}.{self.host}"


class Storer:
    """One hand's work."""

    def __init__(self, storage: Storage):
        self._storage = storage
        self._maildir: Maildir | None = None

    def do(self, batch: list[Taken]) -> list[Answer]:
        try:
            return self._store(batch)
        except OSError as error:
            return _deferred(batch, error.strerror or str(error))
        except Exception as error:  # a defect of ours costs these mails a delay, not the user's other mail
            return _deferred(batch, f"defect in the agent: {_place_of(error)}: {error!r}")
        finally:
            for _, descriptor in batch:
                if descriptor >= 0:
                    os.close(descriptor)

    def _store(self, batch: list[Taken]) -> list[Answer]:
        maildir = self._open()
        answers: list[Answer] = []
        mails: list[tuple[Deliver, Mail]] = []
        for errand, descriptor in batch:
            assert isinstance(errand, Deliver)
            header = trace.header_of(_start(errand, descriptor))
            if trace.was_delivered_to(header, errand.destination):
                answers.append(Result(errand.envelope, Outcome.LOOP, "Loop detected"))
            else:
                mails.append((errand, self._mail(errand, descriptor, trace.is_junk(header))))
        reasons = maildir.store([mail for _, mail in mails])
        return answers + [
            Result(errand.envelope, Outcome.DEFERRED if reason else Outcome.DELIVERED, reason or "Delivered")
            for (errand, _), reason in zip(mails, reasons, strict=True)
        ]

    def _open(self) -> Maildir:
        """The Maildir as the path leads to it now.  One made after the sandbox was entered is for the next agent."""
        if self._maildir is not None and self._maildir.is_current():
            return self._maildir
        if self._storage.trouble:
            raise OSError(self._storage.trouble)
        try:
            if self._maildir is not None:
                self._maildir.close()
            self._maildir = None
            self._maildir = Maildir(self._storage.root, self._storage.earlier)
        except OSError:
            self._storage.over = True
            raise
        return self._maildir

    def _mail(self, errand: Deliver, descriptor: int, spam: bool) -> Mail:
        lines = trace.added_lines(errand.sender, errand.recipient)
        if descriptor < 0:
            content: Iterable[bytes] = (lines + errand.content,)
        else:
            content = chain((lines,), pieces_of(descriptor, errand.size))
        junk = self._storage.junk and spam
        return Mail(self._storage.name(errand), content, junk, errand.extension, errand.perhaps_delivered)


def _start(errand: Deliver, descriptor: int) -> bytes:
    return errand.content if descriptor < 0 else os.pread(descriptor, trace.HEADER_MAX, 0)


def _deferred(batch: list[Taken], reason: str) -> list[Answer]:
    return [Result(errand.envelope, Outcome.DEFERRED, reason) for errand, _ in batch if isinstance(errand, Deliver)]


def _place_of(error: Exception) -> str:
    """Where it was raised, without reading a source file: there is none to be seen from here."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return f"{at.tb_frame.f_code.co_qualname} line {at.tb_lineno}" if at else "?"
