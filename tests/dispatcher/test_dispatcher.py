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


def test_a_mail_is_stored_before_it_is_accepted(house):
    async def scenario():
        client = await house.client()
        await client.greet()
        house.others.hold = {StoreMessage}
        accepted = asyncio.ensure_future(client.mail())
        await house.until(lambda: house.others.held)
        assert not accepted.done()
        house.others.release()
        assert (await accepted).startswith("250 2.0.0 00000001")

    house.run(scenario())
    content = house.others.stored[1]
    assert content.startswith(b"Received: from client.test (client.test [127.0.0.1])\n\tby mx.test")
    assert b"\nSubject: x\n" in content and content.endswith(b"\n\nhello\n")


def test_a_small_mail_stays_in_memory_and_a_large_one_goes_to_a_spool_file(house):
    body = b"".join(b"%06d line with .dots and \xfc\xdf\r\n" % number for number in range(40_000))

    async def scenario():
        client = await house.client()
        await client.greet()
        assert (await client.mail()).startswith("250")
        assert not house.others.spool
        assert (await client.mail(b"Subject: big\r\n\r\n" + body)).startswith("250")

    house.run(scenario())
    assert house.others.stored[2].endswith(b"\n\n" + body.replace(b"\r\n", b"\n"))
    assert house.others.spool[2]
    assert house.dispatcher.office.memory.used == 0


def test_a_spool_file_that_cannot_be_had_refuses_that_mail_only(house):
    async def scenario():
        client = await house.client()
        await client.greet()
        house.others.refuse_spool = True
        assert (await client.mail(b"x: y\r\n\r\n" + b"z" * 60 + b"\r\n" * 50_000)).startswith("452 4.3.1")
        assert (await client.mail()).startswith("250")

    house.run(scenario())
    assert [forgotten.message for forgotten in house.others.forgotten] == [1]
    assert house.dispatcher.office.memory.used == 0


def test_a_store_that_refuses_is_a_4xx_and_the_session_goes_on(house):
    async def scenario():
        client = await house.client()
        await client.greet()
        house.others.refuse_store = True
        assert (await client.mail()).startswith("451 4.3.0")
        house.others.refuse_store = False
        assert (await client.mail()).startswith("250")

    house.run(scenario())
    assert not house.others.forgotten  # queue refused it and has dropped it: nothing to forget


def test_a_refused_recipient_leaves_the_transaction_open(house):
    async def scenario():
        client = await house.client()
        await client.greet()
        await client.say("MAIL FROM:<amy@there.test>", "250")
        await client.say("RCPT TO:<nobody@here.test>", "550 5.1.1 no such user")
        await client.say("RCPT TO:<bob@here.test>", "250")

    house.run(scenario())


def test_a_client_that_leaves_is_forgotten_only_after_lookup_has_answered(house):
    async def scenario():
        client = await house.client()
        await client.greet()
        await client.say("MAIL FROM:<amy@there.test>", "250")
        house.others.hold = {ExpandRecipient}
        client.writer.write(b"RCPT TO:<bob@here.test>\r\n")
        await house.until(lambda: house.others.held)
        client.vanish()
        await house.until(lambda: not house.dispatcher.crowd.members)
        assert not house.others.forgotten
        house.others.release()
        await house.until(lambda: house.others.forgotten)

    house.run(scenario())
    assert [(f.message, f.envelopes) for f in house.others.forgotten] == [(1, 1)]


def test_a_client_that_leaves_in_the_middle_of_a_large_mail_costs_nothing(house):
    async def scenario():
        client = await house.client()
        await client.greet()
        await client.envelope()
        await client.say("DATA", "354")
        house.others.hold = {OpenSpoolFile}
        client.writer.write(b"x: y\r\n\r\n" + b"z" * 70 + b"\r\nz" * 20_000)
        await house.until(lambda: house.others.held)
        client.writer.transport.abort()
        await house.until(lambda: house.others.forgotten)
        house.others.release()
        await house.until(lambda: house.others.spool)

    house.run(scenario())
    assert house.dispatcher.office.memory.used == 0


def test_a_client_that_leaves_while_its_large_mail_is_still_written_leaves_nothing_with_queue(house):
    """All of it has come, the final dot too; it is not yet where queue could store it."""

    async def scenario():
        client = await house.client()
        await client.greet()
        await client.envelope()
        await client.say("DATA", "354")
        house.others.hold = {OpenSpoolFile}
        client.writer.write(b"x: y\r\n\r\n" + b"line\r\n" * 10_000 + b".\r\n")
        (connection,) = house.dispatcher.crowd.members.values()
        await house.until(lambda: house.others.held and connection.session.asking)
        client.vanish()
        await house.until(lambda: house.others.forgotten)
        house.others.release()
        await house.until(lambda: house.others.spool)

    house.run(scenario())
    assert [(f.message, f.envelopes) for f in house.others.forgotten] == [(1, 1)]
    assert not house.others.stored
    assert house.dispatcher.office.memory.used == 0


def test_a_group_of_commands_is_answered_in_order(house):
    async def scenario():
        client = await house.client()
        await client.greet()
        client.writer.write(
            b"MAIL FROM:<a@there.test>\r\nRCPT TO:<bob@here.test>\r\nRCPT TO:<nobody@here.test>\r\nDATA\r\n"
        )
        replies = [(await client.reply())[:3] for _ in range(4)]
        assert replies == ["250", "250", "550", "354"]
        client.writer.write(b"x: y\r\n\r\nz\r\n.\r\nQUIT\r\n")
        assert [(await client.reply())[:3] for _ in range(3)] == ["250", "221", ""]

    house.run(scenario())


def test_a_client_that_never_reads_costs_a_bounded_amount(house):
    async def scenario():
        client = await house.client()
        await client.greet()
        client.writer.transport.pause_reading()
        for _ in range(200):
            client.writer.write(b"HELP\r\n" * 1000)
        connection = next(iter(house.dispatcher.crowd.members.values()))
        await house.until(lambda: connection._finished or not connection.wire.reading)
        other = await house.client()
        await other.greet()
        assert (await other.mail()).startswith("250")

    house.run(scenario())


def test_the_name_of_a_client_is_asked_for_once_in_a_burst(house):
    async def scenario():
        clients = [await house.client() for _ in range(5)]
        for client in clients:
            await client.greet()

    house.run(scenario())
    assert sum(isinstance(imsg, ResolveClient) for imsg in house.others.asked) == 1


def test_what_is_sent_before_the_greeting_waits_for_it(house):
    async def scenario():
        house.others.hold = {ResolveClient}
        client = await house.client()
        client.writer.write(b"EHLO early.test\r\n")
        await house.until(lambda: house.others.held)
        house.others.release()
        assert (await client.reply()).startswith("220")
        assert (await client.reply()).startswith("250")

    house.run(scenario())


def test_message_ids_are_never_given_twice_and_reserved_ahead(make_house):
    house = make_house(max_mails=1000)

    async def scenario():
        client = await house.client()
        await client.greet()
        for _ in range(400):
            assert (await client.mail()).startswith("250")

    house.run(scenario())
    assert len(house.others.stored) == 400
    assert sum(isinstance(imsg, ReserveMessageIds) for imsg in house.others.asked) >= 2


def test_too_many_sessions_are_told_so(make_house):
    house = make_house(max_sessions=2)

    async def scenario():
        first, second = await house.client(), await house.client()
        await first.greet()
        await second.greet()
        third = await house.client()
        assert (await third.reply()).startswith("421 4.7.0")
        first.writer.close()
        await house.until(lambda: len(house.dispatcher.crowd) < 2)
        await (await house.client()).greet()

    house.run(scenario())


def test_a_pause_leaves_clients_in_the_backlog_until_it_ends(house):
    async def scenario():
        house.control.send(PauseListeners(1, True))
        house.control.send(PauseListeners(2, True))
        await house.until(lambda: len(house.heard) == 2)
        assert house.heard == [ListenersPaused(1, True), ListenersPaused(2, False)]
        client = await house.client()
        waiting = asyncio.ensure_future(client.reply())
        house.control.send(PauseListeners(3, False))
        assert (await waiting).startswith("220")

    house.run(scenario())


def test_statistics_count_open_sessions(house):
    async def scenario():
        await (await house.client()).greet()
        house.control.send(ReportStatistics(7))
        await house.until(lambda: house.heard)

    house.run(scenario())
    assert house.heard[0].counters["smtp.session"] == 1
    assert house.heard[0].counters["smtp.session.inet4"] == 1


def test_a_stop_answers_what_is_being_stored_and_refuses_the_others(house):
    async def scenario():
        idle, busy = await house.client(), await house.client()
        await idle.greet()
        await busy.greet()
        house.others.hold = {StoreMessage}
        accepted = asyncio.ensure_future(busy.mail())
        await house.until(lambda: house.others.held)
        house.dispatcher.listeners.close()
        house.dispatcher.crowd.shutdown()
        assert (await idle.reply()).startswith("421 4.3.2")
        house.others.release()
        assert (await accepted).startswith("250")
        assert (await busy.reply()).startswith("421 4.3.2")

    house.run(scenario())


def test_our_own_failure_costs_one_session(house):
    async def scenario():
        broken, other = await house.client(), await house.client()
        await broken.greet()
        await other.greet()
        sessions = house.dispatcher.crowd.members
        next(iter(sessions.values())).session.state = None  # stands for a defect of ours
        broken.writer.write(b"NOOP\r\n")
        await broken.reply()
        broken.writer.close()
        await house.until(lambda: len(sessions) == 1)
        assert (await other.mail()).startswith("250")

    house.run(scenario())
