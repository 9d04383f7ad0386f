"""Keys and certificates: handed over, and used when all of them fit, at the start and at each SIGHUP.

    HANDING_OVER     each pki: TakeKey + fd --> crypto, TakeCertificate + fd --> each dispatcher; do the keys agree?
                     each ca:  TakeAuthorities + fd --> each dispatcher
    MAKING_CONTEXTS  MakeContexts --> each dispatcher: OpenSSL accepts everything, for every listener
    SWITCHING        UseCertificates --> each dispatcher: cannot fail
    DONE             UseTakenKeys --> crypto

No process uses anything of a round before all of them have everything ready, and crypto counts the old keys as replaced
only when no dispatcher begins a session with them any more.  With any trouble before SWITCHING all are told
DropCertificates, and what was in use stays in use.

One `pki` or `ca` after the other, so that a thousand of them need no more descriptors than one.  Every trouble is
gathered.  This process never reads the files.
"""

from collections.abc import Sequence
from enum import Enum

from smtpd.imsg import (
    AuthoritiesTaken,
    CertificatesUsed,
    CertificateTaken,
    ContextsMade,
    DropCertificates,
    KeyTaken,
    MakeContexts,
    TakeAuthorities,
    TakeCertificate,
    TakeKey,
    UseCertificates,
    UseTakenKeys,
)
from smtpd.ipc.channel import Channel, Violation
from smtpd.ipc.log import log
from smtpd.parent.certificate_file import CertificateSlice
from smtpd.parent.child import title
from smtpd.slice import ParentSlice, PkiSlice

Answer = KeyTaken | CertificateTaken | AuthoritiesTaken | ContextsMade | CertificatesUsed


class Phase(Enum):
    HANDING_OVER = "takes keys and certificates"
    MAKING_CONTEXTS = "makes its TLS contexts"
    SWITCHING = "uses the new certificates"
    DONE = "has nothing more to do"


class CertificateUpdate:
    """One round over everything.  While `subject` is not None: open its files, then `hand_over` or `skip`.  `take` the
    answers; when no process in `asked` owes one any more, `proceed`; until the phase is DONE.

    At the end either `troubles` has something in it, or the certificates are in use."""

    def __init__(self, configuration: ParentSlice, crypto: Channel, dispatchers: Sequence[Channel]):
        subjects: tuple[CertificateSlice, ...] = (*configuration.pki, *configuration.ca)
        self._left = iter(subjects)
        self._pki = {pki.name: pki for pki in configuration.pki}
        self._crypto = crypto
        self._dispatchers = dispatchers
        self._public: set[str] = set()  # of the subject: one, if all is well
        self._trouble = False  # with the subject
        self.phase = Phase.HANDING_OVER if subjects else Phase.DONE
        self.subject: CertificateSlice | None = None
        self.asked: dict[Channel, type] = {}  # which processes owe what kind of answer
        self.troubles: list[str] = []
        self.warnings: list[str] = []
        if subjects:
            self.proceed()

    @property
    def late(self) -> str:
        """The processes that owe an answer."""
        return ", ".join(sorted(title(channel.peer, channel.number) for channel in self.asked))

    def send_files(self, descriptors: list[int]) -> None:
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
        assert self.subject is not None
        self._trouble = True
        self._add_trouble(self.subject, reason)

    def take(self, channel: Channel, imsg: Answer) -> None:
        """Raises Violation for an answer that is not expected."""
        if self.asked.get(channel) is not type(imsg) or not self._is_about_subject(imsg):
            raise Violation(f"{channel.peer} answers {type(imsg).__name__} without a request")
        del self.asked[channel]
        match imsg:
            case KeyTaken() | CertificateTaken() | AuthoritiesTaken():
                self._take_subject(imsg)
            case ContextsMade() if imsg.trouble:
                pki = self._pki.get(imsg.pki)
                if pki is None:
                    _add(self.troubles, f"TLS: {imsg.trouble}")
                else:
                    self._add_trouble(pki, f"{pki.cert}: {imsg.trouble}")

    def proceed(self) -> None:
        """Every answer is there: the next subject, or the next phase."""
        if self.phase is Phase.HANDING_OVER:
            self._next_subject()
        elif self.phase is Phase.MAKING_CONTEXTS and not self.troubles:
            self._enter(Phase.SWITCHING, UseCertificates, CertificatesUsed)
        elif self.phase is Phase.MAKING_CONTEXTS:
            self._drop()
        elif self.phase is Phase.SWITCHING:
            self.phase = Phase.DONE
            self._crypto.send(UseTakenKeys())

    def give_up(self, reason: str) -> None:
        """Before SWITCHING.  Answers that are still owed may come, and change nothing."""
        self.subject = None
        _add(self.troubles, reason)
        self._drop()

    def _is_about_subject(self, imsg: Answer) -> bool:
        """Or about all of them, or about one that was given up."""
        if self.subject is None:
            return True
        match imsg:
            case KeyTaken() | CertificateTaken():
                return imsg.pki == self.subject.name
            case AuthoritiesTaken():
                return imsg.ca == self.subject.name
            case _:
                return True

    def _take_subject(self, imsg: KeyTaken | CertificateTaken | AuthoritiesTaken) -> None:
        subject = self.subject
        if subject is None:
            return
        if imsg.trouble:
            self._trouble = True
            path = subject.key if isinstance(imsg, KeyTaken) and isinstance(subject, PkiSlice) else subject.cert
            self._add_trouble(subject, f"{path}: {imsg.trouble}")
        elif not isinstance(imsg, AuthoritiesTaken):
            self._public.add(imsg.public)
        if isinstance(imsg, CertificateTaken) and imsg.warning:
            _add(self.warnings, f"pki {subject.name}: {subject.cert}: {imsg.warning}")

    def _next_subject(self) -> None:
        subject = self.subject
        if isinstance(subject, PkiSlice) and not self._trouble and len(self._public) > 1:
            self._add_trouble(subject, f"{subject.key}: not the key of the certificate in {subject.cert}")
        self._public, self._trouble = set(), False
        self.subject = next(self._left, None)
        if self.subject is None and self.troubles:
            self._drop()
        elif self.subject is None:
            self._enter(Phase.MAKING_CONTEXTS, MakeContexts, ContextsMade)

    def _enter(self, phase: Phase, request: type, answer: type) -> None:
        self.phase = phase
        for dispatcher in self._dispatchers:
            dispatcher.send(request())
            self.asked[dispatcher] = answer

    def _drop(self) -> None:
        self.phase = Phase.DONE
        for channel in (self._crypto, *self._dispatchers):
            channel.send(DropCertificates())

    def _add_trouble(self, subject: CertificateSlice, reason: str) -> None:
        kind = "pki" if isinstance(subject, PkiSlice) else "ca"
        _add(self.troubles, f"{kind} {subject.name}: {reason}")


def _add(lines: list[str], line: str) -> None:
    """Several dispatchers say the same."""
    if line not in lines:
        lines.append(line)


def report(update: CertificateUpdate, configuration: ParentSlice) -> None:
    """What the log says of a round."""
    for line in (*update.troubles, *update.warnings):
        log.warn(line)
    if not update.troubles:
        log.info(f"certificates of {len(configuration.pki)} pki loaded")
