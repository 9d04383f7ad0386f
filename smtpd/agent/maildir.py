"""Storing mails into Maildirs, on queue's word.

    Deliver --> header --> loop?  --> LOOP
                       \\-> path: the Maildir, folder --> Maildir.store --> DELIVERED, once it is durable
                                                                     \\-> DEFERRED, and nothing is left of it

Whatever the user has done to the Maildir, and whatever a disk says, is a reason to try later: never a bounce.  Only a
mail that there can be no path for, as its addresses are, fails.
"""

import os
import socket
import threading
from collections import OrderedDict, defaultdict
from contextlib import suppress

from mail_local import maildir, trace
from mail_local.maildir import EarlierDeliveries, Maildir, host_part
from smtpd.agent import mail
from smtpd.agent.maildir_path import HomeError, MaildirPath
from smtpd.agent.worker import Answer, TakenRequest
from smtpd.config.specifier import TemplateError
from smtpd.envelope import Outcome
from smtpd.errand import AgentSpec, Deliver, Request, Result
from smtpd.ipc.os_error import describe_error

OPEN_MAX = 16  # Maildirs that one hand holds open


class MaildirAgent:
    """The trade of an agent for Maildirs.  `trouble`: why no mail can be stored, found before the sandbox."""

    REQUESTS: tuple[type[Request], ...] = (Deliver,)
    WORKERS_MAX = 4
    BATCH = 8
    BATCH_BYTES = 1024 * 1024
    GATHER_TIME = 0
    SAME_MESSAGE = False

    def __init__(self, post: AgentSpec, user: str, home: str):
        self.junk = post.junk
        self.SPARE_WORKER = post.shared  # a disk of one user must not keep others waiting
        self.trouble = ""
        self.visible_paths: list[tuple[str, str]] = []
        self.host = host_part(os.uname().nodename)
        self._earlier: OrderedDict[str, EarlierDeliveries] = OrderedDict()
        self._lock = threading.Lock()
        try:
            self.destination = MaildirPath.of(post, user, home)
            self.is_fixed, self.top = self.destination.is_fixed, self.destination.top
            (maildir.make if self.is_fixed else maildir.make_directory)(self.top)
            self._seen = os.stat(self.top)
            self.visible_paths = [(self.top, "rwc")]
        except OSError as error:
            self.trouble = describe_error(error)
        except TemplateError as malformed:
            self.trouble = str(malformed)
        self.draining = bool(self.trouble)

    def work(self, queue: socket.socket, mailbox_socket: socket.socket | None) -> "MaildirWriter":
        return MaildirWriter(self)

    def path(self, errand: Deliver) -> str:
        """Of its Maildir.  Raises Malformed, Elsewhere."""
        return self.top if self.is_fixed else self.destination.path(errand)

    def name(self, errand: Deliver) -> str:
        """The same at every try."""
        return f"{errand.created}.E{errand.envelope:016x}.{self.host}"

    def earlier(self, root: str) -> EarlierDeliveries:
        """What lay in that Maildir before; asked for anew when many others were asked in between."""
        with self._lock:
            if root not in self._earlier:
                self._earlier[root] = EarlierDeliveries(self.host)
            self._earlier.move_to_end(root)
            if len(self._earlier) > OPEN_MAX * self.WORKERS_MAX:
                self._earlier.popitem(last=False)
            return self._earlier[root]

    def has_moved(self) -> bool:
        """What was made visible is not what the path leads to now: only the next agent can see that."""
        with suppress(OSError):
            return not os.path.samestat(self._seen, os.stat(self.top))
        return True


class MaildirWriter:
    """One hand's work."""

    def __init__(self, storage: MaildirAgent):
        self._storage = storage
        self._open: OrderedDict[str, Maildir] = OrderedDict()  # the one that was used last at the end

    def do(self, batch: list[TakenRequest]) -> list[Answer]:
        try:
            return self._store(batch)
        finally:
            mail.close(batch)

    def _store(self, batch: list[TakenRequest]) -> list[Answer]:
        if self._storage.trouble:
            return mail.deferred(batch, self._storage.trouble)
        answers: list[Answer] = []
        by_root: dict[str, list[tuple[Deliver, int]]] = defaultdict(list)
        for errand, descriptor in batch:
            assert isinstance(errand, Deliver)
            try:
                by_root[self._storage.path(errand)].append((errand, descriptor))
            except TemplateError as malformed:
                answers += mail.failed([(errand, descriptor)], str(malformed))
            except HomeError as elsewhere:
                answers += mail.deferred([(errand, descriptor)], str(elsewhere))
        for root, mails in by_root.items():
            answers += self._store_in(root, mails)
        return answers

    def _store_in(self, root: str, taken: list[tuple[Deliver, int]]) -> list[Answer]:
        try:
            return self._store_all(self._maildir(root), taken)
        except OSError as error:
            return mail.deferred(taken, describe_error(error))
        except Exception as error:  # a defect of ours costs these mails a delay, not the user's other mail
            return mail.deferred(taken, mail.defect(error))

    def _store_all(self, box: Maildir, taken: list[tuple[Deliver, int]]) -> list[Answer]:
        answers: list[Answer] = []
        mails: list[tuple[Deliver, maildir.MaildirMail]] = []
        for errand, descriptor in taken:
            header = mail.header_of(errand, descriptor)
            if trace.was_delivered_to(header, errand.destination):
                answers.append(mail.loop(errand))
            else:
                mails.append((errand, self._mail(errand, descriptor, trace.is_junk(header))))
        reasons = box.store([stored for _, stored in mails])
        return answers + [
            Result(errand.envelope, Outcome.DEFERRED if reason else Outcome.DELIVERED, reason or "Delivered")
            for (errand, _), reason in zip(mails, reasons, strict=True)
        ]

    def _maildir(self, root: str) -> Maildir:
        """As its path leads to it now."""
        found = self._open.pop(root, None)
        if found is not None and not found.is_current():
            found.close()
            found = None
        if found is None:
            found = self._opened(root)
        self._open[root] = found
        if len(self._open) > OPEN_MAX:
            self._open.popitem(last=False)[1].close()
        return found

    def _opened(self, root: str) -> Maildir:
        storage = self._storage
        try:
            if not storage.is_fixed:
                maildir.make(root, below=storage.top)
            return Maildir(root, storage.earlier(root))
        except OSError:
            storage.draining |= storage.has_moved()
            raise

    def _mail(self, errand: Deliver, descriptor: int, spam: bool) -> maildir.MaildirMail:
        content = mail.content_of(errand, descriptor, trace.added_lines(errand.sender, errand.recipient))
        junk = self._storage.junk and spam
        return maildir.MaildirMail(
            self._storage.name(errand), content, junk, errand.extension, errand.perhaps_delivered
        )
