"""Delivery by LMTP: sends mails to the LMTP server of an action, over connections that are kept.

    Deliver, Deliver, …  --one message, one sender-->  one transaction  --a verdict each-->  Result, Result, …
    ProbeServer          --------------------------->  LHLO: does it offer SMTPUTF8?  ---->  ServerProbed
                                    |
                          [connection|connection|…]     idle ones are kept for KEEP_TIME

One agent serves all users of its action.  Each worker uses a connection of its own, so the server gets as many
transactions at once as there are workers.

A kept connection may have been closed by the server in the meantime.  When that shows before anything was sent that
could be delivered, the mail is sent over another connection, in the end over a new one.  Any other failure of a
connection defers the mail; after the final dot that may make a second copy, as it is unknown whether it was taken.
"""

import math
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from posixpath import dirname

from mail_local import lmtp, trace
from mail_local.lmtp import LMTP_TIMEOUT, Content, LmtpConnection, Progress, Unreachable
from smtpd.agent import mail
from smtpd.agent.worker import Answer, TakenRequest, send_in_progress
from smtpd.envelope import MailParameters, message_of
from smtpd.errand import AgentSpec, Deliver, ProbeServer, Request, Result, ServerProbed
from smtpd.ipc.os_error import describe_error
from smtpd.smtp.client_action import ClientMail, ClientRecipient, RecipientResult
from smtpd.smtp.client_state import ClientState

KEEP_TIME = 5.0  # seconds that an idle connection is kept
PROGRESS_INTERVAL = 20.0  # seconds between two InProgress for one errand
MAILS_PER_CONNECTION = 100  # then a new connection: some servers grow with each mail


class LmtpAgent:
    """Agent kind for one LMTP server.  `trouble`: why it cannot be reached, found before the sandbox is entered or
    later; all errands are answered with it."""

    REQUESTS: tuple[type[Request], ...] = (Deliver, ProbeServer)
    WORKERS_MAX = 4
    BATCH_MAX = 8
    BATCH_BYTES = 1024 * 1024
    GATHER_TIME = 2  # the recipients of one mail, for one transaction
    SAME_MESSAGE = True
    SPARE_WORKER = True

    def __init__(self, spec: AgentSpec, user: str, home: str):
        self.user = user
        self.rcpt_to = spec.rcpt_to
        self.trouble = ""
        self.visible_paths: list[tuple[str, str]] = []
        addresses: list[lmtp.ServerAddress] = []
        try:
            addresses = lmtp.resolve(spec.target)
            if spec.kind == "lmtp-unix":  # the directory: the server may create its socket again
                self.visible_paths = [(dirname(spec.target), "rw")] if os.path.isdir(dirname(spec.target)) else []
        except OSError as error:
            self.trouble = f"{spec.target}: {describe_error(error)}"
        except ValueError as error:
            self.trouble = str(error)
        self.draining = bool(self.trouble)
        self.last_progress = time.monotonic()  # when the server last replied or took content, on any connection
        self.pool = ConnectionPool(partial(lmtp.connect, addresses, os.uname().nodename))

    def make_executor(self, queue: socket.socket, mailbox_socket: socket.socket | None) -> "LmtpSender":
        return LmtpSender(self, queue)

    def fail_all(self, trouble: str) -> None:
        """Answer all errands that have come with `trouble`, then end."""
        self.trouble = trouble
        self.draining = True

    def is_unresponsive(self) -> bool:
        """No connection has made progress for the longest reply timeout.  One slow delivery alone does not count, as
        long as others go on."""
        return time.monotonic() - self.last_progress >= LMTP_TIMEOUT[ClientState.DOT]

    def recipient(self, errand: Deliver) -> str:
        return errand.destination if self.rcpt_to else errand.user or self.user


class ConnectionPool:
    """The connections of all workers: in use by a worker, or idle and kept for KEEP_TIME."""

    def __init__(self, connect: Callable[[Progress], LmtpConnection], kept: float = KEEP_TIME):
        self._connect = connect
        self._kept = kept
        self._idle: list[tuple[LmtpConnection, float]] = []  # and since when, by the monotonic clock; the oldest first
        self._in_use = 0
        self._changed = threading.Condition()
        self._sweeper: threading.Thread | None = None

    def take(self, progress: Progress) -> tuple[LmtpConnection, bool]:
        """A connection, and whether it is a kept one.  Raises Unreachable when no worker has a connection.

        If the server takes no further connection, this waits until another worker gives one back, and calls `progress`
        every PROGRESS_INTERVAL.
        """
        with self._changed:
            self._in_use += 1
        try:
            kept = self._maybe_take_idle()
            return kept or self._connect(progress), kept is not None
        except Unreachable:
            self._release_slot()
            if kept := self._maybe_wait_for_idle(progress):
                return kept, True
            raise
        except BaseException:
            self._release_slot()
            raise

    def _release_slot(self) -> None:
        """This worker got no connection, so no other worker may wait for it."""
        with self._changed:
            self._in_use -= 1
            self._changed.notify_all()

    def _maybe_wait_for_idle(self, progress: Progress) -> LmtpConnection | None:
        """Wait for a connection that another worker gives back; None when no worker has one."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._idle or not self._in_use, PROGRESS_INTERVAL):
                progress()
            if not self._idle:
                return None
            self._in_use += 1
            return self._idle.pop()[0]

    def _maybe_take_idle(self) -> LmtpConnection | None:
        """The idle connection that was used last, so that those which are not needed time out."""
        while True:
            with self._changed:
                if not self._idle:
                    return None
                connection, _ = self._idle.pop()
            if connection.is_idle():
                return connection
            connection.close()

    def give(self, connection: LmtpConnection) -> None:
        """Give it back; it is kept if it can be used again."""
        with self._changed:
            self._in_use -= 1
            keep = connection.is_ready and connection.mails < MAILS_PER_CONNECTION and self._has_sweeper()
            if keep:
                self._idle.append((connection, time.monotonic()))
            self._changed.notify_all()
        if not keep:
            connection.close()

    def _has_sweeper(self) -> bool:
        """Start the thread that closes idle connections, if there is none.  False when none can be started.  Workers
        cannot do that: they block while they wait for queue."""
        if self._sweeper is None:
            self._sweeper = threading.Thread(target=self._sweep, daemon=True)
            try:
                self._sweeper.start()
            except RuntimeError:  # the user's limit of processes is reached
                self._sweeper = None
        return self._sweeper is not None

    def _sweep(self) -> None:
        while True:
            with self._changed:
                while not self._idle:
                    self._changed.wait()
                left = self._idle[0][1] + self._kept - time.monotonic()
                if left > 0:
                    self._changed.wait(left)
                    continue
                connection, _ = self._idle.pop(0)
            with suppress(OSError):
                connection.close()


class LmtpSender:
    """Executor of one worker."""

    def __init__(self, kind: LmtpAgent, queue: socket.socket):
        self._kind = kind
        self._queue = queue
        self._errands: tuple[Request, ...] = ()
        self._sent_at = 0.0  # when the last InProgress was sent, by the monotonic clock

    def _begin(self, *errands: Request) -> None:
        """Send InProgress for these errands: at once, and then with each progress, every PROGRESS_INTERVAL at most."""
        self._errands, self._sent_at = errands, -math.inf
        self._send_in_progress()

    def _send_in_progress(self) -> None:
        """Raises ConnectionError when queue has closed the socket."""
        if time.monotonic() - self._sent_at >= PROGRESS_INTERVAL:
            self._sent_at = time.monotonic()
            for errand in self._errands:
                send_in_progress(self._queue, errand)

    def _progress(self) -> None:
        """Called when the server has replied or taken content."""
        self._kind.last_progress = time.monotonic()
        self._send_in_progress()

    def execute(self, batch: list[TakenRequest]) -> Iterator[Answer]:
        """The answers as they come: the results of one transaction are sent before the next one begins."""
        try:
            for errand, _ in batch:
                if isinstance(errand, ProbeServer):
                    self._begin(errand)
                    yield self._probe(errand)
            for group in _transactions(batch):
                self._begin(*(errand for errand, _ in group))
                yield from self._answers(group)
        finally:
            mail.close(batch)

    def _probe(self, errand: ProbeServer) -> ServerProbed:
        try:
            self._check_trouble()
            connection, _ = self._take()
        except (Unreachable, OSError) as error:
            return ServerProbed(errand.request, "later", describe_error(error))
        try:
            return ServerProbed(errand.request, "utf8" if connection.takes_utf8 else "ascii", "")
        finally:
            self._kind.pool.give(connection)

    def _check_trouble(self) -> None:
        if self._kind.trouble:
            raise Unreachable(self._kind.trouble)

    def _answers(self, group: list[tuple[Deliver, int]]) -> list[Answer]:
        try:
            header = mail.header_of(*group[0])
            fresh, looped = _without_loops(header, group)
            return [*looped, *(self._transact(header, fresh) if fresh else [])]
        except Unreachable as unreachable:
            return mail.deferred(group, str(unreachable))
        except OSError as error:
            return mail.deferred(group, describe_error(error))
        except Exception as error:  # a defect in this code delays these mails, and no others
            return mail.deferred(group, mail.defect(error))

    def _transact(self, header: bytes, group: list[tuple[Deliver, int]]) -> list[Answer]:
        self._check_trouble()
        errand, descriptor = group[0]
        lines = _lines([errand for errand, _ in group])
        recipients = tuple(ClientRecipient(self._kind.recipient(errand)) for errand, _ in group)
        utf8 = errand.utf8 and not _is_ascii_header(lines + header)
        message = ClientMail(errand.sender, recipients, len(lines) + errand.size, MailParameters(utf8=utf8))
        results = self._deliver(message, lambda: mail.content_of(errand, descriptor, lines))
        return [Result(group[result.recipient][0].envelope, result.outcome, result.text) for result in results]

    def _deliver(self, message: ClientMail, content: Content) -> list[RecipientResult]:
        while True:
            connection, kept = self._take()
            try:
                results = connection.deliver(message, content, self._progress)
                if connection.timed_out and self._kind.is_unresponsive():  # the next mail would wait as long
                    self._kind.fail_all("the server does not respond")
                unanswered = any(result.code in (0, 421) for result in results)
                if connection.is_ready or not (kept and connection.may_be_repeated and unanswered):
                    return results
            finally:
                self._kind.pool.give(connection)

    def _take(self) -> tuple[LmtpConnection, bool]:
        """When the server is unreachable this agent ends: the next one looks up its address again."""
        try:
            return self._kind.pool.take(self._send_in_progress)
        except Unreachable as unreachable:
            self._kind.fail_all(str(unreachable))
            raise


def _transactions(batch: list[TakenRequest]) -> list[list[tuple[Deliver, int]]]:
    """Errands that can share a transaction: the same message from the same sender."""
    groups: dict[tuple[int, str, int], list[tuple[Deliver, int]]] = defaultdict(list)
    for errand, descriptor in batch:
        if isinstance(errand, Deliver):
            groups[message_of(errand.envelope), errand.sender, errand.size].append((errand, descriptor))
    return list(groups.values())


def _without_loops(header: bytes, group: list[tuple[Deliver, int]]) -> tuple[list[tuple[Deliver, int]], list[Answer]]:
    looping = [trace.was_delivered_to(header, errand.destination) for errand, _ in group]
    fresh = [taken for taken, loops in zip(group, looping, strict=True) if not loops]
    return fresh, [mail.loop(errand) for (errand, _), loops in zip(group, looping, strict=True) if loops]


def _is_ascii_header(header: bytes) -> bool:
    """The header needs no SMTPUTF8 (RFC 6531 3.4), although the client asked for it: some clients do for every mail.
    Addresses are checked by the LMTP session."""
    return header.isascii() and len(header) < trace.HEADER_MAX  # the rest of a longer one has not been read


def _lines(errands: list[Deliver]) -> bytes:
    """The lines in front of the mail.  No Return-Path: the server makes the final delivery and adds it (RFC 5321 4.4).
    All recipients of a transaction get the same bytes, and none may learn of another: so Delivered-To is only there if
    it is the same for all."""
    recipients = {errand.recipient for errand in errands}
    return trace.delivered_to(recipients.pop() if len(recipients) == 1 else "")
