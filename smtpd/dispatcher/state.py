"""What one dispatcher holds: its questions to the others, its listeners, its sessions, and the way to end them."""

import asyncio
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from smtpd.config.slice import DispatcherSlice
from smtpd.dispatcher.client import ClientNames
from smtpd.dispatcher.content import Memory
from smtpd.dispatcher.listener import Listeners
from smtpd.dispatcher.number import MessageNumbers
from smtpd.imsg import ListenersPaused, StatisticsReported
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log
from smtpd.ipc.question import Questions
from smtpd.smtp.server import Settings

LEAVE = 5.0  # seconds that a stop waits for mails whose 250 is being earned
WRITERS = 4  # threads that write spool files


class Dispatcher:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        configuration: DispatcherSlice,
        sockets: dict[int, socket.socket],
        lookup: Channel,
        queue: Channel,
    ):
        self.loop = loop
        self.limits = configuration.limits
        self.settings = Settings(
            server_name=configuration.server_name,
            max_message_size=configuration.max_message_size,
            limits=configuration.limits,
        )
        self.to_lookup = Questions(lookup)
        self.to_queue = Questions(queue)
        self.queue = queue
        self.statistics: Counter[str] = Counter()
        self.numbers = MessageNumbers(self.to_queue)
        self.names = ClientNames(self.to_lookup, loop.time)
        self.memory = Memory()
        self.writers = ThreadPoolExecutor(WRITERS, "spool")
        self.listeners = Listeners(self, configuration.listeners, sockets)
        self.stopping = False

    def begin(self) -> None:
        self.numbers.reserve()
        self.listeners.open()
        self.loop.call_later(1.0, self._every_second)

    def _every_second(self) -> None:
        self.listeners.sweep(self.loop.time())
        self.loop.call_later(1.0, self._every_second)

    def now(self) -> int:
        """Seconds since 1970."""
        return int(time.time())

    # -- what the parent and control want ----------------------------------------

    def stop(self) -> None:
        """No new client; 421 to those who wait for nothing; the others get their answer first."""
        self.stopping = True
        self.listeners.close()
        self.loop.call_later(LEAVE, self.loop.stop)
        self.left()

    def left(self) -> None:
        """A session has ended: the last one lets the process end."""
        if self.stopping and not self.listeners.sessions:
            self.loop.call_soon(self.loop.stop)

    def pause(self, channel: Channel, imsg) -> None:
        changed = self.listeners.pause(imsg.paused)
        log.info("smtp paused" if imsg.paused else "smtp resumed")
        channel.send(ListenersPaused(imsg.request, changed))

    def report(self, channel: Channel, imsg) -> None:
        channel.send(StatisticsReported(imsg.request, dict(self.statistics)))

    def set_verbose(self, imsg) -> None:
        log.verbose = imsg.verbose
