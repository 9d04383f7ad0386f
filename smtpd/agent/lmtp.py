"""Handing mails to an LMTP server, on queue's word.

    Deliver, Deliver, …  --one message, one sender-->  one transaction  --a verdict each-->  Result, Result, …
    Greet                --------------------------->  what the server offers  ----------->  Greeted
                                    |
                          [connection|connection|…]     kept for KEPT seconds, for the next mails

One agent serves all users of its action.  Each hand works on a connection of its own, so a server is asked for as many
things at once as there are hands.

A connection that was kept may have been closed at the other end in the meantime.  When that shows before anything was
sent that could be delivered, the mail goes over another one, at last a new one.  All other trouble with a connection is
a reason to try later: see smtp/lmtp.py for what that means after the final dot.
"""

import math
import os
import socket
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from posixpath import dirname

from mail_local import lmtp, trace
from mail_local.lmtp import LmtpConnection, Progress, Unreachable
from smtpd.agent import mail
from smtpd.agent.worker import Answer, TakenRequest, say_at_work
from smtpd.envelope import message_of
from smtpd.errand import AgentSpec, Deliver, ProbeServer, Request, Result, ServerProbed
from smtpd.ipc.os_error import describe_error
from smtpd.smtp.lmtp import REPLY_TIMEOUT, LmtpMail, LmtpState, LmtpVerdict

KEEP_TIME = 5.0  # seconds that a connection waits for a mail
PROGRESS_INTERVAL = 20.0  # seconds between two AtWork for one errand
MAILS_PER_CONNECTION = 100  # on one connection: a server may want to begin afresh now and then


class LmtpAgent:
    """The trade of an agent for one server.  `trouble`: why there is none, found before the sandbox."""

    REQUESTS: tuple[type[Request], ...] = (Deliver, ProbeServer)
    WORKERS_MAX = 4
    BATCH = 8
    BATCH_BYTES = 1024 * 1024
    GATHER_TIME = 2  # the recipients of one mail, for one transaction
    SAME_MESSAGE = True
    SPARE_WORKER = True

    def __init__(self, post: AgentSpec, user: str, home: str):
        self.user = user
        self.rcpt_to = post.rcpt_to
        self.trouble = ""
        self.visible_paths: list[tuple[str, str]] = []
        addresses: list[lmtp.ServerAddress] = []
        try:
            addresses = lmtp.resolve(post.target)
            if post.kind == "lmtp-unix":  # its directory, as a server that starts makes its socket anew
                self.visible_paths = [(dirname(post.target), "rw")] if os.path.isdir(dirname(post.target)) else []
        except OSError as error:
            self.trouble = f"{post.target}: {describe_error(error)}"
        except ValueError as error:
            self.trouble = str(error)
        self.draining = bool(self.trouble)
        self.heard = time.monotonic()  # when the server last said something, on whichever connection
        self.pool = ConnectionPool(partial(lmtp.connect, addresses, os.uname().nodename))

    def work(self, queue: socket.socket, mailbox_socket: socket.socket | None) -> "LmtpSender":
        return LmtpSender(self, queue)

    def give_up(self, trouble: str) -> None:
        """All that has come is answered with that."""
        self.trouble = trouble
        self.draining = True

    def has_fallen_silent(self) -> bool:
        """A delivery that takes long for one user is no reason to think so, as long as others go on."""
        return time.monotonic() - self.heard >= REPLY_TIMEOUT[LmtpState.DOT]

    def recipient(self, errand: Deliver) -> str:
        return errand.destination if self.rcpt_to else errand.user or self.user


class ConnectionPool:
    """The connections of all hands: in use by one of them, or kept for whoever comes next."""

    def __init__(self, connect: Callable[[Progress], LmtpConnection], kept: float = KEEP_TIME):
        self._connect = connect
        self._kept = kept
        self._idle: list[tuple[LmtpConnection, float]] = []  # and since when, by the monotonic clock; the oldest first
        self._in_use = 0
        self._changed = threading.Condition()
        self._sweeper: threading.Thread | None = None

    def take(self, progress: Progress) -> tuple[LmtpConnection, bool]:
        """A connection, and whether it was kept.  Raises Unreachable when no hand has one.

        A server that wants no further connection has to be content with those it has: then this waits for one.
        `progress` is called again and again meanwhile.
        """
        with self._changed:
            self._in_use += 1
        try:
            kept = self._maybe_kept()
            return kept or self._connect(progress), kept is not None
        except Unreachable:
            self._have_none()
            if kept := self._maybe_wait(progress):
                return kept, True
            raise
        except BaseException:
            self._have_none()
            raise

    def _have_none(self) -> None:
        """This hand has no connection: no other one waits for it to give one back."""
        with self._changed:
            self._in_use -= 1
            self._changed.notify_all()

    def _maybe_wait(self, progress: Progress) -> LmtpConnection | None:
        """For one that another hand gives back; None when no hand has any."""
        with self._changed:
            while not self._changed.wait_for(lambda: self._idle or not self._in_use, PROGRESS_INTERVAL):
                progress()
            if not self._idle:
                return None
            self._in_use += 1
            return self._idle.pop()[0]

    def _maybe_kept(self) -> LmtpConnection | None:
        """The one that was used last, so that those which are not needed can go."""
        while True:
            with self._changed:
                if not self._idle:
                    return None
                connection, _ = self._idle.pop()
            if connection.is_idle():
                return connection
            connection.close()

    def give(self, connection: LmtpConnection) -> None:
        """Back; it is kept while it is of use."""
        with self._changed:
            self._in_use -= 1
            keep = connection.is_ready and connection.mails < MAILS_PER_CONNECTION and self._is_swept()
            if keep:
                self._idle.append((connection, time.monotonic()))
            self._changed.notify_all()
        if not keep:
            connection.close()

    def _is_swept(self) -> bool:
        """Whether somebody closes what is kept: hands wait for queue, and know no time."""
        if self._sweeper is None:
            self._sweeper = threading.Thread(target=self._sweep, daemon=True)
            try:
                self._sweeper.start()
            except RuntimeError:  # the user's limit of processes
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
    """One hand's work."""

    def __init__(self, kind: LmtpAgent, queue: socket.socket):
        self._kind = kind
        self._queue = queue
        self._at_work: tuple[Request, ...] = ()
        self._said = 0.0  # when the last AtWork was sent, by the monotonic clock

    @contextmanager
    def _working_at(self, *errands: Request) -> Iterator[None]:
        """Queue hears of it: at once, and as long as that goes on."""
        self._at_work, self._said = errands, -math.inf
        self._say_at_work()
        try:
            yield
        finally:
            self._at_work = ()

    def _say_at_work(self) -> None:
        """Raises ConnectionError when queue has parted with us."""
        if time.monotonic() - self._said >= PROGRESS_INTERVAL:
            self._said = time.monotonic()
            for errand in self._at_work:
                say_at_work(self._queue, errand)

    def _progress(self) -> None:
        """The server has said or taken something."""
        self._kind.heard = time.monotonic()
        self._say_at_work()

    def do(self, batch: list[TakenRequest]) -> Iterator[Answer]:
        """The answers as they come: what the server has taken is said before it is asked to take more."""
        try:
            for errand, _ in batch:
                if isinstance(errand, ProbeServer):
                    with self._working_at(errand):
                        greeted = self._greet(errand)
                    yield greeted
            for group in _transactions(batch):
                with self._working_at(*(errand for errand, _ in group)):
                    answers = self._answers(group)
                yield from answers
        finally:
            mail.close(batch)

    def _greet(self, errand: ProbeServer) -> ServerProbed:
        try:
            self._check_trouble()
            connection, _ = self._take()
        except (Unreachable, OSError) as error:
            return ServerProbed(
                errand.request, "later", describe_error(error) if isinstance(error, OSError) else str(error)
            )
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
        except Exception as error:  # a defect of ours costs these mails a delay, not the other ones
            return mail.deferred(group, mail.defect(error))

    def _transact(self, header: bytes, group: list[tuple[Deliver, int]]) -> list[Answer]:
        self._check_trouble()
        errand, descriptor = group[0]
        lines = _lines([errand for errand, _ in group])
        recipients = tuple(self._kind.recipient(errand) for errand, _ in group)
        utf8 = errand.utf8 and not _is_plain(lines + header)
        told = LmtpMail(errand.sender, recipients, len(lines) + errand.size, utf8)
        verdicts = self._deliver(told, lambda: mail.content_of(errand, descriptor, lines))
        return [Result(group[verdict.recipient][0].envelope, verdict.outcome, verdict.text) for verdict in verdicts]

    def _deliver(self, told: LmtpMail, content: Callable[[], Iterable[bytes]]) -> list[LmtpVerdict]:
        while True:
            connection, kept = self._take()
            try:
                verdicts = connection.deliver(told, content(), self._progress)
                if connection.timed_out and self._kind.has_fallen_silent():  # the next mail would wait as long
                    self._kind.give_up("the server has fallen silent")
                if connection.is_ready or not (kept and connection.may_be_repeated):
                    return verdicts
            finally:
                self._kind.pool.give(connection)

    def _take(self) -> tuple[LmtpConnection, bool]:
        """A name that leads nowhere now may lead elsewhere for the next agent, which can look it up."""
        try:
            return self._kind.pool.take(self._say_at_work)
        except Unreachable as unreachable:
            self._kind.give_up(str(unreachable))
            raise


def _transactions(batch: list[TakenRequest]) -> list[list[tuple[Deliver, int]]]:
    """What can go together: the same message from the same sender."""
    groups: dict[tuple[int, str, int], list[tuple[Deliver, int]]] = defaultdict(list)
    for errand, descriptor in batch:
        if isinstance(errand, Deliver):
            groups[message_of(errand.envelope), errand.sender, errand.size].append((errand, descriptor))
    return list(groups.values())


def _without_loops(header: bytes, group: list[tuple[Deliver, int]]) -> tuple[list[tuple[Deliver, int]], list[Answer]]:
    looping = [trace.was_delivered_to(header, errand.destination) for errand, _ in group]
    fresh = [taken for taken, loops in zip(group, looping, strict=True) if not loops]
    return fresh, [mail.loop(errand) for (errand, _), loops in zip(group, looping, strict=True) if loops]


def _is_plain(header: bytes) -> bool:
    """Whether the server need not be told of SMTPUTF8, though MAIL said it, as some clients say it of each mail: RFC
    6531 3.4 wants it for UTF-8 in the header.  Addresses are the session's matter."""
    return header.isascii() and len(header) < trace.HEADER_MAX  # of a longer one the end is not known


def _lines(errands: list[Deliver]) -> bytes:
    """In front of the mail; the server makes the final delivery, so Return-Path is for the server to add (RFC 5321
    4.4).  All recipients of a transaction get the same bytes, and none of them is told of another: Delivered-To is only
    there where it is the same for all."""
    recipients = {errand.recipient for errand in errands}
    return trace.delivered_to(recipients.pop() if len(recipients) == 1 else "")
