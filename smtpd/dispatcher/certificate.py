"""Certificates and authorities, and the TLS contexts of the listeners that are made of them.

    TakeCertificate, TakeAuthorities    read and kept aside; what cannot be used is said in the answer
    UseCertificates                     new contexts, one for each listener with TLS

A connection keeps the context that its handshake began with, so new certificates disturb nobody.  What is kept aside
counts only when UseCertificates comes: a file that is no good changes nothing.
"""

import os
import time
from collections.abc import Callable

from smtpd.config.slice import DispatcherSlice, ListenerSlice
from smtpd.imsg import AuthoritiesTaken, CertificateTaken, TakeAuthorities, TakeCertificate
from smtpd.ipc.log import log
from smtpd.tls.context import Authorities, Certificate, ServerContext, Unusable, make_context
from smtpd.tls.signing import Signer

MOST = 4 * 1024 * 1024  # bytes of a file; that of all public authorities has 200 KiB
DAY = 86400  # seconds
SOON = 7 * DAY


class Certificates:
    def __init__(self, configuration: DispatcherSlice, signer: Signer, now: Callable[[], float] = time.time):
        self._listeners = [listener for listener in configuration.listeners if listener.tls is not None]
        self._dhe, self._signer, self._now = configuration.dhe, signer, now
        self._certificates: dict[str, Certificate] = {}
        self._authorities: dict[str, Authorities] = {}
        self._contexts: dict[int, ServerContext] = {}

    def take(self, imsg: TakeCertificate, descriptor: int) -> CertificateTaken:
        try:
            certificate = self._certificates[imsg.pki] = _read(descriptor, Certificate.read)
        except Unusable as trouble:
            return CertificateTaken(imsg.pki, "", str(trouble))
        return CertificateTaken(imsg.pki, certificate.public, "", self._warning(certificate))

    def take_authorities(self, imsg: TakeAuthorities, descriptor: int) -> AuthoritiesTaken:
        try:
            self._authorities[imsg.ca] = _read(descriptor, Authorities.read)
        except Unusable as trouble:
            return AuthoritiesTaken(imsg.ca, str(trouble))
        return AuthoritiesTaken(imsg.ca, "")

    def use(self) -> None:
        try:
            contexts = {listener.number: self._make_context(listener) for listener in self._listeners}
        except Unusable as trouble:
            if not self._contexts:
                raise SystemExit(f"dispatcher: {trouble}") from None
            log.warn(f"certificates not changed: {trouble}")
        else:
            self._contexts = contexts

    def get_context(self, listener: int) -> ServerContext:
        return self._contexts[listener]

    def _make_context(self, listener: ListenerSlice) -> ServerContext:
        tls = listener.tls
        assert tls is not None
        authorities = self._authorities[tls.ca] if tls.ca else None
        certificates = {name: self._certificates[name] for name in tls.pki}
        return make_context(tls, certificates, authorities, self._dhe, self._signer)

    def _warning(self, certificate: Certificate) -> str:
        left = certificate.not_after - self._now()
        if left <= 0:
            return "has expired"
        if left <= SOON:
            return f"expires in {int(left / DAY)} days"
        return ""


def _read[Read](descriptor: int, parse: Callable[[bytes], Read]) -> Read:
    """Raises Unusable.  Closes the descriptor."""
    with os.fdopen(descriptor, "rb") as file:
        try:
            content = file.read(MOST + 1)
        except OSError as error:
            raise Unusable(f"cannot be read: {error.strerror}") from None
    if len(content) > MOST:
        raise Unusable("is too large for certificates")
    return parse(content)
