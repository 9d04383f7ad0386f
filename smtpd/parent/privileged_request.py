"""What may be asked of root, and by which process: a table.

    FindUser(name)                  lookup  --> a nursery child asks NSS     --> UserFound(verdict)
    StartAgent(user, action, duty)  queue   --> a nursery child becomes them --> AgentStarted + socket | AgentRefused
    EndAgent(agent)                 queue   --> the nursery kills it
    LockMailbox(agent)              queue   --> our thread, in one directory --> MailboxLocked | MailboxNotLocked
    UnlockMailbox(lock)             queue   --> our thread
    CheckPassword(user, password)   lookup  --> a process that asks PAM      --> PasswordChecked(verdict)

A request that its row does not allow comes from a process that is not ours any more: Violation, the end of the daemon.
Everything else that goes wrong is an answer.  Names go down to the nursery; a uid, a path, a command only from our own
configuration.  The loop opens nothing and does not block.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from smtpd.imsg import CheckPassword, EndAgent, FindUser, LockMailbox, StartAgent, UnlockMailbox
from smtpd.ipc.channel import Channel, Violation
from smtpd.slice import Method, ParentSlice


@dataclass(frozen=True)
class PrivilegedRequest:
    asker: str  # the one peer
    enabled: Callable[[ParentSlice], bool]
    at_once: int = 1  # worked on at the same time
    waiting: int = 0  # more than that is answered "later"
    deadline: float = 0  # seconds until an answer


def has_local_delivery(configuration: ParentSlice) -> bool:
    return bool(configuration.actions)


def has_mailboxes(configuration: ParentSlice) -> bool:
    return any(action.method is Method.MBOX for action in configuration.actions)


def has_passwords(configuration: ParentSlice) -> bool:
    return configuration.passwords


PRIVILEGED_REQUESTS = {
    FindUser: PrivilegedRequest("lookup", has_local_delivery, at_once=8, waiting=2048, deadline=10),
    StartAgent: PrivilegedRequest("queue", has_local_delivery, at_once=8, waiting=512, deadline=20),
    EndAgent: PrivilegedRequest("queue", has_local_delivery),
    LockMailbox: PrivilegedRequest("queue", has_mailboxes, waiting=256, deadline=30),
    UnlockMailbox: PrivilegedRequest("queue", has_mailboxes),
    CheckPassword: PrivilegedRequest("lookup", has_passwords, at_once=4, waiting=128, deadline=20),
}


def check_allowed(configuration: ParentSlice, channel: Channel, imsg: Any) -> None:
    """Raises Violation.  The arrow has been checked by the channel; this is the table's row."""
    service = PRIVILEGED_REQUESTS[type(imsg)]
    if channel.peer != service.asker or not service.enabled(configuration):
        raise Violation(f"{channel.peer} asks {type(imsg).__name__}, which the configuration does not enable")
