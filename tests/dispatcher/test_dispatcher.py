"""The driver: what it asks whom, and what a client can cost."""

import asyncio

from smtpd.imsg import (
    ExpandRecipient,
    ListenersPaused,
    OpenSpoolFile,
    PauseListeners,
    ReportStatistics,
    ReserveMessageIds,
    ResolveClient,
    StoreMessage,
)


def test_a_mail_is_stored_before_it_is_accepted(harness):
    async def scenario():
        client = await harness.client()
        await client.greet()
        harness.peers.hold = {StoreMessage}
        accepted = asyncio.ensure_future(client.mail())
        await harness.until(lambda: harness.peers.held)
        assert not accepted.done()
        harness.peers.release()
        assert (await accepted).startswith("250 2.0.0 00000001")

    harness.run(scenario())
    content = harness.peers.stored[1]
    assert content.startswith(b"Received: from client.test (client.test [127.0.0.1])\n\tby mx.test")
    assert b"\nSubject: x\n" in content and content.endswith(b"\n\nhello\n")


def test_a_small_mail_stays_in_memory_and_a_large_one_goes_to_a_spool_file(harness):
    body = b"".join(b"%06d line with .dots and \xfc\xdf\r\n" % number for number in range(40_000))

    async def scenario():
        client = await harness.client()
        await client.greet()
        assert (await client.mail()).startswith("250")
        assert not harness.peers.spool
        assert (await client.mail(b"Subject: big\r\n\r\n" + body)).startswith("250")

    harness.run(scenario())
    assert harness.peers.stored[2].endswith(b"\n\n" + body.replace(b"\r\n", b"\n"))
    assert harness.peers.spool[2]
    assert harness.dispatcher.resources.memory.used == 0


def test_a_spool_file_that_cannot_be_had_refuses_that_mail_only(harness):
    async def scenario():
        client = await harness.client()
        await client.greet()
        harness.peers.refuse_spool = True
        assert (await client.mail(b"x: y\r\n\r\n" + b"z" * 60 + b"\r\n" * 50_000)).startswith("452 4.3.1")
        assert (await client.mail()).startswith("250")

    harness.run(scenario())
    assert [forgotten.message for forgotten in harness.peers.forgotten] == [1]
    assert harness.dispatcher.resources.memory.used == 0


def test_a_store_that_refuses_is_a_4xx_and_the_session_goes_on(harness):
    async def scenario():
        client = await harness.client()
        await client.greet()
        harness.peers.refuse_store = True
        assert (await client.mail()).startswith("451 4.3.0")
        harness.peers.refuse_store = False
        assert (await client.mail()).startswith("250")

    harness.run(scenario())
    assert not harness.peers.forgotten  # queue refused it and has dropped it: nothing to forget


def test_a_refused_recipient_leaves_the_transaction_open(harness):
    async def scenario():
        client = await harness.client()
        await client.greet()
        await client.say("MAIL FROM:<amy@there.test>", "250")
        await client.say("RCPT TO:<nobody@here.test>", "550 5.1.1 no such user")
        await client.say("RCPT TO:<bob@here.test>", "250")

    harness.run(scenario())


def test_a_client_that_leaves_is_forgotten_only_after_lookup_has_answered(harness):
    async def scenario():
        client = await harness.client()
        await client.greet()
        await client.say("MAIL FROM:<amy@there.test>", "250")
        harness.peers.hold = {ExpandRecipient}
        client.writer.write(b"RCPT TO:<bob@here.test>\r\n")
        await harness.until(lambda: harness.peers.held)
        client.vanish()
        await harness.until(lambda: not harness.dispatcher.connections.by_id)
        assert not harness.peers.forgotten
        harness.peers.release()
        await harness.until(lambda: harness.peers.forgotten)

    harness.run(scenario())
    assert [(f.message, f.envelopes) for f in harness.peers.forgotten] == [(1, 1)]


def test_a_client_that_leaves_in_the_middle_of_a_large_mail_costs_nothing(harness):
    async def scenario():
        client = await harness.client()
        await client.greet()
        await client.envelope()
        await client.say("DATA", "354")
        harness.peers.hold = {OpenSpoolFile}
        client.writer.write(b"x: y\r\n\r\n" + b"z" * 70 + b"\r\nz" * 20_000)
        await harness.until(lambda: harness.peers.held)
        client.writer.transport.abort()
        await harness.until(lambda: harness.peers.forgotten)
        harness.peers.release()
        await harness.until(lambda: harness.peers.spool)

    harness.run(scenario())
    assert harness.dispatcher.resources.memory.used == 0


def test_a_client_that_leaves_while_its_large_mail_is_still_written_leaves_nothing_with_queue(harness):
    """All of it has come, the final dot too; it is not yet where queue could store it."""

    async def scenario():
        client = await harness.client()
        await client.greet()
        await client.envelope()
        await client.say("DATA", "354")
        harness.peers.hold = {OpenSpoolFile}
        client.writer.write(b"x: y\r\n\r\n" + b"line\r\n" * 10_000 + b".\r\n")
        (connection,) = harness.dispatcher.connections.by_id.values()
        await harness.until(lambda: harness.peers.held and connection.session.question)
        client.vanish()
        await harness.until(lambda: harness.peers.forgotten)
        harness.peers.release()
        await harness.until(lambda: harness.peers.spool)

    harness.run(scenario())
    assert [(f.message, f.envelopes) for f in harness.peers.forgotten] == [(1, 1)]
    assert not harness.peers.stored
    assert harness.dispatcher.resources.memory.used == 0


def test_a_group_of_commands_is_answered_in_order(harness):
    async def scenario():
        client = await harness.client()
        await client.greet()
        client.writer.write(
            b"MAIL FROM:<a@there.test>\r\nRCPT TO:<bob@here.test>\r\nRCPT TO:<nobody@here.test>\r\nDATA\r\n"
        )
        replies = [(await client.reply())[:3] for _ in range(4)]
        assert replies == ["250", "250", "550", "354"]
        client.writer.write(b"x: y\r\n\r\nz\r\n.\r\nQUIT\r\n")
        assert [(await client.reply())[:3] for _ in range(3)] == ["250", "221", ""]

    harness.run(scenario())


def test_a_client_that_never_reads_costs_a_bounded_amount(harness):
    async def scenario():
        client = await harness.client()
        await client.greet()
        client.writer.transport.pause_reading()
        for _ in range(200):
            client.writer.write(b"HELP\r\n" * 1000)
        connection = next(iter(harness.dispatcher.connections.by_id.values()))
        await harness.until(lambda: connection._finished or not connection.stream.reading)
        other = await harness.client()
        await other.greet()
        assert (await other.mail()).startswith("250")

    harness.run(scenario())


def test_the_name_of_a_client_is_asked_for_once_in_a_burst(harness):
    async def scenario():
        clients = [await harness.client() for _ in range(5)]
        for client in clients:
            await client.greet()

    harness.run(scenario())
    assert sum(isinstance(imsg, ResolveClient) for imsg in harness.peers.asked) == 1


def test_what_is_sent_before_the_greeting_waits_for_it(harness):
    async def scenario():
        harness.peers.hold = {ResolveClient}
        client = await harness.client()
        client.writer.write(b"EHLO early.test\r\n")
        await harness.until(lambda: harness.peers.held)
        harness.peers.release()
        assert (await client.reply()).startswith("220")
        assert (await client.reply()).startswith("250")

    harness.run(scenario())


def test_message_ids_are_never_given_twice_and_reserved_ahead(make_harness):
    harness = make_harness(max_mails=1000)

    async def scenario():
        client = await harness.client()
        await client.greet()
        for _ in range(400):
            assert (await client.mail()).startswith("250")

    harness.run(scenario())
    assert len(harness.peers.stored) == 400
    assert sum(isinstance(imsg, ReserveMessageIds) for imsg in harness.peers.asked) >= 2


def test_too_many_sessions_are_told_so(make_harness):
    harness = make_harness(max_sessions=2)

    async def scenario():
        first, second = await harness.client(), await harness.client()
        await first.greet()
        await second.greet()
        third = await harness.client()
        assert (await third.reply()).startswith("421 4.7.0")
        first.writer.close()
        await harness.until(lambda: len(harness.dispatcher.connections) < 2)
        await (await harness.client()).greet()

    harness.run(scenario())


def test_a_pause_leaves_clients_in_the_backlog_until_it_ends(harness):
    async def scenario():
        harness.control.send(PauseListeners(1, True))
        harness.control.send(PauseListeners(2, True))
        await harness.until(lambda: len(harness.heard) == 2)
        assert harness.heard == [ListenersPaused(1, True), ListenersPaused(2, False)]
        client = await harness.client()
        waiting = asyncio.ensure_future(client.reply())
        harness.control.send(PauseListeners(3, False))
        assert (await waiting).startswith("220")

    harness.run(scenario())


def test_statistics_count_open_sessions(harness):
    async def scenario():
        await (await harness.client()).greet()
        harness.control.send(ReportStatistics(7))
        await harness.until(lambda: harness.heard)

    harness.run(scenario())
    assert harness.heard[0].counters["smtp.session"] == 1
    assert harness.heard[0].counters["smtp.session.inet4"] == 1


def test_a_stop_answers_what_is_being_stored_and_refuses_the_others(harness):
    async def scenario():
        idle, busy = await harness.client(), await harness.client()
        await idle.greet()
        await busy.greet()
        harness.peers.hold = {StoreMessage}
        accepted = asyncio.ensure_future(busy.mail())
        await harness.until(lambda: harness.peers.held)
        harness.dispatcher.listeners.close()
        harness.dispatcher.connections.shutdown()
        assert (await idle.reply()).startswith("421 4.3.2")
        harness.peers.release()
        assert (await accepted).startswith("250")
        assert (await busy.reply()).startswith("421 4.3.2")

    harness.run(scenario())


def test_an_error_of_our_own_costs_one_session(harness):
    async def scenario():
        broken, other = await harness.client(), await harness.client()
        await broken.greet()
        await other.greet()
        sessions = harness.dispatcher.connections.by_id
        next(iter(sessions.values())).session.state = None  # stands for a defect of ours
        broken.writer.write(b"NOOP\r\n")
        await broken.reply()
        broken.writer.close()
        await harness.until(lambda: len(sessions) == 1)
        assert (await other.mail()).startswith("250")

    harness.run(scenario())
