"""Who takes keys and certificates, and whether they fit: at the start, and at each HUP.

    key           --TakeKey + fd-->          crypto            --KeyTaken(public)---------> \\
    certificates  --TakeCertificate + fd-->  each dispatcher   --CertificateTaken(public)-> / do they fit?
    authorities   --TakeAuthorities + fd-->  each dispatcher   --AuthoritiesTaken--------->
    all is well   --UseCertificates------->  crypto, each dispatcher

One `pki` or `ca` after the other, so that a thousand of them need no more descriptors than one.  Every trouble is
gathered, and with any of them nobody uses anything of it.  What stands in the files this process never sees.
"""

import time
from collections.abc import Sequence

from smtpd.config.slice import ParentSlice, PkiSlice
from smtpd.imsg import (
    AuthoritiesTaken,
    CertificateTaken,
    KeyTaken,
    TakeAuthorities,
    TakeCertificate,
    TakeKey,
    UseCertificates,
)
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log
from smtpd.parent.answer import Answers, CannotStart, flush
from smtpd.parent.certificate import Subject, Unusable, open_files
from smtpd.parent.child import Child

DEADLINE = 10.0  # seconds for one of them, while there is no loop

Taken = KeyTaken | CertificateTaken | AuthoritiesTaken


class Exchange:
    """One round over everything.  While `subject` is not None: open its files, `hand_over` or `skip`, and `take` the
    answers, until nobody in `asked` owes one; then `proceed`.  At the end either `troubles` has something in it or
    UseCertificates has been sent."""

    def __init__(self, configuration: ParentSlice, crypto: Channel, dispatchers: Sequence[Channel]):
        subjects: tuple[Subject, ...] = (*configuration.pki, *configuration.ca)
        self._left = iter(subjects)
        self._crypto = crypto
        self._dispatchers = dispatchers
        self._users = (crypto, *dispatchers) if subjects else ()
        self._public: set[str] = set()  # of the subject: one, if all is well
        self._trouble = False  # with the subject
        self.subject: Subject | None = None
        self.asked: dict[Channel, type] = {}  # who owes what kind of answer
        self.troubles: list[str] = []
        self.warnings: list[str] = []
        self.proceed()

    def hand_over(self, descriptors: list[int]) -> None:
        """What open_files gave for the subject."""
        subject, files = self.subject, iter(descriptors)
        assert subject is not None
        if isinstance(subject, PkiSlice):
            self._crypto.send(TakeKey(subject.name), next(files))
            self.asked[self._crypto] = KeyTaken
        for dispatcher in self._dispatchers:
            if isinstance(subject, PkiSlice):
                dispatcher.send(TakeCertificate(subject.name), next(files))
                self.asked[dispatcher] = CertificateTaken
            else:
                dispatcher.send(TakeAuthorities(subject.name), next(files))
                self.asked[dispatcher] = AuthoritiesTaken

    def skip(self, reason: str) -> None:
        """Its files cannot be opened."""
        self._add_trouble(reason)

    def take(self, channel: Channel, imsg: Taken) -> None:
        """Raises Violation for an answer that nobody waits for."""
        name = imsg.ca if isinstance(imsg, AuthoritiesTaken) else imsg.pki
        if self.subject is None or self.asked.get(channel) is not type(imsg) or name != self.subject.name:
            raise Violation(f"{channel.peer} answers {type(imsg).__name__} to a question that nobody asked")
        del self.asked[channel]
        if imsg.trouble:
            self._add_trouble(imsg.trouble)
        elif not isinstance(imsg, AuthoritiesTaken):
            self._public.add(imsg.public)
        if isinstance(imsg, CertificateTaken) and imsg.warning:
            _add(self.warnings, f"pki {name}: {imsg.warning}")

    def proceed(self) -> None:
        """From a subject that everybody has answered for to the next one."""
        if self.subject is not None and not self._trouble and len(self._public) > 1:
            self._add_trouble("the key is not the one that the certificate is for")
        self._public, self._trouble = set(), False
        self.subject = next(self._left, None)
        if self.subject is None and not self.troubles:
            for channel in self._users:
                channel.send(UseCertificates())

    def _add_trouble(self, reason: str) -> None:
        assert self.subject is not None
        kind = "pki" if isinstance(self.subject, PkiSlice) else "ca"
        self._trouble = True
        _add(self.troubles, f"{kind} {self.subject.name}: {reason}")


def _add(lines: list[str], line: str) -> None:
    """Several dispatchers say the same."""
    if line not in lines:
        lines.append(line)


# -- at the start -------------------------------------------------------------------------


def exchange_at_start(configuration: ParentSlice, children: Sequence[Child], strict: bool, answers: Answers) -> None:
    """Raises CannotStart, with all that is wrong."""
    takers = {child.channel: child for child in children if child.role in ("crypto", "dispatcher")}
    crypto, *dispatchers = sorted(takers, key=lambda channel: channel.peer != "crypto")
    exchange = Exchange(configuration, crypto, dispatchers)
    while exchange.subject is not None:
        try:
            exchange.hand_over(open_files(exchange.subject, len(dispatchers), strict))
        except Unusable as error:
            exchange.skip(str(error))
        _await_answers(exchange, takers, answers)
        exchange.proceed()
    if exchange.troubles:
        raise CannotStart("\n".join(exchange.troubles))
    if configuration.pki:
        report(exchange, configuration)


def _await_answers(exchange: Exchange, takers: dict[Channel, Child], answers: Answers) -> None:
    deadline = time.monotonic() + DEADLINE
    for channel, kind in exchange.asked.items():
        answers.expect(takers[channel], kind)
        flush(takers[channel])
    while exchange.asked:
        child, imsg = answers.next_of([takers[channel] for channel in exchange.asked], deadline)
        try:
            exchange.take(child.channel, imsg)
        except Violation as error:
            raise CannotStart(f"{child.title} broke the rules: {error}") from None


def report(exchange: Exchange, configuration: ParentSlice) -> None:
    """What the log says of a round."""
    for line in (*exchange.troubles, *exchange.warnings):
        log.warn(line)
    if not exchange.troubles:
        log.info(f"certificates of {len(configuration.pki)} pki loaded")
