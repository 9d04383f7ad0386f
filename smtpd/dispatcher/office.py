"""What every session of one dispatcher uses: whom it asks, out of what it takes ids and memory."""

import asyncio
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from smtpd.config.slice import DispatcherSlice
from smtpd.dispatcher.certificate import Certificates
from smtpd.dispatcher.client import ClientNames
from smtpd.dispatcher.content import Memory
from smtpd.dispatcher.handshake import Handshakes
from smtpd.dispatcher.number import MessageNumbers
from smtpd.dispatcher.rate import Rates
from smtpd.ipc.channel import Channel
from smtpd.ipc.question import Questions
from smtpd.smtp.server import Settings
from smtpd.tls.signing import Signer

WRITERS = 4  # threads that write spool files


class Office:
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        configuration: DispatcherSlice,
        lookup: Channel,
        queue: Channel,
        signing: list[socket.socket],
    ):
        self.loop = loop
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
        self.rates = Rates(configuration.limits)
        self.certificates = Certificates(configuration, Signer(signing))
        self.handshakes = Handshakes(loop)
        self.memory = Memory()
        self.writers = ThreadPoolExecutor(WRITERS, "spool")

    def close(self) -> None:
        """No thread of ours is left."""
        self.handshakes.close()
        self.writers.shutdown()

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()
