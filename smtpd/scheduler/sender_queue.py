"""The envelopes of one sender that wait for one destination: most have one or a few, some a hundred thousand.

    one           the envelope and its priority, packed into a number
    a few         a list of such numbers, of one priority
    more, or of   a PriorityQueue
    priorities that differ

Functions over the three, as a PriorityQueue alone takes a kilobyte.
"""

from itertools import takewhile

from smtpd.envelope import message_of
from smtpd.scheduler.priority_queue import PriorityQueue

FEW = 16  # envelopes of a list at the most

SenderQueue = int | list[int] | PriorityQueue

_BITS, _LOWEST = 5, -9  # of a priority


def joined(queue: SenderQueue | None, envelope: int, priority: int, *, first: bool) -> SenderQueue:
    """The queue with one more envelope: behind those of its priority, or before them."""
    packed = envelope << _BITS | priority - _LOWEST
    if queue is None:
        return packed
    if isinstance(queue, int):
        queue = [queue]
    if isinstance(queue, list):
        if len(queue) < FEW and _priority(queue[0]) == priority:
            queue.insert(0 if first else len(queue), packed)
            return queue
        few, queue = queue, PriorityQueue()
        for one in few:
            queue.join(one >> _BITS, _priority(one))
    queue.join(envelope, priority, first=first)
    return queue


def left(queue: SenderQueue, most: int) -> tuple[list[int], SenderQueue | None]:
    """The envelope that is next, with those right behind it of the same message, at most `most`; and what is left."""
    if isinstance(queue, int):
        return [queue >> _BITS], None
    if isinstance(queue, list):
        message = message_of(queue[0] >> _BITS)
        count = sum(1 for _ in takewhile(lambda one: message_of(one >> _BITS) == message, queue[:most]))
        taken = [one >> _BITS for one in queue[:count]]
        del queue[:count]
        return taken, queue or None
    return queue.leave_alike(message_of, most), queue or None


def envelopes(queue: SenderQueue) -> list[int]:
    """All of them."""
    if isinstance(queue, int):
        return [queue >> _BITS]
    return [one >> _BITS for one in queue] if isinstance(queue, list) else [*queue]


def _priority(packed: int) -> int:
    return (packed & (1 << _BITS) - 1) + _LOWEST
