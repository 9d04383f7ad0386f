"""Delivery to Maildirs.

    Deliver --> header --> loop?  --> LOOP
                       \\-> path: the Maildir, folder --> Maildir.store --> DELIVERED, once it is durable
                                                                     \\-> DEFERRED, and nothing is left of it

Whatever is wrong with the Maildir or the disk defers the mail and never fails it.  Only a mail whose addresses make no
valid path fails.
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

OPEN_MAX = 16  # Maildirs that one worker keeps open


class MaildirAgent:
    """Agent kind for Maildirs.  `trouble`: why no mail can be stored, found before the sandbox is entered."""

    REQUESTS: tuple[type[Request], ...] = (Deliver,)
    WORKERS_MAX = 4
    BATCH_MAX = 8
    BATCH_BYTES = 1024 * 1024
    GATHER_TIME = 0
    SAME_MESSAGE = False

    def __init__(self, spec: AgentSpec, user: str, home: str):
        self.junk = spec.junk
        self.SPARE_WORKER = spec.shared  # a slow disk of one user must not delay the mail of others
        self.trouble = ""
        self.visible_paths: list[tuple[str, str]] = []
        self.host = host_part(os.uname().nodename)
        self._earlier_deliveries: OrderedDict[str, EarlierDeliveries] = OrderedDict()
        self._lock = threading.Lock()
        try:
            self.maildir_path = MaildirPath.of(spec, user, home)
            self.is_fixed, self.top = self.maildir_path.is_fixed, self.maildir_path.top
            (maildir.make if self.is_fixed else maildir.make_directory)(self.top)
            self._seen = os.stat(self.top)
            self.visible_paths = [(self.top, "rwc")]
        except OSError as error:
            self.trouble = describe_error(error)
        except TemplateError as error:
            self.trouble = str(error)
        self.draining = bool(self.trouble)

    def make_executor(self, queue: socket.socket, mailbox_socket: socket.socket | None) -> "MaildirWriter":
        return MaildirWriter(self)

    def path(self, errand: Deliver) -> str:
        """Path of the Maildir for this mail.  Raises TemplateError, HomeError."""
        return self.top if self.is_fixed else self.maildir_path.path(errand)

    def name(self, errand: Deliver) -> str:
        """The file name: the same in every attempt, so that a second delivery finds the first."""
        return f"{errand.created}.E{errand.envelope:016x}.{self.host}"

    def earlier_deliveries(self, root: str) -> EarlierDeliveries:
        """The names that were in that Maildir before this process; kept for OPEN_MAX * WORKERS_MAX Maildirs."""
        with self._lock:
            if root not in self._earlier_deliveries:
                self._earlier_deliveries[root] = EarlierDeliveries(self.host)
            self._earlier_deliveries.move_to_end(root)
            if len(self._earlier_deliveries) > OPEN_MAX * self.WORKERS_MAX:
                self._earlier_deliveries.popitem(last=False)
            return self._earlier_deliveries[root]

    def has_moved(self) -> bool:
        """The path leads to another directory than the one that unveil shows: only the next agent can use that."""
        with suppress(OSError):
            return not os.path.samestat(self._seen, os.stat(self.top))
        return True


class MaildirWriter:
    """Executor of one worker."""

    def __init__(self, agent: MaildirAgent):
        self._agent = agent
        self._open: OrderedDict[str, Maildir] = OrderedDict()  # the least recently used first

    def execute(self, batch: list[TakenRequest]) -> list[Answer]:
        try:
            return self._store(batch)
        finally:
            mail.close(batch)

    def _store(self, batch: list[TakenRequest]) -> list[Answer]:
        if self._agent.trouble:
            return mail.deferred(batch, self._agent.trouble)
        answers: list[Answer] = []
        by_root: dict[str, list[tuple[Deliver, int]]] = defaultdict(list)
        for errand, descriptor in batch:
            assert isinstance(errand, Deliver)
            try:
                by_root[self._agent.path(errand)].append((errand, descriptor))
            except TemplateError as error:
                answers += mail.failed([(errand, descriptor)], str(error))
            except HomeError as error:
                answers += mail.deferred([(errand, descriptor)], str(error))
        for root, mails in by_root.items():
            answers += self._store_in(root, mails)
        return answers

    def _store_in(self, root: str, taken: list[tuple[Deliver, int]]) -> list[Answer]:
        try:
            return self._store_all(self._maildir(root), taken)
        except OSError as error:
            return mail.deferred(taken, describe_error(error))
        except Exception as error:  # a defect in this code delays these mails, and no other mail of the user
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
        """The Maildir that its path leads to now."""
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
        agent = self._agent
        try:
            if not agent.is_fixed:
                maildir.make(root, below=agent.top)
            return Maildir(root, agent.earlier_deliveries(root))
        except OSError:
            agent.draining |= agent.has_moved()
            raise

    def _mail(self, errand: Deliver, descriptor: int, spam: bool) -> maildir.MaildirMail:
        content = mail.content_of(errand, descriptor, trace.added_lines(errand.sender, errand.recipient))
        junk = self._agent.junk and spam
        return maildir.MaildirMail(self._agent.name(errand), content, junk, errand.extension, errand.perhaps_delivered)
