"""The private keys, by the digest of their public halves, and when a replaced key is forgotten.

    take       read the key of a `pki`, at the start or at SIGHUP; it can sign from now on
    use_taken  all dispatchers use the keys of this round; those they replace are forgotten after REPLACED_KEY_TIME
    drop       this round is refused: its keys are forgotten

Each round has a time of its own.  Handshakes that began before a round go on with the keys of the round before, and
another round soon afterwards does not remove these.
"""

from collections.abc import Callable
from functools import partial

from smtpd.tls.private_key import PrivateKey

REPLACED_KEY_TIME = 60.0  # seconds: as long as a handshake may last, and more
ROUNDS_MAX = 64  # rounds whose replaced keys are kept at the same time; of more the oldest are forgotten early


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
        """The digest of its public half.  Raises openssl_library.TlsUnusable."""
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
