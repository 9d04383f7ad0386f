"""TLS handshakes of clients: up to the signature in one of a few threads, then in the event loop.

    ClientHello         kept until its first record is complete: a client that stalls costs these bytes and no thread
      |
    the queues          one for each network, served in turn; when more than QUEUE_MAX handshakes wait in all of them,
      |                 the newest of the longest queue fails
    a few threads       make the TlsConnection, and the steps up to the one that signs, which waits for crypto.  There
      |                 are as many threads as signing sockets, and each waits at one of these
    the loop            the remaining steps: no signature, some 50 microseconds.  But a client that sends more than
                        FINISHED_MAX then has sent a certificate, whose keys and signatures may be of any size: its
                        steps are made in a thread like the first

The bytes that a client may send for its handshake are bounded, certificates included, and so is its time.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol

from smtpd.dispatcher.inbound.stream import ClientStream
from smtpd.ipc.log import log
from smtpd.tls.connection import HANDSHAKE_MAX, TlsConnection, TlsFailed, TlsLocalFailure
from smtpd.tls.context import ServerContext
from smtpd.tls.signing import SIGNING_SOCKETS

QUEUE_MAX = 1024  # handshakes that wait for a thread, of all networks together
HANDSHAKE_TIMEOUT = 25.0  # seconds for all of it; the sweep of connections.py notices up to 5 seconds later

FINISHED_MAX = 512  # bytes that end a handshake after our signature without a certificate; with one there are more

RECORD_HEADER = 5  # bytes, RFC 8446 5.1: type, version, length
RECORD_MAX = 2**14  # bytes after the header
HANDSHAKE_TYPE = 22  # of a record


class Handshake:
    """One handshake.  `done` is called once: with the TlsConnection, or with the reason of the failure."""

    def __init__(
        self,
        pool: "HandshakePool",
        stream: ClientStream,
        context: ServerContext,
        network: str,
        deadline: float,
        done: Callable[[TlsConnection | TlsFailed], None],
    ):
        self.network = network
        self.concluded = False
        self._pool, self._stream, self._context = pool, stream, context
        self._deadline, self._done = deadline, done
        self._tls: TlsConnection | None = None
        self._received = bytearray()  # and not yet given to the TlsConnection
        self._size = 0  # bytes received
        # Bytes that the TlsConnection was given up to and including the step that signed; 0: not signed yet.
        self._size_when_signed = 0
        self._in_pool = False  # in a queue, or in a thread
        self._client_ended = False  # it sends no more

    def receive(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > HANDSHAKE_MAX:
            self.fail("client sends too much")
            return
        self._received += data
        if not self._in_pool:
            self._proceed()

    def client_ended(self) -> None:
        """The client sends no more; what it has sent may be enough."""
        self._client_ended = True
        if not self._in_pool:
            self.fail("the client left")

    def tick(self, now: float) -> None:
        if now >= self._deadline:
            self.fail("handshake stalled")

    def fail(self, reason: str) -> None:
        self._conclude(TlsFailed(reason))

    def take(self) -> bytes:
        """The received bytes, for the next step.  Called in the loop: a thread must not see them change."""
        data = bytes(self._received)
        self._received.clear()
        return data

    def step(self, data: bytes) -> TlsConnection | None:
        """The TlsConnection when the handshake is complete, None while more is needed.  Mostly in a thread.  Raises
        TlsFailed."""
        if self._tls is None:
            self._tls = TlsConnection(self._context)
        self._tls.feed(data)
        return self._tls if self._tls.step() else None

    def stepped(self, outcome: TlsConnection | TlsFailed | None) -> None:
        self._in_pool = False
        if self.concluded:
            self._tls = None
            return
        if self._tls is not None and self._tls.signed and not self._size_when_signed:
            self._size_when_signed = self._size - len(self._received)
        if self._tls is not None:  # also after a failure: the alert that says why
            output = self._tls.take_output()
            if output:
                self._stream.transport.write(output)
        if outcome is not None:
            self._conclude(outcome)
        elif self._received:
            self._proceed()
        if self._client_ended and not self._in_pool:
            self.fail("the client left")

    def _proceed(self) -> None:
        if self._tls is not None and self._tls.signed and self._size - self._size_when_signed <= FINISHED_MAX:
            self.stepped(outcome_of_step(self.step, self.take()))
        elif self._tls is not None or _begins_with_a_record(self._received):
            self._in_pool = True
            self._pool.submit(self)

    def _conclude(self, outcome: TlsConnection | TlsFailed) -> None:
        if self.concluded:
            return
        self.concluded = True
        rest = self.take()
        if isinstance(outcome, TlsConnection) and rest:
            outcome.feed(rest)  # received during the last step
        if not self._in_pool:
            self._tls = None
        self._done(outcome)


def _begins_with_a_record(data: bytearray) -> bool:
    """A whole record; or what is none, or too long for one: then there is nothing to wait for."""
    if data[0] != HANDSHAKE_TYPE:
        return True
    if len(data) < RECORD_HEADER:
        return False
    length = int.from_bytes(data[3:5])
    return length > RECORD_MAX or len(data) >= RECORD_HEADER + length


def outcome_of_step(step: Callable[[bytes], TlsConnection | None], data: bytes) -> TlsConnection | TlsFailed | None:
    try:
        return step(data)
    except TlsFailed as failed:
        return failed
    except Exception as error:  # noqa: BLE001  (rule R8: the one place around one handshake)
        log.trouble("tls", error)
        return TlsLocalFailure("internal error")


class PooledHandshake(Protocol):
    """What the pool needs of a handshake.  `step` is called in a thread, the others in the loop."""

    network: str  # those of one network wait behind each other
    concluded: bool

    def take(self) -> bytes: ...

    def step(self, data: bytes) -> TlsConnection | None: ...

    def stepped(self, outcome: TlsConnection | TlsFailed | None) -> None: ...

    def fail(self, reason: str) -> None: ...


class HandshakePool:
    """The queues, and the threads.  Handshakes to other hosts that may have to sign wait here too
    (outbound/handshake.py)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int = QUEUE_MAX):
        self._loop, self._most = loop, most
        self._threads: list[threading.Thread] = []  # as many as were ever busy at once
        self._work: SimpleQueue[tuple[PooledHandshake, bytes] | None] = SimpleQueue()
        self._queues: dict[str, deque[PooledHandshake]] = {}  # by network; the first is served next
        self._waiting = 0
        self._busy = 0

    def __len__(self) -> int:
        return self._waiting

    def submit(self, handshake: PooledHandshake) -> None:
        if self._busy < SIGNING_SOCKETS:
            self._start(handshake)
            return
        self._queues.setdefault(handshake.network, deque()).append(handshake)
        self._waiting += 1
        if self._waiting > self._most:
            self._drop_newest_of_longest()

    def close(self) -> None:
        """End all threads."""
        self._queues.clear()
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _drop_newest_of_longest(self) -> None:
        network = max(self._queues, key=lambda network: len(self._queues[network]))
        last = self._queues[network].pop()
        self._count_out(network)
        last.fail("too many handshakes")

    def _count_out(self, network: str) -> None:
        self._waiting -= 1
        if not self._queues[network]:
            del self._queues[network]

    def _start(self, handshake: PooledHandshake) -> None:
        if self._busy == len(self._threads):
            thread = threading.Thread(target=self._step, name="handshake", daemon=True)
            try:
                thread.start()
            except RuntimeError as error:
                # The system has no thread left: this handshake fails, and does not count as a busy one.
                handshake.fail(str(error))
                return
            self._threads.append(thread)
        self._busy += 1
        self._work.put((handshake, handshake.take()))

    def _step(self) -> None:
        """In a thread.  An executor and its futures would cost more than the step."""
        while work := self._work.get():
            handshake, data = work
            self._loop.call_soon_threadsafe(self._stepped, handshake, outcome_of_step(handshake.step, data))
            del work, handshake  # they may be freed while this thread waits for the next one

    def _stepped(self, handshake: PooledHandshake, outcome: TlsConnection | TlsFailed | None) -> None:
        self._busy -= 1
        try:
            handshake.stepped(outcome)
        finally:  # an error of our own in one handshake keeps no other one waiting
            while self._queues and self._busy < SIGNING_SOCKETS:
                self._serve()

    def _serve(self) -> None:
        network = next(iter(self._queues))
        waiting = self._queues.pop(network)
        handshake = waiting.popleft()
        self._waiting -= 1
        if waiting:
            self._queues[network] = waiting  # after the other networks
        if not handshake.concluded:
            self._start(handshake)
