"""What happens to a client before the banner."""

import os
import resource
import socket

import pytest

from smtpd.config.slice import ListenerSlice, Proxy, Tls, TlsSlice
from smtpd.dispatcher.entrance import Entrance
from smtpd.imsg import AddListener, ExpandRecipient, ResolveClient, WelcomeClient

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
V1 = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n"


def v2(source, destination, ports=(40000, 25)):
    body = socket.inet_aton(source) + socket.inet_aton(destination)
    body += ports[0].to_bytes(2) + ports[1].to_bytes(2)
    return SIGNATURE + b"\x21\x11" + len(body).to_bytes(2) + body


@pytest.mark.parametrize("header", [V1, v2("192.0.2.7", "198.51.100.1")], ids=["v1", "v2"])
def test_the_client_is_whom_the_proxy_names(make_house, header):
    house = make_house(listener={"proxy": Proxy.ANY, "welcome": True})

    async def scenario():
        client = await house.client()
        client.writer.write(header)
        await client.greet()
        assert (await client.mail()).startswith("250")

    house.run(scenario())
    assert [imsg.address for imsg in house.others.asked if isinstance(imsg, ResolveClient)] == ["192.0.2.7"]
    (welcome,) = [imsg for imsg in house.others.asked if isinstance(imsg, WelcomeClient)]
    assert (welcome.listener, welcome.address, welcome.local) == (1, "192.0.2.7", "198.51.100.1")
    (asked,) = [imsg for imsg in house.others.asked if isinstance(imsg, ExpandRecipient)]
    assert asked.origin.address == "192.0.2.7"
    assert b"[192.0.2.7]" in house.others.stored[1]


def test_a_proxy_header_byte_by_byte(make_house):
    house = make_house(listener={"proxy": Proxy.V2})

    async def scenario():
        client = await house.client()
        for byte in v2("192.0.2.7", "198.51.100.1"):
            client.writer.write(bytes([byte]))
            await client.writer.drain()
        await client.greet()

    house.run(scenario())
    assert house.others.asked[1].address == "192.0.2.7"


def test_what_comes_behind_a_proxy_header_is_not_read_as_one(make_house):
    house = make_house(listener={"proxy": Proxy.ANY})

    async def scenario():
        house.others.hold = {ResolveClient}
        client = await house.client()
        client.writer.write(V1)
        await house.until(lambda: house.others.held)
        client.writer.write(b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 25\r\nHELO there.test\r\n")
        (connection,) = house.connections
        await house.until(lambda: connection.entrance._early or not connection.wire.reading)
        house.others.release()
        assert (await client.reply()).startswith("220")
        assert (await client.reply()).startswith("500 5.5.1")
        assert "[192.0.2.7]" in await client.reply()

    house.run(scenario())


def test_a_check_of_the_proxy_itself_keeps_its_own_address(make_house):
    house = make_house(listener={"proxy": Proxy.V2})

    async def scenario():
        client = await house.client()
        client.writer.write(SIGNATURE + b"\x20\x00\x00\x00")
        await client.greet()

    house.run(scenario())
    assert [imsg.address for imsg in house.others.asked if isinstance(imsg, ResolveClient)] == ["127.0.0.1"]


class Visitor:
    """Whose address is asked for, and who is not let in."""

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
def test_a_proxy_on_another_host_does_not_make_anybody_a_program_of_this_one(make_house, proxy, told, known):
    house, visitor = make_house(), Visitor()
    listener = ListenerSlice(1, "198.51.100.1", 25, "mx.test", "", proxy=Proxy.V1)
    entrance = Entrance(house.dispatcher.office, listener, visitor, (proxy, 40001), "198.51.100.1")
    entrance.receive(V1.replace(b"192.0.2.7", told.encode()))
    assert visitor.address == known


def test_tls_behind_a_proxy_header_in_the_same_segment(make_house):
    house = make_house(listener={"proxy": Proxy.V1, "tls": TlsSlice(Tls.AT_ONCE, ("mx.test",))})

    async def scenario():
        client = await house.client()
        client.writer.write(V1)
        await client.shake()
        await client.greet()

    house.run(scenario())
    assert house.statistics["smtp.smtps"] == 1


def test_who_does_not_begin_with_a_proxy_header_gets_no_reply(make_house, capfd):
    house = make_house(listener={"proxy": Proxy.ANY})

    async def scenario():
        client = await house.client()
        client.writer.write(b"EHLO client.test\r\n")
        assert await client.reader.read() == b""

    house.run(scenario())
    assert house.statistics["smtp.proxy.failed"] == 1
    assert house.statistics["smtp.session"] == 0
    assert "smtp proxy-failed address=127.0.0.1 reason=" in capfd.readouterr().err


def test_a_proxy_header_that_does_not_come_is_not_waited_for_for_ever(make_house):
    house = make_house(listener={"proxy": Proxy.ANY})

    async def scenario():
        client = await house.client()
        client.writer.write(b"PROXY TCP4 ")
        await house.until(lambda: house.connections)
        (connection,) = house.connections
        connection.tick(house.loop.time() + 29)
        assert not connection._finished
        connection.tick(house.loop.time() + 31)
        assert await client.reader.read() == b""

    house.run(scenario())


def test_rates_count_the_address_that_the_proxy_told(make_house):
    house = make_house(listener={"proxy": Proxy.V1}, connection_rate=2)

    async def scenario():
        for expected in ("220", "220", "421 4.7.0"):
            client = await house.client()
            client.writer.write(V1)
            assert (await client.reply()).startswith(expected)
        other = await house.client()
        other.writer.write(V1.replace(b"192.0.2.7", b"203.0.113.9"))
        await other.greet()

    house.run(scenario())
    assert house.statistics["smtp.refused.connection-rate"] == 1


def test_sessions_of_one_address_are_bounded(make_house):
    house = make_house(listener={"proxy": Proxy.V1}, max_sessions_per_address=1)

    async def scenario():
        for expected in ("220", "421 4.7.0"):
            client = await house.client()
            client.writer.write(V1)
            assert (await client.reply()).startswith(expected)

    house.run(scenario())
    assert house.statistics["smtp.refused.sessions"] == 1


def test_sessions_of_a_network_of_ipv6_are_those_of_one_address(make_house):
    house = make_house(listener={"proxy": Proxy.V1}, max_sessions_per_address=1)

    async def scenario():
        for source, expected in (("2001:db8::1", "220"), ("2001:db8::2", "421 4.7.0"), ("2001:db8:0:1::1", "220")):
            client = await house.client()
            client.writer.write(f"PROXY TCP6 {source} 2001:db8:f::1 40000 25\r\n".encode())
            assert (await client.reply()).startswith(expected)

    house.run(scenario())


def test_who_is_refused_on_a_listener_with_tls_is_told_nothing_in_the_clear(make_house):
    house = make_house(
        listener={"proxy": Proxy.V1, "tls": TlsSlice(Tls.AT_ONCE, ("mx.test",))}, max_sessions_per_address=0
    )

    async def scenario():
        client = await house.client()
        client.writer.write(V1)
        assert await client.reader.read() == b""

    house.run(scenario())


def test_our_name_is_what_lookup_says(make_house):
    house = make_house(listener={"welcome": True})

    async def scenario():
        client = await house.client()
        assert (await client.reply()).startswith("220 name.test ")

    house.run(scenario())


def test_who_waits_for_the_banner_gets_it_after_the_delay(make_house):
    house = make_house(greet_delay=1)

    async def scenario():
        begun = house.loop.time()
        client = await house.client()
        await client.greet()
        assert house.loop.time() - begun >= 0.9

    house.run(scenario())
    assert house.statistics["smtp.early-talker"] == 0


def test_who_talks_before_the_banner_is_turned_away(make_house):
    house = make_house(greet_delay=100)

    async def scenario():
        client = await house.client()
        client.writer.write(b"EHLO hasty.test\r\n")
        assert (await client.reply()).startswith("554 5.5.1")
        assert await client.reply() == ""

    house.run(scenario())
    assert house.statistics["smtp.early-talker"] == 1


def test_who_talks_while_its_name_is_looked_for_is_turned_away_too(make_house):
    house = make_house(greet_delay=100)

    async def scenario():
        house.others.hold = {ResolveClient}
        client = await house.client()
        await house.until(lambda: house.others.held)
        client.writer.write(b"EHLO hasty.test\r\n")
        (connection,) = house.connections
        await house.until(lambda: connection.entrance._early)
        house.others.release()
        assert (await client.reply()).startswith("554 5.5.1")

    house.run(scenario())


def test_a_flood_before_the_banner_is_not_read_to_its_end(make_house):
    house = make_house()

    async def scenario():
        house.others.hold = {ResolveClient}
        client = await house.client()
        client.writer.write(b"NOOP\r\n" * 2_000_000)
        await house.until(lambda: house.connections and house.connections[0].entrance._early)
        other = await house.client()
        await house.until(lambda: len(house.connections) == 2)
        (early,) = house.connections[0].entrance._early
        assert len(early) <= 256 * 1024 and not house.connections[0].wire.reading
        house.others.release()
        await other.greet()

    house.run(scenario())


def test_who_leaves_during_the_delay_is_forgotten(make_house):
    house = make_house(greet_delay=100)

    async def scenario():
        client = await house.client()
        await house.until(lambda: house.connections and house.connections[0].entrance._delay)
        (connection,) = house.connections
        client.vanish()
        await house.until(lambda: not house.connections)
        assert connection.entrance._delay.cancelled()

    house.run(scenario())


def test_an_address_that_comes_later_is_listened_on(make_house):
    house = make_house()
    sock = socket.socket()
    sock.bind(("127.0.0.2", 0))
    port = sock.getsockname()[1]
    house.parent.send(AddListener(2, "127.0.0.2"), os.dup(sock.fileno()))
    sock.close()

    async def scenario():
        await house.until(lambda: len(house.dispatcher.listeners._servers) == 2)
        house.port = port
        client = await house.client("127.0.0.2")
        assert (await client.reply()).startswith("220 late.test ")

    house.run(scenario())


def test_no_clients_are_taken_while_descriptors_are_scarce(make_house, capfd):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = os.dup(0)
    os.close(used)
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 70, hard))
    try:
        house = make_house()

        async def scenario():
            clients = []
            while house.dispatcher.listeners.listening:
                clients.append(await house.client())
                await clients[-1].greet()
            assert len(clients) < 30
            late = await house.client()  # in the backlog
            for client in clients:
                client.writer.close()
            await late.greet()

        house.run(scenario())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
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
def test_what_xclient_says_is_refused_or_can_be_carried_to_lookup(make_house, overrides):
    """An imsg that lookup cannot take would be the end of the daemon."""
    house = make_house(listener={"welcome": True})

    async def scenario():
        client = await house.client()
        await client.greet()
        client.write(f"XCLIENT {overrides}\r\n".encode())
        reply = await client.reply()
        assert reply.startswith(("220", "501"))
        await client.say("EHLO client.test", "250")
        assert (await client.mail()).startswith("250")

    house.run(scenario())


def break_begin(house, connection):
    connection.begin(None)


def break_tick(house, connection):
    connection.entrance = None
    connection._encryption = Broken()
    connection.tick(1.0)


def break_entrance(house, connection):
    connection.entrance = Broken()
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


@pytest.mark.parametrize("break_it", [break_begin, break_tick, break_entrance])
def test_a_mistake_of_ours_before_there_is_a_session_costs_that_client(make_house, capfd, break_it):
    house = make_house()
    house.others.hold = {ResolveClient}

    async def scenario():
        client = await house.client()
        await house.until(lambda: house.others.held)
        break_it(house, house.connections[0])
        assert await client.reader.read() == b""
        house.others.release()
        await (await house.client()).greet()

    house.run(scenario())
    assert "AttributeError" in capfd.readouterr().err


def test_a_mistake_of_ours_behind_a_handshake_costs_that_client(make_house, capfd):
    house = make_house(listener={"tls": TlsSlice(Tls.AT_ONCE, ("mx.test",))})
    names = house.dispatcher.office.names

    async def scenario():
        house.dispatcher.office.names = None
        assert not await (await house.tls_client()).reply()
        house.dispatcher.office.names = names
        await (await house.tls_client()).greet()

    house.run(scenario())
    assert "AttributeError" in capfd.readouterr().err
