"""Whose turn is next: fair queueing of senders over all destinations.

    sender 7: mail for 20 000 destinations     tags 40, 41, 42 … of its turns
    sender 8: one mail                         tag 40: it goes after one turn of sender 7

A turn has a tag, and the lowest tag goes first, of equals the one that came first.  A sender's next turn has a tag that
is higher by one, or that of the last turn which was given to anybody, whichever is later: so who has had no turn
lately is not behind, and does not get ahead by it either (start-time fair queueing, Goyal, Vin and Cheng, 1996).

What has no sender shares one turn, as a sender of its own.
"""

from smtpd.scheduler.packed_table import PackedTable
from smtpd.scheduler.timer_queue import TimerQueue

_TAG = 8  # bytes
FORGET_MAX = 4  # senders that are looked at with each turn, whether their tags are over


class Turns:
    def __init__(self) -> None:
        self._now = 0  # the tag of the last turn that was given
        self._next = PackedTable(_TAG)  # by sender: the tag of its next turn, where that is later
        self._over = TimerQueue()  # by tag: each of these senders, once

    def __len__(self) -> int:
        """Senders that are remembered."""
        return len(self._next)

    def take(self, sender: int) -> int:
        """The tag of the sender's next turn."""
        known = self._next.find(sender)
        tag = self._now if known is None else max(self._now, int.from_bytes(known))
        self._next.put(sender, (tag + 1).to_bytes(_TAG))
        if known is None:
            self._over.set(tag + 1, sender)
        return tag

    def given(self, tag: int) -> None:
        """The turn of this tag is given."""
        self._now = max(self._now, tag)
        for _ in range(FORGET_MAX):
            over = self._over.take(self._now)
            if over is None:
                return
            _, sender = over
            known = self._next.find(sender)
            assert known is not None  # it is forgotten here only
            tag = int.from_bytes(known)
            if tag <= self._now:
                self._next.remove(sender)
            else:
                self._over.set(tag, sender)
