"""TLS around a session: what changes for the client, and what an attacker gets out of the change."""

import asyncio
import base64
import gc

import pytest

from smtpd.dispatcher.inbound.handshake import HANDSHAKE_TIMEOUT
from smtpd.imsg import CheckCredentials, ExpandRecipient, StoreMessage
from smtpd.slice import Auth, Tls, TlsSlice
from smtpd.tls.connection import TlsConnection
from tests.dispatcher.tls_peers import TlsClient, certificate

STARTTLS = {"tls": TlsSlice(Tls.OFFERED, ("mx.test",))}
SMTPS = {"tls": TlsSlice(Tls.AT_ONCE, ("mx.test",))}
SUBMISSION = {"tls": TlsSlice(Tls.REQUIRED, ("mx.test",)), "auth": Auth.REQUIRED, "senders": True}


async def encrypted(harness):
    """A client after STARTTLS and EHLO."""
    client = await harness.client()
    await client.greet()
    await client.say("STARTTLS", "220")
    await client.shake()
    await client.say("EHLO client.test", "250")
    return client


def test_a_mail_after_starttls(make_harness):
    harness = make_harness(listener=STARTTLS)

    async def scenario():
        client = await encrypted(harness)
        assert harness.statistics["smtp.tls"] == 1
        assert (await client.mail()).startswith("250")
        await client.say("QUIT", "221")
        await harness.until(lambda: not harness.connections)

    harness.run(scenario())
    assert b"TLSv1.3" in harness.peers.stored[1]
    assert harness.statistics["smtp.tls"] == 0
    assert all(imsg.origin.tls for imsg in harness.peers.asked if isinstance(imsg, ExpandRecipient))


def test_a_mail_over_smtps(make_harness):
    harness = make_harness(listener=SMTPS)

    async def scenario():
        client = await harness.tls_client()
        await client.greet()
        assert harness.statistics["smtp.smtps"] == 1
        assert (await client.mail()).startswith("250")

    harness.run(scenario())
    assert b"TLSv1.3" in harness.peers.stored[1]


def test_a_large_mail_over_tls(make_harness):
    harness = make_harness(listener=SMTPS)
    body = b"".join(b"%06d a line of some length, as they come\r\n" % number for number in range(20_000))

    async def scenario():
        client = await harness.tls_client()
        await client.greet()
        assert (await client.mail(b"Subject: big\r\n\r\n" + body)).startswith("250")

    harness.run(scenario())
    assert harness.peers.stored[1].endswith(b"\n\n" + body.replace(b"\r\n", b"\n"))


def test_every_record_byte_by_byte(make_harness):
    harness = make_harness(listener=SMTPS)

    async def scenario():
        client = await harness.tls_client()
        await client.greet()
        for byte in client.tls.sealed(b"NOOP\r\n"):
            client.writer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.reply()).startswith("250")

    harness.run(scenario())


def test_injection_of_commands_behind_starttls(make_harness):
    """CVE-2011-0411: what is sent in the clear behind STARTTLS must never count as if it had been encrypted."""
    harness = make_harness(listener=STARTTLS)

    async def scenario():
        client = await harness.client()
        await client.greet()
        client.writer.write(b"STARTTLS\r\nRSET\r\n")
        assert (await client.reply()).startswith("503")
        assert await client.reply() == ""

    harness.run(scenario())


def test_injection_of_commands_between_starttls_and_the_handshake(make_harness):
    harness = make_harness(listener=STARTTLS)

    async def scenario():
        client = await harness.client()
        await client.greet()
        await client.say("STARTTLS", "220")
        client.writer.write(b"MAIL FROM:<amy@there.test>\r\n")
        assert b"250" not in await client.reader.read()

    harness.run(scenario())
    assert harness.statistics["smtp.tls.failed"] == 1


def test_injection_of_a_hello_behind_starttls(make_harness):
    """Ciphertext that does not wait for the go-ahead is as bad as plaintext."""
    harness = make_harness(listener=STARTTLS)

    async def scenario():
        client = await harness.client()
        await client.greet()
        client.writer.write(b"STARTTLS\r\n" + TlsClient(None, None).hello())
        assert (await client.reply()).startswith("503")

    harness.run(scenario())
    assert harness.crypto.signatures == 0


def test_starttls_forgets_what_was_said_before(make_harness):
    harness = make_harness(listener=STARTTLS)

    async def scenario():
        client = await harness.client()
        await client.greet()
        await client.say("STARTTLS", "220")
        await client.shake()
        await client.say("MAIL FROM:<amy@there.test>", "503")

    harness.run(scenario())


@pytest.mark.parametrize(
    "content", [b"Subject: half\r\n\r\nof a mail\r\n", b"S: x\r\n\r\n" + b"y" * 998 + b"\r\n" * 40_000]
)
def test_close_notify_in_the_middle_of_data_leaves_nothing(make_harness, content):
    harness = make_harness(listener=SMTPS)

    async def scenario():
        client = await harness.tls_client()
        await client.greet()
        await client.envelope()
        await client.say("DATA", "354")
        client.writer.write(client.tls.sealed(content) + client.tls.close_notify() + b"\r\n.\r\n")
        assert await client.reply() == ""
        client.writer.close()
        await harness.until(lambda: not harness.connections)

    harness.run(scenario())
    assert not harness.peers.stored
    assert [(f.message, f.envelopes) for f in harness.peers.forgotten] == [(1, 1)]
    assert harness.dispatcher.resources.memory.used == 0


def test_close_notify_in_the_middle_of_bdat_leaves_nothing(make_harness):
    """CVE-2026-45185: what comes in the clear behind close_notify is no part of the chunk."""
    harness = make_harness(listener=SMTPS)

    async def scenario():
        client = await harness.tls_client()
        await client.greet()
        await client.envelope()
        chunk = b"Subject: half\r\n\r\nof a chunk\r\n"
        client.writer.write(
            client.tls.sealed(b"BDAT %d LAST\r\n" % (2 * len(chunk)) + chunk) + client.tls.close_notify() + chunk
        )
        assert await client.reply() == ""
        client.writer.close()
        await harness.until(lambda: not harness.connections)

    harness.run(scenario())
    assert not harness.peers.stored
    assert [(f.message, f.envelopes) for f in harness.peers.forgotten] == [(1, 1)]


def test_close_notify_while_another_process_decides(make_harness):
    harness = make_harness(listener=SMTPS)

    async def scenario():
        client = await harness.tls_client()
        await client.greet()
        await client.say("MAIL FROM:<amy@there.test>", "250")
        harness.peers.hold = {ExpandRecipient}
        client.writer.write(client.tls.sealed(b"RCPT TO:<bob@here.test>\r\n") + client.tls.close_notify())
        await harness.until(lambda: harness.peers.held)
        harness.peers.release()
        assert (await client.reply()).startswith("250 2.1.5")
        assert await client.reply() == ""
        client.writer.close()
        await harness.until(lambda: harness.peers.forgotten)

    harness.run(scenario())
    assert [(f.message, f.envelopes) for f in harness.peers.forgotten] == [(1, 1)]


def test_a_client_that_vanishes_in_the_middle_of_data_leaves_nothing(make_harness):
    harness = make_harness(listener=SMTPS)

    async def scenario():
        client = await harness.tls_client()
        await client.greet()
        await client.envelope()
        await client.say("DATA", "354")
        client.writer.write(client.tls.sealed(b"Subject: half\r\n\r\nof a mail\r\n")[:-5])
        await client.writer.drain()
        client.writer.transport.abort()
        await harness.until(lambda: not harness.connections)

    harness.run(scenario())
    assert not harness.peers.stored
    assert len(harness.peers.forgotten) == 1


def test_a_record_that_was_changed_on_its_way_ends_the_connection(make_harness):
    harness = make_harness(listener=SMTPS)

    async def scenario():
        client = await harness.tls_client()
        await client.greet()
        record = bytearray(client.tls.sealed(b"MAIL FROM:<amy@there.test>\r\n"))
        record[-1] ^= 1
        client.writer.write(record)
        assert await client.reply() == ""

    harness.run(scenario())
    assert not any(isinstance(imsg, ExpandRecipient) for imsg in harness.peers.asked)


def test_handshakes_that_stall_delay_no_others(make_harness):
    harness = make_harness(listener=STARTTLS, max_sessions_per_address=1000)

    async def scenario():
        harness.crypto.go.clear()
        for _ in range(100):
            client = await harness.client()
            await client.greet()
            await client.say("STARTTLS", "220")
            client.writer.write(TlsClient(None, None).hello())
        other = await harness.client()
        await other.greet()
        assert (await other.mail()).startswith("250")
        now = harness.loop.time()
        harness.dispatcher.connections.sweep(now + HANDSHAKE_TIMEOUT)
        assert harness.statistics["smtp.tls.failed"] == 100
        await other.say("NOOP", "250")

    harness.run(scenario())


def links():
    return [one for one in gc.get_objects() if isinstance(one, TlsConnection)]


@pytest.mark.parametrize("shaken", [True, False])
def test_what_tls_took_is_given_back_when_a_client_leaves(make_harness, shaken):
    """At once: a collector that counts objects does not see that these are large."""
    harness = make_harness(listener=STARTTLS)

    async def scenario():
        client = await harness.client()
        await client.greet()
        await client.say("STARTTLS", "220")
        if shaken:
            await client.shake()
            await client.say("EHLO client.test", "250")
        else:
            client.writer.write(TlsClient(None, None).hello())
            await client.reader.read(1)
        assert len(links()) == 1
        client.writer.close()
        await harness.until(lambda: not harness.connections)
        assert links() == []

    gc.collect()
    gc.disable()
    try:
        harness.run(scenario())
    finally:
        gc.enable()


def test_a_handshake_that_fails_says_why(make_harness, capfd):
    harness = make_harness(listener=SMTPS)

    async def scenario():
        client = await harness.client()
        client.writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await client.reader.read()

    harness.run(scenario())
    log = capfd.readouterr().err
    assert 'smtp tls-failed reason="client speaks HTTP" address=127.0.0.1' in log
    assert "smtp disconnected reason=tls-accept-failed" in log
    assert harness.statistics["smtp.tls.failed"] == 1


def test_what_is_encrypted_is_logged(make_harness, capfd):
    harness = make_harness(listener=SMTPS)
    harness.run(harness.tls_client())
    assert "smtp tls ciphers=TLSv1.3:TLS_AES_256_GCM_SHA384:256\n" in capfd.readouterr().err


def test_a_client_that_never_reads_costs_a_bounded_amount_over_tls(make_harness):
    harness = make_harness(listener=SMTPS)

    async def scenario():
        client = await harness.tls_client()
        await client.greet()
        client.writer.transport.pause_reading()
        for _ in range(100):
            client.write(b"HELP\r\n" * 1000)
        (connection,) = harness.connections
        await harness.until(lambda: connection._finished or not connection.stream.reading)
        other = await harness.tls_client()
        await other.greet()
        assert (await other.mail()).startswith("250")

    harness.run(scenario())


def test_new_certificates_are_for_new_sessions(make_harness):
    harness = make_harness(listener=SMTPS)

    async def scenario():
        old = await harness.tls_client()
        await old.greet()
        return old

    old = harness.run(scenario())
    assert harness.certify(certificate(harness.crypto.key, name="new.test")).trouble == ""
    before = harness.dispatcher.resources.certificates.get_context(1)
    harness.use_certificates()

    async def afterwards():
        assert b"new.test" not in old.tls.ssl.getpeercert(binary_form=True)
        assert (await old.mail()).startswith("250")
        new = await harness.tls_client()
        assert b"new.test" in new.tls.ssl.getpeercert(binary_form=True)
        await new.greet()

    harness.run(afterwards())
    assert harness.dispatcher.resources.certificates.get_context(1) is not before


def test_a_stop_while_a_handshake_is_under_way(make_harness):
    harness = make_harness(listener=STARTTLS)

    async def scenario():
        client = await harness.client()
        await client.greet()
        await client.say("STARTTLS", "220")
        harness.dispatcher.connections.shutdown()
        assert await client.reader.read() == b""
        await harness.until(lambda: not harness.connections)

    harness.run(scenario())


def test_a_password_goes_to_lookup_and_its_answer_comes_back(make_harness):
    harness = make_harness(listener=SUBMISSION)

    async def scenario():
        client = await encrypted(harness)
        await client.say("AUTH PLAIN AGFteQB3cm9uZw==", "535")
        await client.say("AUTH PLAIN AGFteQBzZWNyZXQ=", "235")
        await client.say("MAIL FROM:<bob@there.test>", "550 5.7.1")
        assert (await client.mail()).startswith("250")

    harness.run(scenario())
    asked = [imsg for imsg in harness.peers.asked if isinstance(imsg, CheckCredentials)]
    assert [(imsg.listener, imsg.address, imsg.user) for imsg in asked] == [(1, "127.0.0.1", "amy")] * 2
    assert harness.statistics["smtp.auth.ok"] == harness.statistics["smtp.auth.failed"] == 1
    assert [imsg.origin.user for imsg in harness.peers.asked if isinstance(imsg, ExpandRecipient)] == ["amy"]


def test_no_password_in_the_log(make_harness, capfd):
    harness = make_harness(listener=SUBMISSION)

    async def scenario():
        client = await encrypted(harness)
        await client.say("AUTH PLAIN AGFteQB3cm9uZw==", "535")
        await client.say("AUTH LOGIN", "334")
        await client.say("YW15", "334")
        await client.say("d3Jvbmc=", "535")

    harness.run(scenario())
    log = capfd.readouterr().err
    for secret in ("AGFteQB3cm9uZw", "d3Jvbmc", "wrong"):
        assert secret not in log


def test_a_mail_that_is_being_stored_is_stored_whatever_the_client_does(make_harness):
    harness = make_harness(listener=SMTPS)

    async def scenario():
        client = await harness.tls_client()
        await client.greet()
        await client.envelope()
        await client.say("DATA", "354")
        harness.peers.hold = {StoreMessage}
        client.writer.write(client.tls.sealed(b"S: x\r\n\r\nx\r\n.\r\n") + client.tls.close_notify())
        await harness.until(lambda: harness.peers.held)
        harness.peers.release()
        await harness.until(lambda: harness.peers.stored)

    harness.run(scenario())
    assert not harness.peers.forgotten


@pytest.mark.parametrize(
    "user, password",
    [("a" * 300, "x"), ("é" * 200, "x"), ("amy", "x" * 1500), ("a\nb", "x"), ("amy", "x\r\ny"), ("amy\x7f", "x")],
)
def test_a_user_or_password_that_no_imsg_can_carry_goes_nowhere(make_harness, user, password):
    """An imsg that lookup cannot take would be the end of the daemon."""
    harness = make_harness(listener=SUBMISSION)
    message = base64.b64encode(f"\0{user}\0{password}".encode()).decode()

    async def scenario():
        client = await encrypted(harness)
        await client.say("AUTH PLAIN", "334")
        await client.say(message, "5")
        await client.say("NOOP", "250")

    harness.run(scenario())
    assert not any(isinstance(imsg, CheckCredentials) for imsg in harness.peers.asked)
