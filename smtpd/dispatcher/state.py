"""State of one dispatcher, and what the parent and control ask of it."""

import asyncio
import socket

from smtpd.dispatcher.inbound.connections import Connections
from smtpd.dispatcher.inbound.listener import Listeners
from smtpd.dispatcher.inbound.local_session import LocalSessions, SessionUnavailable
from smtpd.dispatcher.inbound.resources import Resources
from smtpd.dispatcher.outbound.relaying import Relaying
from smtpd.imsg import (
    AddListener,
    ListenersPaused,
    OpenSession,
    PauseListeners,
    ReportStatistics,
    SessionOpened,
    SessionRefused,
    SetVerbose,
    StatisticsReported,
    TakeAuthorities,
    TakeCertificate,
)
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log
from smtpd.slice import DispatcherSlice

# Seconds that a stop waits for mails that queue is storing: a client that does not hear 250 sends its mail again, and a
# disk may take long.  The parent waits a little longer.
STOP_TIMEOUT = 12.0


class Dispatcher:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        configuration: DispatcherSlice,
        sockets: dict[int, socket.socket],
        lookup: Channel,
        queue: Channel,
        signing: list[socket.socket],
    ):
        self._loop = loop
        self.resources = Resources(loop, configuration, lookup, queue, signing)
        self.connections = Connections(
            configuration.limits,
            self.resources.rates,
            self.resources.statistics,
            removed=self._connection_removed,
            descriptors_scarce=self._descriptors_scarce,
        )
        self.listeners = Listeners(self.resources, self.connections, configuration.listeners, sockets)
        self.local = LocalSessions(self.resources, self.connections, configuration.socket)
        self.relaying = Relaying(
            self.resources, configuration, self.resources.certificates.get_relay_context, self._relaying_stopped
        )
        self._stopping = False

    def begin(self) -> None:
        self.resources.message_ids.reserve()
        self.listeners.open()
        self.relaying.begin()
        self._loop.call_later(1.0, self._every_second)

    def _every_second(self) -> None:
        self.connections.sweep(self._loop.time())
        self._loop.call_later(1.0, self._every_second)

    def stop(self) -> None:
        """No new client; 421 to every session, after the answer that it waits for."""
        self._stopping = True
        self.listeners.close()
        self.connections.shutdown()
        self.relaying.stop()
        self._loop.call_later(STOP_TIMEOUT, self._loop.stop)
        self._end_without_connections()

    def _connection_removed(self) -> None:
        if self._stopping:
            self._end_without_connections()
        else:
            self.listeners.session_ended()

    def _relaying_stopped(self) -> None:
        if self._stopping:
            self._end_without_connections()

    def _descriptors_scarce(self) -> None:
        self.listeners.pause_until_sessions_end()

    def _end_without_connections(self) -> None:
        if not self.connections and self.relaying.is_idle:
            self._loop.call_soon(self._loop.stop)

    def take_certificate(self, channel: Channel, imsg: TakeCertificate, descriptor: int) -> None:
        channel.send(self.resources.certificates.take(imsg, descriptor))

    def take_authorities(self, channel: Channel, imsg: TakeAuthorities, descriptor: int) -> None:
        channel.send(self.resources.certificates.take_authorities(imsg, descriptor))

    def make_contexts(self, channel: Channel) -> None:
        channel.send(self.resources.certificates.make())

    def use_certificates(self, channel: Channel) -> None:
        channel.send(self.resources.certificates.use())

    def add_listener(self, imsg: AddListener, descriptor: int) -> None:
        self.listeners.add(imsg, descriptor)

    def open_session(self, channel: Channel, imsg: OpenSession) -> None:
        try:
            if not self.listeners.welcoming:
                raise SessionUnavailable("no new sessions for now")
            channel.send(SessionOpened(imsg.request), self.local.open(imsg.uid).detach())
        except SessionUnavailable as reason:
            channel.send(SessionRefused(imsg.request, str(reason)))

    def pause(self, channel: Channel, imsg: PauseListeners) -> None:
        changed = self.listeners.pause(imsg.paused)
        if changed:
            log.info("smtp paused" if imsg.paused else "smtp resumed")
        channel.send(ListenersPaused(imsg.request, changed))

    def report(self, channel: Channel, imsg: ReportStatistics) -> None:
        channel.send(StatisticsReported(imsg.request, {**self.resources.statistics, **self.relaying.gauges()}))

    def set_verbose(self, imsg: SetVerbose) -> None:
        log.verbose = imsg.verbose
