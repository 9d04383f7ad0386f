"""What happens to a client before the banner."""

import os
import resource
import socket

import pytest

from smtpd.dispatcher.inbound.preamble import Preamble
from smtpd.imsg import AddListener, ClassifyClient, ExpandRecipient, ResolveClient
from smtpd.slice import ListenerSlice, Proxy, Tls, TlsSlice

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n"


def v2(source, destination, ports=(40000, 25)):
    body = socket.inet_aton(source) + socket.inet_aton(destination)
    body += ports[0].to_bytes(2) + ports[1].to_bytes(2)
    return SIGNATURE + b"\x21\x11" + len(body).to_bytes(2) + body


@pytest.mark.parametrize("header", [V1, v2("192.0.2.7", "198.51.100.1")], ids=["v1", "v2"])
def test_the_client_is_the_one_that_the_proxy_names(make_harness, header):
    harness = make_harness(listener={"proxy": Proxy.ANY, "welcome": True})

    async def scenario():
        client = await harness.client()
        client.writer.write(header)
        await client.greet()
        assert (await client.mail()).startswith("250")

    harness.run(scenario())
    assert [imsg.address for imsg in harness.peers.asked if isinstance(imsg, ResolveClient)] == ["192.0.2.7"]
    (welcome,) = [imsg for imsg in harness.peers.asked if isinstance(imsg, ClassifyClient)]
    assert (welcome.listener, welcome.address, welcome.local) == (1, "192.0.2.7", "198.51.100.1")
    (asked,) = [imsg for imsg in harness.peers.asked if isinstance(imsg, ExpandRecipient)]
    assert asked.origin.address == "192.0.2.7"
    assert b"[192.0.2.7]" in harness.peers.stored[1]


def test_a_proxy_header_byte_by_byte(make_harness):
    harness = make_harness(listener={"proxy": Proxy.V2})

    async def scenario():
        client = await harness.client()
        for byte in v2("192.0.2.7", "198.51.100.1"):
            client.writer.write(bytes([byte]))
            await client.writer.drain()
        await client.greet()

    harness.run(scenario())
    assert harness.peers.asked[1].address == "192.0.2.7"


def test_what_comes_behind_a_proxy_header_is_not_read_as_one(make_harness):
    harness = make_harness(listener={"proxy": Proxy.ANY})

    async def scenario():
        harness.peers.hold = {ResolveClient}
        client = await harness.client()
        client.writer.write(V1)
        await harness.until(lambda: harness.peers.held)
        client.writer.write(b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 25\r\nHELO there.test\r\n")
        (connection,) = harness.connections
        await harness.until(lambda: connection.preamble._early or not connection.stream.reading)
        harness.peers.release()
        assert (await client.reply()).startswith("220")
        assert (await client.reply()).startswith("500 5.5.1")
        assert "[192.0.2.7]" in await client.reply()

    harness.run(scenario())


def test_a_check_of_the_proxy_itself_keeps_its_own_address(make_harness):
    harness = make_harness(listener={"proxy": Proxy.V2})

    async def scenario():
        client = await harness.client()
        client.writer.write(SIGNATURE + b"\x20\x00\x00\x00")
        await client.greet()

    harness.run(scenario())
    assert [imsg.address for imsg in harness.peers.asked if isinstance(imsg, ResolveClient)] == ["127.0.0.1"]


class Visitor:
    """A connection of the preamble that records the address that is resolved, and refusals."""

    address = ""

    def admit(self):
        return False


@pytest.mark.parametrize(
    "proxy, told, known",
    [
        ("203.0.113.9", "127.0.0.1", "203.0.113.9"),
        ("203.0.113.9", "127.1.2.3", "203.0.113.9"),
        ("203.0.113.9", "192.0.2.7", "192.0.2.7"),
        ("127.0.0.1", "127.1.2.3", "127.1.2.3"),
    ],
)
def test_a_proxy_on_another_host_makes_no_client_a_program_of_this_host(make_harness, proxy, told, known):
    harness, visitor = make_harness(), Visitor()
    listener = ListenerSlice(1, "198.51.100.1", 25, "mx.test", "", proxy=Proxy.V1)
    preamble = Preamble(harness.dispatcher.resources, listener, visitor, (proxy, 40001), "198.51.100.1")
    preamble.receive(V1.replace(b"192.0.2.7", told.encode()))
    assert visitor.address == known


def test_tls_behind_a_proxy_header_in_the_same_segment(make_harness):
    harness = make_harness(listener={"proxy": Proxy.V1, "tls": TlsSlice(Tls.AT_ONCE, ("mx.test",))})

    async def scenario():
        client = await harness.client()
        client.writer.write(V1)
        await client.shake()
        await client.greet()

    harness.run(scenario())
    assert harness.statistics["smtp.smtps"] == 1


def test_a_client_without_a_proxy_header_gets_no_reply(make_harness, capfd):
    harness = make_harness(listener={"proxy": Proxy.ANY})

    async def scenario():
        client = await harness.client()
        client.writer.write(b"EHLO client.test\r\n")
        assert await client.reader.read() == b""

    harness.run(scenario())
    assert harness.statistics["smtp.proxy.failed"] == 1
    assert harness.statistics["smtp.session"] == 0
    assert "smtp proxy-failed address=127.0.0.1 reason=" in capfd.readouterr().err


def test_a_proxy_header_that_does_not_come_is_not_waited_for_for_ever(make_harness):
    harness = make_harness(listener={"proxy": Proxy.ANY})

    async def scenario():
        client = await harness.client()
        client.writer.write(b"PROXY TCP4 ")
        await harness.until(lambda: harness.connections)
        (connection,) = harness.connections
        connection.tick(harness.loop.time() + 29)
        assert not connection._finished
        connection.tick(harness.loop.time() + 31)
        assert await client.reader.read() == b""

    harness.run(scenario())


def test_rates_count_the_address_that_the_proxy_told(make_harness):
    harness = make_harness(listener={"proxy": Proxy.V1}, connection_rate=2)

    async def scenario():
        for expected in ("220", "220", "421 4.7.0"):
            client = await harness.client()
            client.writer.write(V1)
            assert (await client.reply()).startswith(expected)
        other = await harness.client()
        other.writer.write(V1.replace(b"192.0.2.7", b"203.0.113.9"))
        await other.greet()

    harness.run(scenario())
    assert harness.statistics["smtp.refused.connection-rate"] == 1


def test_sessions_of_one_address_are_bounded(make_harness):
    harness = make_harness(listener={"proxy": Proxy.V1}, max_sessions_per_address=1)

    async def scenario():
        for expected in ("220", "421 4.7.0"):
            client = await harness.client()
            client.writer.write(V1)
            assert (await client.reply()).startswith(expected)

    harness.run(scenario())
    assert harness.statistics["smtp.refused.sessions"] == 1


def test_sessions_of_a_network_of_ipv6_are_those_of_one_address(make_harness):
    harness = make_harness(listener={"proxy": Proxy.V1}, max_sessions_per_address=1)

    async def scenario():
        for source, expected in (("2001:db8::1", "220"), ("2001:db8::2", "421 4.7.0"), ("2001:db8:0:1::1", "220")):
            client = await harness.client()
            client.writer.write(f"PROXY TCP6 {source} 2001:db8:f::1 40000 25\r\n".encode())
            assert (await client.reply()).startswith(expected)

    harness.run(scenario())


def test_a_refusal_on_a_listener_with_tls_says_nothing_in_the_clear(make_harness):
    harness = make_harness(
        listener={"proxy": Proxy.V1, "tls": TlsSlice(Tls.AT_ONCE, ("mx.test",))}, max_sessions_per_address=0
    )

    async def scenario():
        client = await harness.client()
        client.writer.write(V1)
        assert await client.reader.read() == b""

    harness.run(scenario())


def test_our_name_is_what_lookup_says(make_harness):
    harness = make_harness(listener={"welcome": True})

    async def scenario():
        client = await harness.client()
        assert (await client.reply()).startswith("220 name.test ")

    harness.run(scenario())


def test_a_client_that_waits_for_the_banner_gets_it_after_the_delay(make_harness):
    harness = make_harness(greet_delay=1)

    async def scenario():
        begun = harness.loop.time()
        client = await harness.client()
        await client.greet()
        assert harness.loop.time() - begun >= 0.9

    harness.run(scenario())
    assert harness.statistics["smtp.early-talker"] == 0


def test_a_client_that_talks_before_the_banner_is_refused(make_harness):
    harness = make_harness(greet_delay=100)

    async def scenario():
        client = await harness.client()
        client.writer.write(b"EHLO hasty.test\r\n")
        assert (await client.reply()).startswith("554 5.5.1")
        assert await client.reply() == ""

    harness.run(scenario())
    assert harness.statistics["smtp.early-talker"] == 1


def test_a_client_that_talks_while_its_name_is_resolved_is_refused(make_harness):
    harness = make_harness(greet_delay=100)

    async def scenario():
        harness.peers.hold = {ResolveClient}
        client = await harness.client()
        await harness.until(lambda: harness.peers.held)
        client.writer.write(b"EHLO hasty.test\r\n")
        (connection,) = harness.connections
        await harness.until(lambda: connection.preamble._early)
        harness.peers.release()
        assert (await client.reply()).startswith("554 5.5.1")

    harness.run(scenario())


def test_a_flood_before_the_banner_is_not_read_to_its_end(make_harness):
    harness = make_harness()

    async def scenario():
        harness.peers.hold = {ResolveClient}
        client = await harness.client()
        client.writer.write(b"NOOP\r\n" * 2_000_000)
        await harness.until(lambda: harness.connections and harness.connections[0].preamble._early)
        other = await harness.client()
        await harness.until(lambda: len(harness.connections) == 2)
        (early,) = harness.connections[0].preamble._early
        assert len(early) <= 256 * 1024 and not harness.connections[0].stream.reading
        harness.peers.release()
        await other.greet()

    harness.run(scenario())


def test_a_client_that_leaves_during_the_delay_is_removed(make_harness):
    harness = make_harness(greet_delay=100)

    async def scenario():
        client = await harness.client()
        await harness.until(lambda: harness.connections and harness.connections[0].preamble._delay)
        (connection,) = harness.connections
        client.vanish()
        await harness.until(lambda: not harness.connections)
        assert connection.preamble._delay.cancelled()

    harness.run(scenario())


def test_an_address_that_comes_later_is_listened_on(make_harness):
    harness = make_harness()
    sock = socket.socket()
    sock.bind(("127.0.0.2", 0))
    port = sock.getsockname()[1]
    harness.parent.send(AddListener(2, "127.0.0.2"), os.dup(sock.fileno()))
    sock.close()

    async def scenario():
        await harness.until(lambda: len(harness.dispatcher.listeners._servers) == 2)
        harness.port = port
        client = await harness.client("127.0.0.2")
        assert (await client.reply()).startswith("220 late.test ")

    harness.run(scenario())


def test_no_clients_are_taken_while_descriptors_are_scarce(make_harness, capfd):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest, filling = max(int(number) for number in os.listdir("/proc/self/fd")), [os.dup(0)]
    while filling[-1] < highest:
        filling.append(os.dup(0))  # no free descriptor is left between those in use
    used = filling[-1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 70, hard))
    try:
        harness = make_harness()

        async def scenario():
            clients = []
            while harness.dispatcher.listeners.listening:
                clients.append(await harness.client())
                await clients[-1].greet()
            assert len(clients) < 30
            late = await harness.client()  # in the backlog
            for client in clients:
                client.writer.close()
            await late.greet()

        harness.run(scenario())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filling:
            os.close(descriptor)
    log = capfd.readouterr().err
    assert "descriptors are scarce" in log and "taking new clients again" in log


@pytest.mark.parametrize(
    "overrides",
    [
        "NAME=" + "x" * 300 + ".test",
        "NAME=a+0Ab.test",
        "HELO=" + "x" * 400,
        "LOGIN=" + "u" * 300,
        "LOGIN=a+00b",
        "ADDR=192.0.2.7 NAME=[UNAVAILABLE]",
        "ADDR=[UNAVAILABLE]",
        "ADDR=IPV6:2001:db8::1 PORT=4711 LOGIN=amy",
    ],
)
def test_what_xclient_says_is_refused_or_can_be_carried_to_lookup(make_harness, overrides):
    """An imsg that lookup cannot take would be the end of the daemon."""
    harness = make_harness(listener={"welcome": True})

    async def scenario():
        client = await harness.client()
        await client.greet()
        client.write(f"XCLIENT {overrides}\r\n".encode())
        reply = await client.reply()
        assert reply.startswith(("220", "501"))
        await client.say("EHLO client.test", "250")
        assert (await client.mail()).startswith("250")

    harness.run(scenario())


def break_begin(harness, connection):
    connection.begin(None)


def break_tick(harness, connection):
    connection.preamble = None
    connection._encryption = Broken()
    connection.tick(1.0)


def break_preamble(harness, connection):
    connection.preamble = Broken()
    connection.tick(1.0)


class Broken:
    """What our own mistake would leave."""

    under_way = True

    def tick(self, now):
        raise AttributeError

    def close(self):
        """Nobody is told."""

    def leave(self):
        """The same."""


@pytest.mark.parametrize("break_it", [break_begin, break_tick, break_preamble])
def test_an_error_of_our_own_before_there_is_a_session_costs_that_client(make_harness, capfd, break_it):
    harness = make_harness()
    harness.peers.hold = {ResolveClient}

    async def scenario():
        client = await harness.client()
        await harness.until(lambda: harness.peers.held)
        break_it(harness, harness.connections[0])
        assert await client.reader.read() == b""
        harness.peers.release()
        await (await harness.client()).greet()

    harness.run(scenario())
    assert "AttributeError" in capfd.readouterr().err


def test_an_error_of_our_own_after_a_handshake_costs_that_client(make_harness, capfd):
    harness = make_harness(listener={"tls": TlsSlice(Tls.AT_ONCE, ("mx.test",))})
    names = harness.dispatcher.resources.names

    async def scenario():
        harness.dispatcher.resources.names = None
        assert not await (await harness.tls_client()).reply()
        harness.dispatcher.resources.names = names
        await (await harness.tls_client()).greet()

    harness.run(scenario())
    assert "AttributeError" in capfd.readouterr().err
