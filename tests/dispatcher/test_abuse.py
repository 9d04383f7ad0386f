"""Who does too much of something: what they are told, and that others notice nothing."""

from smtpd.slice import Proxy

PROXY = {"proxy": Proxy.V1}


async def client_of(harness, address):
    client = await harness.client()
    client.writer.write(b"PROXY TCP4 %s 198.51.100.1 40000 25\r\n" % address.encode())
    return client


def test_too_many_messages_of_an_address_are_refused_for_now(make_harness):
    harness = make_harness(listener=PROXY, message_rate=2)

    async def scenario():
        client = await client_of(harness, "192.0.2.7")
        await client.greet()
        assert (await client.mail()).startswith("250")
        assert (await client.mail()).startswith("250")
        await client.say("MAIL FROM:<amy@there.test>", "450 4.7.1")
        other = await client_of(harness, "192.0.2.8")
        await other.greet()
        assert (await other.mail()).startswith("250")

    harness.run(scenario())
    assert harness.statistics["smtp.refused.message-rate"] == 1
    assert len(harness.peers.stored) == 3


def test_an_address_that_fails_too_often_is_not_heard_any_more(make_harness):
    harness = make_harness(listener=PROXY, failure_rate=3, tarpit=0)

    async def scenario():
        first, second = [await client_of(harness, "192.0.2.7") for _ in range(2)]
        await first.greet()
        await second.greet()
        await first.say("NONSENSE", "500")
        await second.say("NONSENSE", "500")
        await first.say("NONSENSE", "500")
        assert (await first.reply()).startswith("421 4.7.0")
        await second.say("NOOP", "250")
        await second.say("NONSENSE", "500")
        assert (await second.reply()).startswith("421 4.7.0")
        third = await client_of(harness, "192.0.2.7")
        assert (await third.reply()).startswith("421 4.7.0")
        other = await client_of(harness, "203.0.113.5")
        await other.greet()

    harness.run(scenario())
    assert harness.statistics["smtp.refused.failure-rate"] == 3


def test_a_network_is_held_to_its_rate_whatever_address_it_uses(make_harness):
    harness = make_harness(listener=PROXY, connection_rate_per_network=3)

    async def scenario():
        replies = [await (await client_of(harness, f"192.0.2.{host}")).reply() for host in range(1, 6)]
        assert [reply[:3] for reply in replies] == ["220", "220", "220", "421", "421"]

    harness.run(scenario())
    assert harness.statistics["smtp.refused.connection-rate"] == 2


def test_a_client_with_too_many_errors_waits_for_the_next_refusal(make_harness):
    harness = make_harness(tarpit_after=2, tarpit=1)

    async def scenario():
        client, other = await harness.client(), await harness.client()
        await client.greet()
        await other.greet()
        await client.say("NONSENSE", "500")
        await client.say("NONSENSE", "500")
        begun = harness.loop.time()
        client.write(b"NONSENSE\r\nNOOP\r\n")
        await other.say("NOOP", "250")
        assert harness.loop.time() - begun < 0.5
        assert (await client.reply()).startswith("500")
        assert harness.loop.time() - begun >= 0.9
        assert (await client.reply()).startswith("250")

    harness.run(scenario())
    assert harness.statistics["smtp.tarpit"] == 1


def test_a_client_that_leaves_while_it_waits_costs_nothing(make_harness):
    harness = make_harness(tarpit_after=1, tarpit=100)

    async def scenario():
        client = await harness.client()
        await client.greet()
        await client.say("NONSENSE", "500")
        client.write(b"NONSENSE\r\n")
        await harness.until(lambda: harness.statistics["smtp.tarpit"])
        (connection,) = harness.connections
        client.vanish()
        await harness.until(lambda: not harness.connections)
        assert connection._pause.cancelled()  # or it would be kept for the whole time

    harness.run(scenario())


def test_statistics_never_count_below_zero(make_harness):
    harness = make_harness(listener=PROXY, max_sessions_per_address=1)

    async def scenario():
        for _ in range(3):
            await (await client_of(harness, "192.0.2.7")).reply()
        for client in harness.clients:
            client.writer.transport.abort()
        await harness.until(lambda: not harness.connections)

    harness.run(scenario())
    assert harness.statistics["smtp.session"] == harness.statistics["smtp.session.inet4"] == 0
    assert not harness.dispatcher.connections._by_address
