"""An agent of the model: the far end of queue's socket to it.

It holds what it was sent until the model says what becomes of it.  A Maildir has the id of an envelope in the names of
its files, so its agent finds an earlier copy when queue says that there may be one; all others deliver once more.
"""

import os
import socket
from contextlib import suppress

from smtpd import errand as frames
from smtpd.envelope import Duty, Outcome
from tests.queue.model.users import ACTIONS


class Agent:
    """`maildir` holds the envelopes that are stored in it, for all lives of the daemon."""

    def __init__(self, number, asked, ledger, users, maildir, check):
        near, self.sock = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        self.near = near.detach()
        self.number, self.key = number, (asked.user, asked.action, asked.duty)
        self._ledger, self._people, self._maildir, self._check = ledger, users, maildir, check
        self._errands = []
        self._unheard = []  # rows of what was delivered, and queue has not read that
        self._deferred = {}  # the same of what was put off: envelope -> text
        self.alive = True
        self._talked_nonsense = False

    @property
    def waits(self):
        """It has something to do."""
        if self.alive and not self._errands and not self._talked_nonsense:
            self._read()
        return bool(self._errands)

    def _read(self):
        with suppress(BlockingIOError, ConnectionResetError):
            while True:
                packet, descriptors, _, _ = socket.recv_fds(self.sock, frames.PACKET_MAX, 2)
                if not packet:
                    return
                errand = frames.decode(packet)
                if isinstance(errand, frames.Deliver):
                    self._check(errand, descriptors)
                for descriptor in descriptors:
                    os.close(descriptor)
                self._errands.append(errand)

    def heard(self):
        """Queue has read all that was answered."""
        self._unheard.clear()
        self._ledger.deferred |= self._deferred
        self._deferred.clear()

    def lose(self):
        """The process ends, or queue parts with it."""
        if self.alive:
            self.alive = False
            self._errands.clear()
            for row in self._unheard:
                self._ledger.excuse(row)
            self.sock.close()

    # -- what becomes of the first errand that waits ------------------------------------------------------------------

    def deliver(self, then="answer"):
        """It is delivered; `then` the agent answers, or ends before that, or after."""
        errand = self._errands.pop(0)
        if not isinstance(errand, frames.Deliver):
            self._tell(errand, "text", "utf8")
            return
        if errand.digest and not self._people.has(errand.user, errand.digest):
            self._answer(errand, Outcome.STALE, "")
            return
        row = self._ledger.known[errand.envelope]  # it may have been removed meanwhile
        is_maildir = ACTIONS[errand.user] == "local" and self.key[2] is Duty.DELIVER
        if not (is_maildir and errand.perhaps_delivered and errand.envelope in self._maildir):
            self._ledger.deliver(errand.envelope, row, once=is_maildir)
            if is_maildir:
                self._maildir.add(errand.envelope)
        self._unheard.append(row)
        if then != "end":
            self._ledger.answered.add(errand.envelope)
            self._answer(errand, Outcome.DELIVERED, "Delivered")
        if then != "answer":
            self.lose()

    def refuse(self, outcome, text):
        errand = self._errands.pop(0)
        if not isinstance(errand, frames.Deliver):
            self._tell(errand, "later", "later")
            return
        if outcome is not Outcome.DEFERRED:
            self._ledger.failed.add(errand.envelope)
        self._answer(errand, outcome, text)
        if outcome is Outcome.DEFERRED:
            self._deferred[errand.envelope] = text

    def talk_nonsense(self):
        """Queue will read nothing behind that."""
        self._errands.clear()
        self._talked_nonsense = True
        with suppress(BrokenPipeError, ConnectionResetError):
            self.sock.send(b"250 2.0.0 Ok")

    def _tell(self, errand, of_forward, of_server):
        """Not a mail, but a question."""
        if isinstance(errand, frames.ReadForward):
            self._send(frames.ForwardText(errand.request, of_forward, b""))
        else:
            self._send(frames.ServerProbed(errand.request, of_server, ""))

    def _answer(self, errand, outcome, text):
        self._send(frames.Result(errand.envelope, outcome, text))

    def _send(self, answer):
        with suppress(BrokenPipeError, ConnectionResetError):  # queue has parted with it meanwhile
            self.sock.send(frames.encode(answer))
