"""TLS context of a listener: certificates, protocols, ciphers, and the choice of a certificate by server name.

    a server name (RFC 6066 3)   -->  the `pki` of that name
                                 -->  the `pki` whose certificate has that name
                                 -->  the same two again with `*.` for the first label
    none of them, or no name     -->  the `pki` called `*`, or the listener's first

Each `pki` has an SSL_CTX.  A connection begins with that of the last line, and a callback switches it to another one.
The callback is not Python's own, which writes a traceback for a name that is not ASCII: any client can send that.

One object serves all connections of a listener, and holds no state of a connection.
"""

import ctypes
import itertools
import ssl
import weakref
from collections.abc import Mapping
from ctypes import c_int, c_void_p

from smtpd.slice import NEVER_CIPHERS, TlsSlice
from smtpd.tls.certificate import Authorities, Certificate, key_bits, signature_hash
from smtpd.tls.openssl_library import TlsUnusable, get_connection, get_context, openssl, openssl_error
from smtpd.tls.remote_key import make_key
from smtpd.tls.signing import Signer

__all__ = ["Authorities", "Certificate", "ContextError", "ServerContext", "TlsUnusable", "make_context"]

# Forward secrecy and authenticated encryption, with nothing else in it.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_DHE_CIPHERS = ":DHE+AESGCM:DHE+CHACHA20"
_GROUPS = b"X25519:P-256:P-384"
_OLD_CIPHERS = ":ECDHE+AES"  # for versions before 1.2, if the configuration asks for them: the best that they have

VERSIONS = {"TLSv1": 0x0301, "TLSv1.1": 0x0302, "TLSv1.2": 0x0303, "TLSv1.3": 0x0304}
_OLD = {"TLSv1", "TLSv1.1"}

CERTIFICATES_MAX = 64 * 1024  # bytes that a client may send of them
DEPTH_MAX = 8  # authorities above a client's certificate

# openssl/ssl.h
_SET_SESSION_CACHE_MODE, SET_MAX_CERT_LIST, _SET_SERVERNAME_CALLBACK, _SET_SERVERNAME_ARGUMENT = 44, 51, 53, 54
_CHAIN_CERT, _SET_GROUPS_LIST, _SET_DH_AUTO, SET_MIN_VERSION, SET_MAX_VERSION = 89, 92, 118, 123, 124
_MODE, _NO_AUTO_CHAIN = 33, 0x08
_SESSION_CACHE_OFF = 0
_VERIFY_PEER, _VERIFY_FAIL_IF_NO_CERTIFICATE = 1, 2
_SERVERNAME_OK, _SERVERNAME_IGNORED = 0, 3
_HOST_NAME = 0

# RFC 8879, in OpenSSL 3.2 and later; neither sent nor taken: a chain of keys that costs seconds would come in a few,
# and how much a client may cost is judged by what it has sent.  These are SSL_OP_NO_TX_CERTIFICATE_COMPRESSION and
# SSL_OP_NO_RX_CERTIFICATE_COMPRESSION of openssl/ssl.h; older versions know no such bits.
NO_CERTIFICATE_COMPRESSION = 1 << 32 | 1 << 33
_OPTIONS = (
    ssl.OP_NO_COMPRESSION
    | ssl.OP_NO_RENEGOTIATION
    | ssl.OP_NO_TICKET
    | ssl.OP_CIPHER_SERVER_PREFERENCE
    | ssl.OP_SINGLE_DH_USE
    | ssl.OP_SINGLE_ECDH_USE
)


class ContextError(TlsUnusable):
    """A listener's context cannot be made.  `pki`: its certificate is refused; empty: the error is in the options of
    the listener itself."""

    def __init__(self, text: str, pki: str = ""):
        super().__init__(text)
        self.pki = pki


class ServerContext:
    """The contexts of a listener's certificates, by pki."""

    def __init__(self, tls: TlsSlice, contexts: Mapping[str, tuple[ssl.SSLContext, Certificate]]):
        self._first, _ = contexts.get("*") or contexts[tls.pki[0]]
        self._certificates = {get_context(context): certificate for context, certificate in contexts.values()}
        self._addresses = _by_name({name: (get_context(c), cert) for name, (c, cert) in contexts.items()})
        self._contexts = [context for context, _ in contexts.values()]  # alive as long as their addresses are used
        self._number = next(_numbers)
        _servers[self._number] = self
        _let_names_choose(get_context(self._first), self._number)

    def connect(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> tuple[ssl.SSLObject, int]:
        """The server's side of a new connection, and the address of its SSL."""
        connection = self._first.wrap_bio(incoming, outgoing, server_side=True)
        return connection, get_connection(connection, self._first)

    def find_address(self, name: str) -> int | None:
        """The SSL_CTX for a client that calls us `name`."""
        name = name.lower().rstrip(".")
        return self._addresses.get(name) or self._addresses.get("*." + name.partition(".")[2])

    def get_certificate(self, connection: int) -> Certificate:
        """The one that was shown on it."""
        return self._certificates[openssl().SSL_get_SSL_CTX(connection)]


def _by_name(contexts: Mapping[str, tuple[int, Certificate]]) -> dict[str, int]:
    """What the configuration says comes before what a certificate says, the earlier pki before the later."""
    addresses = {name: address for name, (address, _) in contexts.items()}
    for address, certificate in contexts.values():
        for name in certificate.names:
            addresses.setdefault(name, address)
    return addresses


def make_context(
    tls: TlsSlice,
    certificates: Mapping[str, Certificate],
    authorities: Authorities | None,
    dhe: Mapping[str, str],
    signer: Signer,
) -> ServerContext:
    """The context of a listener.  `certificates` and `dhe` by the names of `pki`; `authorities` are those of its `ca`.
    Raises ContextError."""
    if tls.verify and authorities is None:
        raise ContextError("client certificates cannot be verified without a ca")
    contexts = {}
    for name in tls.pki:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        address = get_context(context)
        _set_protocol(context, address, tls, dhe.get(name, "none"))
        try:
            show_certificate(address, certificates[name], signer)
        except TlsUnusable as error:
            raise ContextError(str(error), name) from None
        _ask_for_certificate(address, tls, authorities)
        contexts[name] = context, certificates[name]
    return ServerContext(tls, contexts)


def _set_protocol(context: ssl.SSLContext, address: int, tls: TlsSlice, dhe: str) -> None:
    context.options |= _OPTIONS | NO_CERTIFICATE_COMPRESSION
    context.num_tickets = 0
    try:
        context.set_ciphers(_cipher_list(tls, dhe))
    except ssl.SSLError:
        raise ContextError(f"no usable cipher in {tls.ciphers}") from None
    context_ctrl(address, _SET_SESSION_CACHE_MODE, _SESSION_CACHE_OFF)
    context_ctrl(address, SET_MIN_VERSION, VERSIONS[tls.protocols[0]], needed=True)
    context_ctrl(address, SET_MAX_VERSION, VERSIONS[tls.protocols[-1]], needed=True)
    context_ctrl(address, _SET_GROUPS_LIST, 0, _GROUPS, needed=True)
    if dhe != "none":
        # 1: a group as strong as the certificate's key.  "legacy" means 1024 bits to OpenSMTPD, which is broken.
        context_ctrl(address, _SET_DH_AUTO, 1, needed=True)


def _cipher_list(tls: TlsSlice, dhe: str) -> str:
    old = bool(_OLD & {*tls.protocols})
    own = _CIPHERS + (_DHE_CIPHERS if dhe != "none" else "") + (_OLD_CIPHERS if old else "")
    ciphers = (tls.ciphers or own) + NEVER_CIPHERS
    # The older ones sign with MD5 and SHA-1, which are below OpenSSL's level 1.
    return ciphers if "@SECLEVEL" in ciphers else f"{ciphers}:@SECLEVEL={0 if old else 2}"


def show_certificate(address: int, certificate: Certificate, signer: Signer) -> None:
    """Of a server, or of a client (client_context.py).  Raises TlsUnusable.

    Certificates that are too weak for the context's security level are refused here: a handshake with them would fail.
    For the same reason the chain is not completed from the authorities of clients."""
    library = openssl()
    own, *above = certificate.addresses
    context_ctrl(address, _MODE, _NO_AUTO_CHAIN)
    if not library.SSL_CTX_use_certificate(address, own):
        raise TlsUnusable(f"the certificate {_fault(address, own)}")
    for number, authority in enumerate(above, 2):
        if not context_ctrl(address, _CHAIN_CERT, 1, authority):  # 1: counts a reference
            raise TlsUnusable(
                f"certificate {number} of {len(above) + 1}, of an authority, {_fault(address, authority)}"
            )
    if not library.SSL_CTX_use_PrivateKey(address, make_key(certificate.key, signer)):
        raise TlsUnusable(f"its key: {openssl_error()}")


def _fault(address: int, certificate: int) -> str:
    """Why OpenSSL has just refused the certificate, with the words that its reason stands for."""
    reason = openssl_error()
    level = f"too weak for OpenSSL's security level {openssl().SSL_CTX_get_security_level(address)}"
    if reason == "ca md too weak":  # of any certificate, not only of an authority's
        return f"is signed with {signature_hash(certificate)}, which is {level}"
    if reason.endswith("key too small"):
        return f"has a key of {key_bits(certificate)} bits, which is {level}"
    return f"cannot be used: {reason}"


def _ask_for_certificate(address: int, tls: TlsSlice, authorities: Authorities | None) -> None:
    """With `verify` a client needs a certificate that verifies.  With `ca` alone any certificate is accepted, and none:
    mail programs send what they have when they are asked, and the result is for the log and for rules."""
    library = openssl()
    if authorities is None:
        return
    context_ctrl(address, SET_MAX_CERT_LIST, CERTIFICATES_MAX)
    library.SSL_CTX_set_verify_depth(address, DEPTH_MAX)
    store = library.SSL_CTX_get_cert_store(address)
    for authority in authorities.addresses:
        library.X509_STORE_add_cert(store, authority)
    if tls.verify:
        library.SSL_CTX_set_verify(address, _VERIFY_PEER | _VERIFY_FAIL_IF_NO_CERTIFICATE, None)
    else:
        library.SSL_CTX_set_verify(address, _VERIFY_PEER, None)
        library.SSL_CTX_set_cert_verify_callback(address, _accept_any, None)


def context_ctrl(
    address: int, command: int, number: int, pointer: int | bytes | None = None, needed: bool = False
) -> int:
    """SSL_CTX_ctrl(3).  Raises TlsUnusable when `needed` and refused."""
    result: int = openssl().SSL_CTX_ctrl(address, command, number, pointer)
    if needed and not result:
        raise TlsUnusable(f"TLS: setting {command} to {number}: {openssl_error()}")
    return result


# -- what OpenSSL calls: made now, as keys' callbacks are --------------------------

_numbers = itertools.count(1)
_servers: weakref.WeakValueDictionary[int, ServerContext] = weakref.WeakValueDictionary()


def _let_names_choose(address: int, number: int) -> None:
    openssl().SSL_CTX_callback_ctrl(address, _SET_SERVERNAME_CALLBACK, _choose)
    context_ctrl(address, _SET_SERVERNAME_ARGUMENT, 0, number)


@ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p)
def _choose(connection: int, _alert: int, number: int) -> int:
    """Asked for each ClientHello, and again for the second one after a HelloRetryRequest."""
    name = server_name(connection)
    server = _servers.get(number)
    address = server.find_address(name) if server and name else None
    if address is None:
        return _SERVERNAME_IGNORED
    openssl().SSL_set_SSL_CTX(connection, address)
    return _SERVERNAME_OK


@ctypes.CFUNCTYPE(c_int, c_void_p, c_void_p)
def _accept_any(chain: int, _argument: int) -> int:
    """The handshake goes on; SSL_get_verify_result keeps what was wrong.

    Not by SSL_CTX_set_verify's callback: where that accepts a fault OpenSSL looks at what comes behind it too, and so
    at each signature of a chain that leads nowhere.  Made for that, with the longest keys, it takes 35 ms."""
    openssl().X509_verify_cert(chain)
    openssl_error()
    return 1


def server_name(connection: int) -> str:
    """What the client called us; empty when it did not, or when that is no host name."""
    name = openssl().SSL_get_servername(connection, _HOST_NAME) or b""
    text = name.decode("ascii", "replace")
    return text if text.isascii() and text.isprintable() and len(text) <= 253 else ""
