"""Keys, certificates, whoever signs, and clients: Python's own ssl, with an authority of our own."""

import datetime
import functools
import os
import socket
import ssl
import tempfile

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from smtpd.crypto.signing_thread import SigningThread
from smtpd.slice import Tls, TlsSlice
from smtpd.tls.connection import TlsConnection
from smtpd.tls.context import Authorities, Certificate, make_context
from smtpd.tls.private_key import PrivateKey
from smtpd.tls.signing import SIGNING_SOCKETS, Signer

KINDS = {
    "rsa2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
    "rsa3001": lambda: rsa.generate_private_key(65537, 3001),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
}
BEGIN = datetime.datetime(2026, 1, 1)
END = datetime.datetime(2046, 1, 1)


@functools.cache
def key(kind, number=0):
    """The same for the same arguments: to make one takes its time."""
    return KINDS[kind]()


def key_pem(private, encryption=None, form=serialization.PrivateFormat.PKCS8):
    return private.private_bytes(serialization.Encoding.PEM, form, encryption or serialization.NoEncryption())


def certify(private, *names, by=None, authority=False, end=END, algorithm=None, padding=()):
    """A certificate over the key, signed by `by`: (certificate, key), or itself."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    issuer, issuer_key = (by[0].subject, by[1]) if by else (subject, private)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(BEGIN)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if not authority:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name) for name in names]), False)
    for extension in padding:
        builder = builder.add_extension(extension, False)
    edwards = isinstance(issuer_key, ed25519.Ed25519PrivateKey)
    return builder.sign(issuer_key, None if edwards else algorithm or hashes.SHA256())


class Encoded:
    """A certificate for `pem`."""

    def __init__(self, der):
        self._der = der

    def public_bytes(self, _encoding):
        return ssl.DER_cert_to_PEM_cert(self._der).encode()


def by_sha1(private, *names, **more):
    """A certificate that says it was signed by RSA with SHA-1, which this library does no more.  The signature does not
    hold; OpenSSL looks at its strength first."""
    signer = key("rsa2048", "authority by SHA-1")
    issuer = certify(signer, "authority by SHA-1", authority=True), signer
    der = certify(private, *names, by=issuer, **more).public_bytes(serialization.Encoding.DER)
    sha256_with_rsa, sha1_with_rsa = bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d010105")
    assert der.count(sha256_with_rsa) == 2
    return Encoded(der.replace(sha256_with_rsa, sha1_with_rsa))


def pem(*certificates):
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


@functools.cache
def authority(number=0):
    private = key("p256", f"authority {number}")
    return certify(private, f"authority {number}", authority=True), private


def chain(kind, *names, **more):
    """PEM of a certificate and its authority."""
    return pem(certify(key(kind), *names, by=authority(), **more), authority()[0])


def private_key(content):
    """What crypto makes of a key file."""
    with tempfile.TemporaryFile() as file:
        file.write(content)
        file.flush()
        descriptor = os.dup(file.fileno())
        try:
            return PrivateKey.read(descriptor)
        finally:
            os.close(descriptor)


def packets():
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


class SigningService:
    """crypto's own desks over the keys given; `troubles` is what they said."""

    def __init__(self, *keys, sockets=SIGNING_SOCKETS):
        self.troubles = []
        self.keys = {}
        for private in keys:
            made = private_key(key_pem(private))
            self.keys[made.public] = made
        pairs = [packets() for _ in range(sockets)]
        self.signing_threads = [
            SigningThread(theirs, self.keys, self.troubles.append, self.troubles.append) for _, theirs in pairs
        ]
        for signing_thread in self.signing_threads:
            signing_thread.start()
        self.sockets = [ours for ours, _ in pairs]
        self.signer = Signer(self.sockets)

    def close(self):
        for sock in self.sockets:
            sock.close()


def listener(signer, certificates, *, authorities=None, dhe=None, **tls):
    """A context for `certificates`: pki -> PEM."""
    return make_context(
        TlsSlice(Tls.OFFERED, tuple(certificates), **tls),
        {name: Certificate.read(content) for name, content in certificates.items()},
        Authorities.read(authorities) if authorities else None,
        dhe or {},
        signer,
    )


def client_context(*, trusts=None, shows=None, versions=None, ciphers=None):
    """`shows`: certificate chain as PEM, key.  `trusts`: an authority's certificate; None: anybody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trusts:
        context.load_verify_locations(cadata=pem(trusts).decode())
    else:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if versions:
        context.minimum_version, context.maximum_version = versions
    if ciphers:
        context.set_ciphers(ciphers)
    if shows:
        with tempfile.NamedTemporaryFile() as file:
            file.write(shows[0] + key_pem(shows[1]))
            file.flush()
            context.load_cert_chain(file.name)
    return context


class Client:
    """Python's ssl against a TlsConnection, without a network."""

    def __init__(self, context, server, *, name="mx.here.test", piece=None):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name)
        self.link = TlsConnection(server)
        self.piece = piece

    def carry(self):
        """Everything that is under way, in both directions; what the TlsConnection read."""
        sent = self.outgoing.read()
        plain = b""
        for start in range(0, len(sent), self.piece or max(1, len(sent))):
            self.link.feed(sent[start : start + (self.piece or len(sent))])
            if self.link.step():
                plain += self.link.read()
        self.incoming.write(self.link.take_output())
        return plain

    def shake(self):
        """Up to the end of the handshake at both ends.  Our alert reaches the client before TlsFailed is raised."""
        for _ in range(8):
            done = self._try(self.tls.do_handshake)
            try:
                self.carry()
            finally:
                self.incoming.write(self.link.take_output())
            if done and self.link.step():
                return self
        raise AssertionError("the handshake does not end")

    def _try(self, function):
        try:
            function()
        except ssl.SSLWantReadError:
            return False
        return True

    def send(self, content):
        self.tls.write(content)
        return self.carry()

    def receive(self):
        self.incoming.write(self.link.take_output())
        return self.tls.read(65536)
