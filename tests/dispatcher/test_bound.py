"""What one client can cost: bytes that are not read yet, and a connection that it does not end."""

import asyncio

import pytest

from smtpd.dispatcher.inbound import connection
from smtpd.imsg import ExpandRecipient, StoreMessage

PIECES = 20


def until(harness, condition):
    return asyncio.wait_for(harness.until(condition), 5)


@pytest.mark.parametrize("question", [ExpandRecipient, StoreMessage])
def test_a_client_is_not_read_while_its_question_waits(harness, question):
    """Whatever it sends meanwhile stays in its socket: we hold what one read has brought."""

    async def scenario():
        client = await harness.client()
        await client.greet()
        await client.say("MAIL FROM:<amy@there.test>", "250")
        if question is StoreMessage:
            await client.say("RCPT TO:<bob@here.test>", "250")
            await client.say("DATA", "354")
        harness.peers.hold = {question}
        client.write(
            b"RCPT TO:<bob@here.test>\r\n" if question is ExpandRecipient else b"Subject: x\r\n\r\nhi\r\n.\r\n"
        )
        await until(harness, lambda: harness.peers.held)
        (ours,) = harness.connections
        for _ in range(PIECES):
            client.write(b"NOOP\r\n")
            await asyncio.sleep(0.001)
        await until(harness, lambda: not ours.stream.reading)
        assert ours.session.waiting
        harness.peers.release()
        assert (await client.reply()).startswith("250 2.")
        for _ in range(PIECES):
            assert (await client.reply()).startswith("250")

    harness.run(scenario())


@pytest.mark.parametrize("last", ["QUIT", "421"])
def test_a_client_that_does_not_end_its_connection_is_ended(make_harness, monkeypatch, last):
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.05)
    harness = make_harness(max_sessions=1)

    async def scenario():
        client = await harness.client()
        await client.greet()
        if last == "QUIT":
            await client.say("QUIT", "221")
        else:
            harness.dispatcher.connections.shutdown()
            assert (await client.reply()).startswith("421")
        await until(harness, lambda: not harness.connections)
        client.writer.transport.abort()

    harness.run(scenario())


def test_a_client_that_does_not_take_its_last_reply_is_ended(make_harness, monkeypatch):
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.05)
    harness = make_harness()

    async def scenario():
        client = await harness.client()
        await client.greet()
        (ours,) = harness.connections
        client.writer.transport.pause_reading()
        for _ in range(200):
            client.writer.write(b"HELP\r\n" * 1000)
        await until(harness, lambda: ours._finished)
        await until(harness, lambda: not harness.connections)
        client.writer.transport.abort()

    harness.run(scenario())
