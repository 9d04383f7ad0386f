"""Delivery to the user's mailbox: appends mails while the parent has the mailbox locked.

    parent ==mailbox_socket==>  number of a lock, and the open mailbox      each time that the mailbox is locked
    queue  ==errands=========>  Deliver, Deliver, … each with the number    of the lock under which it may be written

Only root can create mailboxes and dot-locks in the mail directory.  So this process opens nothing: it writes to the
descriptor that it received, and only under the lock that queue named.  All mails of a batch are appended, then synced
once.

A mail for a lock that has not been received is deferred, and so is one that has not been begun when the mailbox has
been locked for LOCK_TIME.  The parent kills an agent that does not give the lock back.  A kill in the middle of a mail
would leave half of that mail, and the whole batch would be delivered again.  On a slow disk 32 large mails take longer
than that; but a batch (8 MiB, and the rest of its last mail) may use all the time from LOCK_TIME to LOCK_MAX in
parent/mailbox.py.

A crash leaves at most one mail whose end is missing; the next mail is separated from it (mail_local/mbox.py).
"""

import os
import socket
import stat
import struct
import time
from itertools import groupby

from mail_local import mbox, trace
from smtpd.agent import mail
from smtpd.agent.worker import Answer, TakenRequest
from smtpd.envelope import Outcome
from smtpd.errand import AgentSpec, Deliver, FrameError, Request, Result
from smtpd.ipc.os_error import describe_error

LOCK_TIME = 30.0  # seconds under one lock; then no mail is begun, unless it is the first one under this lock

_NUMBER = struct.Struct(">Q")
_ROOM_FOR_DESCRIPTORS = socket.CMSG_SPACE(4 * 4)


class MailboxAgent:
    """Agent kind for the mailbox of one user."""

    REQUESTS: tuple[type[Request], ...] = (Deliver,)
    WORKERS_MAX = 1
    BATCH_MAX = 32
    BATCH_BYTES = 8 * 1024 * 1024
    GATHER_TIME = 0
    SAME_MESSAGE = False
    SPARE_WORKER = False

    def __init__(self, spec: AgentSpec, user: str, home: str):
        self.draining = False
        self.visible_paths: list[tuple[str, str]] = []

    def make_executor(self, queue: socket.socket, mailbox_socket: socket.socket | None) -> "MailboxWriter":
        if mailbox_socket is None:
            raise ValueError("an agent for a mailbox needs a mailbox_socket")
        return MailboxWriter(mailbox_socket)


class MailboxWriter:
    """Executor of the only worker: one mailbox, one writer."""

    def __init__(self, mailbox_socket: socket.socket):
        self._mailbox_socket = mailbox_socket
        self._lock = 0  # number of the last lock that was received
        self._mailbox = -1  # its mailbox
        self._deadline = 0.0  # no mail is begun under this lock after it, by the monotonic clock
        self._is_used = False  # a mail was stored under this lock

    def execute(self, batch: list[TakenRequest]) -> list[Answer]:
        answers: list[Answer] = []
        try:
            for lock, taken in groupby(batch, key=_lock_number):
                answers += self._store(lock, list(taken))
        finally:
            mail.close(batch)
        return answers

    def _store(self, lock: int, batch: list[TakenRequest]) -> list[Answer]:
        try:
            self._receive_locks(lock)
            if lock != self._lock:
                return mail.deferred(batch, "the lock of the mailbox has been given up")
            if self._is_used and time.monotonic() >= self._deadline:
                return mail.deferred(batch, mbox.LOCK_TIME_OVER)
            if not stat.S_ISREG(os.fstat(self._mailbox).st_mode):
                return mail.deferred(batch, "the mailbox is not a regular file")
            return self._append(batch)
        except OSError as error:
            return mail.deferred(batch, describe_error(error))
        except FrameError:
            raise
        except Exception as error:  # a defect in this code delays these mails, and no other mail of the user
            return mail.deferred(batch, mail.defect(error))

    def _append(self, batch: list[TakenRequest]) -> list[Answer]:
        answers: list[Answer] = []
        fresh: list[tuple[Deliver, mbox.MboxMail]] = []
        now = time.time()
        for errand, descriptor in batch:
            assert isinstance(errand, Deliver)
            if trace.was_delivered_to(mail.header_of(errand, descriptor), errand.destination):
                answers.append(mail.loop(errand))
            else:
                lines = trace.added_lines(errand.sender, errand.recipient)
                fresh.append((errand, mbox.MboxMail(errand.sender, now, mail.content_of(errand, descriptor, lines))))
        self._is_used = True
        reasons = mbox.store(self._mailbox, [stored for _, stored in fresh], self._deadline) if fresh else []
        return answers + [
            Result(errand.envelope, Outcome.DEFERRED if reason else Outcome.DELIVERED, reason or "Delivered")
            for (errand, _), reason in zip(fresh, reasons, strict=True)
        ]

    def _receive_locks(self, lock: int) -> None:
        """Receive all locks up to this one.  The parent sent it before queue heard of it, so this need not wait."""
        while self._lock < lock:
            try:
                flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
                packet, ancillary, flags_received, _ = self._mailbox_socket.recvmsg(
                    _NUMBER.size + 1, _ROOM_FOR_DESCRIPTORS, flags
                )
            except BlockingIOError:
                return
            descriptors = [number for _, _, data in ancillary for number in struct.unpack(f"{len(data) // 4}i", data)]
            if not packet:
                return
            if len(packet) != _NUMBER.size or len(descriptors) != 1 or flags_received & socket.MSG_CTRUNC:
                raise FrameError("not a mailbox")
            if self._mailbox >= 0:
                os.close(self._mailbox)
            (self._lock,) = _NUMBER.unpack(packet)
            (self._mailbox,) = descriptors
            self._deadline, self._is_used = time.monotonic() + LOCK_TIME, False


def _lock_number(taken: TakenRequest) -> int:
    errand, _ = taken
    return errand.lock if isinstance(errand, Deliver) else 0
