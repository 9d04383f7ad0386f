"""All envelopes that the scheduler knows, packed: a million of them take less than 200 MB.

    message id --> the packed envelope                      when the message has one: nearly always
               --> {envelope id: packed envelope, …}        when it has several

    local:    counter u32 | created, expires, next try: 40 bits each, in two u64 | flags u8 | priority i8 | lane u32
    relayed:  the same, then                                                                   lane u64 | sender u32

An Envelope that was found is a copy: what was changed in it is put back.  Nothing here decides anything.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum

from smtpd.envelope import COUNTER_MAX, Kind, message_of

_LOCAL, _RELAYED = struct.Struct("<IQQBbI"), struct.Struct("<IQQBbQI")
_TIME, _U64 = 2**40 - 1, 2**64 - 1  # the largest time that is kept; the lower half of the three
_STATE, _SUSPENDED, _TIMED, _REMOVED = 0x07, 0x10, 0x20, 0x40


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
        self._messages: dict[int, bytes | dict[int, bytes]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __contains__(self, id: int) -> bool:
        return self._packed(id) is not None

    def find(self, id: int) -> ScheduledEnvelope | None:
        packed = self._packed(id)
        return None if packed is None else _unpack(id, packed)

    def put(self, envelope: ScheduledEnvelope) -> None:
        """Add it, or replace what is known of it."""
        message, packed = message_of(envelope.id), _pack(envelope)
        known = self._messages.get(message)
        if isinstance(known, dict):
            self._count += envelope.id not in known
            known[envelope.id] = packed
        elif known is None or known[:4] == packed[:4]:
            self._count += known is None
            self._messages[message] = packed
        else:
            self._count += 1
            self._messages[message] = {_id(message, known): known, envelope.id: packed}

    def remove(self, id: int) -> None:
        """Forget it.  It must be known."""
        message = message_of(id)
        known = self._messages[message]
        if isinstance(known, dict):
            del known[id]
        if not isinstance(known, dict) or not known:
            del self._messages[message]
        self._count -= 1

    def ids(self, first: int, last: int) -> Iterator[int]:
        """The ids from `first` to `last` that are known now.  What comes or goes meanwhile does not disturb."""
        low, high = message_of(first), message_of(last)
        messages = [low] if low == high else list(self._messages)
        for message in messages:
            if low <= message <= high:
                for id in self._ids_of(message):
                    if first <= id <= last:
                        yield id

    def _ids_of(self, message: int) -> list[int]:
        known = self._messages.get(message)
        if isinstance(known, dict):
            return list(known)
        return [] if known is None else [_id(message, known)]

    def _packed(self, id: int) -> bytes | None:
        known = self._messages.get(message_of(id))
        if isinstance(known, dict):
            return known.get(id)
        if known is None or int.from_bytes(known[:4], "little") != id & COUNTER_MAX:
            return None
        return known


def _id(message: int, packed: bytes) -> int:
    return message << 32 | int.from_bytes(packed[:4], "little")


def _pack(envelope: ScheduledEnvelope) -> bytes:
    times = _time(envelope.created) | _time(envelope.expires) << 40 | _time(envelope.next_try) << 80
    head = (
        envelope.id & COUNTER_MAX,
        times & _U64,
        times >> 64,
        envelope.state
        | (_SUSPENDED if envelope.suspended else 0)
        | (_TIMED if envelope.timed else 0)
        | (_REMOVED if envelope.removed else 0),
        envelope.priority,
        envelope.lane,
    )
    return _LOCAL.pack(*head) if envelope.kind is Kind.MDA else _RELAYED.pack(*head, envelope.sender)


def _time(seconds: int) -> int:
    """What can be kept of a time."""
    return min(max(0, seconds), _TIME)


def _unpack(id: int, packed: bytes) -> ScheduledEnvelope:
    if len(packed) == _LOCAL.size:
        kind, sender = Kind.MDA, 0
        _, low, high, flags, priority, lane = _LOCAL.unpack(packed)
    else:
        kind = Kind.MTA
        _, low, high, flags, priority, lane, sender = _RELAYED.unpack(packed)
    times = high << 64 | low
    return ScheduledEnvelope(
        id,
        kind,
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
