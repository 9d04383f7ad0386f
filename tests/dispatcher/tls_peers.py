"""The other ends of TLS: the process that signs, and a client."""

import datetime
import socket
import ssl
import threading

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.x509.oid import NameOID

from smtpd.tls.signing import SIGNING_SOCKETS, SigningReply, SigningRequest

HASHES = {32: hashes.SHA256(), 48: hashes.SHA384(), 64: hashes.SHA512()}


def certificate(key, name="mx.test", days=90):
    """Self-signed, PEM."""
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=400))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(serialization.Encoding.PEM)


class Crypto:
    """Stands for the process crypto.  With `go` cleared it sends no signatures."""

    def __init__(self):
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.signatures = 0
        self.waiting = 0  # requests that have come
        self.go = threading.Event()
        self.go.set()
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(SIGNING_SOCKETS)]
        self.sockets = [ours for ours, _ in pairs]
        self._theirs = [theirs for _, theirs in pairs]
        self._threads = [threading.Thread(target=self._serve, args=(theirs,), daemon=True) for theirs in self._theirs]
        for thread in self._threads:
            thread.start()

    def _serve(self, sock):
        try:
            while packet := sock.recv(4096):
                request = SigningRequest.parse(packet)
                self.waiting += 1
                self.go.wait()
                algorithm = utils.Prehashed(HASHES[len(request.data)])
                self.signatures += (
                    1  # before the reply is sent: a test that counts them may have it sooner than this thread goes on
                )
                sock.send(SigningReply(request.number, self.key.sign(request.data, ec.ECDSA(algorithm))).packet())
        except OSError:
            pass  # the dispatcher is gone

    def close(self):
        self.go.set()
        for sock in self.sockets:
            sock.close()
        for thread in self._threads:
            thread.join(5)
        for sock in self._theirs:
            sock.close()


class TlsClient:
    """TLS over a stream, record by record: the test decides what it sends and when."""

    def __init__(self, reader, writer, context=None, server_name="mx.test"):
        self.reader, self.writer = reader, writer
        self._in, self.out = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = context or careless_context()
        self.ssl = context.wrap_bio(self._in, self.out, server_hostname=server_name)
        self._lines = b""

    def hello(self):
        """The first flight."""
        try:
            self.ssl.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.out.read()

    async def shake(self):
        while True:
            try:
                self.ssl.do_handshake()
                break
            except ssl.SSLWantReadError:
                self.writer.write(self.out.read())
                if not await self._receive():
                    raise ConnectionError("no handshake") from None
        self.writer.write(self.out.read())
        return self

    def sealed(self, data):
        """`data` as records, not yet sent."""
        self.ssl.write(data)
        return self.out.read()

    def close_notify(self):
        try:
            self.ssl.unwrap()
        except ssl.SSLError:
            pass
        return self.out.read()

    def write(self, data):
        self.writer.write(self.sealed(data))

    async def readline(self):
        """Empty at the end of the connection, however it ends."""
        while b"\n" not in self._lines:
            try:
                plaintext = self.ssl.read(65536)
            except ssl.SSLWantReadError:
                if not await self._receive():
                    return b""
            except ssl.SSLError:
                return b""
            else:
                if not plaintext:
                    return b""
                self._lines += plaintext
        line, _, self._lines = self._lines.partition(b"\n")
        return line + b"\n"

    async def _receive(self):
        data = await self.reader.read(65536)
        self._in.write(data)
        return data


def careless_context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context
