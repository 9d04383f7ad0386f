"""Destinations of relayed mail: their numbers, and why one is delayed.

    action, recipient's address --> Destination: the action, and the domain where that decides --> its number

A destination is what shares connections.  It is made of what the envelope has and of the configuration as it is now, so
nothing of it stands on the disk, and a mended configuration mends what is queued.  Its number is a keyed hash, so that
no table of numbers has to be kept, and no client can choose domains that have the number of another; two of a million
domains have one number with a probability of one in two million, and would share a delay then, but no mail.

The number also says which of the dispatchers has the destination: the rest of its division by how many there are.
"""

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from smtpd.domain_name import normal
from smtpd.queue.store.store import Envelope
from smtpd.slice import Method, QueueSlice

REASONS_KEPT = 100_000  # destinations of which the reason for the delay is kept
DOMAIN_MAX = 256  # characters that an imsg carries; no domain that exists has as many


class Destination(NamedTuple):
    number: int
    action: str
    domain: str


class Numbers:
    def __init__(self, configuration: QueueSlice):
        relays = [action for action in configuration.actions if action.method is Method.RELAY]
        self._relays = [action.name for action in relays]
        self._to_one = {action.name for action in relays if action.one_destination}
        self._secret = secrets.token_bytes(16)  # of this run

    def lane_of(self, envelope: Envelope) -> tuple[int, int]:
        """The number of its destination, and of its sender."""
        origin, to = envelope.origin, envelope.recipient
        return self.lane(to.action, to.destination, origin.user or origin.sender)

    def lane(self, action: str, address: str, sender: str) -> tuple[int, int]:
        """`sender`: the user who logged in, or the address."""
        return self.destination(action, address).number, self._hash(sender.lower(), 4) or 1

    def destination(self, action: str, address: str) -> Destination:
        domain = "" if action in self._to_one else normal(address.rpartition("@")[2])[:DOMAIN_MAX]
        return Destination(self._hash(f"{action}\n{domain}", 8) >> 4 or 1, action, domain)

    def find(self, name: str) -> list[int]:
        """The destinations that an administrator may mean: a domain, or an action that has one destination only.  An
        address names none: not all mail to its domain can be meant."""
        if "@" in name:
            return []
        names = {action: action == name if action in self._to_one else True for action in self._relays}
        return [self.destination(action, f"@{name}").number for action, may_have_it in names.items() if may_have_it]

    def _hash(self, text: str, size: int) -> int:
        return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=size, key=self._secret).digest())


class Delays:
    """Destinations that are delayed, until when by `clock`, and why: for the list of the queue."""

    def __init__(self, clock: Callable[[], float]):
        self._clock = clock
        self._delayed: OrderedDict[int, tuple[float, str]] = OrderedDict()

    def delay(self, destination: int, seconds: int, reason: str) -> None:
        self._delayed[destination] = self._clock() + seconds, reason
        self._delayed.move_to_end(destination)
        if len(self._delayed) > REASONS_KEPT:
            self._delayed.popitem(last=False)

    def resume(self, destination: int) -> None:
        self._delayed.pop(destination, None)

    def find_reason(self, destination: int) -> str:
        """Why it is delayed; empty when it is not."""
        until, reason = self._delayed.get(destination, (0.0, ""))
        if until > self._clock():
            return reason
        self._delayed.pop(destination, None)
        return ""
