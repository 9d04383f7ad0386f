"""A TLS connection, without I/O: the server's side.  client_connection.py has what differs at the client's.

    from the socket --> feed --> step, until it is True --> read --> plaintext
    to the socket   <-- take_output <--------------------- write <-- plaintext

There may be output after each call but `feed`, also after one that raised: an alert tells the peer what is wrong.

A step may block for a signature; `signed` says that no later step will.  One thread at a time.  Knows nothing of SMTP
and of timeouts.
"""

import ctypes
import hashlib
import ssl
from collections.abc import Callable
from ctypes import c_int, c_void_p

from smtpd.tls.context import ServerContext, server_name
from smtpd.tls.facts import TlsFacts
from smtpd.tls.openssl_library import openssl
from smtpd.tls.remote_key import callback_state
from smtpd.tls.signing import SigningFailed

# Bytes until a handshake must be done: a ClientHello, and the certificates that context.py allows.
HANDSHAKE_MAX = 128 * 1024
# Changes of keys (RFC 8446 4.6.3) in a connection: each costs as much as kilobytes of mail, an answer too if the client
# asks for one, and takes 27 bytes.  Keys are good for hundreds of gigabytes.
KEY_UPDATES_MAX = 64
_PIECE = 64 * 1024

_EXPORTER = b"EXPORTER-Channel-Binding"  # RFC 9266 2
_EXPORTED = 32  # bytes
_GET_EXTENDED_MASTER_SECRET = 122
_STATES_EXIT = 0x02  # openssl/ssl.h, SSL_CB_EXIT: once for each change of keys, twice if an answer to it was asked for
_RESET = 1
_VERIFIED = 0  # X509_V_OK

# OpenSSL's reason -> the words in the log, as smtpd(8) lists them.  OpenSSL's versions give different reasons for one
# fault: since 3.2 any fault of a record is RECORD_LAYER_FAILURE.
_BAD_RECORD = "a record is malformed or was changed on its way"
REASONS = {
    "UNSUPPORTED_PROTOCOL": "client offers no version that we speak",
    "NO_PROTOCOLS_AVAILABLE": "client offers no version that we speak",
    "VERSION_TOO_LOW": "client offers no version that we speak",
    "UNKNOWN_PROTOCOL": "client offers no version that we speak",
    "WRONG_VERSION_NUMBER": "client does not speak TLS",
    "HTTP_REQUEST": "client speaks HTTP",
    "HTTPS_PROXY_REQUEST": "client speaks HTTP",
    "NO_SHARED_CIPHER": "client offers no cipher that we have",
    "NO_SHARED_GROUPS": "client offers no group that we have",
    "NO_SUITABLE_KEY_SHARE": "client offers no group that we have",
    "NO_SHARED_SIGNATURE_ALGORITHMS": "client offers no signature algorithm that our key has",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "client offers no signature algorithm that our key has",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "client presents no certificate",
    "EXCESSIVE_MESSAGE_SIZE": "client sends too much",
    "INAPPROPRIATE_FALLBACK": "client falls back to an older version for no reason",
    "TLSV1_ALERT_UNKNOWN_CA": "client does not trust our certificate: unknown authority",
    "SSLV3_ALERT_BAD_CERTIFICATE": "client does not trust our certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "client does not trust our certificate: it has expired",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "client does not trust our certificate",
    "RECORD_LAYER_FAILURE": _BAD_RECORD,
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": _BAD_RECORD,
    "BAD_RECORD_TYPE": _BAD_RECORD,
    "DATA_LENGTH_TOO_LONG": _BAD_RECORD,
    "ENCRYPTED_LENGTH_TOO_LONG": _BAD_RECORD,
    "PACKET_LENGTH_TOO_LONG": _BAD_RECORD,
    "RECORD_LENGTH_MISMATCH": _BAD_RECORD,
    "RECORD_TOO_SMALL": _BAD_RECORD,
    "WRONG_SSL_VERSION": _BAD_RECORD,
}
# X509_V_ERR_: the chain of the client's certificate ends at no known authority.
_WITHOUT_AUTHORITY = {2, 18, 19, 20, 21}
_UNKNOWN = "unknown authority"
PROTOCOL_ERROR = "TLS protocol error"
CLIENT_ALERT = "client gives up"
_ALERT_OF_CLIENT = ("TLSV1_ALERT_", "SSLV3_ALERT_", "TLSV13_ALERT_")


class TlsFailed(Exception):
    """The connection is of no use any more; the text says why, in words."""

    verify_code = 0  # OpenSSL's, of the certificate that was refused


class TlsLocalFailure(TlsFailed):
    """The fault is ours: no signature from crypto, no thread, no room in a queue, a defect.  It says nothing about the
    other side, so it is no reason for clear text."""


class TlsConnection:
    def __init__(self, context: ServerContext):
        self._context = context
        self._begin(context.connect)

    def _begin(self, connect: Callable[[ssl.MemoryBIO, ssl.MemoryBIO], tuple[ssl.SSLObject, int]]) -> None:
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._ssl, self._address = connect(self._in, self._out)
        self._fed = 0
        self._updates = KEY_UPDATES_MAX  # that are left
        self._done = False
        self._over = False  # nothing can be written any more
        self.signed = False  # no later step waits for a signature
        self.closed = False  # the peer has said that it sends no more: close_notify
        self.facts: TlsFacts  # once a step was True

    def feed(self, ciphertext: bytes | bytearray | memoryview) -> None:
        """What came from the peer.  Read it before there is more, as it is kept until then."""
        if not self.closed:
            self._fed += self._in.write(ciphertext)

    def step(self) -> bool:
        """Go on with the handshake.  True when it is done.  Raises TlsFailed."""
        if self._done:
            return True
        signatures, callback_state.trouble = callback_state.signatures, None
        try:
            self._ssl.do_handshake()
        except ssl.SSLWantReadError:
            if self._fed > HANDSHAKE_MAX:
                raise self._failure("client sends too much") from None
            return False
        except ssl.SSLError as error:
            raise self._failure(self._reason(error)) from None
        finally:
            self.signed |= callback_state.signatures > signatures
        self._done = True
        self.facts = self._find_facts()
        openssl().SSL_set_info_callback(self._address, _count_update)
        return True

    def read(self) -> bytes:
        """All plaintext there is; no more after close_notify.  Raises TlsFailed."""
        pieces = []
        callback_state.updates = self._updates
        try:
            while not self.closed and (self._in.pending or self._ssl.pending()):
                pieces.append(self._ssl.read(_PIECE))
                self.closed = not pieces[-1]  # close_notify
        except ssl.SSLWantReadError:
            pass  # half a record, or one that is no data
        except ssl.SSLError as error:
            raise self._failure(self._reason(error)) from None
        self._updates = callback_state.updates
        if self._updates < 0:
            raise self._failure("client updates keys too often")
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, plaintext: bytes | bytearray | memoryview) -> None:
        """Nothing goes into a link that failed, or that we have closed.  One that only the peer has closed takes our
        answers: it may still read."""
        if plaintext and not self._over:
            self._ssl.write(plaintext)

    def close(self) -> None:
        """Say close_notify.  Nothing can be written afterwards."""
        if self._done and not self._over:
            self._over = True
            try:
                self._ssl.unwrap()
            except ssl.SSLError:
                pass  # the peer's own has not come, or something else has: we do not wait for it

    def take_output(self) -> bytes:
        """Ciphertext for the peer."""
        return self._out.read()

    def _failure(self, reason: str) -> TlsFailed:
        self._over = True
        trouble, callback_state.trouble = callback_state.trouble, None
        if isinstance(trouble, SigningFailed):
            return TlsLocalFailure(str(trouble))
        if trouble is not None:
            raise trouble  # a defect in a callback
        return TlsFailed(reason)

    # -- once the handshake is done ----------------------------------------------

    def _find_facts(self) -> TlsFacts:
        cipher, version = self._ssl.cipher(), self._ssl.version()
        assert cipher is not None and version is not None  # there is no handshake without
        shown = self._ssl.getpeercert(binary_form=True)
        exporter = self._export(version)
        return TlsFacts(
            version=version,
            cipher=cipher[0],
            bits=cipher[2],
            verified=bool(shown) and self._is_verified(),
            fingerprint=f"SHA256:{hashlib.sha256(shown).hexdigest()}" if shown else "",
            server_name=server_name(self._address),
            exporter=exporter,
            unique=(self._ssl.get_channel_binding("tls-unique") or b"") if exporter and version != "TLSv1.3" else b"",
            end_point=self._end_point(),
        )

    def _is_verified(self) -> bool:
        return bool(openssl().SSL_get_verify_result(self._address) == _VERIFIED)

    def _end_point(self) -> bytes:
        return self._context.get_certificate(self._address).end_point

    def _reason(self, error: ssl.SSLError) -> str:
        return _reason(error)

    def _export(self, version: str) -> bytes:
        """RFC 9266 2; before TLS 1.3 only with an extended master secret (section 4.2), else two connections could have
        the same."""
        library = openssl()
        if version != "TLSv1.3" and library.SSL_ctrl(self._address, _GET_EXTENDED_MASTER_SECRET, 0, None) != 1:
            return b""
        value = ctypes.create_string_buffer(_EXPORTED)
        done = library.SSL_export_keying_material(self._address, value, _EXPORTED, _EXPORTER, len(_EXPORTER), b"", 0, 1)
        return value.raw if done == 1 else b""


@ctypes.CFUNCTYPE(None, c_void_p, c_int, c_int)
def _count_update(connection: int, where: int, _value: int) -> None:
    """Called by OpenSSL, once the handshake is done, for each change of keys.  It would go on as long as there is
    input, so that is thrown away: nothing more is heard of this client."""
    if where & _STATES_EXIT:
        callback_state.updates -= 1
        if callback_state.updates < 0:
            openssl().BIO_ctrl(openssl().SSL_get_rbio(connection), _RESET, 0, None)


def _reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        fault = _UNKNOWN if error.verify_code in _WITHOUT_AUTHORITY else error.verify_message
        return f"certificate of the client: {fault}"
    name = error.reason or ""
    if known := REASONS.get(name):
        return known
    for alert in _ALERT_OF_CLIENT:
        if name.startswith(alert):
            return f"{CLIENT_ALERT}: {_words(name.removeprefix(alert))}"
    # A version of OpenSSL that is younger than the interpreter has reasons without a name.
    return f"{PROTOCOL_ERROR}: {_words(name)}" if name else PROTOCOL_ERROR


def _words(name: str) -> str:
    return name.lower().replace("_", " ")
