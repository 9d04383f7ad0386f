"""What all sessions of one dispatcher share: windows to lookup and queue, rates, message ids, memory, threads."""

import asyncio
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from smtpd.dispatcher.inbound.certificates import Certificates
from smtpd.dispatcher.inbound.content import MemoryUse
from smtpd.dispatcher.inbound.handshake import HandshakePool
from smtpd.dispatcher.inbound.message_ids import MessageIds
from smtpd.dispatcher.inbound.rate import Rates
from smtpd.dispatcher.inbound.reverse_dns import ClientNames
from smtpd.ipc.channel import Channel
from smtpd.ipc.request_window import RequestWindow
from smtpd.slice import DispatcherSlice
from smtpd.smtp.session import Settings
from smtpd.tls.signing import Signer

RELAY_QUESTIONS_MAX = 4096  # under way: more than there are destinations with mail; next_hops.py bounds the slow ones
WRITER_THREADS = 4  # threads that write spool files


class Resources:
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
        self.to_lookup = RequestWindow(lookup)
        # Hosts of destinations may take DNS half a minute each: no client waits behind them for its answer.
        self.relay_to_lookup = RequestWindow(lookup, RELAY_QUESTIONS_MAX)
        self.to_queue = RequestWindow(queue)
        self.queue = queue
        self.statistics: Counter[str] = Counter()
        self.message_ids = MessageIds(self.to_queue)
        self.names = ClientNames(self.to_lookup, loop.time)
        self.rates = Rates(configuration.limits)
        self.certificates = Certificates(configuration, Signer(signing))
        self.handshakes = HandshakePool(loop)
        self.memory = MemoryUse()
        self.writers = ThreadPoolExecutor(WRITER_THREADS, "spool")

    def close(self) -> None:
        """End all threads."""
        self.handshakes.close()
        self.writers.shutdown()

    def now(self) -> float:
        """Seconds since 1970."""
        return time.time()
