"""From accept to the banner: PROXY header, admission, TLS, the client's name, the greeting delay.

    PROXY header    the client's real address          listen on … proxy
    admission       connections.py, rate.py            or 421
    TLS handshake                                      listen on … smtps
    reverse DNS     ResolveClient
    tables          ClassifyClient                     listen on … hostnames, xclient
    delay           a client that sends ends it        smtp limit greet-delay
    banner          the session begins

A listener skips what it does not have.  Bytes that come before the banner are kept, as many as one read of the socket
brings, and are the first of the session; where a greeting delay is configured they end the connection.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple, Protocol

from smtpd.dispatcher.inbound.resources import Resources
from smtpd.dispatcher.inbound.stream import ClientStream
from smtpd.imsg import ClassifyClient, ClientClassified
from smtpd.slice import ListenerSlice, Tls
from smtpd.smtp.ip_address import is_loopback
from smtpd.smtp.proxy import ProxyError, ProxyReader
from smtpd.smtp.session import Client
from smtpd.tls.facts import TlsFacts

# Seconds for the PROXY header, which a proxy sends at once.  Until it has come the connection counts for no address, so
# one host could hold all sessions.
HEADER_TIMEOUT = 30.0


class PreambleResult(NamedTuple):
    """What the session begins with."""

    client: Client
    facts: TlsFacts | None
    name: str  # of this server; empty: as the listener says
    may_xclient: bool
    early: bytes  # came before the banner
    spoke_early: bool  # they came during the greeting delay


class PreambleConnection(Protocol):
    """The connection, as far as the preamble needs it."""

    address: str
    stream: ClientStream

    def data_received(self, data: bytes) -> None: ...

    def admit(self) -> bool: ...

    def encrypt(self, use: Callable[[TlsFacts], None]) -> None: ...

    def begin(self, result: PreambleResult) -> None: ...

    def reject(self, event: str, address: str, reason: str) -> None: ...


class Preamble:
    def __init__(
        self,
        resources: Resources,
        listener: ListenerSlice,
        connection: PreambleConnection,
        peer: tuple[str, int],
        local: str,
    ):
        self._resources, self._listener, self._connection = resources, listener, connection
        self._address, self._port, self._local = *peer, local
        self._limits = resources.settings.limits
        self._begun = resources.loop.time()
        self._proxy = ProxyReader(listener.proxy) if listener.proxy else None
        self._facts: TlsFacts | None = None
        self._early: list[bytes] = []
        self._name = ""
        self._welcome = ClientClassified(0, "", False)
        self._delay: asyncio.TimerHandle | None = None

    @property
    def needs_input(self) -> bool:
        """Without more bytes from the client there will be no session."""
        return self._proxy is not None

    def enter(self) -> None:
        if self._proxy is None:
            self._identify()

    def receive(self, data: bytes) -> None:
        if self._proxy is not None:
            self._read_header(self._proxy, data)
            return
        self._early.append(data)
        self._connection.stream.pause()
        if self._delay is not None:
            self.leave()
            self._greet()

    def tick(self, now: float) -> None:
        if self._proxy is not None and now - self._begun >= HEADER_TIMEOUT:
            self._fail("timeout")

    def leave(self) -> None:
        """The client is gone."""
        if self._delay is not None:
            self._delay.cancel()

    def _read_header(self, proxy: ProxyReader, data: bytes) -> None:
        try:
            if not proxy.feed(data):
                return
        except ProxyError as malformed:
            self._fail(str(malformed))
            return
        self._proxy = None
        header = proxy.header
        # A loopback address that a proxy on another host names is that host's, not this one's.
        elsewhere = is_loopback(header.source) and not is_loopback(self._address)
        if not header.local and not elsewhere:
            self._address, self._port, self._local = header.source, header.source_port, header.destination
        self._identify()
        if proxy.rest:
            self._connection.data_received(proxy.rest)

    def _fail(self, reason: str) -> None:
        self._resources.statistics["smtp.proxy.failed"] += 1
        self._connection.reject("proxy-failed", self._address, reason)

    def _identify(self) -> None:
        self._connection.address = self._address
        if not self._connection.admit():
            return
        tls = self._listener.tls
        if tls is not None and tls.mode is Tls.AT_ONCE:
            self._connection.encrypt(self._encrypted)
        else:
            self._resources.names.find(self._address, self._named)

    def _encrypted(self, facts: TlsFacts) -> None:
        self._facts = facts
        self._resources.names.find(self._address, self._named)

    def _named(self, name: str) -> None:
        self._name = name
        if self._listener.welcome:
            self._resources.to_lookup.ask(
                lambda request: ClassifyClient(request, self._listener.number, self._address, self._local),
                self._welcomed,
            )
        else:
            self._wait()

    def _welcomed(self, welcome: ClientClassified) -> None:
        self._welcome = welcome
        self._wait()

    def _wait(self) -> None:
        seconds = self._begun + self._limits.greet_delay - self._resources.loop.time()
        if self._limits.greet_delay and not self._early and seconds > 0:
            self._delay = self._resources.loop.call_later(seconds, self._greet)
        else:
            self._greet()

    def _greet(self) -> None:
        self._connection.begin(
            PreambleResult(
                client=Client(address=self._address, port=self._port, name=self._name),
                facts=self._facts,
                name=self._welcome.hostname,
                may_xclient=self._welcome.xclient,
                early=b"".join(self._early),
                spoke_early=bool(self._limits.greet_delay and self._early),
            )
        )
