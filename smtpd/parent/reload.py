"""HUP: keys and certificates are read again, and used for new sessions if all of them fit.

    HUP --> thread opens the files --> crypto and dispatchers take them --> all use them
                                                                            a warning, and nothing changes

Only they are: the rest of the configuration needs a restart, as processes that are confined could not open what a new
one names.  A HUP that comes meanwhile begins another round when this one is over.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from smtpd.config.slice import ParentSlice
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log
from smtpd.ipc.plain import Loop
from smtpd.parent.certificate import Subject, Unusable, open_files
from smtpd.parent.exchange import Exchange, Taken, report
from smtpd.parent.notify import ServiceManager
from smtpd.parent.worker import Worker

PATIENCE = 1.0  # seconds at the end, for files that are being opened
SILENCE = 10.0  # seconds that it takes nobody to look at a file


class Reload:
    def __init__(
        self,
        loop: Loop,
        manager: ServiceManager,
        configuration: ParentSlice,
        crypto: Channel,
        dispatchers: Sequence[Channel],
        strict: bool,
    ):
        self._loop = loop
        self._manager = manager
        self._configuration = configuration
        self._crypto = crypto
        self._dispatchers = dispatchers
        self._strict = strict
        self._worker = Worker(loop)
        self._exchange: Exchange | None = None
        self._again = False
        self._stopping = False

    def begin(self) -> None:
        if self._stopping:
            return
        if not self._configuration.pki and not self._configuration.ca:
            log.warn("HUP: there are no keys and certificates to read again; anything else needs a restart")
            return
        if self._exchange is not None:
            self._again = True
            return
        log.info("HUP: keys and certificates are read again; anything else of the configuration needs a restart")
        self._manager.reloading()
        self._exchange = Exchange(self._configuration, self._crypto, self._dispatchers)
        self._go_on(self._exchange)

    def stop(self) -> None:
        self._stopping = True

    def close(self) -> None:
        self._worker.end(PATIENCE)

    def take(self, channel: Channel, imsg: Taken) -> None:
        if self._exchange is None:
            raise Violation(f"{channel.peer} answers {type(imsg).__name__} to a question that nobody asked")
        self._exchange.take(channel, imsg)
        if not self._exchange.asked:
            self._exchange.proceed()
            self._go_on(self._exchange)

    def _go_on(self, exchange: Exchange) -> None:
        if exchange.subject is None:
            self._finish(exchange)
            return
        job = partial(open_files, exchange.subject, len(self._dispatchers), self._strict)
        self._worker.do(job, partial(self._opened, exchange))

    def _opened(self, exchange: Exchange, outcome: Any) -> None:
        if self._stopping:
            return  # nobody takes them any more, and this process ends too
        if isinstance(outcome, Unusable):
            exchange.skip(str(outcome))
        elif isinstance(outcome, Exception):
            log.trouble("reload", outcome)
            exchange.skip(type(outcome).__name__)
        else:
            exchange.hand_over(outcome)
            self._loop.after(SILENCE, partial(self._complain, exchange, exchange.subject))
            return
        exchange.proceed()
        self._go_on(exchange)

    def _complain(self, exchange: Exchange, subject: Subject | None) -> None:
        """A process that keeps its answer back keeps the old keys in use, and nobody would know."""
        if exchange.subject is subject and not self._stopping:
            late = ", ".join(sorted({channel.peer for channel in exchange.asked}))
            log.warn(f"{late} gives no answer: keys and certificates stay as they were")

    def _finish(self, exchange: Exchange) -> None:
        self._exchange = None
        report(exchange, self._configuration)
        if exchange.troubles:
            log.warn("keys and certificates stay as they were")
        if not self._stopping:
            self._manager.ready()
        if self._again:
            self._again = False
            self.begin()
