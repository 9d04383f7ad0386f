"""The envelopes that wait for one destination, by sender: most have one or a few, some a hundred thousand.

    few, of one priority             packed, one behind the other: sender u32 | priority i8 | envelope u64
    more, or priorities that differ  SenderQueues: senders in their order, each with its few, or with a PriorityQueue

Senders have turns, round robin; of a sender the higher priority goes first (priority_queue.py).  Functions over the two
forms, as a million destinations have one envelope each, and a million senders of one destination too.
"""

import struct
from array import array
from collections import deque
from itertools import takewhile

from smtpd.envelope import message_of
from smtpd.scheduler.priority_queue import PriorityQueue

FEW = 16  # envelopes that are packed at the most

_ENTRY = struct.Struct("<IbQ")
ENTRY_BYTES = _ENTRY.size  # of one that is packed
_SENDER = 4  # bytes in front: the sender


class SenderQueues:
    """None of the queues is empty."""

    __slots__ = ("order", "queues")

    def __init__(self) -> None:
        self.order: deque[int] = deque()  # senders, the one whose turn is next first
        self.queues: dict[int, bytes | PriorityQueue] = {}

    def join(self, sender: int, envelope: int, priority: int, *, first: bool) -> None:
        queue = self.queues.get(sender)
        if queue is None:
            self.order.append(sender)
            queue = b""
        if isinstance(queue, bytes):
            if _has_room(queue, priority):
                self.queues[sender] = _with(queue, sender, envelope, priority, first=first)
                return
            few, queue = queue, PriorityQueue()
            for _, earlier_priority, earlier in _ENTRY.iter_unpack(few):
                queue.join(earlier, earlier_priority)
            self.queues[sender] = queue
        queue.join(envelope, priority, first=first)

    def leave(self, most: int) -> list[int]:
        sender = self.order.popleft()
        queue = self.queues[sender]
        if isinstance(queue, bytes):
            taken, queue = _left_of_few(queue, most)
        else:
            taken = queue.leave_alike(message_of, most)
        if queue:
            self.queues[sender] = queue
            self.order.append(sender)
        else:
            del self.queues[sender]
        return taken


Waiting = bytes | SenderQueues  # of one destination; b"": nothing


def joined(waiting: Waiting, sender: int, envelope: int, priority: int, *, first: bool) -> Waiting:
    """What waits, with one more envelope: behind those of its sender and priority, or before them."""
    if isinstance(waiting, bytes):
        if _has_room(waiting, priority):
            return _with(waiting, sender, envelope, priority, first=first)
        few, waiting = waiting, SenderQueues()
        for earlier_sender, earlier_priority, earlier in _ENTRY.iter_unpack(few):
            waiting.join(earlier_sender, earlier, earlier_priority, first=False)
    waiting.join(sender, envelope, priority, first=first)
    return waiting


def left(waiting: Waiting, most: int) -> tuple[list[int], Waiting]:
    """The envelope that is next, with those right behind it of the same message, at most `most`; and what waits then:
    their sender is behind the others.  Something must wait."""
    if isinstance(waiting, bytes):
        return _left_of_few(waiting, most)
    taken = waiting.leave(most)
    return taken, waiting if waiting.order else b""


def envelopes(waiting: Waiting) -> array[int]:
    """All of them, in no order."""
    found = array("Q")
    for queue in [waiting] if isinstance(waiting, bytes) else waiting.queues.values():
        if isinstance(queue, bytes):
            found.extend(envelope for _, _, envelope in _ENTRY.iter_unpack(queue))
        else:
            found.extend(queue)
    return found


def _has_room(few: bytes, priority: int) -> bool:
    """For one more of this priority."""
    return not few or len(few) < FEW * _ENTRY.size and _ENTRY.unpack_from(few)[1] == priority


def _with(few: bytes, sender: int, envelope: int, priority: int, *, first: bool) -> bytes:
    entry = _ENTRY.pack(sender, priority, envelope)
    if first:
        for at in range(0, len(few), _ENTRY.size):
            if few.startswith(entry[:_SENDER], at):
                return few[:at] + entry + few[at:]
    return few + entry


def _left_of_few(few: bytes, most: int) -> tuple[list[int], bytes]:
    """The envelopes that are next, and the others: those of the same sender are behind."""
    own, others = [], b""
    for at in range(0, len(few), _ENTRY.size):
        entry = few[at : at + _ENTRY.size]
        if entry.startswith(few[:_SENDER]):
            own.append(entry)
        else:
            others += entry
    next_ones = [envelope for _, _, envelope in map(_ENTRY.unpack, own[:most])]
    message = message_of(next_ones[0])
    taken = [*takewhile(lambda envelope: message_of(envelope) == message, next_ones)]
    return taken, others + b"".join(own[len(taken) :])
