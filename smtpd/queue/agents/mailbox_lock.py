"""The lock of the mailbox that one agent stores into: made and taken by the parent, on our word.

    FREE --ask: LockMailbox--> ASKED --MailboxLocked--> LOCKED --all is answered: UnlockMailbox--> FREE
                                 |
                                 +--MailboxNotLocked--> FREE, and what waits hears why

What is there when it is locked goes under one lock, and what comes while that is under way; but no longer than TURN:
then it is unlocked and locked anew, so that the user's mail reader gets a turn.  The end of an agent is the end of its
lock, which is the parent's affair.
"""

from collections.abc import Callable
from enum import Enum

from smtpd.imsg import LockMailbox, MailboxLocked, MailboxNotLocked, UnlockMailbox
from smtpd.ipc.request_window import RequestWindow

LOCK_TIME = 1.0  # seconds


class LockState(Enum):
    FREE = "anybody may lock it"
    ASKED = "the parent tries to lock it"
    LOCKED = "the agent may store into it"
    LOST = "the agent has ended"


class MailboxLock:
    """Of agent number `agent`.  `locked()` when mails may go to it; `refused(reason, permanent)` when they may not."""

    def __init__(
        self,
        agent: int,
        to_parent: RequestWindow,
        clock: Callable[[], float],
        locked: Callable[[], None],
        refused: Callable[[str, bool], None],
    ):
        self._agent, self._to_parent, self._clock = agent, to_parent, clock
        self._locked, self._refused = locked, refused
        self._state = LockState.FREE
        self._lock = 0
        self._until = 0.0  # nothing more goes under this lock

    @property
    def asked(self) -> bool:
        return self._state is LockState.ASKED

    def claim(self) -> int:
        """The number of the lock, for one more mail; 0 when that has to wait: for `locked`, or for the last answer."""
        if self._state is LockState.FREE:
            self._state = LockState.ASKED
            self._to_parent.ask(lambda request: LockMailbox(request, self._agent), self._answered)
        return self._lock if self._state is LockState.LOCKED and self._clock() < self._until else 0

    def _answered(self, imsg: MailboxLocked | MailboxNotLocked) -> None:
        if self._state is LockState.LOST:
            return
        if isinstance(imsg, MailboxLocked):
            self._state, self._lock, self._until = LockState.LOCKED, imsg.lock, self._clock() + LOCK_TIME
            self._locked()
        else:
            self._state = LockState.FREE
            self._refused(imsg.reason, imsg.permanent)

    def unlock(self) -> None:
        """Nothing is under way."""
        if self._state is LockState.LOCKED:
            self._state = LockState.FREE
            self._to_parent.channel.send(UnlockMailbox(self._lock))

    def lose(self) -> None:
        self._state = LockState.LOST
