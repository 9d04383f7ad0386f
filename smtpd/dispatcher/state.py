"""What one dispatcher holds, and what the parent and control want of it."""

import asyncio
import socket

from smtpd.config.slice import DispatcherSlice
from smtpd.dispatcher.crowd import Crowd
from smtpd.dispatcher.listener import Listeners
from smtpd.dispatcher.office import Office
from smtpd.imsg import ListenersPaused, PauseListeners, ReportStatistics, SetVerbose, StatisticsReported
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log

LEAVE = 5.0  # seconds that a stop waits for mails whose 250 is being earned


class Dispatcher:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        configuration: DispatcherSlice,
        sockets: dict[int, socket.socket],
        lookup: Channel,
        queue: Channel,
    ):
        self._loop = loop
        self.office = Office(loop, configuration, lookup, queue)
        self.crowd = Crowd(configuration.limits, self.office.statistics)
        self.listeners = Listeners(self.office, self.crowd, configuration.listeners, sockets)

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

    def pause(self, channel: Channel, imsg: PauseListeners) -> None:
        changed = self.listeners.pause(imsg.paused)
        log.info("smtp paused" if imsg.paused else "smtp resumed")
        channel.send(ListenersPaused(imsg.request, changed))

    def report(self, channel: Channel, imsg: ReportStatistics) -> None:
        channel.send(StatisticsReported(imsg.request, dict(self.office.statistics)))

    def set_verbose(self, imsg: SetVerbose) -> None:
        log.verbose = imsg.verbose
