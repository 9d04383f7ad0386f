"""The client's side against Python's own server: certificates by names, by TLSA records, and servers that misbehave."""

import datetime
import hashlib
import ipaddress
import ssl
import tempfile

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from smtpd.relay.tls_result import TlsResult, failed_handshake
from smtpd.tls.certificate import Authorities, Certificate
from smtpd.tls.client_connection import ClientTlsConnection
from smtpd.tls.client_context import ClientContext, Expectation, OwnCertificate, Tlsa
from smtpd.tls.connection import HANDSHAKE_MAX, TlsFailed, TlsLocalFailure
from smtpd.tls.context import ContextError
from smtpd.tls.openssl_library import TlsUnusable
from smtpd.tls.signing import Signer
from tests.tls.world import SigningService, authority, by_sha1, certify, key, key_pem, pem

MX, OTHER = "mx1.there.test", "mx.other.test"
LEAF = certify(key("p256", "mx"), MX, by=authority())
OLD = certify(key("p256", "mx"), MX, by=authority(), end=datetime.datetime(2026, 2, 1))
TRUSTED = pem(authority()[0])
TLS12 = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
TLS13 = (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)
VERSIONS = pytest.mark.parametrize("versions", [TLS12, TLS13], ids=["TLSv1.2", "TLSv1.3"])


def context(trusted=TRUSTED, **more):
    return ClientContext(Authorities.read(trusted) if trusted else None, **more)


def server_context(*chain, private=None, versions=None, ciphers="DEFAULT"):
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.set_ciphers(ciphers)
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem(*(chain or (LEAF, authority()[0]))) + key_pem(private or key("p256", "mx")))
        file.flush()
        made.load_cert_chain(file.name)
    if versions:
        made.minimum_version, made.maximum_version = versions
    return made


class Server:
    """Python's ssl against a ClientTlsConnection, without a network."""

    def __init__(self, server, expectation=None, client=None, piece=None):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.names = []
        server.sni_callback = lambda connection, name, _: self.names.append(name)
        self.tls = server.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.link = ClientTlsConnection(client or context(), expectation or Expectation(MX))
        self.piece = piece

    def shake(self):
        server_done = False
        for _ in range(8):
            done = self.link.step()
            self.incoming.write(self.link.take_output())
            if done and server_done:
                return self
            try:
                self.tls.do_handshake()
                server_done = True
            except ssl.SSLWantReadError:
                pass
            self.carry()
        raise AssertionError("the handshake does not end")

    def carry(self):
        sent = self.outgoing.read()
        for start in range(0, len(sent), self.piece or max(1, len(sent))):
            self.link.feed(sent[start : start + (self.piece or len(sent))])
            self.link.step()

    def fail(self):
        with pytest.raises(TlsFailed) as failed:
            self.shake()
        self.verify_code = failed.value.verify_code
        return str(failed.value)


def tlsa(usage, certificate=LEAF, selector=1, matching=1, wrong=False):
    der = certificate.public_bytes(serialization.Encoding.DER)
    if selector:
        public = certificate.public_key()
        der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    data = {0: der, 1: hashlib.sha256(der).digest(), 2: hashlib.sha512(der).digest()}[matching]
    return Tlsa(usage, selector, matching, bytes(len(data)) if wrong else data)


def dane(*records, names=(MX,)):
    return Expectation(names[0], True, names, records)


# -- how it goes ----------------------------------------------------------------------------------------------


@VERSIONS
def test_bytes_pass_in_both_directions(versions):
    server = Server(server_context(versions=versions)).shake()
    server.link.write(b"EHLO here.test\r\n")
    server.incoming.write(server.link.take_output())
    assert server.tls.read(1000) == b"EHLO here.test\r\n"
    server.tls.write(b"250 there\r\n")
    server.link.feed(server.outgoing.read())
    assert server.link.read() == b"250 there\r\n"


@VERSIONS
def test_the_handshake_byte_by_byte(versions):
    assert Server(server_context(versions=versions), piece=1).shake().link.facts.version == versions[0].name.replace(
        "_", "."
    )


@VERSIONS
@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
@pytest.mark.parametrize(
    "way", [Expectation(MX), Expectation(MX, True, (MX,)), dane(tlsa(3))], ids=["any", "names", "tlsa"]
)
def test_a_certificate_of_ours_is_shown_and_signed_for_elsewhere(versions, kind, way):
    own = certify(key(kind, "own"), "here.test", by=authority())
    service = SigningService(key(kind, "own"))
    try:
        client = context(own=OwnCertificate("here.test", Certificate.read(pem(own)), service.signer))
        server = server_context(versions=versions)
        server.load_verify_locations(cadata=TRUSTED.decode())
        server.verify_mode = ssl.CERT_REQUIRED
        link = Server(server, way, client).shake()
        assert x509.load_der_x509_certificate(link.tls.getpeercert(True)) == own
        assert link.link.signed
    finally:
        service.close()


def test_without_a_signature_the_fault_is_ours():
    own = certify(key("p256", "own"), "here.test", by=authority())
    service = SigningService()
    try:
        client = context(own=OwnCertificate("here.test", Certificate.read(pem(own)), service.signer))
        server = server_context()
        server.load_verify_locations(cadata=TRUSTED.decode())
        server.verify_mode = ssl.CERT_REQUIRED
        with pytest.raises(TlsLocalFailure, match="no such key"):
            Server(server, None, client).shake()
    finally:
        service.close()


def test_a_certificate_of_ours_that_is_too_weak_is_named():
    own = by_sha1(key("p256", "own"), "here.test")
    with pytest.raises(ContextError, match="too weak") as refused:
        context(own=OwnCertificate("here.test", Certificate.read(pem(own)), Signer([])))
    assert refused.value.pki == "here.test"


def test_the_name_is_sent():
    """Without it a host with several names shows a default certificate."""
    assert Server(server_context()).shake().names == [MX]


@pytest.mark.parametrize("name", ["", "192.0.2.1", "2001:db8::1"])
def test_an_address_is_never_sent_as_a_name(name):
    """RFC 6066 3."""
    assert Server(server_context(), Expectation(name)).shake().names == [None]


# -- any certificate ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "leaf", [LEAF, OLD, certify(key("p256", "mx"), OTHER)], ids=["right", "expired", "self-signed"]
)
def test_without_verification_any_certificate_will_do_and_proves_nothing(leaf):
    assert Server(server_context(leaf)).shake().link.facts.verified is False


def test_a_weak_certificate_is_better_than_clear_text():
    private = key("rsa1024")
    weak = {"private": private, "versions": TLS12, "ciphers": "DEFAULT:@SECLEVEL=0"}
    Server(server_context(certify(private, MX), **weak)).shake()
    assert Server(server_context(certify(private, MX), **weak), Expectation(MX, True, (MX,))).fail()


# -- by name, and an authority --------------------------------------------------------------------------------


@VERSIONS
def test_a_certificate_for_the_name_below_an_authority_is_verified(versions):
    server = Server(server_context(versions=versions), Expectation(MX, True, (MX,))).shake()
    assert server.link.facts.verified is True


@pytest.mark.parametrize(
    "leaf, name, reason, counted",
    [
        (LEAF, OTHER, "hostname mismatch", TlsResult.HOST_MISMATCH),
        (OLD, MX, "certificate has expired", TlsResult.EXPIRED),
        (certify(key("p256", "mx"), MX), MX, "self-signed certificate", TlsResult.NOT_TRUSTED),
        (certify(key("p256", "mx"), f"*.{MX}", by=authority()), MX, "hostname mismatch", TlsResult.HOST_MISMATCH),
    ],
    ids=["another name", "expired", "no authority", "wildcard below"],
)
def test_a_certificate_that_does_not_verify_ends_the_handshake(leaf, name, reason, counted):
    server = Server(server_context(leaf), Expectation(name, True, (name,)))
    assert server.fail().lower().startswith(f"certificate of the server: {reason}")
    assert failed_handshake(server.verify_code) is counted


def test_without_authorities_nothing_verifies():
    assert Server(server_context(), Expectation(MX, True, (MX,)), client=context(trusted=None)).fail()


def test_one_of_several_names_will_do():
    Server(server_context(), Expectation(MX, True, (OTHER, MX))).shake()


def test_a_numeric_host_is_verified_by_its_address():
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("192.0.2.1"))])
    leaf = certify(key("p256", "mx"), "x", by=authority(), authority=True, padding=(address,))
    Server(server_context(leaf), Expectation("192.0.2.1", True, ("192.0.2.1",))).shake()
    assert "mismatch" in Server(server_context(leaf), Expectation("192.0.2.2", True, ("192.0.2.2",))).fail()


def test_without_a_name_verification_cannot_begin():
    with pytest.raises(TlsUnusable):
        ClientTlsConnection(context(), Expectation("", True))


# -- by TLSA records, RFC 7672 --------------------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching", [0, 1, 2])
def test_a_dane_ee_record_that_matches(versions, selector, matching):
    server = Server(server_context(versions=versions), dane(tlsa(3, LEAF, selector, matching)), context(None)).shake()
    assert server.link.facts.verified is True


def test_dane_ee_ignores_name_time_and_authorities():
    """RFC 7672 3.1.1."""
    leaf = certify(key("p256", "mx"), OTHER, end=datetime.datetime(2026, 2, 1))
    Server(server_context(leaf), dane(tlsa(3, leaf)), context(None)).shake()


def test_a_record_that_does_not_match_ends_the_handshake_although_the_authorities_know_it():
    server = Server(server_context(), dane(tlsa(3, wrong=True)))
    assert server.fail() == "certificate of the server: no TLSA record matches"
    assert failed_handshake(server.verify_code) is TlsResult.TLSA_INVALID


def test_one_record_that_matches_will_do():
    Server(server_context(), dane(tlsa(3, wrong=True), tlsa(3), tlsa(2, wrong=True))).shake()


def test_a_dane_ta_record_of_the_authority_in_the_chain():
    """RFC 7672 3.1.2: not one of the web's, and the name counts."""
    record = tlsa(2, authority()[0])
    Server(server_context(LEAF, authority()[0]), dane(record), context(None)).shake()
    reason = Server(server_context(LEAF, authority()[0]), dane(record, names=(OTHER,)), context(None)).fail()
    assert "mismatch" in reason.lower()


def test_a_dane_ta_record_and_an_expired_certificate():
    assert "expired" in Server(server_context(OLD, authority()[0]), dane(tlsa(2, authority()[0])), context(None)).fail()


def test_dane_ta_takes_the_name_of_the_domain_too():
    """RFC 7672 3.2.2."""
    domain = certify(key("p256", "mx"), "there.test", by=authority())
    record = tlsa(2, authority()[0])
    Server(server_context(domain, authority()[0]), dane(record, names=(MX, "there.test")), context(None)).shake()


def test_an_intermediate_authority_may_be_the_anchor():
    private = key("p256", "intermediate")
    middle = certify(private, "intermediate", by=authority(), authority=True)
    leaf = certify(key("p256", "mx"), MX, by=(middle, private))
    Server(server_context(leaf, middle), dane(tlsa(2, middle)), context(None)).shake()


@pytest.mark.parametrize(
    "record", [Tlsa(3, 1, 1, bytes(31)), Tlsa(3, 9, 1, bytes(32)), Tlsa(3, 0, 0, b"no certificate")]
)
def test_records_that_cannot_be_used_never_fall_back_to_the_web(record):
    with pytest.raises(TlsUnusable):
        ClientTlsConnection(context(), dane(record))


# -- servers that misbehave -----------------------------------------------------------------------------------


def first(expectation=None):
    link = ClientTlsConnection(context(), expectation or Expectation(MX))
    assert link.step() is False
    assert link.take_output()
    return link


@pytest.mark.parametrize(
    "answer, reason",
    [
        (b"220 there\r\n", "server does not speak TLS"),
        (bytes(100), None),
        (b"\x15\x03\x03\x00\x02\x02\x28", "server has no cipher, version or certificate that we take"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "server speaks no version that we do"),
        (b"\x15\x03\x03\x00\x02\x02\x50", "server gives up: internal error"),
    ],
)
def test_the_reason_of_a_failure(answer, reason):
    link = first()
    link.feed(answer)
    with pytest.raises(TlsFailed) as failed:
        link.step()
    assert reason in (None, str(failed.value))


def test_a_server_that_sends_without_end_is_given_up():
    link = first()
    link.feed(b"\x16\x03\x03\x40\x00\x0b\x00\xff\xff")
    with pytest.raises(TlsFailed):
        for _ in range(2 * HANDSHAKE_MAX // 1024):
            link.feed(b"\x16\x03\x03\x04\x00" + bytes(1024))
            link.step()


def test_a_server_that_speaks_old_versions_only():
    server = server_context(ciphers="DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning):
        server.minimum_version = server.maximum_version = ssl.TLSVersion.TLSv1
    host = Server(server)
    with pytest.raises(ssl.SSLError):
        host.shake()
    with pytest.raises(TlsFailed) as failed:
        host.carry()
    assert str(failed.value) == "server speaks no version that we do"


def test_a_cipher_that_openssl_does_not_know():
    with pytest.raises(ContextError):
        context(ciphers="no-such-cipher")


def test_protocols_of_the_configuration_hold():
    assert Server(server_context(), client=context(protocols=("TLSv1.2",))).shake().link.facts.version == "TLSv1.2"
