"""What one dispatcher holds, and what the parent and control want of it."""

import asyncio
import socket

from smtpd.config.slice import DispatcherSlice
from smtpd.dispatcher.crowd import Crowd
from smtpd.dispatcher.listener import Listeners
from smtpd.dispatcher.local import LocalSessions, NoSession
from smtpd.dispatcher.office import Office
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

# Seconds that a stop waits for mails that queue is storing: a client that does not hear 250 sends its mail again, and a
# disk may take long.  The parent waits a little longer.
LEAVE = 12.0


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
        self.office = Office(loop, configuration, lookup, queue, signing)
        self.crowd = Crowd(configuration.limits, self.office.rates, self.office.statistics)
        self.listeners = Listeners(self.office, self.crowd, configuration.listeners, sockets)
        self.local = LocalSessions(self.office, self.crowd, configuration.socket)
        self.crowd.scarce = self.listeners.rest
        self.crowd.left = self.listeners.recover

    def begin(self) -> None:
        self.office.numbers.reserve()
        self.listeners.open()
        self._loop.call_later(1.0, self._every_second)

    def _every_second(self) -> None:
        self.crowd.sweep(self._loop.time())
        self._loop.call_later(1.0, self._every_second)

    def stop(self) -> None:
        """No new client; 421 to those who wait for nothing; the others get their answer first."""
        self.listeners.close()
        self.crowd.left = self._end_with_the_last
        self.crowd.shutdown()
        self._loop.call_later(LEAVE, self._loop.stop)
        self._end_with_the_last()

    def _end_with_the_last(self) -> None:
        if not self.crowd:
            self._loop.call_soon(self._loop.stop)

    def take_certificate(self, channel: Channel, imsg: TakeCertificate, descriptor: int) -> None:
        channel.send(self.office.certificates.take(imsg, descriptor))

    def take_authorities(self, channel: Channel, imsg: TakeAuthorities, descriptor: int) -> None:
        channel.send(self.office.certificates.take_authorities(imsg, descriptor))

    def make_contexts(self, channel: Channel) -> None:
        channel.send(self.office.certificates.make())

    def use_certificates(self, channel: Channel) -> None:
        channel.send(self.office.certificates.use())

    def add_listener(self, imsg: AddListener, descriptor: int) -> None:
        self.listeners.add(imsg, descriptor)

    def open_session(self, channel: Channel, imsg: OpenSession) -> None:
        try:
            if not self.listeners.welcoming:
                raise NoSession("no new sessions for now")
            channel.send(SessionOpened(imsg.request), self.local.open(imsg.uid).detach())
        except NoSession as reason:
            channel.send(SessionRefused(imsg.request, str(reason)))

    def pause(self, channel: Channel, imsg: PauseListeners) -> None:
        changed = self.listeners.pause(imsg.paused)
        if changed:
            log.info("smtp paused" if imsg.paused else "smtp resumed")
        channel.send(ListenersPaused(imsg.request, changed))

    def report(self, channel: Channel, imsg: ReportStatistics) -> None:
        channel.send(StatisticsReported(imsg.request, dict(self.office.statistics)))

    def set_verbose(self, imsg: SetVerbose) -> None:
        log.verbose = imsg.verbose
