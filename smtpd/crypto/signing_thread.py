"""Thread that answers the signing requests of one dispatcher, received from a socket of its own.

    packet --> may a handshake ask for this? --no--> violation: the daemon ends
                 is there such a key?        --no--> refused: it may have been replaced a minute ago
                 signature

OpenSSL releases the interpreter lock while it computes.
"""

import socket
import threading
from collections import Counter
from collections.abc import Callable, Mapping

from smtpd.crypto.request_check import is_plausible
from smtpd.tls.openssl_library import TlsUnusable
from smtpd.tls.private_key import PrivateKey
from smtpd.tls.signing import PACKET_MAX, SigningPacketError, SigningReply, SigningRequest

RSA_COUNTER, ECDSA_COUNTER, REFUSED_COUNTER = (
    "crypto.signature.rsa",
    "crypto.signature.ecdsa",
    "crypto.signature.refused",
)


class SigningThread:
    """`keys` by the digest of their public halves; it may change at any time.  `violated` and `failed` are called in
    our thread, with a text."""

    def __init__(
        self,
        sock: socket.socket,
        keys: Mapping[bytes, PrivateKey],
        violated: Callable[[str], None],
        failed: Callable[[str], None],
    ):
        self._socket, self._keys = sock, keys
        self._violated, self._failed = violated, failed
        # All names from the start: another thread adds the counters up, and the size must not change meanwhile.
        self.statistics: Counter[str] = Counter(dict.fromkeys((RSA_COUNTER, ECDSA_COUNTER, REFUSED_COUNTER), 0))

    def start(self) -> None:
        self._socket.setblocking(True)
        threading.Thread(target=self._work, name="signing", daemon=True).start()

    def _work(self) -> None:
        with self._socket:
            try:
                while packet := self._socket.recv(PACKET_MAX):
                    self._socket.send(self.answer(packet))
            except SigningPacketError as error:
                self.statistics[REFUSED_COUNTER] += 1
                self._violated(str(error))
            except OSError:
                pass  # the dispatcher is gone, and the parent has seen it too

    def answer(self, packet: bytes) -> bytes:
        """The packet to send back.  Raises SigningPacketError."""
        request = SigningRequest.parse(packet)
        return SigningReply(request.number, self._sign(request)).packet()

    def _sign(self, request: SigningRequest) -> bytes:
        key = self._keys.get(request.public)
        if key is None:
            self.statistics[REFUSED_COUNTER] += 1
            return b""
        if not is_plausible(request.operation, request.data, key.rsa, key.bits):
            raise SigningPacketError(
                f"a request that no handshake makes: {request.operation.name} of {len(request.data)} bytes"
            )
        try:
            signature = key.sign(request.operation, request.data)
        except Exception as error:  # noqa: BLE001  (rule R8: the one place around one signature)
            self._failed(str(error) if isinstance(error, TlsUnusable) else f"no signature: {error!r}")
            return b""
        self.statistics[RSA_COUNTER if key.rsa else ECDSA_COUNTER] += 1
        return signature
