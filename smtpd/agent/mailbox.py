"""Appending mails to the user's mailbox, while the parent has it locked.

    parent ==mailbox_socket==>  number of a lock, and with it the mailbox, open    one for each time that it is locked
    queue  ==========>  Deliver, Deliver, … each with the number           under which lock it may be written

Nobody but root can make a mailbox or its dot-lock beside all others, so this process opens nothing: it writes to what
it was handed, and only under the lock that queue named.  All mails that wait are appended, then synced, once.

A mail that comes under a lock which is not here is tried later, and so is one that is not begun before the mailbox has
been locked for LOCK_TIME.  The parent kills an agent that does not give the lock back.  Killed in the middle of a mail
it would leave half of that mail, and the whole batch would come a second time.  On a slow disk 32 large mails under one
lock would take longer than that; a batch (8 MiB, and the rest of its last mail) has all the time between LOCK_TIME and
the parent's HELD_MAX.

What a crash leaves is at the most a mail whose end is missing, which the next one does not run into
(mail_local/mbox.py).
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

LOCK_TIME = 30.0  # seconds under one lock after which no mail is begun but the first

_NUMBER = struct.Struct(">Q")
_ROOM_FOR_DESCRIPTORS = socket.CMSG_SPACE(4 * 4)


class MailboxAgent:
    """The trade of an agent for the mailbox of one user."""

    REQUESTS: tuple[type[Request], ...] = (Deliver,)
    WORKERS_MAX = 1
    BATCH = 32
    BATCH_BYTES = 8 * 1024 * 1024
    GATHER_TIME = 0
    SAME_MESSAGE = False
    SPARE_WORKER = False

    def __init__(self, post: AgentSpec, user: str, home: str):
        self.draining = False
        self.visible_paths: list[tuple[str, str]] = []

    def work(self, queue: socket.socket, mailbox_socket: socket.socket | None) -> "MailboxWriter":
        if mailbox_socket is None:
            raise ValueError("an agent of a mailbox needs a mailbox_socket")
        return MailboxWriter(mailbox_socket)


class MailboxWriter:
    """The one hand's work: there is one mailbox, and one may write to it."""

    def __init__(self, mailbox_socket: socket.socket):
        self._mailbox_socket = mailbox_socket
        self._lock = 0  # the last one that came
        self._mailbox = -1  # and what was locked by it
        self._until = 0.0  # when nothing more may be begun under it, by the monotonic clock
        self._is_used = False  # something was stored under it

    def do(self, batch: list[TakenRequest]) -> list[Answer]:
        answers: list[Answer] = []
        try:
            for lock, taken in groupby(batch, key=_lock_of):
                answers += self._store(lock, list(taken))
        finally:
            mail.close(batch)
        return answers

    def _store(self, lock: int, batch: list[TakenRequest]) -> list[Answer]:
        try:
            self._reach(lock)
            if lock != self._lock:
                return mail.deferred(batch, "the lock of the mailbox has been given up")
            if self._is_used and time.monotonic() >= self._until:
                return mail.deferred(batch, mbox.LOCK_TIME_OVER)
            if not stat.S_ISREG(os.fstat(self._mailbox).st_mode):
                return mail.deferred(batch, "the mailbox is not a regular file")
            return self._append(batch)
        except OSError as error:
            return mail.deferred(batch, describe_error(error))
        except FrameError:
            raise
        except Exception as error:  # a defect of ours costs these mails a delay, not the user's other mail
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
        reasons = mbox.store(self._mailbox, [stored for _, stored in fresh], self._until) if fresh else []
        return answers + [
            Result(errand.envelope, Outcome.DEFERRED if reason else Outcome.DELIVERED, reason or "Delivered")
            for (errand, _), reason in zip(fresh, reasons, strict=True)
        ]

    def _reach(self, lock: int) -> None:
        """Take all locks up to this one from the socket.  It was sent before queue knew of it: no waiting."""
        while self._lock < lock:
            try:
                flags = socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
                packet, ancillary, told, _ = self._mailbox_socket.recvmsg(
                    _NUMBER.size + 1, _ROOM_FOR_DESCRIPTORS, flags
                )
            except BlockingIOError:
                return
            descriptors = [number for _, _, data in ancillary for number in struct.unpack(f"{len(data) // 4}i", data)]
            if not packet:
                return
            if len(packet) != _NUMBER.size or len(descriptors) != 1 or told & socket.MSG_CTRUNC:
                raise FrameError("not a mailbox")
            if self._mailbox >= 0:
                os.close(self._mailbox)
            (self._lock,) = _NUMBER.unpack(packet)
            (self._mailbox,) = descriptors
            self._until, self._is_used = time.monotonic() + LOCK_TIME, False


def _lock_of(taken: TakenRequest) -> int:
    errand, _ = taken
    return errand.lock if isinstance(errand, Deliver) else 0
