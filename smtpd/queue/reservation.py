"""Which message id belongs to which process: handed out in blocks, each id for one message of one dispatcher.

    start (random) … ascending … 2^31 - 1, 1 … ascending

Ascending, so that rows are appended and not strewn.  A block leaves out what the store has and what is still reserved;
that matters after a wrap, and after a start in the middle of old mail.  A block may also be the queue's own, for
messages that it makes itself (message_ids.py).
"""

from collections.abc import Container

from smtpd.envelope import MESSAGE_ID_MAX, message_text
from smtpd.ipc.channel import Violation

BLOCK_SIZE = 1024
QUEUE = -1  # the owner of the queue's own ids: no dispatcher has this number
RESERVED_MAX = 1024 * 1024  # ids that one dispatcher may hold: more than it can have sessions


class Reservations:
    """`first` is where to begin, between 1 and MESSAGE_ID_MAX."""

    def __init__(self, first: int):
        self._next = first
        self._owner: dict[int, int] = {}  # id -> number of the dispatcher that it was handed to, or QUEUE
        self._held: dict[int, int] = {}  # number of a dispatcher -> how many it holds

    def advance(self) -> tuple[int, int]:
        """The next ids to hand out, first and last: what is taken among them is wanted by `reserve`."""
        first = self._next
        last = min(first + BLOCK_SIZE - 1, MESSAGE_ID_MAX)
        self._next = last + 1 if last < MESSAGE_ID_MAX else 1
        return first, last

    def reserve(self, dispatcher: int, first: int, last: int, taken: Container[int]) -> list[int]:
        """Those from `first` to `last` that are free now belong to `dispatcher`.  May be none."""
        ids = [id for id in range(first, last + 1) if id not in taken and id not in self._owner]
        held = self._held.get(dispatcher, 0) + len(ids)
        if held > RESERVED_MAX:
            raise Violation(f"dispatcher {dispatcher} hoards message ids")
        self._held[dispatcher] = held
        self._owner.update(dict.fromkeys(ids, dispatcher))
        return ids

    def check(self, dispatcher: int, message: int) -> None:
        """Raises Violation when `message` is not one of this dispatcher's, or has ended already."""
        if self._owner.get(message) != dispatcher:
            raise Violation(f"dispatcher {dispatcher} names message {message_text(message)}, which is not its own")

    def check_any(self, message: int) -> None:
        """As check, for a process that works for all dispatchers."""
        if self._owner.get(message, QUEUE) == QUEUE:
            raise Violation(f"message {message_text(message)} has not begun, or has ended already")

    def spend(self, message: int) -> None:
        """It is stored, refused or forgotten: never again in this round."""
        self._held[self._owner.pop(message)] -= 1
