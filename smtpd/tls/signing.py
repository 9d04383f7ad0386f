"""Protocol by which a process without private keys gets a signature from the process that has them.

    dispatcher                                            crypto
      number, operation, key, data         -->              one packet
                                           <--              number, granted, signature

Over SOCK_SEQPACKET sockets made for this, each used by one thread at a time: a handshake blocks until its signature
comes, and waits behind nothing else.  A key is named by the SHA-256 of its public half (DER SubjectPublicKeyInfo).

Knows neither OpenSSL nor what is signed.
"""

import socket
import struct
import time
from enum import IntEnum
from queue import Empty, SimpleQueue
from typing import NamedTuple

SIGNING_SOCKETS = 4  # sockets of a dispatcher: as many signatures may be under way at once
SIGNING_TIMEOUT = 2.0  # seconds for a signature; as many may pass before, until a socket is free
PACKET_MAX = 4096  # more than any request or reply

_REQUEST = struct.Struct("!IB32s")
_REPLY = struct.Struct("!I?")
_TIME = struct.Struct("@ll")  # struct timeval: seconds, microseconds


class SigningFailed(Exception):
    """There is no signature, and the text says why."""


class SigningPacketError(Exception):
    """Not a packet of this protocol."""


class Operation(IntEnum):
    RSA_PKCS1 = 1  # the data is a DigestInfo, to be padded (RFC 8017 9.2); of TLS before 1.2, two digests in a row
    RSA_PSS = 2  # the data is a block with its padding (RFC 8017 9.1), as long as the key
    ECDSA = 3  # the data is a digest


class SigningRequest(NamedTuple):
    number: int  # comes back with the reply
    operation: Operation
    public: bytes
    data: bytes

    def packet(self) -> bytes:
        return _REQUEST.pack(self.number, self.operation, self.public) + self.data

    @classmethod
    def parse(cls, packet: bytes) -> "SigningRequest":
        """Raises SigningPacketError."""
        try:
            number, operation, public = _REQUEST.unpack_from(packet)
            return cls(number, Operation(operation), public, packet[_REQUEST.size :])
        except (struct.error, ValueError) as error:
            raise SigningPacketError(f"a request for a signature: {error}") from None


class SigningReply(NamedTuple):
    """An empty `signature` is a refusal: there is no such key."""

    number: int
    signature: bytes

    def packet(self) -> bytes:
        return _REPLY.pack(self.number, bool(self.signature)) + self.signature

    @classmethod
    def parse(cls, packet: bytes) -> "SigningReply":
        """Raises SigningPacketError."""
        if len(packet) < _REPLY.size or packet[4] != (len(packet) > _REPLY.size):
            raise SigningPacketError("a reply without its signature")
        return cls(_REPLY.unpack_from(packet)[0], packet[_REPLY.size :])


class Signer:
    """The asking side, for as many threads as there are sockets; more of them wait for their turn.  They are used in
    turn, so that one whose other end hangs is not all that anybody gets; one that is broken is used no more."""

    def __init__(self, sockets: list[socket.socket]):
        self._free: SimpleQueue[_SigningSocket] = SimpleQueue()
        for sock in sockets:
            self._free.put(_SigningSocket(sock))

    def sign(self, public: bytes, operation: Operation, data: bytes) -> bytes:
        """Blocks, for twice SIGNING_TIMEOUT at most.  Raises SigningFailed."""
        deadline = time.monotonic() + SIGNING_TIMEOUT
        try:
            line = self._free.get(timeout=SIGNING_TIMEOUT)
        except Empty:
            raise SigningFailed("too many signatures are under way") from None
        broken = False
        try:
            return line.ask(public, operation, data, deadline)
        except BlockingIOError:  # the time of a socket is over
            raise SigningFailed("no signature in time") from None
        except (OSError, SigningPacketError) as error:
            broken = True
            raise SigningFailed(f"no signature: {error}") from None
        finally:
            if not broken:
                self._free.put(line)


class _SigningSocket:
    """One socket, with at most one request that is waited for.

    The kernel watches the time.  Python would poll before each call, and let go of its lock as often: threads that
    change places cost more than a signature by ECDSA."""

    def __init__(self, sock: socket.socket):
        self._socket = sock
        self._number = 0
        seconds, rest = divmod(SIGNING_TIMEOUT, 1)
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIME.pack(int(seconds), int(rest * 1e6)))

    def ask(self, public: bytes, operation: Operation, data: bytes, deadline: float) -> bytes:
        self._number = (self._number + 1) & 0xFFFFFFFF
        # Without waiting: a full buffer holds earlier requests that the other end has not read.
        self._socket.send(SigningRequest(self._number, operation, public, data).packet(), socket.MSG_DONTWAIT)
        while time.monotonic() < deadline:
            packet = self._socket.recv(PACKET_MAX)
            if not packet:
                raise ConnectionError("whoever signs is gone")
            reply = SigningReply.parse(packet)
            if reply.number == self._number:  # other numbers are late replies to requests that have timed out
                if not reply.signature:
                    raise SigningFailed("no such key")
                return reply.signature
        raise BlockingIOError
