"""LockMailbox, UnlockMailbox: mailboxes, made and locked for an agent of their user, and passed to it.

    queue --LockMailbox(agent)--> try, pause, try ... --descriptor--> agent, by its mailbox_socket
                                                      --MailboxLocked(lock)--> queue
          --UnlockMailbox(lock)-> unlocked, and the dot-lock removed

    given up too     when the agent ends, or the daemon; an agent that has not let go after LOCK_MAX is killed for it
    waited for       another program's lock, as long as the deadline of the request says

The mailbox and its owner do not come from the agent: they are the name that it was started for, and the ids that the
nursery found.  The directory has been open since the start.  Every system call is a
thread's.

A daemon that is killed leaves NAME.lock behind, which looks like one that is in use: as any other stale lock, it
counts for mailbox.STALE seconds.  The lock on the file itself ends with the processes.
"""

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from mail_local import mailbox
from smtpd.envelope import Text
from smtpd.imsg import LockMailbox, MailboxLocked, MailboxNotLocked, UnlockMailbox
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log
from smtpd.ipc.os_error import describe_error
from smtpd.ipc.selector_loop import SelectorLoop, Timer
from smtpd.ipc.text_limit import fit_text
from smtpd.parent.agent import Agent, Agents
from smtpd.parent.blocking_call import BlockingCalls
from smtpd.parent.privileged_request import PRIVILEGED_REQUESTS, check_allowed
from smtpd.slice import ParentSlice

# Seconds that an agent may hold a mailbox.  It begins no mail after LOCK_TIME (smtpd/agent/mailbox.py), and one that it
# has begun may take long on a slow disk; but other programs remove a dot-lock older than mailbox.STALE_LOCK_AGE.
LOCK_MAX = 240.0
END_TIMEOUT = 2.0  # seconds that the end of the daemon waits for the thread


@dataclass
class LockedMailbox:
    """A mailbox, locked; closing `stack` gives it up."""

    descriptor: int
    stack: ExitStack


@dataclass(eq=False)
class LockAttempt:
    """A request, until it is answered.  `over` is read by the thread too."""

    channel: Channel
    request: int
    agent: Agent
    timer: Timer | None = None
    pauses: Iterator[float] = field(default_factory=mailbox.pauses)
    came_back: bool = False
    over: bool = False


@dataclass(eq=False)
class Lock:
    number: int
    agent: Agent
    held: LockedMailbox
    timer: Timer


class Mailboxes:
    """`directory`: open, where the mailboxes are; None where no action needs it, and queue may not ask.  `path` is its
    name, for the log."""

    def __init__(
        self,
        loop: SelectorLoop,
        agents: Agents,
        configuration: ParentSlice,
        directory: int | None,
        path: str = mailbox.MAIL_DIRECTORY,
    ):
        self._loop = loop
        self._agents = agents
        self._configuration = configuration
        self._directory, self._path = directory, path
        self._worker = BlockingCalls(loop)
        self._attempts: dict[Agent, LockAttempt] = {}
        self._locks: dict[int, Lock] = {}
        self._last = 0

    # -- queue asks --------------------------------------------------------------------

    def lock_mailbox(self, channel: Channel, imsg: LockMailbox) -> None:
        check_allowed(self._configuration, channel, imsg)
        service = PRIVILEGED_REQUESTS[LockMailbox]
        agent = self._agents.find(imsg.agent)
        if agent is None:
            channel.send(MailboxNotLocked(imsg.request, False, "the agent has ended"))
            return
        if agent.mailbox_socket is None or agent in self._attempts or self._find_lock(agent):
            raise Violation(f"queue asks for a mailbox for agent {agent.number}, which has one or needs none")
        if self._worker.waiting >= service.waiting:
            channel.send(MailboxNotLocked(imsg.request, False, "too many mailboxes are waited for"))
            return
        attempt = self._attempts[agent] = LockAttempt(channel, imsg.request, agent)
        attempt.timer = self._loop.call_later(service.deadline, partial(self._too_late, attempt))
        self._try(attempt)

    def unlock_mailbox(self, channel: Channel, imsg: UnlockMailbox) -> None:
        check_allowed(self._configuration, channel, imsg)
        if not 0 < imsg.lock <= self._last:
            raise Violation(f"UnlockMailbox for unknown lock {imsg.lock}")
        lock = self._locks.get(imsg.lock)
        if lock is not None:  # else its agent has ended in the meantime
            self._give_up(lock)

    # -- an attempt ----------------------------------------------------------------------

    def _try(self, attempt: LockAttempt) -> None:
        assert self._directory is not None
        if not attempt.over:
            self._worker.do(partial(_maybe_hold, self._directory, attempt), partial(self._tried, attempt))

    def _tried(self, attempt: LockAttempt, outcome: LockedMailbox | Exception | None) -> None:
        attempt.came_back = True
        if attempt.over:
            if isinstance(outcome, LockedMailbox):
                self._release(outcome)
        elif isinstance(outcome, LockedMailbox):
            self._pass(attempt, outcome)
        elif outcome is None:
            self._loop.call_later(next(attempt.pauses), partial(self._try, attempt))
        else:
            self._refuse(attempt, isinstance(outcome, mailbox.MailboxNameError), self._reason_of(attempt, outcome))

    def _reason_of(self, attempt: LockAttempt, error: Exception) -> str:
        if isinstance(error, mailbox.MailboxNameError):
            return str(error)
        if isinstance(error, OSError) and isinstance(error.filename, str):  # a mailbox or its dot-lock
            error.filename = f"{self._path}/{error.filename}"
            return describe_error(error)
        if not isinstance(error, OSError | mailbox.MailboxError):
            log.trouble("a mailbox could not be locked", error)
        return f"{self._path}/{attempt.agent.user}: {describe_error(error)}"

    def _too_late(self, attempt: LockAttempt) -> None:
        self._refuse(
            attempt, False, mailbox.LOCKED_REASON if attempt.came_back else "the mail directory does not answer"
        )

    def _refuse(self, attempt: LockAttempt, permanent: bool, reason: str) -> None:
        self._end(attempt)
        attempt.channel.send(MailboxNotLocked(attempt.request, permanent, fit_text(Text, reason)))

    def _end(self, attempt: LockAttempt) -> None:
        attempt.over = True
        del self._attempts[attempt.agent]
        if attempt.timer is not None:
            attempt.timer.cancel()

    def _pass(self, attempt: LockAttempt, held: LockedMailbox) -> None:
        """To the agent, and only then is it queue's to speak of."""
        number, agent = self._last + 1, attempt.agent
        assert agent.mailbox_socket is not None
        try:
            socket.send_fds(agent.mailbox_socket, [number.to_bytes(8, "big")], [held.descriptor])
        except OSError as error:
            self._release(held)
            self._refuse(attempt, False, f"the agent does not take its mailbox: {describe_error(error)}")
            return
        self._end(attempt)
        self._last = number
        timer = self._loop.call_later(LOCK_MAX, partial(self._held_too_long, agent))
        self._locks[number] = Lock(number, agent, held, timer)
        attempt.channel.send(MailboxLocked(attempt.request, number))

    # -- a lock -----------------------------------------------------------------------------

    def _find_lock(self, agent: Agent) -> Lock | None:
        return next((lock for lock in self._locks.values() if lock.agent is agent), None)

    def _held_too_long(self, agent: Agent) -> None:
        """It can write as long as it lives, so it is not unlocked before it is dead."""
        log.warn(f"agent of {agent.user} (pid {agent.pid}) does not let go of its mailbox, and is killed")
        self._agents.kill(agent)

    def _give_up(self, lock: Lock) -> None:
        del self._locks[lock.number]
        lock.timer.cancel()
        self._release(lock.held)

    def _release(self, held: LockedMailbox) -> None:
        self._worker.do(held.stack.close, _released)

    def agent_ended(self, agent: Agent) -> None:
        lock = self._find_lock(agent)
        if lock is not None:
            self._give_up(lock)
        if agent in self._attempts:
            self._refuse(self._attempts[agent], False, "the agent has ended")

    def close(self) -> None:
        """At the end of the daemon, when no agent lives: nothing stays locked."""
        for attempt in list(self._attempts.values()):
            self._end(attempt)
        for lock in list(self._locks.values()):
            self._give_up(lock)
        self._worker.end(END_TIMEOUT)


def _maybe_hold(directory: int, attempt: LockAttempt) -> LockedMailbox | None:
    """In the thread.  None when another program has locked it."""
    if attempt.over:
        return None
    agent = attempt.agent
    with ExitStack() as stack:
        descriptor = mailbox.maybe_lock(directory, agent.user, agent.uid, agent.gid, stack)
        return None if descriptor is None else LockedMailbox(descriptor, stack.pop_all())


def _released(outcome: Exception | None) -> None:
    if outcome is not None:
        log.warn(f"a mailbox is not given up in order: {outcome}")
