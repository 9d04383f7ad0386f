"""TLS contexts of connections to other hosts: protocols, ciphers, authorities, and what a certificate has to be.

    Expectation()                            any certificate, or none that is worth anything (RFC 7435)
    Expectation(verify=True, names=…)        one of the names, below one of the authorities
    Expectation(verify=True, records=…)      as one of the TLSA records says (RFC 7672); names for usage 2 only

OpenSSL itself verifies by TLSA records, SSL_CTX_dane_enable(3): Python's `ssl` cannot say that to it, so the functions
are called by ctypes.  With records, none of which it takes, it would verify by the authorities of the web instead; here
that is a failure.

A context serves any number of connections, and holds nothing of one.  It reads no file: authorities come from outside.
"""

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from smtpd.slice import USUAL_PROTOCOLS
from smtpd.tls.certificate import Authorities, Certificate
from smtpd.tls.context import (
    CERTIFICATES_MAX,
    DEPTH_MAX,
    NO_CERTIFICATE_COMPRESSION,
    SET_MAX_CERT_LIST,
    SET_MAX_VERSION,
    SET_MIN_VERSION,
    VERSIONS,
    ContextError,
    context_ctrl,
    show_certificate,
)
from smtpd.tls.openssl_library import TlsUnusable, get_connection, get_context, openssl, openssl_error
from smtpd.tls.signing import Signer

# What a host is spoken to with: all that is worth more than clear text, the best first.  A certificate that has to
# verify needs more: OpenSSL's security level 2, RSA of 2048 bits and no SHA-1.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:ECDHE+AES:DHE+AES:RSA+AESGCM:RSA+AES"
_NEVER = ":!aNULL:!eNULL:!EXPORT:!MD5:!RC4:!3DES"
_LEVELS = {False: 0, True: 2}  # verified -> security level

_OPTIONS = ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET
_NO_NAME_CHECK_OF_END_ENTITY = 1  # openssl/ssl.h, DANE_FLAG_NO_DANE_EE_NAMECHECKS; RFC 7672 3.1.1
_PEER, _NONE = ssl.CERT_REQUIRED, ssl.CERT_NONE


class Tlsa(NamedTuple):
    """A TLSA record, RFC 6698 2.1."""

    usage: int
    selector: int
    matching: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Expectation:
    """`server_name`: for SNI; empty or an address: none is sent.  `names`: DNS names, or one numeric address."""

    server_name: str = ""
    verify: bool = False
    names: Sequence[str] = ()
    records: Sequence[Tlsa] = ()


class OwnCertificate(NamedTuple):
    """A `pki` of ours; its key is used by `signer`."""

    pki: str
    certificate: Certificate
    signer: Signer


class ClientContext:
    """The contexts for all connections of a relay action."""

    def __init__(
        self,
        authorities: Authorities | None = None,
        protocols: Sequence[str] = USUAL_PROTOCOLS,
        ciphers: str = "",
        own: OwnCertificate | None = None,
    ):
        """`own` is shown to servers that ask for a certificate.  Raises ContextError."""
        self.signs = own is not None  # a step of a handshake may wait for a signature
        self._any = _make(protocols, ciphers, verified=False)
        self._verified = _make(protocols, ciphers, verified=True)
        # RFC 8461 3.3, RFC 7817 3: a name in the subject counts for nothing.  It does for DANE-TA, RFC 7672 3.2.3.
        self._verified.hostname_checks_common_name = False
        self._dane = _make(protocols, ciphers, verified=True)
        library = openssl()
        store = library.SSL_CTX_get_cert_store(get_context(self._verified))
        for authority in authorities.addresses if authorities else ():
            library.X509_STORE_add_cert(store, authority)
        if not library.SSL_CTX_dane_enable(get_context(self._dane)):
            raise ContextError(f"DANE: {openssl_error()}")
        if own is not None:
            for context in (self._any, self._verified, self._dane):
                _show(context, own)

    def connect(
        self, expectation: Expectation, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> tuple[ssl.SSLObject, int]:
        """The client's side of a new connection, and the address of its SSL.  Raises TlsUnusable where what is
        expected cannot be verified: then it must not begin."""
        context = self._any
        if expectation.verify:
            context = self._dane if expectation.records else self._verified
        name = "" if _is_address(expectation.server_name) else expectation.server_name
        try:
            connection = context.wrap_bio(incoming, outgoing, server_side=False, server_hostname=name or None)
        except ValueError:  # also of text that no host name can be
            raise TlsUnusable("host name cannot be sent to the server") from None
        address = get_connection(connection, context)
        if expectation.records and expectation.verify:
            _expect_records(address, expectation)
        elif expectation.verify:
            _expect_names(address, expectation.names)
        return connection, address


def _make(protocols: Sequence[str], ciphers: str, verified: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False  # Python would know one name only
    context.verify_mode = _PEER if verified else _NONE
    context.options |= _OPTIONS | NO_CERTIFICATE_COMPRESSION
    text = (ciphers or _CIPHERS) + _NEVER
    try:
        context.set_ciphers(text if "@SECLEVEL" in text else f"{text}:@SECLEVEL={_LEVELS[verified]}")
    except ssl.SSLError:
        raise ContextError(f"no usable cipher in {ciphers}") from None
    address = get_context(context)
    context_ctrl(address, SET_MIN_VERSION, VERSIONS[protocols[0]], needed=True)
    context_ctrl(address, SET_MAX_VERSION, VERSIONS[protocols[-1]], needed=True)
    context_ctrl(address, SET_MAX_CERT_LIST, CERTIFICATES_MAX)
    openssl().SSL_CTX_set_verify_depth(address, DEPTH_MAX)
    return context


def _show(context: ssl.SSLContext, own: OwnCertificate) -> None:
    try:
        show_certificate(get_context(context), own.certificate, own.signer)
    except TlsUnusable as error:
        raise ContextError(str(error), own.pki) from None


def _expect_records(connection: int, expectation: Expectation) -> None:
    """RFC 7672 3.1: names count for usage 2; of usage 3 neither name nor time does."""
    library = openssl()
    base = (expectation.names[0] if expectation.names else expectation.server_name).encode("ascii", "replace")
    if library.SSL_dane_enable(connection, base) <= 0:
        raise TlsUnusable(f"DANE: {openssl_error()}")
    library.SSL_dane_set_flags(connection, _NO_NAME_CHECK_OF_END_ENTITY)
    for name in expectation.names[1:]:
        _add_name(connection, name)
    usable = 0
    for record in expectation.records:
        usable += library.SSL_dane_tlsa_add(connection, *record, len(record.data)) > 0
        openssl_error()
    if not usable:
        raise TlsUnusable("DANE: no usable TLSA record")


def _expect_names(connection: int, names: Sequence[str]) -> None:
    if not names:
        raise TlsUnusable("no name to verify the certificate by")
    for name in names:
        _add_name(connection, name)


def _add_name(connection: int, name: str) -> None:
    """SSL_add1_host takes numeric addresses too, one of them at most."""
    if not openssl().SSL_add1_host(connection, name.encode("ascii", "replace")):
        raise TlsUnusable(f"name to verify the certificate by: {openssl_error()}")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
