"""All envelopes that the scheduler knows, packed: a million of them take about 45 MB.

    id u64 --> created, expires, next try: 40 bits each, in two u64 | flags u8 | priority i8 | lane u64 | sender u32

An Envelope that was found is a copy: what was changed in it is put back.  Nothing here decides anything.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum

from smtpd.envelope import Kind
from smtpd.scheduler.packed_table import PackedTable

_RECORD = struct.Struct("<QQBbQI")
_TIME, _U64 = 2**40 - 1, 2**64 - 1  # the largest time that is kept; the lower half of the three
_STATE, _RELAYED, _SUSPENDED, _TIMED, _REMOVED = 0x07, 0x08, 0x10, 0x20, 0x40


class EnvelopeState(IntEnum):
    """Where an envelope stands."""

    WAITING = 0  # until its next try
    DUE_SUSPENDED = 1  # its time has come, but it is suspended
    WAITING_FOR_LANE = 2  # due; its lane has as many queued or in flight as it may
    WAITING_FOR_MESSAGE = 3  # due; its message has as many queued or in flight as it may
    QUEUED = 4  # due; takes the next free place
    INFLIGHT = 5  # queue tries it
    HELD = 6  # until an administrator schedules it
    WAITING_FOR_DESTINATION = 7  # due, to be relayed; its destination has its turn, or is delayed


class ScheduledEnvelope:
    """What is known of one envelope.  Times in seconds since 1970."""

    __slots__ = (
        *("id", "created", "expires", "next_try", "lane", "kind", "state", "suspended", "timed", "removed"),
        *("priority", "sender"),
    )

    def __init__(
        self,
        id: int,
        kind: Kind,
        created: int,
        expires: int,
        next_try: int,
        lane: int = 0,
        state: EnvelopeState = EnvelopeState.WAITING,
        suspended: bool = False,
        timed: bool = False,
        removed: bool = False,
        priority: int = 0,
        sender: int = 0,
    ):
        self.id = id
        self.kind = kind
        self.created = created
        self.expires = expires
        self.next_try = next_try
        self.lane = lane
        self.state = state
        self.suspended = suspended
        self.timed = timed  # a timer of `next_try` is set
        self.removed = removed  # by an administrator, while it was in flight
        self.priority = priority
        self.sender = sender


class EnvelopeTable:
    def __init__(self) -> None:
        self._envelopes = PackedTable(_RECORD.size)

    def __len__(self) -> int:
        return len(self._envelopes)

    def __contains__(self, id: int) -> bool:
        return id in self._envelopes

    def find(self, id: int) -> ScheduledEnvelope | None:
        record = self._envelopes.find(id)
        return None if record is None else _unpack(id, record)

    def put(self, envelope: ScheduledEnvelope) -> None:
        """Add it, or replace what is known of it."""
        self._envelopes.put(envelope.id, _pack(envelope))

    def remove(self, id: int) -> None:
        """Forget it.  It must be known."""
        self._envelopes.remove(id)

    def ids(self, first: int, last: int) -> Iterator[int]:
        """The ids from `first` to `last` that are known now.  What comes or goes meanwhile does not disturb."""
        for ids in self._envelopes.numbers(first, last):
            for id in ids:
                if id in self._envelopes:
                    yield id


def _pack(envelope: ScheduledEnvelope) -> bytes:
    times = _time(envelope.created) | _time(envelope.expires) << 40 | _time(envelope.next_try) << 80
    return _RECORD.pack(
        times & _U64,
        times >> 64,
        envelope.state
        | (_RELAYED if envelope.kind is Kind.MTA else 0)
        | (_SUSPENDED if envelope.suspended else 0)
        | (_TIMED if envelope.timed else 0)
        | (_REMOVED if envelope.removed else 0),
        envelope.priority,
        envelope.lane,
        envelope.sender,
    )


def _time(seconds: int) -> int:
    """What can be kept of a time."""
    return min(max(0, seconds), _TIME)


def _unpack(id: int, record: bytearray) -> ScheduledEnvelope:
    low, high, flags, priority, lane, sender = _RECORD.unpack(record)
    times = high << 64 | low
    return ScheduledEnvelope(
        id,
        Kind.MTA if flags & _RELAYED else Kind.MDA,
        times & _TIME,
        times >> 40 & _TIME,
        times >> 80,
        lane,
        _STATES[flags & _STATE],
        bool(flags & _SUSPENDED),
        bool(flags & _TIMED),
        bool(flags & _REMOVED),
        priority,
        sender,
    )


_STATES = [*EnvelopeState]  # three bits
