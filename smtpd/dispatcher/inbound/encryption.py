"""TLS of one connection: its handshake, the log lines and statistics about it.

under_way    bytes of the client go to the handshake
afterwards   stream.tls is set, or the connection is over
"""

from collections.abc import Callable

from smtpd.dispatcher.inbound.handshake import HANDSHAKE_TIMEOUT, Handshake
from smtpd.dispatcher.inbound.resources import Resources
from smtpd.dispatcher.inbound.stream import ClientStream
from smtpd.ipc.log import log, quoted
from smtpd.slice import ListenerSlice, Tls
from smtpd.smtp.ip_address import network_of
from smtpd.tls.connection import TlsConnection, TlsFailed
from smtpd.tls.facts import TlsFacts

STATISTICS = {Tls.OFFERED: "smtp.tls", Tls.REQUIRED: "smtp.tls", Tls.AT_ONCE: "smtp.smtps"}


class Encryption:
    """`done` is called once: with the facts of the TLS connection, or None when the handshake has failed."""

    def __init__(
        self,
        resources: Resources,
        listener: ListenerSlice,
        stream: ClientStream,
        id: int,
        address: str,
        done: Callable[[TlsFacts | None], None],
    ):
        assert listener.tls is not None
        self.under_way = True
        self._tls, self._stream, self._id, self._address, self._done = listener.tls, stream, id, address, done
        self._statistics = resources.statistics
        self._handshake = Handshake(
            resources.handshakes,
            stream,
            resources.certificates.get_context(listener.number),
            network_of(address),
            resources.loop.time() + HANDSHAKE_TIMEOUT,
            self._shaken,
        )
        self.receive, self.tick = self._handshake.receive, self._handshake.tick
        self.end, self.fail = self._handshake.client_ended, self._handshake.fail

    def close(self) -> None:
        """The connection is gone."""
        if self.under_way:
            self.fail("the client left")
        elif self._stream.tls is not None:
            self._statistics[STATISTICS[self._tls.mode]] -= 1

    def _shaken(self, outcome: TlsConnection | TlsFailed) -> None:
        self.under_way = False
        if isinstance(outcome, TlsFailed):
            self._statistics["smtp.tls.failed"] += 1
            self._log(f"tls-failed reason={quoted(str(outcome))} address={self._address}")
            self._done(None)
            return
        self._stream.encrypt(outcome)
        self._statistics[STATISTICS[self._tls.mode]] += 1
        self._log(f"tls ciphers={outcome.facts}")
        if self._tls.ca:
            self._log_certificate(outcome.facts)
        self._done(outcome.facts)

    def _log_certificate(self, facts: TlsFacts) -> None:
        if facts.fingerprint:
            result = "verified" if facts.verified else "unchecked"
            self._log(f'cert-check result="{result}" fingerprint="{facts.fingerprint}"')
        else:
            self._log('cert-check result="no certificate presented"')

    def _log(self, text: str) -> None:
        log.line(f"{self._id:016x} smtp {text}")
