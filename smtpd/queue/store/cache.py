"""Cache of messages and envelopes that were just stored or read: the usual first delivery reads nothing.

Bounded in bytes; what was used longest ago leaves first.  Never newer or older than the disk: an envelope that changes
is dropped here.
"""

from collections import OrderedDict
from collections.abc import Iterable

from smtpd.envelope import message_of
from smtpd.queue.store.store import Envelope, Message

CACHE_BYTES = 32 * 1024 * 1024  # bytes
ENTRY_BYTES = 1536  # bytes that an envelope or an empty message takes, about


class _Kept:
    __slots__ = ("message", "envelopes", "weight")

    def __init__(self, message: Message):
        self.message = message
        self.envelopes: dict[int, Envelope] = {}
        self.weight = ENTRY_BYTES + len(message.content or b"")


class Cache:
    def __init__(self, size: int = CACHE_BYTES):
        self._size = size
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self.weight = 0

    def keep(self, message: Message, envelopes: Iterable[Envelope] = ()) -> None:
        """`message`, with some of its envelopes."""
        before = self._kept.pop(message.id, None)
        kept = self._kept[message.id] = _Kept(message)
        if before is not None:
            self.weight -= before.weight
            kept.envelopes = before.envelopes
        for envelope in envelopes:
            kept.envelopes[envelope.id] = envelope
        kept.weight += ENTRY_BYTES * len(kept.envelopes)
        self.weight += kept.weight
        while self.weight > self._size:
            _, oldest = self._kept.popitem(last=False)
            self.weight -= oldest.weight

    def maybe_message(self, message: int) -> Message | None:
        kept = self._kept.get(message)
        if kept is None:
            return None
        self._kept.move_to_end(message)
        return kept.message

    def maybe_envelope(self, envelope: int) -> Envelope | None:
        kept = self._kept.get(message_of(envelope))
        return None if kept is None else kept.envelopes.get(envelope)

    def forget(self, envelope: int) -> None:
        """It has changed or is gone.  A message goes with the last envelope that is kept of it, or with any one of them
        when none is kept: the content of a message that was read again for an attempt must not outlive it."""
        message = message_of(envelope)
        kept = self._kept.get(message)
        if kept is None:
            return
        if kept.envelopes.pop(envelope, None) is not None:
            kept.weight -= ENTRY_BYTES
            self.weight -= ENTRY_BYTES
        if not kept.envelopes:
            self.weight -= kept.weight
            del self._kept[message]

    def __len__(self) -> int:
        return len(self._kept)
