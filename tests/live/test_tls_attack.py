"""What a client, or who stands between it and us, tries with the end and the beginning of TLS.

Before STARTTLS has been answered, behind close_notify, after a cut: nothing that stands there counts, and a mail is
whole or not there.
"""

import contextlib
import itertools
import re
import socket
import ssl
import struct
import subprocess
import threading
import time

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from tests.live.conftest import mails, until
from tests.live.encrypted import Client, careless, tls_daemon
from tests.unique import free_port


@pytest.fixture(scope="module")
def smtps():
    return free_port()


@pytest.fixture(scope="module")
def daemon(ground, users, smtps):
    with tls_daemon(ground, smtps) as made:
        yield made


@pytest.fixture(autouse=True)
def mark(daemon):
    """Where this test's part of the log begins."""
    until(lambda: daemon.log.count(" connected ") == daemon.log.count(" disconnected "), what="the end of earlier ones")
    daemon.mark = len(daemon.log)


def secure(daemon, version=None, **more):
    context = careless()
    if version:
        context.minimum_version = context.maximum_version = version
    return Client(daemon.port, context=context, **more).starttls()


def lines(daemon):
    """Of this test, once its sessions are over."""
    text = daemon.log[daemon.mark :]
    if text.count(" disconnected ") < max(1, text.count(" connected ")):
        return None
    return [line.split(" smtp ", 1)[1] for line in text.splitlines() if " smtp " in line]


def log_of(daemon):
    return until(lambda: lines(daemon), what="the end of the session")


def check_nothing_came(daemon, users, alice, letterbox):
    """Neither in the log nor in the queue, nor with alice: a mail that is sent now is the only one."""
    daemon.send(f"{alice}@here.test", b"Subject: after it\r\n\r\nx\r\n")
    (mail,) = until(lambda: mails(letterbox), what="delivery")
    assert b"Subject: after it" in mail
    until(lambda: daemon.smtpctl("show", "queue").stdout == "", what="an empty queue")
    assert len(mails(letterbox)) == 1


# -- plaintext around STARTTLS ----------------------------------------------------------------


MAIL = b"EHLO evil.test\r\nMAIL FROM:<evil@there.test>\r\nRCPT TO:<%s@here.test>\r\nDATA\r\nSubject: evil\r\n\r\n.\r\n"


@pytest.mark.parametrize(
    "injected", [b"NOOP\r\n", b"RSET\r\n", b"MAIL FROM:<evil@there.test>\r\n", b"\r\n", b"\0", b"N"]
)
def test_plaintext_behind_starttls_is_the_end(daemon, injected):
    """CVE-2011-0411: it would be taken for what the client said under TLS."""
    with Client(daemon.port) as client:
        client.send(b"STARTTLS\r\n" + injected)
        assert client.reply().startswith("503 5.5.1")
        assert client.rest() == b""
    *_, end = log_of(daemon)
    assert end.startswith("disconnected") and not any(line.startswith("tls") for line in lines(daemon))


def test_a_mail_injected_behind_starttls_goes_nowhere(daemon, users, alice, letterbox):
    with Client(daemon.port) as client:
        client.send(b"STARTTLS\r\n" + MAIL % alice.encode())
        assert client.reply().startswith("503 5.5.1")
        client.rest()
    assert not any(line.startswith("message") for line in log_of(daemon))
    check_nothing_came(daemon, users, alice, letterbox)


def test_a_handshake_behind_starttls_in_the_same_packet_is_the_end(daemon):
    """RFC 3207 4: the client waits for 220."""
    with Client(daemon.port) as client:
        client.send(b"STARTTLS\r\n" + client.hello())
        assert client.reply().startswith("503 5.5.1")


def test_plaintext_between_the_answer_and_the_handshake_ends_it(daemon):
    with Client(daemon.port) as client:
        assert client.command("STARTTLS").startswith("220")
        client.send(b"NOOP\r\n" + client.hello())
        assert b"250" not in client.rest()
    *_, failed, end = log_of(daemon)
    assert failed.startswith('tls-failed reason="client does not speak TLS"')
    assert end == "disconnected reason=tls-accept-failed"


def test_plaintext_in_the_middle_of_an_encrypted_session_ends_it(daemon, alice):
    with secure(daemon).begin_mail(f"{alice}@here.test") as client:
        client.send(b"DATA\r\n")
        assert client.rest() == b""
    *_, end = log_of(daemon)
    assert end.startswith('disconnected reason="io-error: ')


def test_nothing_of_a_transaction_gets_from_the_clear_into_tls(daemon, alice):
    with Client(daemon.port).begin_mail(f"{alice}@here.test") as client:
        assert client.command("STARTTLS").startswith("503 5.5.1")
        client.command("RSET")
        client.starttls()
        assert client.command("DATA").startswith("503 5.5.1")
        assert client.command(f"RCPT TO:<{alice}@here.test>").startswith("503 5.5.1")


def test_under_tls_the_name_given_in_the_clear_is_forgotten(daemon):
    with secure(daemon) as client:
        assert client.command("MAIL FROM:<amy@there.test>").startswith("503 5.5.1")
        assert client.command("EHLO client.test").startswith("250")
        assert "STARTTLS" not in client.command("EHLO client.test")
        assert client.command("STARTTLS").startswith(("502 5.5.1", "503 5.5.1"))


# -- the end in the middle -------------------------------------------------------------------------


def in_data(client, recipient):
    client.begin_mail(recipient).command("DATA")
    client.say(b"Subject: cut\r\n\r\nhalf")


def in_a_chunk(client, recipient):
    client.begin_mail(recipient)
    client.say(b"BDAT 100 LAST\r\nSubject: cut\r\n\r\nhalf")


def between_chunks(client, recipient):
    client.begin_mail(recipient)
    client.say(b"BDAT 21\r\nSubject: cut\r\n\r\nhalf\n")
    client.reply()


def before_the_dot(client, recipient):
    client.begin_mail(recipient).command("DATA")
    client.say(b"Subject: cut\r\n\r\nall of it\r\n.")


MIDDLES = [in_data, in_a_chunk, between_chunks, before_the_dot]
# What the client has encrypted before, and what comes behind close_notify in the clear or as it was.
BEHIND = {
    "nothing": b"",
    "the rest": b"ing\r\n.\r\n",
    "a chunk": b"x" * 100 + b"BDAT 0 LAST\r\n",
    "commands": b"\r\n.\r\nNOOP\r\nQUIT\r\n",
}


@pytest.mark.parametrize("middle", MIDDLES)
@pytest.mark.parametrize("behind", BEHIND.values(), ids=BEHIND)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_close_notify_in_the_middle_of_a_mail_is_the_end_of_it(
    daemon, users, alice, letterbox, middle, behind, version
):
    """CVE-2026-45185: what follows in the clear was read into a transaction whose TLS was gone."""
    with secure(daemon, version) as client:
        middle(client, f"{alice}@here.test")
        client.send(client.close_notify() + behind)
        assert b"250" not in client.rest() and b"354" not in client.rest()
    *_, end = log_of(daemon)
    assert end == "disconnected reason=disconnect"
    assert not any(line.startswith("message") for line in lines(daemon))
    check_nothing_came(daemon, users, alice, letterbox)


APPLICATION_DATA, HANDSHAKE = b"\x17", b"\x16"  # RFC 8446 5.1


def expanded(secret, label, length):
    """HKDF-Expand-Label, RFC 8446 7.1, for the cipher that we like best."""
    info = struct.pack("!HB", length, 6 + len(label)) + b"tls13 " + label + b"\0"
    return HKDFExpand(hashes.SHA384(), length, info).derive(secret)


def sealed(secret, number, content, kind=APPLICATION_DATA):
    """One record of TLS 1.3 (RFC 8446 5.2, 7.3) under a secret of the client's, by hand: OpenSSL encrypts nothing more
    behind its own close_notify."""
    nonce = int.from_bytes(expanded(secret, b"iv", 12)) ^ number
    head = APPLICATION_DATA + struct.pack("!HH", 0x0303, len(content) + 1 + 16)
    return head + AESGCM(expanded(secret, b"key", 32)).encrypt(nonce.to_bytes(12), content + kind, head)


def secret_of_client(path):
    return bytes.fromhex(re.search(r"^CLIENT_TRAFFIC_SECRET_0 \S+ (\S+)$", path.read_text(), re.MULTILINE)[1])


@pytest.mark.parametrize("closed", [True, False])
def test_commands_behind_close_notify_are_not_read(daemon, tmp_path, closed):
    """They are encrypted as they should be, by one who has the keys.  Without close_notify before them they count: so
    that is what keeps them out."""
    context = careless()
    context.keylog_filename = str(tmp_path / "keys")
    with Client(daemon.port, context=context).starttls() as client:
        assert client.tls.cipher()[0] == "TLS_AES_256_GCM_SHA384"
        behind = sealed(secret_of_client(tmp_path / "keys"), int(closed), b"EHLO client.test\r\nQUIT\r\n")
        client.send((client.close_notify() if closed else b"") + behind)
        assert (b"250" in client.rest()) == (not closed)
    assert log_of(daemon)[-1] == f"disconnected reason={'disconnect' if closed else 'quit'}"


def test_what_stands_before_close_notify_in_the_same_packet_counts(daemon, users, alice, letterbox):
    """A mail with its end is a whole one, and the client may still read our answer."""
    with secure(daemon).begin_mail(f"{alice}@here.test") as client:
        assert client.command("DATA").startswith("354")
        client.send(client.records(b"Subject: whole\r\n\r\nx\r\n.\r\n") + client.close_notify())
        assert client.rest().startswith(b"250 2.0.0")
    (mail,) = until(lambda: mails(letterbox), what="delivery")
    assert b"\nSubject: whole\n" in mail and mail.endswith(b"\n\nx\n")


def cut(client):
    """FIN without close_notify: a truncation."""
    client.socket.shutdown(socket.SHUT_WR)


def reset(client):
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.socket.close()


@pytest.mark.parametrize("middle", MIDDLES)
@pytest.mark.parametrize("end", [cut, reset])
def test_a_truncated_session_leaves_no_mail(daemon, users, alice, letterbox, middle, end):
    with secure(daemon) as client:
        middle(client, f"{alice}@here.test")
        end(client)
        if end is cut:
            assert b"250" not in client.rest()
    last = log_of(daemon)[-1]
    assert re.match('disconnected reason=(disconnect|"io-error: .*")$', last), last
    check_nothing_came(daemon, users, alice, letterbox)


def test_a_record_that_was_changed_on_its_way_ends_the_session(daemon, users, alice, letterbox):
    with secure(daemon).begin_mail(f"{alice}@here.test") as client:
        client.command("DATA")
        record = bytearray(client.records(b"Subject: changed\r\n\r\nx\r\n.\r\n"))
        record[20] ^= 1
        client.send(record)
        assert b"250" not in client.rest()
    assert log_of(daemon)[-1] == 'disconnected reason="io-error: a record is malformed or was changed on its way"'
    check_nothing_came(daemon, users, alice, letterbox)


def test_a_record_that_is_sent_twice_ends_the_session(daemon):
    with secure(daemon) as client:
        record = client.records(b"EHLO client.test\r\n")
        client.send(record)
        assert client.reply().startswith("250")
        client.send(record)
        assert client.rest() == b""
    assert log_of(daemon)[-1].startswith('disconnected reason="io-error: ')


# -- pieces, and what TLS can do besides ------------------------------------------------------------


def test_a_session_goes_byte_by_byte(daemon, users, alice, letterbox):
    with secure(daemon) as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for line in (b"EHLO client.test", b"MAIL FROM:<amy@there.test>", b"RCPT TO:<%s@here.test>" % alice.encode()):
            for byte in client.records(line + b"\r\n"):
                client.send(bytes([byte]))
            assert client.reply().startswith("250")
        client.command("DATA")
        for byte in b"Subject: bytes\r\n\r\nx\r\n.\r\n":
            client.say(bytes([byte]))
        assert client.reply().startswith("250")
    (mail,) = until(lambda: mails(letterbox), what="delivery")
    assert b"\nSubject: bytes\n" in mail and mail.endswith(b"\n\nx\n")


def test_a_handshake_goes_byte_by_byte(daemon):
    with Client(daemon.port) as client:
        assert client.command("STARTTLS").startswith("220")
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in client.hello():
            client.send(bytes([byte]))
        assert client.shake().command("EHLO client.test").startswith("250")


def test_commands_right_behind_the_handshake_are_read(daemon):
    """In one packet with its last flight, and they are encrypted."""
    with Client(daemon.port) as client:
        assert client.command("STARTTLS").startswith("220")
        client.send(client.hello())
        flight = b""
        while not flight:
            client._receive()
            flight = client.hello()
        client._shaken = True
        client.send(flight + client.records(b"EHLO client.test\r\n"))
        assert client.reply().startswith("250")


def typed(daemon, options, *turns):
    """What OpenSSL's client shows: of each turn the text is typed once the other text is there."""
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{daemon.port}", "-starttls", "smtp", *options]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, bufsize=0, **pipes) as client:
        shown = b""
        for awaited, text in turns:
            while awaited not in shown and (piece := client.stdout.read(4096)):
                shown += piece
            client.stdin.write(text)
        return shown + client.stdout.read()


@pytest.mark.parametrize("options", [[], ["-legacy_renegotiation"]])
def test_renegotiation_is_refused(daemon, options):
    """One that allowed it could be made to work for nothing, and certificates of clients could change in the middle.
    `R` asks OpenSSL's client for it."""
    shown = typed(daemon, ["-tls1_2", *options], (b"250 HELP", b"R\n"))
    assert b"RENEGOTIATING" in shown and b"no renegotiation" in shown
    assert sum(line.startswith("tls ciphers") for line in log_of(daemon)) == 1


def test_keys_may_be_updated(daemon):
    """RFC 8446 4.6.3: at any time, and ours too if the client asks for it, which `K` does.  (`Q` would end it.)"""
    turns = [(b"250 HELP", b"K\n"), (b"KEYUPDATE", b"NOOP\n"), (b"250 2.0.0", b"quit\n")]
    assert b"221 2.0.0" in typed(daemon, ["-tls1_3", "-crlf", "-quiet", "-no_ign_eof"], *turns)
    assert log_of(daemon)[-1] == "disconnected reason=quit"


def test_endless_key_updates_delay_no_other_session(daemon, tmp_path):
    """Each asks for one of ours in return, which the client does not read.  After a few it is shown out."""
    context = careless()
    context.keylog_filename = str(tmp_path / "keys")
    with Client(daemon.port, context=context).starttls() as client, Client(daemon.port) as other:
        secret, updates, waited = secret_of_client(tmp_path / "keys"), [], []
        for _ in range(5000):
            updates.append(sealed(secret, 0, b"\x18\0\0\1\1", HANDSHAKE))  # RFC 8446 4.6.3: update_requested
            secret = expanded(secret, b"traffic upd", 48)
        for start in range(0, len(updates), 100):
            with contextlib.suppress(OSError):
                client.send(b"".join(updates[start : start + 100]))
            begun = time.monotonic()
            assert other.command("RSET").startswith("250")
            waited.append(time.monotonic() - begun)
        until(lambda: 'smtp disconnected reason="io-error:' in daemon.log, what="the end of the flooding session")
    assert sorted(waited)[len(waited) * 9 // 10] < 1, waited  # a busy machine may keep one or the other waiting
    assert "Traceback" not in daemon.log


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_cannot_be_resumed(daemon, version):
    """No tickets, and none kept: a key of tickets in the dispatcher would open what was recorded."""
    context = careless()
    context.minimum_version = context.maximum_version = version
    with Client(daemon.port, context=context).starttls() as client:
        assert client.command("EHLO client.test").startswith("250")
        session = client.tls.session
        assert not session.has_ticket
    with Client(daemon.port, context=context, session=session).starttls() as client:
        assert client.command("EHLO client.test").startswith("250")
        assert not client.tls.session_reused


def test_a_malformed_server_name_ends_only_its_handshake(daemon):
    """2015-04: many handshakes at once, each for another name."""
    names = [None, "x" * 63 + ".test", "mx.here.test", "*.here.test", "-", "a..b"[:1], "MX.HERE.TEST"]
    troubles = []

    def come(name):
        try:
            with Client(daemon.port, name=name).starttls() as client:
                assert client.command("NOOP").startswith("250")
        except Exception as error:
            troubles.append((name, error))

    threads = [threading.Thread(target=come, args=(name,)) for name in itertools.islice(itertools.cycle(names), 28)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert troubles == []
    assert "Traceback" not in daemon.log
