"""What one client can cost: bytes that are not read yet, and a connection that it does not end."""

import asyncio

import pytest

from smtpd.dispatcher import connection
from smtpd.imsg import ExpandRecipient, StoreMessage

PIECES = 20


def until(house, condition):
    return asyncio.wait_for(house.until(condition), 5)


@pytest.mark.parametrize("question", [ExpandRecipient, StoreMessage])
def test_a_client_is_not_read_while_its_question_waits(house, question):
    """Whatever it sends meanwhile stays in its socket: we hold what one read has brought."""

    async def scenario():
        client = await house.client()
        await client.greet()
        await client.say("MAIL FROM:<amy@there.test>", "250")
        if question is StoreMessage:
            await client.say("RCPT TO:<bob@here.test>", "250")
            await client.say("DATA", "354")
        house.others.hold = {question}
        client.write(
            b"RCPT TO:<bob@here.test>\r\n" if question is ExpandRecipient else b"Subject: x\r\n\r\nhi\r\n.\r\n"
        )
        await until(house, lambda: house.others.held)
        (ours,) = house.connections
        for _ in range(PIECES):
            client.write(b"NOOP\r\n")
            await asyncio.sleep(0.001)
        await until(house, lambda: not ours.wire.reading)
        assert ours.session.waiting
        house.others.release()
        assert (await client.reply()).startswith("250 2.")
        for _ in range(PIECES):
            assert (await client.reply()).startswith("250")

    house.run(scenario())


@pytest.mark.parametrize("last", ["QUIT", "421"])
def test_a_client_that_does_not_end_its_connection_is_ended(make_house, monkeypatch, last):
    monkeypatch.setattr(connection, "CLOSING", 0.05)
    house = make_house(max_sessions=1)

    async def scenario():
        client = await house.client()
        await client.greet()
        if last == "QUIT":
            await client.say("QUIT", "221")
        else:
            house.dispatcher.crowd.shutdown()
            assert (await client.reply()).startswith("421")
        await until(house, lambda: not house.connections)
        client.writer.transport.abort()

    house.run(scenario())


def test_a_client_that_does_not_take_its_last_reply_is_ended(make_house, monkeypatch):
    monkeypatch.setattr(connection, "CLOSING", 0.05)
    house = make_house()

    async def scenario():
        client = await house.client()
        await client.greet()
        (ours,) = house.connections
        client.writer.transport.pause_reading()
        for _ in range(200):
            client.writer.write(b"HELP\r\n" * 1000)
        await until(house, lambda: ours._finished)
        await until(house, lambda: not house.connections)
        client.writer.transport.abort()

    house.run(scenario())
