"""TLS contexts of listeners and relay actions, made of the certificates and authorities that the parent hands over.

    TakeCertificate, TakeAuthorities    read and kept aside; the answer says what cannot be used
    MakeContexts                        new contexts of each listener with TLS and each relay action, kept aside too
    UseCertificates                     new connections use them; this cannot fail
    DropCertificates                    forget what is kept aside

A connection keeps the context that its handshake began with, so new certificates disturb none.  A context is made
before any process uses the new keys: when OpenSSL refuses one, nothing changes, in any process.
"""

import os
import time
from collections.abc import Callable

from smtpd.envelope import Text
from smtpd.imsg import (
    AuthoritiesTaken,
    CertificatesUsed,
    CertificateTaken,
    ContextsMade,
    TakeAuthorities,
    TakeCertificate,
)
from smtpd.ipc.text_limit import fit_text
from smtpd.slice import DispatcherSlice, ListenerSlice, RelaySlice
from smtpd.tls.certificate import CERTIFICATE_FILE_MAX
from smtpd.tls.client_context import ClientContext, OwnCertificate
from smtpd.tls.context import Authorities, Certificate, ContextError, ServerContext, TlsUnusable, make_context
from smtpd.tls.signing import Signer

DAY = 86400  # seconds
EXPIRY_WARNING = 7 * DAY
# RFC 8461 3.3: the hosts of MTA-STS policies are verified by the authorities that this machine trusts, whatever an
# action says of mail servers.
POLICY_HOSTS = RelaySlice("", "")


class Certificates:
    def __init__(self, configuration: DispatcherSlice, signer: Signer, now: Callable[[], float] = time.time):
        self._listeners = [listener for listener in configuration.listeners if listener.tls is not None]
        self._dhe, self._signer, self._now = configuration.dhe, signer, now
        self._certificates: dict[str, Certificate] = {}  # of the update that is under way
        self._authorities: dict[str, Authorities] = {}
        self._made: dict[int, ServerContext] = {}
        self._contexts: dict[int, ServerContext] = {}  # in use
        self._relays = (*configuration.relays, POLICY_HOSTS) if configuration.relays else ()
        self._made_for_relays: dict[str, ClientContext] = {}
        self._relay_contexts: dict[str, ClientContext] = {}  # in use, by action

    def take(self, imsg: TakeCertificate, descriptor: int) -> CertificateTaken:
        try:
            certificate = self._certificates[imsg.pki] = _read(descriptor, Certificate.read)
        except TlsUnusable as trouble:
            return CertificateTaken(imsg.pki, "", fit_text(Text, str(trouble)))
        return CertificateTaken(imsg.pki, certificate.public, "", self._warning(certificate))

    def take_authorities(self, imsg: TakeAuthorities, descriptor: int) -> AuthoritiesTaken:
        try:
            self._authorities[imsg.ca] = _read(descriptor, Authorities.read)
        except TlsUnusable as trouble:
            return AuthoritiesTaken(imsg.ca, fit_text(Text, str(trouble)))
        return AuthoritiesTaken(imsg.ca, "")

    def make(self) -> ContextsMade:
        try:
            self._made = {listener.number: self._make_context(listener) for listener in self._listeners}
            self._made_for_relays = {relay.name: self._make_relay_context(relay) for relay in self._relays}
        except ContextError as error:
            return ContextsMade(error.pki, fit_text(Text, str(error)))
        except TlsUnusable as trouble:
            return ContextsMade("", fit_text(Text, str(trouble)))
        return ContextsMade("", "")

    def use(self) -> CertificatesUsed:
        assert self._made.keys() == {listener.number for listener in self._listeners}  # the parent has waited for make
        self._contexts, self._relay_contexts = self._made, self._made_for_relays
        self.drop()
        return CertificatesUsed()

    def drop(self) -> None:
        self._certificates, self._authorities = {}, {}
        self._made, self._made_for_relays = {}, {}

    def get_context(self, listener: int) -> ServerContext:
        return self._contexts[listener]

    def get_relay_context(self, relay: RelaySlice) -> ClientContext:
        """Where there is neither a `pki` nor a `ca`, nothing is handed over, and a context without any will do."""
        context = self._relay_contexts.get(relay.name)
        if context is None:
            context = self._relay_contexts[relay.name] = self._make_relay_context(relay)
        return context

    def get_policy_context(self) -> ClientContext:
        return self.get_relay_context(POLICY_HOSTS)

    def _make_relay_context(self, relay: RelaySlice) -> ClientContext:
        own = OwnCertificate(relay.pki, self._certificates[relay.pki], self._signer) if relay.pki else None
        return ClientContext(self._authorities.get(relay.ca), relay.protocols, relay.ciphers, own)

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
        if left <= EXPIRY_WARNING:
            return f"expires in {int(left / DAY)} days"
        return ""


def _read[Read](descriptor: int, parse: Callable[[bytes], Read]) -> Read:
    """Raises TlsUnusable.  Closes the descriptor."""
    with os.fdopen(descriptor, "rb") as file:
        try:
            content = file.read(CERTIFICATE_FILE_MAX + 1)
        except OSError as error:
            raise TlsUnusable(f"cannot be read: {error.strerror}") from None
    if len(content) > CERTIFICATE_FILE_MAX:
        raise TlsUnusable("is too large for certificates")
    return parse(content)
