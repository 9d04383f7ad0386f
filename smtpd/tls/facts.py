"""What is known of a TLS connection once its handshake is done."""

from typing import NamedTuple


class TlsFacts(NamedTuple):
    version: str  # "TLSv1.3"
    cipher: str  # OpenSSL's name
    bits: int
    verified: bool = False  # the client showed a certificate, and it is one of the listener's `ca`
    fingerprint: str = ""  # "SHA256:…" of the client's certificate; empty if it sent none
    server_name: str = ""  # what the client called us (RFC 6066 3)
    exporter: bytes = b""  # channel binding tls-exporter, RFC 9266
    unique: bytes = b""  # channel binding tls-unique, RFC 5929 3: of TLS 1.2 only
    end_point: bytes = b""  # channel binding tls-server-end-point, RFC 5929 4: hash of our certificate

    def __str__(self) -> str:
        """As logs and Received write it: `TLSv1.3:TLS_AES_256_GCM_SHA384:256`."""
        return f"{self.version}:{self.cipher}:{self.bits}"
