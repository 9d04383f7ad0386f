"""The envelopes that wait for one destination, by sender: most have one or a few, some a hundred thousand.

    few, of one priority             packed, one behind the other: sender u32 | priority i8 | envelope u64 | tag u64
    more, or priorities that differ  SenderQueues: senders by their tags, each with its few, or with a PriorityQueue

The senders have turns by their tags (turns.py); of a sender the higher priority goes first (priority_queue.py).
Functions over the two forms, as a million destinations have one envelope each, and a million senders of one destination
too.
"""

import struct
from array import array
from itertools import takewhile

from smtpd.envelope import message_of
from smtpd.scheduler.priority_queue import PriorityQueue
from smtpd.scheduler.timer_queue import TimerQueue
from smtpd.scheduler.turns import Turns

FEW = 16  # envelopes that are packed at the most
NO_TAG = 2**64 - 1  # of an envelope that has others of its sender in front

_ENTRY = struct.Struct("<IbQQ")
ENTRY_BYTES = _ENTRY.size  # of one that is packed


class SenderQueues:
    """None of the queues is empty."""

    __slots__ = ("queues", "tags")

    def __init__(self) -> None:
        self.tags = TimerQueue()  # senders by the tags of their next turns
        self.queues: dict[int, bytes | PriorityQueue] = {}

    def join(self, sender: int, envelope: int, priority: int, turns: Turns, *, first: bool) -> None:
        queue = self.queues.get(sender)
        if queue is None:
            self.tags.set(turns.take(sender), sender)
            queue = b""
        self._put(sender, queue, envelope, priority, first=first)

    def take_over(self, few: bytes) -> None:
        """What was packed, with the tags that it has."""
        for sender, priority, envelope, tag in _ENTRY.iter_unpack(few):
            if tag != NO_TAG:
                self.tags.set(tag, sender)
            self._put(sender, self.queues.get(sender, b""), envelope, priority, first=False)

    def _put(self, sender: int, queue: bytes | PriorityQueue, envelope: int, priority: int, *, first: bool) -> None:
        if isinstance(queue, bytes):
            if _has_room(queue, priority):
                entry = _ENTRY.pack(sender, priority, envelope, NO_TAG)
                self.queues[sender] = entry + queue if first else queue + entry
                return
            few, queue = queue, PriorityQueue()
            for _, earlier_priority, earlier, _ in _ENTRY.iter_unpack(few):
                queue.join(earlier, earlier_priority)
            self.queues[sender] = queue
        queue.join(envelope, priority, first=first)

    def leave(self, most: int, turns: Turns) -> list[int]:
        (_, sender) = self.tags.take(NO_TAG) or (0, 0)
        queue = self.queues[sender]
        if isinstance(queue, bytes):
            taken = _alike([envelope for _, _, envelope, _ in _ENTRY.iter_unpack(queue)], most)
            queue = queue[len(taken) * ENTRY_BYTES :]
        else:
            taken = queue.leave_alike(message_of, most)
        if queue:
            self.queues[sender] = queue
            self.tags.set(turns.take(sender), sender)
        else:
            del self.queues[sender]
        return taken


Waiting = bytes | SenderQueues  # of one destination; b"": nothing


def joined(waiting: Waiting, sender: int, envelope: int, priority: int, turns: Turns, *, first: bool) -> Waiting:
    """What waits, with one more envelope: behind those of its sender and priority, or before them."""
    if isinstance(waiting, bytes):
        if _has_room(waiting, priority):
            return _with(waiting, sender, envelope, priority, turns, first=first)
        few, waiting = waiting, SenderQueues()
        waiting.take_over(few)
    waiting.join(sender, envelope, priority, turns, first=first)
    return waiting


def next_tag(waiting: Waiting) -> int:
    """Of the turn that is next here.  Something must wait."""
    if isinstance(waiting, bytes):
        return min(tag for _, _, _, tag in _ENTRY.iter_unpack(waiting))
    tag = waiting.tags.next_time()
    assert tag is not None
    return tag


def left(waiting: Waiting, most: int, turns: Turns) -> tuple[list[int], Waiting]:
    """The envelope whose turn is next, with those right behind it of the same sender and message, at most `most`; and
    what waits then.  Something must wait."""
    if isinstance(waiting, bytes):
        return _left_of_few(waiting, most, turns)
    taken = waiting.leave(most, turns)
    return taken, waiting if waiting.queues else b""


def envelopes(waiting: Waiting) -> array[int]:
    """All of them, in no order."""
    found = array("Q")
    for queue in [waiting] if isinstance(waiting, bytes) else waiting.queues.values():
        if isinstance(queue, bytes):
            found.extend(envelope for _, _, envelope, _ in _ENTRY.iter_unpack(queue))
        else:
            found.extend(queue)
    return found


def _has_room(few: bytes, priority: int) -> bool:
    """For one more of this priority."""
    return not few or len(few) < FEW * _ENTRY.size and _ENTRY.unpack_from(few)[1] == priority


def _with(few: bytes, sender: int, envelope: int, priority: int, turns: Turns, *, first: bool) -> bytes:
    entries = [*_ENTRY.iter_unpack(few)]
    for at, (other, _, earlier, tag) in enumerate(entries):
        if other == sender:
            if not first:
                return few + _ENTRY.pack(sender, priority, envelope, NO_TAG)
            entries[at] = (sender, priority, earlier, NO_TAG)
            entries.insert(at, (sender, priority, envelope, tag))
            return _packed(entries)
    return few + _ENTRY.pack(sender, priority, envelope, turns.take(sender))


def _left_of_few(few: bytes, most: int, turns: Turns) -> tuple[list[int], bytes]:
    entries = [*_ENTRY.iter_unpack(few)]
    sender = min(entries, key=lambda entry: entry[3])[0]
    own = [entry for entry in entries if entry[0] == sender]
    taken = _alike([envelope for _, _, envelope, _ in own], most)
    if own := own[len(taken) :]:
        _, priority, envelope, _ = own[0]
        own[0] = (sender, priority, envelope, turns.take(sender))
    return taken, _packed([*(entry for entry in entries if entry[0] != sender), *own])


def _alike(ids: list[int], most: int) -> list[int]:
    """Those in front that are of one message."""
    message = message_of(ids[0])
    return [*takewhile(lambda id: message_of(id) == message, ids[:most])]


def _packed(entries: list[tuple[int, int, int, int]]) -> bytes:
    return b"".join(_ENTRY.pack(*entry) for entry in entries)
