"""HUP: keys and certificates are read again, and used for new sessions if all of them fit.

    HUP --> thread opens the files --> crypto and dispatchers take them --> dispatchers make contexts --> all use them
                                                                            a warning, and nothing changes

Only they are: the rest of the configuration needs a restart, as processes that are confined could not open what a new
one names.  A HUP that comes meanwhile begins another round when this one is over.

A round is given up when a file is not opened, or a process does not answer, within STEP_TIMEOUT.  Another round begins
as soon as all that is still owed has come, and not before: otherwise descriptors would pile up in front of a process
that hangs.  Once all have made their contexts nothing is given up: a process that is late uses the old ones until it
has read UseCertificates, and crypto keeps the old keys until then.
"""

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log
from smtpd.ipc.os_error import describe_error
from smtpd.ipc.selector_loop import SelectorLoop, Timer
from smtpd.parent.blocking_call import BlockingCalls
from smtpd.parent.certificate_file import CertificateFileError, open_files
from smtpd.parent.certificate_update import Answer, CertificateUpdate, Phase, report
from smtpd.parent.notify import ServiceManager
from smtpd.slice import ParentSlice

END_TIMEOUT = 1.0  # seconds at the end, for files that are being opened
STEP_TIMEOUT = 10.0  # seconds for each step: a file is opened, every process has answered


class Reload:
    def __init__(
        self,
        loop: SelectorLoop,
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
        self._worker = BlockingCalls(loop)
        self._update: CertificateUpdate | None = (
            None  # also one that was given up, while something of it is still to come
        )
        self._opening = False
        self._timer: Timer | None = None
        self._again = False
        self._stopping = False

    def begin(self) -> None:
        if self._stopping:
            return
        if not self._configuration.pki and not self._configuration.ca:
            log.warn("HUP: there are no keys and certificates to read again; anything else needs a restart")
            return
        if self._update is not None:
            self._again = True
            if self._timer is None:
                log.warn(f"HUP: waiting for the end of the last one: {self._late(self._update)}")
            return
        log.info("HUP: keys and certificates are read again; anything else of the configuration needs a restart")
        self._manager.reloading()
        self._update = CertificateUpdate(self._configuration, self._crypto, self._dispatchers)
        self._go_on(self._update)

    def stop(self) -> None:
        self._stopping = True

    def close(self) -> None:
        self._worker.end(END_TIMEOUT)

    def take(self, channel: Channel, imsg: Answer) -> None:
        update = self._update
        if update is None:
            raise Violation(f"{channel.peer} answers {type(imsg).__name__} without a request")
        update.take(channel, imsg)
        self._proceed(update)

    def _go_on(self, update: CertificateUpdate) -> None:
        """The next step: files to be opened, or answers to be waited for."""
        self._timer = self._loop.call_later(STEP_TIMEOUT, partial(self._lose_patience, update))
        if update.subject is not None:
            self._opening = True
            job = partial(open_files, update.subject, len(self._dispatchers), self._strict)
            self._worker.do(job, partial(self._opened, update))

    def _opened(self, update: CertificateUpdate, outcome: Any) -> None:
        self._opening = False
        if self._stopping or update.phase is Phase.DONE:
            _close(outcome)
        elif isinstance(outcome, CertificateFileError | OSError):  # OSError: there is no thread to open them
            update.skip(describe_error(outcome))
        elif isinstance(outcome, Exception):
            log.trouble("reload", outcome)
            update.skip(type(outcome).__name__)
        else:
            update.send_files(outcome)
        if not self._stopping:
            self._proceed(update)

    def _proceed(self, update: CertificateUpdate) -> None:
        if self._opening or update.asked:
            return
        if self._timer is not None:
            self._timer.cancel()
        given_up, self._timer = update.phase is Phase.DONE, None
        update.proceed()
        if update.phase is not Phase.DONE:
            self._go_on(update)
            return
        self._update = None
        if not given_up:
            self._finish(update)
        if self._again:
            self._again = False
            self.begin()

    def _lose_patience(self, update: CertificateUpdate) -> None:
        """A process that does not answer keeps the old keys in use: the log has to say so."""
        self._timer = None
        if self._stopping:
            return
        if update.phase is Phase.SWITCHING:
            log.warn(f"{self._late(update)}: until then new sessions there may see the old certificates")
            self._manager.ready()
        else:
            update.give_up(f"{self._late(update)}, and is waited for")
            self._finish(update)
            self._again = True

    def _late(self, update: CertificateUpdate) -> str:
        if self._opening:
            return "the file system gives no answer"
        return f"{update.late} gives no answer"

    def _finish(self, update: CertificateUpdate) -> None:
        """What becomes of the round is decided."""
        report(update, self._configuration)
        if update.troubles:
            log.warn("keys and certificates stay as they were")
        if not self._stopping:
            self._manager.ready()


def _close(outcome: Any) -> None:
    """Descriptors that no process takes any more."""
    if isinstance(outcome, list):
        for descriptor in outcome:
            os.close(descriptor)
