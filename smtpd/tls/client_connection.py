"""The client's side of a TLS connection, without I/O: to a host that takes mail, whose certificate is looked at.

The same calls as of the server's side (connection.py).  The first `step` makes output, before anything has come.
"""

import ssl

from smtpd.tls.client_context import ClientContext, Expectation
from smtpd.tls.connection import PROTOCOL_ERROR, TlsConnection, TlsFailed

# OpenSSL's reason -> the words in the log.
REASONS = {
    "UNSUPPORTED_PROTOCOL": "server speaks no version that we do",
    "TLSV1_ALERT_PROTOCOL_VERSION": "server speaks no version that we do",
    "WRONG_VERSION_NUMBER": "server does not speak TLS",
    "HTTP_REQUEST": "server does not speak TLS",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "server has no cipher, version or certificate that we take",
    "TLSV1_UNRECOGNIZED_NAME": "server does not know the name that it was called",
    "EXCESSIVE_MESSAGE_SIZE": "server sends too much",
    "DH_KEY_TOO_SMALL": "server's Diffie-Hellman group is too small",
    "EE_KEY_TOO_SMALL": "server's key is too small",
}
_DANE_MISMATCH = 65  # openssl/x509_vfy.h, X509_V_ERR_DANE_NO_MATCH
_ALERTS = ("TLSV1_ALERT_", "SSLV3_ALERT_", "TLSV13_ALERT_", "TLSV1_")


class ClientTlsConnection(TlsConnection):
    def __init__(self, context: ClientContext, expectation: Expectation):
        """Raises openssl_library.TlsUnusable where what is expected cannot be verified."""
        self._expectation = expectation
        self._verify_code = 0
        self._begin(lambda incoming, outgoing: context.connect(expectation, incoming, outgoing))

    def _is_verified(self) -> bool:
        """Only what was asked for counts: a certificate that happens to lead to an authority proves no name."""
        return self._expectation.verify and super()._is_verified()

    def _end_point(self) -> bytes:
        """Channel binding tls-server-end-point (RFC 5929 4) is not made: the other bindings are better."""
        return b""

    def _failure(self, reason: str) -> TlsFailed:
        failed = super()._failure(reason.replace("client", "server", 1))  # where the server's side speaks of its peer
        failed.verify_code = self._verify_code
        return failed

    def _reason(self, error: ssl.SSLError) -> str:
        if isinstance(error, ssl.SSLCertVerificationError):
            self._verify_code = error.verify_code
            if error.verify_code == _DANE_MISMATCH:
                return "certificate of the server: no TLSA record matches"
            return f"certificate of the server: {error.verify_message}"
        name = error.reason or ""
        if known := REASONS.get(name):
            return known
        for alert in _ALERTS:
            if name.startswith(alert):
                return f"server gives up: {name.removeprefix(alert).lower().replace('_', ' ')}"
        return f"{PROTOCOL_ERROR}: {name.lower().replace('_', ' ')}" if name else PROTOCOL_ERROR
