"""One connection to another host: a socket, TLS, and the SMTP client that says what is to be sent over it.

    open --TCP--> Events.connected --banner, EHLO, TLS (Events.encrypted), AUTH--> Events.ready
    send(mail, content) --> Events.tried(results)
    quit or a failure --> Events.ended(failure, results), once, and nothing afterwards

Decides nothing: smtp/client.py knows the protocol, relay/ what is next.
"""

import asyncio
import errno
import os
import socket
import sys
from collections.abc import Callable
from typing import Protocol, cast

from smtpd.dispatcher.inbound.handshake import HandshakePool
from smtpd.dispatcher.inbound.stream import ClientStream
from smtpd.dispatcher.outbound.content import OutgoingContent
from smtpd.dispatcher.outbound.handshake import OutgoingHandshake
from smtpd.envelope import Outcome
from smtpd.ipc.log import log
from smtpd.ipc.os_error import error_text
from smtpd.relay.action import Connect
from smtpd.relay.address_order import family_of
from smtpd.relay.connection import ConnectionFailure, Stage
from smtpd.relay.tls_policy import TlsPolicy, Verify
from smtpd.relay.tls_result import TlsResult, failed_handshake
from smtpd.smtp.action import Say
from smtpd.smtp.client import SmtpClient
from smtpd.smtp.client_action import (
    ClientAction,
    ClientMail,
    ClientSettings,
    End,
    EndKind,
    Login,
    ReadContent,
    Ready,
    RecipientResult,
    StartTls,
    Starttls,
)
from smtpd.smtp.client_state import ClientState
from smtpd.tls.client_context import ClientContext, Expectation, Tlsa
from smtpd.tls.connection import TlsConnection, TlsFailed, TlsLocalFailure
from smtpd.tls.facts import TlsFacts

# What socket(), bind() and connect() say of this system, and not of the host.
NO_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
# A port is chosen at connect, for this host only; otherwise each one is taken for all hosts, and an address has 28 000.
IP_BIND_ADDRESS_NO_PORT = 24 if sys.platform == "linux" else None
NO_ADDRESS = {errno.EADDRNOTAVAIL, errno.EADDRINUSE}  # the source address is missing, or no port of it is free
TCP_TIMEOUT = 30.0  # seconds
HANDSHAKE_TIMEOUT = 50.0  # seconds: less than crypto keeps a key that has been replaced (REPLACED_KEY_TIME)
CLOSE_TIMEOUT = 5.0  # seconds from the last byte to the end of the connection
CLIENT_DEFECT = "internal error"
BUFFER_MAX = 256 * 1024  # bytes that may wait to be sent

_LOST = {EndKind.LOST, EndKind.SHUTDOWN, EndKind.TIMEOUT, EndKind.PROTOCOL}
_STAGES = {EndKind.TLS: Stage.TLS, EndKind.AUTH: Stage.AUTHENTICATION}


class Events(Protocol):
    """What a connection tells the relay."""

    def connected(self, number: int) -> None: ...

    def encrypted(self, number: int, facts: TlsFacts) -> None: ...

    def ready(self, number: int, facts: TlsFacts | None) -> None: ...

    def tried(self, number: int, results: list[RecipientResult]) -> None: ...

    def ended(self, number: int, failure: ConnectionFailure, results: list[RecipientResult]) -> None: ...


class OutgoingConnection(asyncio.Protocol):
    def __init__(
        self,
        order: Connect,
        name: str,
        find_context: Callable[[], ClientContext],
        events: Events,
        handshakes: HandshakePool,
        loop: asyncio.AbstractEventLoop,
    ):
        self.order = order
        self.source = order.path.source  # our address; once connected never empty
        self._find_context, self._events, self._handshakes, self._loop = find_context, events, handshakes, loop
        self._settings = ClientSettings(name, order.hop.lmtp, _starttls(order.policy))
        self._client: SmtpClient | None = None
        self._stream: ClientStream | None = None
        self._handshake: OutgoingHandshake | None = None
        self._handshake_end = 0.0
        self._content: OutgoingContent | None = None
        self._reading = False  # content is wanted
        self._writable = True
        self._results: list[RecipientResult] = []
        self._is_ready = False  # it has been, once
        self._over = False
        self._timer: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None

    # -- TCP ---------------------------------------------------------------------------

    def open(self, login: Login | None) -> None:
        """`login`: the host is to be logged in to."""
        self._settings = self._settings._replace(login=login)
        self._connecting = self._loop.create_task(self._open())

    async def _open(self) -> None:
        path = self.order.path
        family = socket.AF_INET6 if family_of(path.address) == 6 else socket.AF_INET
        sock = None
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setblocking(False)
            if path.source:
                if IP_BIND_ADDRESS_NO_PORT is not None:
                    sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)  # of IPv6 too
                sock.bind((path.source, 0))
            async with asyncio.timeout(TCP_TIMEOUT):
                await self._loop.sock_connect(sock, (path.address, self.order.hop.port))
            await self._loop.create_connection(lambda: self, sock=sock)
        except TimeoutError:
            self._fail_to_connect(Stage.CONNECT, "connection timed out", sock)
        except OSError as error:  # asyncio has words of its own for it
            text = os.strerror(error.errno) if error.errno else str(error)
            if error.errno in NO_RESOURCES:
                self._fail_to_connect(Stage.RESOURCES, text, sock)
            elif error.errno in NO_ADDRESS:
                self._fail_to_connect(Stage.ADDRESS, f"source address {path.source or 'of the system'}: {text}", sock)
            else:
                self._fail_to_connect(Stage.CONNECT, text, sock)
        except asyncio.CancelledError:
            if sock is not None:
                sock.close()
            raise

    def _fail_to_connect(self, stage: Stage, text: str, sock: socket.socket | None) -> None:
        if sock is not None:
            sock.close()
        self._end(ConnectionFailure(stage, text))

    def abort(self) -> None:
        """Close at once; no event follows."""
        self._over = True
        self._stop()
        if self._connecting is not None:
            self._connecting.cancel()
        if self._stream is not None:
            self._stream.transport.abort()

    def connection_made(self, made: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, made)
        if self._over:
            transport.abort()
            return
        transport.set_write_buffer_limits(BUFFER_MAX)
        self._stream = ClientStream(transport)
        self.source = str((transport.get_extra_info("sockname") or (self.source,))[0])
        self._events.connected(self.order.connection)
        if self._over:
            return
        if self.order.policy.at_connect:
            self._begin_handshake()
        else:
            self._begin_session(None)

    def data_received(self, data: bytes) -> None:
        if self._over or self._stream is None:
            return
        if self._handshake is not None:
            self._handshake.receive(data)
        else:
            self._receive(data)

    def eof_received(self) -> bool:
        self._note_written()
        self._lose("connection closed by the server")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        text = error_text(error) if isinstance(error, OSError) else "connection closed by the server"
        if self._client is not None and not self._over:  # how much has been written is not known any more
            self._apply(self._take(self._client.written, self._loop.time()))
        self._lose(text)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        self._feed_content()

    # -- TLS ---------------------------------------------------------------------------------

    def _begin_handshake(self) -> None:
        """With the context of now: that of the connection's begin may have a certificate that has been replaced."""
        assert self._stream is not None
        transport, context = self._stream.transport, self._find_context()
        self._handshake = OutgoingHandshake(context, self._handshakes, transport, self._handshake_done)
        self._handshake_end = self._loop.time() + HANDSHAKE_TIMEOUT
        self._set_timer()
        self._handshake.begin(_expectation(self.order))

    def _handshake_done(self, outcome: TlsConnection | TlsFailed) -> None:
        self._handshake = None
        if isinstance(outcome, TlsFailed):
            stage = Stage.AUTHENTICATION if isinstance(outcome, TlsLocalFailure) else Stage.TLS
            result = failed_handshake(outcome.verify_code) if stage is Stage.TLS else None
            self._end(ConnectionFailure(stage, f"TLS: {outcome}", tls=result))
            return
        assert self._stream is not None
        self._stream.encrypt(outcome)
        self._events.encrypted(self.order.connection, outcome.facts)
        if self._client is None:
            self._begin_session(outcome.facts)
        else:
            self._obey(self._take(self._client.tls_started, outcome.facts, self._loop.time()))
        self._receive(b"")  # what came right behind the handshake

    # -- the session ---------------------------------------------------------------------------

    def _begin_session(self, facts: TlsFacts | None) -> None:
        self._client = SmtpClient(self._settings, self._loop.time(), facts)
        self._set_timer()

    def _receive(self, data: bytes) -> None:
        if self._over or self._client is None or self._stream is None:
            return
        try:
            plain = self._stream.open(data)
        except TlsFailed as failed:
            self._obey(self._take(self._client.lost, f"TLS: {failed}", self._loop.time()))
            return
        if plain:
            self._note_written()
            self._obey(self._take(self._client.receive, plain, self._loop.time()))
        if self._stream.ended and not self._over:
            self._lose("connection closed by the server")

    def _lose(self, text: str) -> None:
        if self._over:
            self._stop()
        elif self._handshake is not None:
            self._handshake.lose(text)
        elif self._client is not None:
            self._obey(self._take(self._client.lost, text, self._loop.time()))
        else:
            self._end(ConnectionFailure(Stage.GREETING, text))

    def send(self, mail: ClientMail, content: OutgoingContent, date: int) -> None:
        """Only after `ready` or `tried`.  The content is closed here."""
        assert self._client is not None
        if self._client.state is ClientState.OVER:  # by what the server said behind its reply: `ended` comes next
            content.close()
            return
        self._results, self._content = [], content
        self._obey(self._take(self._client.begin, mail, self._loop.time(), date))

    def quit(self) -> None:
        if self._client is not None and not self._over:
            self._obey(self._take(self._client.quit, self._loop.time()))

    def _take(self, step: Callable[..., list[ClientAction]], *arguments: object) -> list[ClientAction]:
        """What the client wants.  An error of our own in it costs this connection and no other."""
        try:
            return step(*arguments)
        except Exception as error:  # noqa: BLE001  (rule R8: the one place around one outgoing session)
            log.trouble(f"connection to {self.order.hop.name}", error)
        assert self._client is not None
        try:
            return self._client.lost(CLIENT_DEFECT, self._loop.time())
        except Exception:  # noqa: BLE001  (the same one)
            stage = Stage.SESSION if self._is_ready else Stage.GREETING
            self._end(ConnectionFailure(stage, CLIENT_DEFECT, uncertain=self._is_ready))
            return []

    def _obey(self, actions: list[ClientAction]) -> None:
        self._apply(actions)
        self._feed_content()

    def _apply(self, actions: list[ClientAction]) -> None:
        assert self._stream is not None
        for action in actions:
            match action:
                case Say():
                    self._stream.say(action.data)
                case StartTls():
                    self._begin_handshake()
                case ReadContent():
                    assert self._content is not None
                    self._content.rewind()
                    self._reading = True
                case RecipientResult():
                    self._results.append(action)
                case Ready():
                    self._be_ready()
                case End():
                    self._end_session(action)
        if not self._over:
            self._set_timer()

    def _be_ready(self) -> None:
        assert self._client is not None
        self._close_content()
        if self._is_ready:
            results, self._results = self._results, []
            self._events.tried(self.order.connection, results)
        else:
            self._is_ready = True
            self._events.ready(self.order.connection, self._client.facts)

    def _feed_content(self) -> None:
        """Feed the client while it wants content and the other side takes it."""
        while self._reading and self._writable and not self._over and self._client is not None and self._client.wants:
            content = self._content
            assert content is not None and self._stream is not None
            if self._stream.transport.is_closing():  # it throws away what is written, until it says why
                return
            now = self._loop.time()
            try:
                piece = content.read(self._client.wants)
            except OSError as error:
                self._reading = False
                self._apply(self._take(self._client.content_failed, f"content: {error_text(error)}", now))
                return
            actions = self._take(self._client.content, piece, now) if piece else []
            if not piece or (content.is_at_end and self._client.wants and not self._over):
                self._reading = False
                actions += self._take(self._client.content_end, now)
            self._apply(actions)
        self._note_written()

    def _note_written(self) -> None:
        """Tell the client when nothing of what it has said waits here."""
        if self._client is None or not self._client.awaits_written:  # of most replies
            return
        if self._stream is None or self._over or self._stream.transport.is_closing():
            return
        if not self._stream.transport.get_write_buffer_size():
            self._apply(self._take(self._client.written, self._loop.time()))

    # -- the end ----------------------------------------------------------------------------------

    def _end_session(self, end: End) -> None:
        results, self._results = self._results, []
        lost = end.kind in _LOST
        certain = [result for result in results if not (lost and _is_open(result))]
        stage = self._stage_of(end)
        failure = ConnectionFailure(
            stage,
            end.text,
            end.code,
            end.enhanced,
            uncertain=any(result.uncertain for result in results),
            untouched=lost and not certain and end.state in (ClientState.READY, ClientState.ENVELOPE),
            tls=_tls_result(end) if stage is Stage.TLS else None,
        )
        self._end(failure, certain)

    def _stage_of(self, end: End) -> Stage:
        """A server that wants a certificate, or another one than ours, says so after the handshake under TLS 1.3: by
        an alert, or by nothing but the end.  That is of this destination, and no reason for clear text."""
        if self._is_ready:
            return Stage.SESSION
        if end.state in (ClientState.STARTTLS, ClientState.TLS):
            return Stage.TLS
        encrypted = self._client is not None and self._client.facts is not None
        if end.kind is EndKind.LOST and encrypted:
            return Stage.AUTHENTICATION
        return _STAGES.get(end.kind, Stage.GREETING)

    def _end(self, failure: ConnectionFailure, results: list[RecipientResult] | None = None) -> None:
        """Close, and say so, once."""
        if self._over:
            return
        self._over = True
        self._stop()
        if self._stream is not None:
            self._stream.close(all_read=True)
            self._loop.call_later(CLOSE_TIMEOUT, self._stream.transport.abort)
        self._events.ended(self.order.connection, failure, results or [])

    def _stop(self) -> None:
        self._close_content()
        if self._handshake is not None:
            self._handshake.abandon()
            self._handshake = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_content(self) -> None:
        self._reading = False
        if self._content is not None:
            self._content.close()
            self._content = None

    # -- time -----------------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        """The timer is left in place while nothing is waited for, or its time is not later than what is: what it finds
        tells.  So most mails set none."""
        deadline = self._client.deadline if self._client is not None else None
        if self._handshake is not None:
            deadline = self._handshake_end
        if deadline is None:
            return
        if self._timer is not None:
            if self._timer.when() <= deadline:
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(deadline, self._tick)

    def _tick(self) -> None:
        self._timer = None
        if self._over:
            return
        if self._handshake is not None:
            if self._loop.time() >= self._handshake_end:
                self._handshake.time_out()
            else:
                self._set_timer()
        elif self._client is not None:
            self._note_written()
            self._obey(self._take(self._client.tick, self._loop.time()))


def _is_open(result: RecipientResult) -> bool:
    """No reply of the server's says this: another host may be asked."""
    return result.outcome is Outcome.DEFERRED and result.code in (0, 421) and not (result.local or result.uncertain)


def _tls_result(end: End) -> TlsResult:
    """Of a session that has ended before the handshake: STARTTLS was not offered, or refused by a reply."""
    refused = end.kind is EndKind.TLS and (end.code or end.state is ClientState.HELLO)
    return TlsResult.STARTTLS_NOT_SUPPORTED if refused else TlsResult.VALIDATION_FAILURE


def _starttls(policy: TlsPolicy) -> Starttls:
    if not policy.attempt or policy.at_connect:
        return Starttls.NEVER
    return Starttls.REQUIRED if policy.must_encrypt else Starttls.IF_OFFERED


def _expectation(order: Connect) -> Expectation:
    policy = order.policy
    if policy.verify is Verify.NOTHING:
        return Expectation(policy.server_name)
    names = policy.names or (order.path.address,)
    records = [Tlsa(record.usage, record.selector, record.matching, record.data) for record in policy.records]
    return Expectation(policy.server_name, True, names, records if policy.verify is Verify.TLSA else ())
