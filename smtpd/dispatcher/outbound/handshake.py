"""The TLS handshake of a connection to another host.

    without a certificate of ours   every step in the event loop
    with one                        every step in a thread of the HandshakePool, as any may have to wait for crypto's
                                    signature

The bytes that the host may send for it are bounded; the time is the connection's to watch.
"""

import asyncio
from collections.abc import Callable

from smtpd.dispatcher.inbound.handshake import HandshakePool, outcome_of_step
from smtpd.tls.client_connection import ClientTlsConnection
from smtpd.tls.client_context import ClientContext, Expectation
from smtpd.tls.connection import HANDSHAKE_MAX, TlsConnection, TlsFailed, TlsLocalFailure
from smtpd.tls.openssl_library import TlsUnusable

Done = Callable[[TlsConnection | TlsFailed], None]


class OutgoingHandshake:
    """`done` is called once: with the TlsConnection, or with the reason of the failure."""

    def __init__(self, context: ClientContext, pool: HandshakePool, transport: asyncio.Transport, done: Done):
        self.network = str(transport.get_extra_info("peername", ("",))[0])  # hosts take turns in the pool's queues
        self.concluded = False
        self._context, self._pool, self._transport, self._done = context, pool, transport, done
        self._tls: ClientTlsConnection | None = None
        self._received = bytearray()  # and not yet given to the TlsConnection
        self._in_pool = False  # in a queue, or in a thread

    def begin(self, expectation: Expectation) -> None:
        try:
            self._tls = ClientTlsConnection(self._context, expectation)
        except TlsUnusable as unusable:
            self.fail(str(unusable))
            return
        self._proceed()

    def receive(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > HANDSHAKE_MAX:  # while a thread has the step before
            self._conclude(TlsFailed("server sends too much"))
        elif not self._in_pool:
            self._proceed()

    def lose(self, reason: str) -> None:
        """The connection has ended."""
        self._conclude(TlsFailed(reason))

    def time_out(self) -> None:
        failed = TlsFailed("handshake timed out")
        self._conclude(TlsLocalFailure(str(failed)) if self._in_pool else failed)

    def abandon(self) -> None:
        """`done` is not called any more."""
        self.concluded = True

    def _proceed(self) -> None:
        if self._context.signs:
            self._in_pool = True
            self._pool.submit(self)
        else:
            self.stepped(outcome_of_step(self.step, self.take()))

    # -- what the pool calls -------------------------------------------------------------------

    def fail(self, reason: str) -> None:
        """Of this system, and not of the host."""
        self._in_pool = False
        self._conclude(TlsLocalFailure(reason))

    def take(self) -> bytes:
        """The received bytes, for the next step.  Called in the loop: a thread must not see them change."""
        data = bytes(self._received)
        self._received.clear()
        return data

    def step(self, data: bytes) -> TlsConnection | None:
        """The TlsConnection when the handshake is complete.  Perhaps in a thread.  Raises TlsFailed."""
        assert self._tls is not None
        self._tls.feed(data)
        return self._tls if self._tls.step() else None

    def stepped(self, outcome: TlsConnection | TlsFailed | None) -> None:
        self._in_pool = False
        if self.concluded or self._tls is None:
            return
        if output := self._tls.take_output():  # also after a failure: the alert that says why
            self._transport.write(output)
        if outcome is not None:
            self._conclude(outcome)
        elif self._received:
            self._proceed()

    def _conclude(self, outcome: TlsConnection | TlsFailed) -> None:
        if self.concluded:
            return
        self.concluded = True
        if isinstance(outcome, TlsConnection):
            outcome.feed(self.take())  # what came right behind the handshake
        self._done(outcome)
