"""The private keys that there are, by the digest of their public halves.

    take       read the key of a `pki`, at the start or at a SIGHUP; it can sign from now on
    settle     all keys and certificates fit: a minute later those are forgotten that no `pki` has any more

Until then both sign: dispatchers learn of the new certificates sooner or later than we do, and handshakes are under
way.
"""

from collections.abc import Callable

from smtpd.crypto.key import PrivateKey

LINGER = 60.0  # seconds: as long as a handshake may last, and more


class Keyring:
    """`later(seconds, function)` calls the function then."""

    def __init__(self, later: Callable[[float, Callable[[], None]], object]):
        self._later = later
        self.keys: dict[bytes, PrivateKey] = {}
        self._of: dict[str, bytes] = {}  # pki -> its key
        self._settled: set[bytes] = set()  # those that certificates are shown for

    def take(self, pki: str, descriptor: int) -> bytes:
        """The digest of its public half.  Raises Unusable; the `pki` keeps the key that it had."""
        key = PrivateKey.read(descriptor)
        self.keys.setdefault(key.public, key)
        self._of[pki] = key.public
        return key.public

    def settle(self) -> None:
        self._settled = set(self._of.values())
        self._later(LINGER, self._forget)

    def _forget(self) -> None:
        """Not what was taken meanwhile, whose certificates may fit or not."""
        for public in self.keys.keys() - self._settled - set(self._of.values()):
            del self.keys[public]
