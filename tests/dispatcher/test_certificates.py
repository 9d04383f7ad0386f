"""Certificates that the parent hands over: what can be used, and what changes nothing."""

import os

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from smtpd.dispatcher.inbound.certificates import Certificates
from smtpd.imsg import ContextsMade, TakeAuthorities, TakeCertificate
from smtpd.slice import DispatcherSlice, Limits, ListenerSlice, RelaySlice, Tls, TlsSlice
from smtpd.tls.certificate import CERTIFICATE_FILE_MAX
from smtpd.tls.signing import Signer
from tests.dispatcher.tls_peers import certificate
from tests.tls.world import by_sha1, pem


@pytest.fixture(scope="module")
def key():
    return ec.generate_private_key(ec.SECP256R1())


def make(**tls):
    listener = ListenerSlice(1, "", 25, "mx.test", "", tls=TlsSlice(Tls.OFFERED, ("mx.test",), **tls))
    plain = ListenerSlice(2, "", 25, "mx.test", "")
    return Certificates(DispatcherSlice((listener, plain), "mx.test", 1000, Limits()), Signer([]))


@pytest.fixture
def descriptor(tmp_path):
    def opened(content):
        path = tmp_path / "file"
        path.write_bytes(content)
        return os.open(path, os.O_RDONLY)

    return opened


def test_a_certificate_is_known_by_its_public_key(key, descriptor):
    one = make().take(TakeCertificate("mx.test"), descriptor(certificate(key)))
    other = make().take(TakeCertificate("mx.test"), descriptor(certificate(key, name="other.test")))
    assert one.trouble == one.warning == ""
    assert one.public == other.public and len(one.public) == 64


def test_what_expires_soon_is_said(key, descriptor):
    certificates = make()
    assert "expires in" in certificates.take(TakeCertificate("mx.test"), descriptor(certificate(key, days=3))).warning
    assert certificates.take(TakeCertificate("mx.test"), descriptor(certificate(key, days=-1))).warning == "has expired"


@pytest.mark.parametrize("content", [b"", b"no PEM", bytes(CERTIFICATE_FILE_MAX + 1)])
def test_what_is_no_certificate_is_refused(content, descriptor):
    certificates = make()
    assert certificates.take(TakeCertificate("mx.test"), descriptor(content)).trouble
    assert certificates.take_authorities(TakeAuthorities("mine"), descriptor(content)).trouble


def test_a_descriptor_is_closed_whatever_it_holds(descriptor):
    opened = descriptor(b"no PEM")
    make().take(TakeCertificate("mx.test"), opened)
    with pytest.raises(OSError):
        os.fstat(opened)


def taken(certificates, content, descriptor):
    """A round up to UseCertificates."""
    assert certificates.take(TakeCertificate("mx.test"), descriptor(content)).trouble == ""
    assert certificates.make() == ContextsMade("", "")
    return certificates


def test_a_bad_file_changes_nothing(key, descriptor):
    certificates = taken(make(), certificate(key), descriptor)
    certificates.use()
    before = certificates.get_context(1)
    assert certificates.take(TakeCertificate("mx.test"), descriptor(b"no PEM")).trouble
    certificates.drop()
    assert certificates.get_context(1) is before


def test_a_new_certificate_counts_once_it_is_to_be_used(key, descriptor):
    certificates = taken(make(), certificate(key), descriptor)
    certificates.use()
    before = certificates.get_context(1)
    taken(certificates, certificate(key, name="new.test"), descriptor)
    assert certificates.get_context(1) is before
    certificates.use()
    assert certificates.get_context(1).find_address("new.test") and not before.find_address("new.test")


def test_a_relay_shows_a_new_certificate_once_it_is_to_be_used_and_none_that_was_dropped(key, descriptor):
    relay = RelaySlice("out", "mx.test", pki="mx.test")
    configuration = DispatcherSlice((), "mx.test", 1000, Limits(), relays=(relay,))
    certificates = taken(Certificates(configuration, Signer([])), certificate(key), descriptor)
    certificates.use()
    first = certificates.get_relay_context(relay)
    assert first.signs
    taken(certificates, certificate(key, name="other.test"), descriptor).drop()
    assert certificates.get_relay_context(relay) is first
    taken(certificates, certificate(key, name="other.test"), descriptor)
    assert certificates.get_relay_context(relay) is first
    certificates.use()
    assert certificates.get_relay_context(relay) is not first


def test_what_was_dropped_does_not_count_in_the_next_round(key, descriptor):
    """Neither its certificates nor the contexts that were made of them."""
    certificates = taken(make(), certificate(key), descriptor)
    certificates.use()
    taken(certificates, certificate(key, name="dropped.test"), descriptor)
    certificates.drop()
    with pytest.raises(KeyError):
        certificates.make()
    with pytest.raises(AssertionError):
        certificates.use()
    assert not certificates.get_context(1).find_address("dropped.test")


def test_a_certificate_that_openssl_finds_too_weak_is_named_and_changes_nothing(key, descriptor):
    certificates = taken(make(), certificate(key), descriptor)
    certificates.use()
    before = certificates.get_context(1)
    weak = pem(by_sha1(key, "mx.test"))
    assert certificates.take(TakeCertificate("mx.test"), descriptor(weak)).trouble == ""
    made = certificates.make()
    assert made.pki == "mx.test"
    assert made.trouble == "the certificate is signed with SHA1, which is too weak for OpenSSL's security level 2"
    certificates.drop()
    assert certificates.get_context(1) is before


def test_contexts_that_cannot_be_made_for_a_reason_of_the_listener(key, descriptor):
    certificates = make(ciphers="no-such-cipher")
    certificates.take(TakeCertificate("mx.test"), descriptor(certificate(key)))
    assert certificates.make() == ContextsMade("", "no usable cipher in no-such-cipher")
