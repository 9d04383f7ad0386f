"""Authorities, and the certificates of servers and clients, as files that a configuration names.

    Authority("here") --issue--> Identity   --write--> NAME.crt (its own, then those above it), NAME.key
        |
        +--below--> Authority               whose certificates come with a chain

Whoever looks at them finds what public authorities put in: usage, names, identifiers of keys.
"""

import datetime
import ipaddress

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KINDS = {
    "rsa": lambda: rsa.generate_private_key(65537, 2048),
    "rsa3072": lambda: rsa.generate_private_key(65537, 3072),
    "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
}
USAGES = ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement")
USAGES += ("key_cert_sign", "crl_sign", "encipher_only", "decipher_only")


def pem(*certificates):
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in certificates)


def key_pem(key):
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


class Identity:
    """A key, its certificate, and the certificates that lead up to an authority."""

    def __init__(self, key, certificate, above=()):
        self.key, self.certificate, self.above = key, certificate, above

    @property
    def chain(self):
        return pem(self.certificate, *self.above)

    @property
    def serial(self):
        return self.certificate.serial_number

    @property
    def fingerprint(self):
        """As the log writes it."""
        return "SHA256:" + self.certificate.fingerprint(hashes.SHA256()).hex()

    def write(self, directory, name):
        """Paths of the certificate and of the key, which nobody else reads."""
        certificate, key = directory / f"{name}.crt", directory / f"{name}.key"
        certificate.write_bytes(self.chain)
        key.touch(mode=0o600)
        key.write_bytes(key_pem(self.key))
        return certificate, key


class Authority:
    def __init__(self, name, kind="p256", by=None):
        self.key = KINDS[kind]()
        self.certificate = certify(self.key, name, by=by, authority=True)
        self.by = by
        self.above = (self.certificate, *by.above) if by else ()  # shown with what it issues: not who signs itself

    def below(self, name, kind="p256"):
        return Authority(name, kind, by=self)

    def issue(self, *names, kind="p256", client=False, begins=-1, ends=90, key=None):
        """`begins`, `ends`: days from now."""
        key = key or KINDS[kind]()
        made = certify(key, *names, by=self, client=client, begins=begins, ends=ends)
        return Identity(key, made, self.above)

    def write(self, directory, name):
        """The path of a file for `ca`."""
        path = directory / f"{name}.ca"
        path.write_bytes(pem(self.certificate))
        return path


def certify(key, *names, by=None, authority=False, client=False, begins=-1, ends=90):
    """A certificate over that key, signed by an Authority or by itself; the first name is its subject."""
    now = datetime.datetime.now(datetime.UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
    issuer, issuer_key = (by.certificate.subject, by.key) if by else (subject, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + datetime.timedelta(days=begins))
        .not_valid_after(now + datetime.timedelta(days=ends))
    )
    for extension, critical in extensions(key, issuer_key, names, authority, client):
        builder = builder.add_extension(extension, critical)
    return builder.sign(issuer_key, hashes.SHA256())


def extensions(key, issuer_key, names, authority, client):
    """RFC 5280 4.2; (extension, critical)."""
    granted = {"key_cert_sign", "crl_sign"} if authority else {"digital_signature"}
    found = [
        (x509.BasicConstraints(ca=authority, path_length=None), True),
        (x509.KeyUsage(**{usage: usage in granted for usage in USAGES}), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False),
    ]
    if not authority:
        purpose = ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH
        found.append((x509.ExtendedKeyUsage([purpose]), False))
        found.append((x509.SubjectAlternativeName([general_name(name) for name in names]), False))
    return found


def general_name(name):
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
