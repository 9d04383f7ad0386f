"""The private keys that there are, by the digest of their public halves.

    take       read the key of a `pki`, at the start or at a SIGHUP; it can sign from now on
    settle     every dispatcher uses the keys of this round: those of the round before are forgotten a minute later
    drop       the round is refused: what was taken in it is forgotten

Each round has a minute of its own.  Handshakes that had begun before it are under way with the keys of the round
before, and a round that comes soon afterwards takes nothing from them.
"""

from collections.abc import Callable
from functools import partial

from smtpd.tls.private_key import PrivateKey

REPLACED_KEY_TIME = 60.0  # seconds: as long as a handshake may last, and more
ROUNDS_MAX = 64  # whose keys linger at the same time; of more the oldest are forgotten early


class Keyring:
    """`later(seconds, function)` calls the function then."""

    def __init__(self, later: Callable[[float, Callable[[], None]], object]):
        self._later = later
        self.keys: dict[bytes, PrivateKey] = {}
        self._taken: set[bytes] = set()  # in the round that is under way
        self._in_use: set[bytes] = set()  # in use
        self._replaced: dict[int, set[bytes]] = {}  # by round, the oldest first: the keys that it took out of use
        self._rounds = 0

    def take(self, descriptor: int) -> bytes:
        """The digest of its public half.  Raises Unusable."""
        key = PrivateKey.read(descriptor)
        self.keys.setdefault(key.public, key)
        self._taken.add(key.public)
        return key.public

    def use_taken(self) -> None:
        self._rounds += 1
        self._replaced[self._rounds] = self._in_use - self._taken
        self._in_use, self._taken = self._taken, set()
        if len(self._replaced) > ROUNDS_MAX:
            self._end(next(iter(self._replaced)))
        self._later(REPLACED_KEY_TIME, partial(self._end, self._rounds))

    def drop(self) -> None:
        self._taken = set()
        self._forget()

    def _end(self, number: int) -> None:
        """The minute of that round is over."""
        self._replaced.pop(number, None)
        self._forget()

    def _forget(self) -> None:
        for public in self.keys.keys() - self._in_use - self._taken - set().union(*self._replaced.values()):
            del self.keys[public]
