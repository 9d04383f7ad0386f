"""The lock of the mailbox that one agent stores into: taken and released by the parent, at our word.

Mails that wait when the mailbox is locked go under one lock, and so do those that come while it is held; but only
within LOCK_TIME.  Then it is released and taken anew, so that the user's mail reader gets a turn.  The end of an agent
is the end of its lock, which the parent sees to.
"""

from collections.abc import Callable

from smtpd.imsg import LockMailbox, MailboxLocked, MailboxNotLocked, UnlockMailbox
from smtpd.ipc.request_window import RequestWindow

LOCK_TIME = 1.0  # seconds from taking a lock during which mails are begun under it


class MailboxLock:
    """Of agent number `agent`."""

    def __init__(self, agent: int, to_parent: RequestWindow, clock: Callable[[], float]):
        self._agent, self._to_parent, self._clock = agent, to_parent, clock
        self.number = 0  # of the lock that is held
        self._until = 0.0  # no further mail is begun under it

    @property
    def is_open(self) -> bool:
        """It is held, and one more mail may be begun under it."""
        return bool(self.number) and self._clock() < self._until

    def request(self, answered: Callable[[MailboxLocked | MailboxNotLocked], None]) -> None:
        self._to_parent.ask(lambda request: LockMailbox(request, self._agent), answered)

    def taken(self, number: int) -> None:
        self.number, self._until = number, self._clock() + LOCK_TIME

    def release(self) -> None:
        """Nothing is under way under it any more."""
        if self.number:
            self._to_parent.channel.send(UnlockMailbox(self.number))
            self.number = 0
