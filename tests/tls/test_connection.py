"""A connection against Python's own client, and against those who mean no good."""

import ctypes
import hashlib
import itertools
import secrets
import ssl
import time
from datetime import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given, settings
from hypothesis import strategies as st

from smtpd.tls import connection as link_module
from smtpd.tls.connection import KEY_UPDATES_MAX, TlsConnection, TlsFailed
from smtpd.tls.openssl_library import get_connection, get_context, openssl
from smtpd.tls.remote_key import callback_state
from smtpd.tls.signing import Signer, SigningFailed
from tests.tls.world import Client, authority, certify, chain, client_context, key, listener, packets, pem

# openssl/ssl.h
SET_GROUPS_LIST, SET_SIGALGS_LIST, SET_MIN_PROTO_VERSION, SET_MAX_PROTO_VERSION = 92, 98, 123, 124

TLS12 = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2)
TLS13 = (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_3)
VERSIONS = pytest.mark.parametrize("versions", [TLS12, TLS13], ids=["TLSv1.2", "TLSv1.3"])


def hello(context=None):
    """The bytes of a ClientHello."""
    outgoing = ssl.MemoryBIO()
    client = (context or client_context()).wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="mx.here.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def failure(server, *pieces):
    """Why the handshake fails, and what the client gets."""
    link = TlsConnection(server)
    with pytest.raises(TlsFailed) as failed:
        for piece in pieces:
            link.feed(piece)
            link.step()
    return str(failed.value), link.take_output()


# -- how it goes -------------------------------------------------------------------


@VERSIONS
@pytest.mark.parametrize("kind", ["rsa2048", "rsa3001", "p256", "p384"])
def test_a_client_that_verifies_us_believes_a_signature_made_elsewhere(signatory, versions, kind):
    server = listener(signatory.signer, {"mx.here.test": chain(kind, "mx.here.test")})
    client = Client(client_context(trusts=authority()[0], versions=versions), server).shake()
    assert client.send(b"EHLO there.test\r\n") == b"EHLO there.test\r\n"
    client.link.write(b"250 here\r\n")
    assert client.receive() == b"250 here\r\n"


@pytest.mark.parametrize("algorithm", [b"RSA+SHA256", b"RSA+SHA512", b"RSA-PSS+SHA256", b"RSA-PSS+SHA384"])
def test_every_signature_algorithm_of_rsa_passes_by_crypto(signatory, algorithm):
    context = client_context(versions=TLS12, trusts=authority()[0])
    assert openssl().SSL_CTX_ctrl(get_context(context), SET_SIGALGS_LIST, 0, algorithm + b":ECDSA+SHA256")
    server = listener(signatory.signer, {"mx.here.test": chain("rsa2048", "mx.here.test")})
    Client(context, server).shake()


@VERSIONS
def test_the_handshake_byte_by_byte(server, versions):
    client = Client(client_context(versions=versions), server, piece=1).shake()
    assert client.send(b"NOOP\r\n") == b"NOOP\r\n"


@VERSIONS
def test_facts(signatory, versions):
    certificate = certify(key("p256"), "mx.here.test", by=authority())
    server = listener(signatory.signer, {"mx.here.test": pem(certificate)})
    client = Client(client_context(versions=versions), server, name="MX.here.test").shake()
    facts = client.link.facts
    assert facts.version == client.tls.version()
    assert (facts.cipher, facts.bits) == (client.tls.cipher()[0], client.tls.cipher()[2])
    assert (facts.verified, facts.fingerprint) == (False, "")
    assert facts.server_name == "MX.here.test"
    assert facts.end_point == hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
    assert len(facts.exporter) == 32


@VERSIONS
def test_both_ends_export_the_same_and_no_two_connections_do(server, versions):
    """RFC 9266."""
    exported = set()
    context = client_context(versions=versions)
    for _ in range(2):
        client = Client(context, server).shake()
        room = ctypes.create_string_buffer(32)
        label = b"EXPORTER-Channel-Binding"
        address = get_connection(client.tls, context)
        assert openssl().SSL_export_keying_material(address, room, 32, label, len(label), b"", 0, 1) == 1
        assert client.link.facts.exporter == room.raw
        exported.add(room.raw)
    assert len(exported) == 2


@VERSIONS
def test_tls_unique_is_had_before_tls_1_3_only(server, versions):
    """RFC 5929 3; RFC 8446 appendix C.5 defines none."""
    client = Client(client_context(versions=versions), server).shake()
    expected = client.tls.get_channel_binding("tls-unique") if client.tls.version() == "TLSv1.2" else b""
    assert client.link.facts.unique == expected


def test_without_an_extended_master_secret_nothing_is_exported(server):
    """RFC 9266 4.2, RFC 7627 1: before TLS 1.3 two connections could be made to have the same."""
    context = client_context(versions=TLS12)
    context.options |= 1  # SSL_OP_NO_EXTENDED_MASTER_SECRET
    facts = Client(context, server).shake().link.facts
    assert (facts.exporter, facts.unique) == (b"", b"")


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()], ids=lambda a: a.name)
def test_the_end_point_is_hashed_as_the_certificate_is_signed(signatory, algorithm):
    """RFC 5929 4.1."""
    certificate = certify(key("rsa2048"), "mx.here.test", by=authority(), algorithm=algorithm)
    server = listener(signatory.signer, {"mx.here.test": pem(certificate)})
    client = Client(client_context(), server).shake()
    expected = hashlib.new(algorithm.name, certificate.public_bytes(serialization.Encoding.DER)).digest()
    assert client.link.facts.end_point == expected


@VERSIONS
def test_a_step_is_signed_once_the_signature_is_behind(server, versions):
    client = Client(client_context(versions=versions), server)
    client.link.feed(hello(client_context(versions=versions))[:40])
    assert (client.link.step(), client.link.signed) == (False, False)
    client = Client(client_context(versions=versions), server).shake()
    assert client.link.signed


def test_with_a_hello_retry_request_the_second_step_signs(signatory):
    context = client_context(versions=TLS13)
    context.set_ecdh_curve("prime256v1")
    # Offers a key share of a group that the server does not have, and another group for which it has none.
    assert openssl().SSL_CTX_ctrl(get_context(context), SET_GROUPS_LIST, 0, b"P-521:P-384")
    server = listener(signatory.signer, {n: chain("p256", n) for n in ("mx.here.test", "other.test")})
    client = Client(context, server, name="other.test")
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.carry()
    assert not client.link.signed
    client.shake()
    assert client.link.signed
    assert client.link.facts.server_name == "other.test"


def test_a_large_mail_comes_through_whole(server):
    client = Client(client_context(), server).shake()
    content = bytes(range(256)) * 4096
    assert client.send(content) == content
    client.link.write(content)
    client.incoming.write(client.link.take_output())
    received = b""
    while len(received) < len(content):
        received += client.tls.read(65536)
    assert received == content


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=10))
def test_records_cut_anywhere(server, cuts):
    client = Client(client_context(), server).shake()
    client.tls.write(b"MAIL FROM:<amy@there.test>\r\n")
    client.tls.write(b"RCPT TO:<bob@here.test>\r\n")
    sent, plain = client.outgoing.read(), b""
    for cut in [*cuts, len(sent)]:
        piece, sent = sent[:cut], sent[cut:]
        client.link.feed(piece)
        plain += client.link.read()
    assert plain == b"MAIL FROM:<amy@there.test>\r\nRCPT TO:<bob@here.test>\r\n"


# -- how it ends ----------------------------------------------------------------------


def close_by(client):
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.unwrap()


@VERSIONS
def test_close_notify_in_the_middle_of_data_closes_the_connection(server, versions):
    """CVE-2026-45185: what came before it is read, what comes behind it is not."""
    client = Client(client_context(versions=versions), server).shake()
    client.tls.write(b"BDAT 1000\r\nhalf of it")
    close_by(client)
    assert client.carry() == b"BDAT 1000\r\nhalf of it"
    assert client.link.closed
    client.link.feed(b"plaintext behind it")
    assert client.link.read() == b""


def test_nothing_is_read_that_stands_behind_close_notify_in_the_same_piece(server):
    client = Client(client_context(), server).shake()
    close_by(client)
    behind = client.outgoing.read() + b"MAIL FROM:<evil@there.test>\r\n"
    client.link.feed(behind)
    assert (client.link.read(), client.link.closed) == (b"", True)
    assert client.link.read() == b""


def test_nothing_is_kept_of_what_comes_behind_close_notify(server):
    client = Client(client_context(), server).shake()
    close_by(client)
    client.carry()
    assert client.link.closed
    client.link.feed(bytes(1_000_000))
    assert client.link._in.pending == 0


def test_a_handshake_fails_for_its_own_reason(server):
    """Whatever one before it in the same thread has left."""
    callback_state.trouble = SigningFailed("of another connection")
    reason, _ = failure(server, b"EHLO there.test\r\n")
    assert reason == "client does not speak TLS"


@VERSIONS
def test_a_client_that_has_said_close_notify_still_reads(server, versions):
    """RFC 8446 6.1; and of TLS 1.2 too, where RFC 5246 7.2.1 would have pending answers thrown away."""
    client = Client(client_context(versions=versions), server).shake()
    client.tls.write(b"QUIT\r\n")
    close_by(client)
    assert client.carry() == b"QUIT\r\n"
    client.link.write(b"221 2.0.0 bye\r\n")
    client.link.close()
    assert client.receive() == b"221 2.0.0 bye\r\n"
    with pytest.raises(ssl.SSLZeroReturnError):  # we have said close_notify as well
        client.tls.read(100)


def test_we_say_close_notify_and_nothing_after_it(server):
    client = Client(client_context(), server).shake()
    client.link.write(b"221 2.0.0 bye\r\n")
    client.link.close()
    client.link.write(b"more")
    client.link.close()
    assert client.receive() == b"221 2.0.0 bye\r\n"
    assert client.tls.read(100) == b""  # an end that was said, else there would be an exception


def test_a_record_changed_on_its_way_ends_it(server):
    client = Client(client_context(), server).shake()
    client.tls.write(b"DATA\r\n")
    sent = bytearray(client.outgoing.read())
    sent[-1] ^= 1
    client.link.feed(sent)
    with pytest.raises(TlsFailed, match="a record is malformed or was changed on its way"):
        client.link.read()
    client.link.write(b"354\r\n")
    client.incoming.write(client.link.take_output())
    with pytest.raises(ssl.SSLError, match="ALERT_BAD_RECORD_MAC"):
        client.tls.read(100)


def test_plaintext_after_the_handshake_is_no_command(server):
    client = Client(client_context(), server).shake()
    client.link.feed(b"MAIL FROM:<evil@there.test>\r\n")
    with pytest.raises(TlsFailed):
        client.link.read()


# -- clients that fail -----------------------------------------------------------------


@pytest.mark.parametrize(
    "first, reason",
    [
        (b"EHLO there.test\r\n", "client does not speak TLS"),
        (b"GET / HTTP/1.0\r\n\r\n", "client speaks HTTP"),
        (b"CONNECT evil.test:25 HTTP/1.0\r\n\r\n", "client speaks HTTP"),
        (b"\x16\x03\x01\x00\x05\x00\x00\x00\x00\x00", "TLS protocol error"),
        (b"\x16\x03\x01\xff\xff", "a record is malformed or was changed on its way"),
    ],
)
def test_a_client_that_does_not_speak_tls_gets_an_alert(server, first, reason):
    assert failure(server, first)[0].startswith(reason)


def test_an_sslv2_hello_is_refused(server):
    sslv2 = bytes.fromhex("802e0100020015000000100100800200800300800400800500800600400700c0") + bytes(16)
    assert failure(server, sslv2)[0] == "client offers no version that we speak"


@pytest.mark.parametrize("version", [b"\x03\x00", b"\x03\x01", b"\x03\x02"], ids=["SSLv3", "TLSv1.0", "TLSv1.1"])
def test_old_versions_are_refused(server, version):
    body = version + bytes(32) + b"\x00" + b"\x00\x04\xc0\x13\x00\x2f" + b"\x01\x00"
    message = b"\x01" + len(body).to_bytes(3) + body
    reason, alert = failure(server, b"\x16\x03\x01" + len(message).to_bytes(2) + message)
    assert reason == "client offers no version that we speak"
    assert (alert[0], alert[-2]) == (21, 2)  # an alert, fatal


@pytest.mark.parametrize("ciphers", ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA"])
def test_a_cipher_without_forward_secrecy_or_authenticated_encryption_is_refused(server, ciphers):
    context = client_context(versions=TLS12, ciphers=f"{ciphers}:@SECLEVEL=0")
    assert failure(server, hello(context))[0] == "client offers no cipher that we have"


@pytest.mark.parametrize("kind", ["rsa2048", "p256"])
def test_an_older_version_may_be_asked_for_by_the_configuration(signatory, kind):
    """RSA signs MD5 and SHA-1 in a row there, ECDSA SHA-1."""
    context = client_context(ciphers="ALL:@SECLEVEL=0")
    for command in (SET_MIN_PROTO_VERSION, SET_MAX_PROTO_VERSION):
        openssl().SSL_CTX_ctrl(get_context(context), command, 0x0301, None)
    protocols = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")
    server = listener(signatory.signer, {"a.test": chain(kind, "a.test")}, protocols=protocols)
    assert Client(context, server).shake().link.facts.version == "TLSv1"


def test_a_client_that_does_not_trust_us_says_so(server):
    client = Client(client_context(trusts=authority(1)[0], versions=TLS12), server)
    with pytest.raises(ssl.SSLCertVerificationError):
        client.shake()
    client.link.feed(client.outgoing.read())
    with pytest.raises(TlsFailed, match="client does not trust our certificate: unknown authority"):
        client.link.step()


def test_a_handshake_that_stalls_just_waits(server):
    link = TlsConnection(server)
    link.feed(hello()[:100])
    assert not link.step()
    assert link.take_output() == b""


def new_keys(client, asks):
    """The client changes its keys, and may ask us to do so too."""
    library, address = ctypes.CDLL(ssl._ssl.__file__), get_connection(client.tls, client.tls.context)
    library.SSL_key_update.argtypes, library.SSL_do_handshake.argtypes = (
        [ctypes.c_void_p, ctypes.c_int],
        [ctypes.c_void_p],
    )
    assert library.SSL_key_update(address, int(asks)) == library.SSL_do_handshake(address) == 1


@pytest.mark.parametrize("asks", [False, True])
def test_a_client_may_change_its_keys_now_and_then(server, asks):
    client = Client(client_context(versions=TLS13), server).shake()
    for _ in range(KEY_UPDATES_MAX // 2):
        new_keys(client, asks)
        assert client.send(b"NOOP\r\n") == b"NOOP\r\n"
        client.link.write(b"250\r\n")
        assert client.receive() == b"250\r\n"


@pytest.mark.parametrize("asks", [False, True])
def test_a_client_that_changes_its_keys_without_end_costs_no_more_than_any_other(server, asks):
    """10000 times fit into what one read of a socket brings, and kept the loop for most of a second."""
    client = Client(client_context(versions=TLS13), server).shake()
    for _ in range(2000):
        new_keys(client, asks)
    client.link.feed(client.outgoing.read())
    with pytest.raises(TlsFailed, match="client updates keys too often"):
        client.link.read()
    assert len(client.link.take_output()) < 100 * KEY_UPDATES_MAX


def test_renegotiation_is_refused(server):
    """CVE-2009-3555, and a way to make us sign for ever."""
    client = Client(client_context(versions=TLS12), server).shake()
    address = get_connection(client.tls, client.tls.context)
    renegotiate = openssl().SSL_renegotiate
    renegotiate.argtypes, renegotiate.restype = [ctypes.c_void_p], ctypes.c_int
    assert renegotiate(address) == 1
    with pytest.raises(ssl.SSLWantReadError):
        client.tls.do_handshake()
    client.link.feed(client.outgoing.read())
    assert client.link.read() == b""
    client.incoming.write(client.link.take_output())
    with pytest.raises(ssl.SSLError, match="NO_RENEGOTIATION"):
        client.tls.do_handshake()


def test_more_than_a_handshake_can_have_is_refused(signatory):
    """CVE-2015-7687: a chain that does not end."""
    server = listener(signatory.signer, {"a.test": chain("p256", "a.test")}, authorities=pem(authority()[0]))
    large = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), bytes(20_000))
    leaf = certify(key("p256", "client"), "amy", by=authority(), padding=[large])
    shows = pem(leaf, *[certify(key("p256", n), f"n{n}", padding=[large]) for n in range(4)]), key("p256", "client")
    client = Client(client_context(shows=shows), server)
    with pytest.raises(TlsFailed, match="client sends too much"):
        client.shake()


@pytest.mark.skipif(ssl.OPENSSL_VERSION_INFO < (3, 2), reason="this OpenSSL does not compress certificates")
def test_a_certificate_of_the_client_is_not_taken_compressed(signatory):
    """RFC 8879: a few bytes would be a chain that costs seconds."""
    names = ["client.test", *(f"{'a' * 60}.{number}.test" for number in range(50))]
    shows = pem(certify(key("p256", "client"), *names, by=authority())), key("p256", "client")
    server = listener(signatory.signer, {"a.test": chain("p256", "a.test")}, authorities=pem(authority()[0]))
    client = Client(client_context(shows=shows, versions=TLS13), server)
    sent = 0
    feed = client.link.feed

    def count(data):
        nonlocal sent
        sent += len(data)
        feed(data)

    client.link.feed = count
    client.shake()
    assert client.link.facts.fingerprint
    assert sent > sum(map(len, names))


def test_a_hello_that_does_not_end_is_refused(server):
    message = b"\x01\x01\xff\x00" + bytes(0x1FF00)
    records = [
        b"\x16\x03\x01" + len(piece).to_bytes(2) + piece
        for piece in (message[at : at + 16000] for at in range(0, len(message), 16000))
    ]
    assert failure(server, *records)[0]


def test_small_pieces_without_end_are_refused(server, monkeypatch):
    """A hello may be as large as OpenSSL likes; how much is fed is counted by us."""
    monkeypatch.setattr(link_module, "HANDSHAKE_MAX", 150)
    assert failure(server, hello()[:100], hello()[100:200])[0] == "client sends too much"


# -- certificates of clients ------------------------------------------------------------


def asked(signatory, **tls):
    certificates = {"mx.here.test": chain("p256", "mx.here.test")}
    return listener(signatory.signer, certificates, authorities=pem(authority()[0]), **tls)


def shown(by=None, **more):
    certificate = certify(key("p256", "client"), "amy.there.test", by=by, **more)
    return pem(certificate), key("p256", "client")


def fingerprint(shows):
    certificate = x509.load_pem_x509_certificate(shows[0])
    return f"SHA256:{hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()}"


@VERSIONS
@pytest.mark.parametrize("verify", [True, False])
def test_a_certificate_of_our_authority_is_verified(signatory, versions, verify):
    shows = shown(by=authority())
    client = Client(client_context(shows=shows, versions=versions), asked(signatory, verify=verify)).shake()
    assert (client.link.facts.verified, client.link.facts.fingerprint) == (True, fingerprint(shows))


@VERSIONS
def test_without_verify_another_one_is_accepted_and_not_verified(signatory, versions):
    shows = shown(by=authority(1))
    client = Client(client_context(shows=shows, versions=versions), asked(signatory)).shake()
    assert (client.link.facts.verified, client.link.facts.fingerprint) == (False, fingerprint(shows))


class Claimed:
    """A key that nobody has, of the largest size and exponent that OpenSSL takes: 4 ms for a signature of it."""

    BITS = 16384

    def public_key(self):
        return rsa.RSAPublicNumbers(2**64 - 1, secrets.randbits(self.BITS) | 1 << self.BITS - 1 | 1).public_key()


def signed_by_noise(certificate, size):
    """RFC 5280 4.1, with so many random bytes for the signature; its algorithm is RSA with SHA-256."""

    def element(tag, content):
        return bytes([tag, 0x82]) + len(content).to_bytes(2) + content

    noise = element(0x03, b"\0\1" + secrets.token_bytes(size - 1))
    algorithm = bytes.fromhex("300d06092a864886f70d01010b0500")
    return x509.load_der_x509_certificate(element(0x30, certificate.tbs_certificate_bytes + algorithm + noise))


def costly_chain(private):
    names = ["amy.there.test", *(f"level {number}" for number in range(10))]
    signer, made = key("rsa2048"), []
    for name, above in itertools.pairwise(names):
        by = certify(signer, above), signer
        made.append(certify(Claimed() if made else private, name, by=by, authority=bool(made)))
    return pem(*(signed_by_noise(certificate, Claimed.BITS // 8) for certificate in made))


@VERSIONS
def test_signatures_of_a_chain_that_leads_nowhere_are_not_looked_at(signatory, versions):
    """All ten would take 35 ms and more, of a thread that others wait for."""
    context = client_context(shows=(costly_chain(key("p256", "client")), key("p256", "client")), versions=versions)
    server, seconds = asked(signatory), []
    for _ in range(3):
        client, begun = Client(context, server), time.thread_time()
        client.shake()
        seconds.append(time.thread_time() - begun)
        assert client.link.facts.fingerprint and not client.link.facts.verified
    assert min(seconds) < 0.015


@VERSIONS
def test_without_verify_none_is_accepted(signatory, versions):
    client = Client(client_context(versions=versions), asked(signatory)).shake()
    assert (client.link.facts.verified, client.link.facts.fingerprint) == (False, "")


@VERSIONS
@pytest.mark.parametrize(
    "shows, reason",
    [
        (None, "client presents no certificate"),
        (lambda: shown(by=authority(1)), "certificate of the client: unknown authority"),
        (shown, "certificate of the client: unknown authority"),
        (
            lambda: shown(by=authority(), end=datetime(2026, 1, 2)),
            "certificate of the client: certificate has expired",
        ),
    ],
    ids=["none", "other authority", "self-signed", "expired"],
)
def test_with_verify_no_other_certificate_is_accepted(signatory, versions, shows, reason):
    client = Client(client_context(shows=shows and shows(), versions=versions), asked(signatory, verify=True))
    with pytest.raises(TlsFailed, match=reason):
        client.shake()


def test_our_own_certificate_does_not_verify_a_client(signatory):
    """A leaf certificate is no authority: who has one by ours cannot issue others."""
    leaf = certify(key("p256", "leaf"), "leaf", by=authority())
    forged = certify(key("p256", "client"), "amy", by=(leaf, key("p256", "leaf")))
    shows = pem(forged, leaf), key("p256", "client")
    with pytest.raises(TlsFailed, match="certificate of the client"):
        Client(client_context(shows=shows), asked(signatory, verify=True)).shake()


# -- signatures that do not come ----------------------------------------------------------


def test_a_signature_that_does_not_come_fails_the_handshake_and_says_why(monkeypatch):
    monkeypatch.setattr("smtpd.tls.signing.SIGNING_TIMEOUT", 0.05)
    ours, theirs = packets()
    with ours, theirs:
        server = listener(Signer([ours]), {"a.test": chain("p256", "a.test")})
        assert failure(server, hello())[0] == "no signature in time"
    assert failure(server, hello())[0].startswith("no signature: ")


def test_an_exception_in_a_callback_is_not_hidden():
    class Broken:
        def sign(self, public, operation, data):
            raise ZeroDivisionError

    link = TlsConnection(listener(Broken(), {"a.test": chain("p256", "a.test")}))
    link.feed(hello())
    with pytest.raises(ZeroDivisionError):
        link.step()


@pytest.mark.parametrize("kind, length", [("rsa2048", 255), ("rsa2048", 257), ("p256", 73)])
def test_a_signature_of_another_length_is_not_copied(kind, length):
    class Longwinded:
        def sign(self, public, operation, data):
            return bytes(length)

    server = listener(Longwinded(), {"a.test": chain(kind, "a.test")})
    assert failure(server, hello())[0] == f"a signature of {length} bytes"


def test_the_failure_of_one_handshake_is_not_reported_for_the_next(server):
    class Refusing:
        def sign(self, public, operation, data):
            raise SigningFailed("no such key")

    assert failure(listener(Refusing(), {"a.test": chain("p384", "a.test")}), hello())[0] == "no such key"
    assert failure(server, b"EHLO there.test\r\n")[0] == "client does not speak TLS"


def test_the_failure_of_a_handshake_is_not_reported_for_a_connection_that_fails_later(server):
    class Refusing:
        def sign(self, public, operation, data):
            raise SigningFailed("no such key")

    client = Client(client_context(), server).shake()
    assert failure(listener(Refusing(), {"a.test": chain("p384", "a.test")}), hello())[0] == "no such key"
    client.link.feed(b"EHLO there.test\r\n")
    with pytest.raises(TlsFailed) as failed:
        client.link.read()
    assert str(failed.value) != "no such key"


# -- garbage -------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.binary(min_size=1, max_size=600), st.integers(1, 50))
def test_garbage_fails_or_waits(server, garbage, piece):
    link = TlsConnection(server)
    try:
        for start in range(0, len(garbage), piece):
            link.feed(garbage[start : start + piece])
            assert not link.step()
    except TlsFailed as failed:
        assert str(failed).isprintable() and str(failed)
    link.take_output()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_hello_with_garbage_in_it_fails_or_waits(server, data):
    changed = bytearray(hello())
    for _ in range(data.draw(st.integers(1, 5))):
        changed[data.draw(st.integers(5, len(changed) - 1))] = data.draw(st.integers(0, 255))
    link = TlsConnection(server)
    link.feed(changed)
    try:
        link.step()
    except TlsFailed as failed:
        assert str(failed)
