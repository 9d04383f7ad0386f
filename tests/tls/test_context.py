"""Which certificate a client is shown, and what a listener offers."""

import datetime
import gc
import hashlib
import ipaddress
import os
import ssl
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtensionOID, NameOID

from smtpd.config.build.tls_options import cipher_string
from smtpd.tls.certificate import key_bits, signature_hash
from smtpd.tls.connection import TlsConnection, TlsFailed
from smtpd.tls.context import Authorities, Certificate, ContextError, TlsUnusable, context_ctrl, server_name
from smtpd.tls.openssl_library import get_context, openssl, openssl_error
from smtpd.tls.remote_key import _decrypt_rsa, _encrypt_rsa, make_key
from smtpd.tls.signing import SIGNING_SOCKETS, Signer
from tests.tls.test_connection import TLS12, TLS13
from tests.tls.world import Client, authority, by_sha1, certify, chain, client_context, key, key_pem, listener, pem

THREE = {"mx.here.test": "rsa2048", "*.lists.test": "p256", "*": "p384"}


@pytest.fixture(scope="module")
def three(signatory):
    """pki of three names; the certificate of the second also names another host."""
    names = {"mx.here.test": ["mx.here.test"], "*.lists.test": ["any.lists.test", "imap.here.test"], "*": ["star.test"]}
    return listener(signatory.signer, {name: chain(kind, *names[name]) for name, kind in THREE.items()})


def shown_to(server, name, versions=TLS13):
    client = Client(client_context(versions=versions), server, name=name).shake()
    certificate = x509.load_der_x509_certificate(client.tls.getpeercert(binary_form=True))
    (alternative,) = (e.value for e in certificate.extensions if isinstance(e.value, x509.SubjectAlternativeName))
    return alternative.get_values_for_type(x509.DNSName)[0]


@pytest.mark.parametrize("versions", [TLS12, TLS13], ids=["TLSv1.2", "TLSv1.3"])
@pytest.mark.parametrize(
    "asked, shown",
    [
        ("mx.here.test", "mx.here.test"),
        ("MX.Here.Test", "mx.here.test"),
        ("a.lists.test", "any.lists.test"),
        ("a.b.lists.test", "star.test"),  # a star stands for one label
        ("imap.here.test", "any.lists.test"),  # by its certificate
        ("star.test", "star.test"),
        ("elsewhere.test", "star.test"),
        (None, "star.test"),
    ],
)
def test_of_three_certificates_the_client_is_shown_the_one_it_asks_for(three, asked, shown, versions):
    assert shown_to(three, asked, versions) == shown


def test_handshakes_at_the_same_time_are_not_shown_each_others_certificates(three):
    """OpenSMTPD, 2015-04: the name that one client had asked for was another one's choice."""
    asked = ["mx.here.test", "any.lists.test", "star.test"] * 8
    with ThreadPoolExecutor(SIGNING_SOCKETS) as threads:
        assert list(threads.map(lambda name: shown_to(three, name), asked)) == asked


def test_without_a_star_the_first_is_shown(signatory):
    names = ("b.test", "a.test")
    server = listener(signatory.signer, {name: chain("p256", name) for name in names})
    assert [shown_to(server, name) for name in (None, "c.test", "a.test")] == ["b.test", "b.test", "a.test"]


def test_two_listeners_do_not_choose_from_each_others_certificates(signatory):
    one, other = (listener(signatory.signer, {name: chain("p256", name)}) for name in ("a.test", "b.test"))
    assert (shown_to(one, "b.test"), shown_to(other, "a.test")) == ("a.test", "b.test")


def with_server_name(name):
    """A ClientHello that calls us so, whatever that is."""
    outgoing = ssl.MemoryBIO()
    client = client_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="x" * len(name))
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read().replace(b"x" * len(name), name)


@pytest.mark.parametrize("name", [b"\xff\xfe\xfd\xfc", "bücher.test".encode(), b"a\nb.test", b"*.lists.test", b"...."])
def test_a_name_that_is_none_gets_the_default_and_no_traceback(three, name):
    link = TlsConnection(three)
    link.feed(with_server_name(name))
    link.step()
    assert link.signed
    assert server_name(link._address) == (name.decode() if name in (b"*.lists.test", b"....") else "")


def test_sessions_begun_stay_with_their_certificates_when_there_are_new_ones(signatory):
    server = listener(signatory.signer, {"mx.here.test": chain("p256", "old.test")})
    client = Client(client_context(), server)
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    server = listener(signatory.signer, {"mx.here.test": chain("rsa2048", "new.test")})
    client.shake()
    assert client.send(b"NOOP\r\n") == b"NOOP\r\n"
    assert shown_to(server, None) == "new.test"


def test_no_tickets_and_no_session_is_kept(server):
    for versions in (TLS12, TLS13):
        client = Client(client_context(versions=versions), server).shake()
        client.link.write(b"220\r\n")
        client.receive()
        assert not (client.tls.session and client.tls.session.has_ticket)
    session = Client(client_context(versions=TLS12), server).shake().tls.session
    again = Client(client_context(versions=TLS12), server)
    if session is not None:
        assert session.id == b""
    assert not again.shake().tls.session_reused


def test_our_order_of_ciphers_counts(server):
    context = client_context(versions=TLS12, ciphers="ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES256-GCM-SHA384")
    assert Client(context, server).shake().link.facts.cipher == "ECDHE-ECDSA-AES256-GCM-SHA384"


@pytest.mark.parametrize("word", ["secure", "default", "compat", "legacy", "insecure", "all", "HIGH", "ECDHE+AESGCM"])
def test_ciphers_of_configurations_have_no_rsa_key_exchange_and_no_anonymous_ones(signatory, word):
    server = listener(signatory.signer, {"a.test": chain("rsa2048", "a.test")}, ciphers=cipher_string(word))
    (context,) = server._contexts
    ciphers = context.get_ciphers()
    assert ciphers
    assert not [
        c["name"] for c in ciphers if c["kea"] == "kx-rsa" or c["auth"] == "auth-null" or not c["strength_bits"]
    ]


def test_dhe_is_offered_where_the_configuration_says_so(signatory):
    context = client_context(versions=TLS12, ciphers="DHE+AESGCM")
    for word, good in (("auto", True), ("legacy", True), ("none", False)):
        server = listener(signatory.signer, {"a.test": chain("rsa2048", "a.test")}, dhe={"a.test": word})
        assert any(cipher["name"].startswith("DHE-") for cipher in server._first.get_ciphers()) is good
        client = Client(context, server)
        if good:
            assert client.shake().link.facts.cipher.startswith("DHE-RSA-")
        else:
            with pytest.raises(TlsFailed, match="client offers no cipher that we have"):
                client.shake()


@pytest.mark.parametrize("protocols", [("TLSv1.2",), ("TLSv1.3",)])
def test_a_listener_of_one_version_speaks_that_one(signatory, protocols):
    server = listener(signatory.signer, {"a.test": chain("p256", "a.test")}, protocols=protocols)
    assert Client(client_context(), server).shake().link.facts.version == protocols[0]
    other = TLS13 if protocols == ("TLSv1.2",) else TLS12
    with pytest.raises(TlsFailed, match="client offers no version that we speak"):
        Client(client_context(versions=other), server).shake()


def test_impossible_options_are_errors(signatory):
    one = {"a.test": chain("p256", "a.test")}
    with pytest.raises(TlsUnusable, match="no usable cipher in NONSENSE"):
        listener(signatory.signer, one, ciphers="NONSENSE")
    with pytest.raises(TlsUnusable, match="without a ca"):
        listener(signatory.signer, one, verify=True)


# -- files ------------------------------------------------------------------------------


def test_what_a_certificate_says_of_itself():
    certificate = certify(key("p256"), "MX.here.test", "*.lists.test", by=authority())
    read = Certificate.read(pem(certificate))
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert read.public == hashlib.sha256(spki).hexdigest()
    assert read.not_after == int(datetime.datetime(2046, 1, 1, tzinfo=datetime.UTC).timestamp())
    assert read.names == ("mx.here.test", "*.lists.test")


def test_a_certificate_that_ended_in_the_year_0_is_none():
    """OpenSSL knows that year, and Python does not: it was the end of the dispatcher."""
    end = datetime.datetime(2060, 1, 1)
    made = certify(key("p256"), "a.test", end=end).public_bytes(serialization.Encoding.DER)
    assert made.count(b"20600101000000Z") == 1
    with pytest.raises(TlsUnusable, match="its expiry date is invalid"):
        Certificate.read(ssl.DER_cert_to_PEM_cert(made.replace(b"20600101000000Z", b"00000101000000Z")).encode())


def test_of_alternative_names_only_those_of_hosts_count():
    """Others are texts too, or are no text at all."""
    others = x509.SubjectAlternativeName(
        [
            x509.RFC822Name("bob@here.test"),
            x509.UniformResourceIdentifier("https://here.test/"),
            x509.IPAddress(ipaddress.ip_address("192.0.2.1")),
            x509.DirectoryName(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here.test")])),
            x509.DNSName("a\0b.test"),
            x509.DNSName("MX.here.test"),
        ]
    )
    made = certify(key("p256"), "common.test", authority=True, padding=[others])
    assert Certificate.read(pem(made)).names == ("mx.here.test",)


def test_without_alternative_names_the_common_name_counts():
    assert Certificate.read(pem(authority()[0])).names == ("authority 0",)
    assert Certificate.read(pem(certify(key("p256"), "größe.test", authority=True))).names == ()


def test_malformed_alternative_names_are_none_and_leave_no_error_in_openssl():
    garbage = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"garbage")
    made = certify(key("p256"), "common.test", authority=True, padding=[garbage])
    assert Certificate.read(pem(made)).names == ("common.test",)
    assert openssl_error() == ""


def test_the_end_point_of_a_broken_hash_is_of_sha_256_and_there_is_none_without_a_hash():
    """RFC 5929 4.1."""
    by_broken = pem(by_sha1(key("p256"), "a.test"))
    der = ssl.PEM_cert_to_DER_cert(by_broken.decode())
    assert Certificate.read(by_broken).end_point == hashlib.sha256(der).digest()
    edwards = certify(key("ed25519"), "above", authority=True), key("ed25519")
    read = Certificate.read(pem(certify(key("p256"), "a.test", by=edwards)))
    assert read.end_point == b"" and signature_hash(read.addresses[0]) == ""


def test_what_openssl_made_of_a_certificate_is_freed_with_it(monkeypatch):
    """A daemon that is told to reload every day does not grow."""
    library, freed = openssl(), []

    def count(name, free):
        monkeypatch.setattr(library, name, lambda address: (freed.append(name), free(address)))

    for name in ("X509_free", "EVP_PKEY_free", "GENERAL_NAMES_free"):
        count(name, getattr(library, name))
    certificate = Certificate.read(chain("p256", "a.test"))
    assert key_bits(certificate.addresses[1]) == 256
    assert sorted(freed) == ["EVP_PKEY_free", "GENERAL_NAMES_free"]
    del certificate
    gc.collect()
    assert sorted(freed) == [*["EVP_PKEY_free"] * 2, "GENERAL_NAMES_free", *["X509_free"] * 2]


EC_PUBLIC_KEY = bytes.fromhex("2a8648ce3d0201")  # RFC 5480 2.1.1


def changed(old, new):
    """PEM of a certificate in which something else stands."""
    der = certify(key("p256"), "a.test", end=datetime.datetime(2060, 1, 1)).public_bytes(serialization.Encoding.DER)
    assert der.count(old) == 1
    return ssl.DER_cert_to_PEM_cert(der.replace(old, new)).encode()


@pytest.mark.parametrize(
    "content, trouble",
    [
        (b"", "no certificate in the file"),
        (b"garbage", "no certificate in the file"),
        (b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n", "."),
        (b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n", "."),
        (lambda: chain("p256", "a.test") + b"-----BEGIN CERTIFICATE-----\nMIIB", "bad end line"),
        (lambda: chain("p256", "a.test") + key_pem(key("p256")), "private key in a certificate file"),
        (lambda: chain("p256", "a.test") * 6, "12 certificates are too many"),
        (lambda: changed(b"20600101", b"2060xx01"), "its expiry date cannot be read"),
        (lambda: changed(EC_PUBLIC_KEY, EC_PUBLIC_KEY[:-1] + b"\x7f"), "its public key cannot be read"),
        (lambda: chain("rsa1024", "a.test"), "an RSA key has 2048 to 8192 bits, and this one 1024"),
        (lambda: chain("p521", "a.test"), "an ECDSA key is of P-256 or P-384, and not of secp521r1"),
        (lambda: chain("ed25519", "a.test"), "a key of Ed25519 cannot be kept in another process"),
    ],
)
def test_what_is_no_certificate_of_ours_is_refused_in_words(content, trouble):
    with pytest.raises(TlsUnusable, match=trouble):
        Certificate.read(content if isinstance(content, bytes) else content())


def test_authorities_may_be_many_and_none_is_refused():
    assert len(Authorities.read(pem(*[authority(number)[0] for number in range(3)])).addresses) == 3
    with pytest.raises(TlsUnusable, match="no certificate in the file"):
        Authorities.read(b"\n")


def test_text_around_certificates_is_no_matter():
    content = "# für alle\n".encode() + chain("p256", "a.test") + b"\ntrailing\n"
    assert Certificate.read(content).names == ("a.test",)


def test_the_context_of_another_layout_is_not_believed():
    """Options that differ from those of the SSL_CTX that was found."""

    class Pretending(ssl.SSLContext):
        options = 1

    with pytest.raises(TlsUnusable, match="elsewhere"):
        get_context(Pretending(ssl.PROTOCOL_TLS_SERVER))


def test_what_openssl_does_not_set_is_an_error_where_it_is_needed():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    address, set_min_version = get_context(context), 123  # openssl/ssl.h
    assert context_ctrl(address, set_min_version, 9) == 0
    with pytest.raises(TlsUnusable, match="TLS: setting 123 to 9"):
        context_ctrl(address, set_min_version, 9, needed=True)


def test_options_of_openssl_that_make_it_safer_are_kept_and_ours_come_to_them(server):
    ours = ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    every = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).options | ours
    assert server._first.options & every == every


def test_a_key_is_made_once_however_often_its_certificate_is_read(signatory):
    one, other = (Certificate.read(chain("p256", "a.test")) for _ in range(2))
    assert make_key(one.key, signatory.signer) == make_key(other.key, signatory.signer)
    assert make_key(one.key, signatory.signer) != make_key(one.key, Signer([]))


@pytest.mark.parametrize(
    "kind, function",
    [
        ("rsa2048", "RSA_set_method"),
        ("rsa2048", "EVP_PKEY_set1_RSA"),
        ("p256", "EC_KEY_set_method"),
        ("p256", "EVP_PKEY_set1_EC_KEY"),
    ],
)
def test_a_key_that_openssl_does_not_make_is_said(monkeypatch, kind, function):
    certificate = Certificate.read(chain(kind, "a.test"))
    monkeypatch.setattr(openssl(), function, lambda *_: 0)
    with pytest.raises(TlsUnusable, match="no key can be made from the certificate"):
        make_key(certificate.key, Signer([]))


def test_an_rsa_key_signs_only_as_our_ciphers_need_it():
    """Anything else is an error to OpenSSL, and no signature of one byte."""
    unknown = 4  # RSA_PKCS1_OAEP_PADDING, openssl/rsa.h
    assert _encrypt_rsa(0, 0, 0, 0, unknown) == -1 and _decrypt_rsa(0, 0, 0, 0, 1) == -1


def test_unused_contexts_are_freed(signatory):
    """A daemon that is told to reload every day does not grow."""
    server = listener(signatory.signer, {"a.test": chain("p256", "a.test"), "b.test": chain("p256", "b.test")})
    Client(client_context(), server).shake()
    gone = weakref.ref(server)
    del server
    gc.collect()
    assert gone() is None


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc")
def test_a_connection_leaves_no_memory_behind(server):
    context = client_context()

    def pages():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1])

    for _ in range(50):
        Client(context, server).shake()
    before = pages()
    for _ in range(200):
        Client(context, server).shake()
    assert pages() - before < 200  # 4 KiB for each would be as many


# -- certificates that OpenSSL does not show at its security level --------------------

WEAK = "too weak for OpenSSL's security level"


def weak_authority():
    return certify(key("rsa1024"), "weak authority", authority=True)


def below_weak_authority():
    """Signed by it, without it."""
    return certify(key("p256"), "mx.here.test", by=(weak_authority(), key("rsa1024")))


@pytest.mark.parametrize(
    "chain, fault",
    [
        (lambda: [by_sha1(key("p256"), "mx.here.test")], f"the certificate is signed with SHA1, which is {WEAK} 2"),
        (
            lambda: [below_weak_authority(), weak_authority()],
            f"certificate 2 of 2, of an authority, has a key of 1024 bits, which is {WEAK} 2",
        ),
        (
            lambda: [below_weak_authority(), by_sha1(key("rsa2048"), "above")],
            f"certificate 2 of 2, of an authority, is signed with SHA1, which is {WEAK} 2",
        ),
    ],
    ids=["leaf", "small authority", "authority"],
)
def test_a_certificate_that_is_too_weak_is_refused_with_its_pki(signatory, chain, fault):
    good = pem(certify(key("p256"), "good.test", by=authority()))
    with pytest.raises(ContextError) as refused:
        listener(signatory.signer, {"good.test": good, "mx.here.test": pem(*chain())})
    assert (refused.value.pki, str(refused.value)) == ("mx.here.test", fault)


def test_what_a_listener_with_old_protocols_allows(signatory):
    """And one whose administrator says so."""
    weak = {"mx.here.test": pem(by_sha1(key("p256"), "mx.here.test"))}
    for more in ({"protocols": ("TLSv1", "TLSv1.1", "TLSv1.2")}, {"ciphers": "HIGH:@SECLEVEL=0"}):
        listener(signatory.signer, weak, **more)
    with pytest.raises(ContextError, match=f"{WEAK} 1"):
        listener(signatory.signer, weak, ciphers="HIGH:@SECLEVEL=1")


def test_an_error_of_the_listener_names_no_certificate(signatory):
    with pytest.raises(ContextError, match="no usable cipher in nonsense") as refused:
        listener(signatory.signer, {"mx.here.test": chain("p256", "mx.here.test")}, ciphers="nonsense")
    assert refused.value.pki == ""


@pytest.mark.parametrize("versions", [TLS12, TLS13], ids=["TLSv1.2", "TLSv1.3"])
def test_the_authorities_of_clients_are_not_shown_with_our_certificate(signatory, versions):
    """Only what its file has.  One that is too weak to be shown would be the end of each handshake."""
    authorities = pem(weak_authority(), certify(key("p256"), "another", authority=True))
    server = listener(signatory.signer, {"mx.here.test": pem(below_weak_authority())}, authorities=authorities)
    assert shown_to(server, "mx.here.test", versions) == "mx.here.test"
