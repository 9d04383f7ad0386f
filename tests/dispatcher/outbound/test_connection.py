"""One connection to another host, over real sockets: a server of ours that says what a test wants."""

import asyncio
import errno
import os
import socket
import ssl
import tempfile

import pytest

from smtpd.dispatcher.inbound.handshake import outcome_of_step
from smtpd.dispatcher.outbound.connection import OutgoingConnection
from smtpd.dispatcher.outbound.content import PIECE_MAX, OutgoingContent
from smtpd.envelope import Outcome
from smtpd.next_hop import MailHost
from smtpd.relay.action import Connect
from smtpd.relay.address_order import Path
from smtpd.relay.connection import Stage
from smtpd.relay.destination import NextHop
from smtpd.relay.tls_policy import TlsPolicy, Verify
from smtpd.smtp.client_action import ClientMail, ClientRecipient
from smtpd.tls.certificate import Authorities
from smtpd.tls.client_context import ClientContext
from tests.dispatcher.outbound.host import Host
from tests.tls.world import authority, certify, key, key_pem, pem

NAME = "mx1.there.test"
CLEAR = TlsPolicy(False, False, Verify.NOTHING, "test")
OPPORTUNISTIC = TlsPolicy(True, False, Verify.NOTHING, "test", server_name=NAME)
VERIFIED = TlsPolicy(True, True, Verify.ROOTS, "test", (NAME,), server_name=NAME)


class Events:
    """What the relay would hear."""

    def __init__(self):
        self.heard = asyncio.Queue()

    def connected(self, number):
        self.heard.put_nowait(("connected",))

    def encrypted(self, number, facts):
        self.facts = facts

    def ready(self, number, facts):
        self.heard.put_nowait(("ready", facts))

    def tried(self, number, results):
        self.heard.put_nowait(("tried", results))

    def ended(self, number, failure, results):
        self.heard.put_nowait(("ended", failure, results))

    async def next(self, word):
        heard = await asyncio.wait_for(self.heard.get(), 20)
        assert heard[0] == word, heard
        return heard[1:]


def server_tls():
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem(certify(key("p256", "mx"), NAME, by=authority()), authority()[0]) + key_pem(key("p256", "mx")))
        file.flush()
        made.load_cert_chain(file.name)
    return made


def play(story, host, policy=CLEAR, trusted=True):
    """`story(connection, events)` against the host."""

    async def run():
        server = await asyncio.start_server(host.serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        hop = NextHop(MailHost(NAME, 0, ["127.0.0.1"]), port=port)
        context = ClientContext(Authorities.read(pem(authority()[0])) if trusted else None)
        events = Events()
        order = Connect(1, 1, hop, Path("127.0.0.1", ""), policy)
        connection = OutgoingConnection(order, "here.test", lambda: context, events, None, asyncio.get_running_loop())
        connection.open(None)
        async with server:
            await story(connection, events)
            connection.abort()

    asyncio.run(run())


def mail(*recipients, size=10):
    return ClientMail("amy@here.test", tuple(ClientRecipient(each) for each in recipients or ("bob@there.test",)), size)


async def greeted(events):
    await events.next("connected")
    (facts,) = await events.next("ready")
    return facts


def test_a_mail_is_sent_and_the_connection_kept_for_the_next():
    host = Host()

    async def story(connection, events):
        assert await greeted(events) is None
        for text in (b"Subject: x\n\n.one\n", b"Subject: y\n\ntwo\n"):
            connection.send(mail(size=len(text)), OutgoingContent(text), 0)
            ((result,),) = await events.next("tried")
            assert (result.outcome, result.code) == (Outcome.DELIVERED, 250)
        assert host.content == b"Subject: y\r\n\r\ntwo\r\n.\r\n"
        connection.quit()
        failure, results = await events.next("ended")
        assert (failure.stage, results) == (Stage.SESSION, [])

    play(story, host)


def test_a_long_content_out_of_a_file_is_sent_byte_for_byte():
    content = b"Subject: x\n\n" + b"%063d\n" % 7 * (40 * PIECE_MAX // 64)
    host = Host()

    async def story(connection, events):
        await greeted(events)
        with tempfile.TemporaryFile() as file:
            file.write(content)
            file.flush()
            connection.send(mail(size=len(content)), OutgoingContent(b"", os_dup(file)), 0)
        ((result,),) = await events.next("tried")
        assert result.outcome is Outcome.DELIVERED
        assert host.content == content.replace(b"\n", b"\r\n") + b".\r\n"

    async def serve(reader, writer):
        reader._limit = 2**30
        await Host.serve(host, reader, writer)

    host.serve = serve
    play(story, host)


def os_dup(file):
    return os.dup(file.fileno())


def test_each_recipient_has_its_own_result():
    def answer(line):
        return b"550 5.1.1 no such user\r\n" if b"nobody" in line else Host.polite(line)

    async def story(connection, events):
        await greeted(events)
        connection.send(mail("bob@there.test", "nobody@there.test"), OutgoingContent(b"x\n"), 0)
        (results,) = await events.next("tried")
        found = {result.recipient: (result.outcome, result.enhanced) for result in results}
        assert found[0][0] is Outcome.DELIVERED
        assert found[1] == (Outcome.FAILED, "5.1.1")

    play(story, Host(answer))


def end_of_connecting(source="127.0.0.1"):
    """The failure to connect to a port that refuses."""

    async def run():
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            hop = NextHop(MailHost(NAME, 0, ["127.0.0.1"]), port=unused.getsockname()[1])
            events = Events()
            order = Connect(1, 1, hop, Path("127.0.0.1", source), CLEAR)
            OutgoingConnection(order, "here.test", ClientContext, events, None, asyncio.get_running_loop()).open(None)
            failure, _ = await events.next("ended")
            return failure.stage, failure.text

    return asyncio.run(run())


def test_a_refused_connection():
    assert end_of_connecting() == (Stage.CONNECT, "Connection refused")


def test_a_source_address_that_is_not_here_is_no_fault_of_the_host():
    text = "source address 192.0.2.77: Cannot assign requested address"
    assert end_of_connecting("192.0.2.77") == (Stage.ADDRESS, text)


@pytest.mark.parametrize("error", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
def test_what_this_system_has_no_room_for_is_no_fault_of_the_host(monkeypatch, error):
    async def connect(*args):
        raise OSError(error, "Connect call failed")

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", connect)
    assert end_of_connecting() == (Stage.RESOURCES, os.strerror(error))


@pytest.mark.parametrize("greeting, code", [(b"554 5.7.1 blocked\r\n", 554), (b"421 too many\r\n", 421), (b"", 0)])
def test_a_greeting_that_refuses(greeting, code):
    async def story(connection, events):
        await events.next("connected")
        failure, _ = await events.next("ended")
        assert (failure.stage, failure.code) == (Stage.GREETING, code)

    host = Host(greeting=greeting)
    if not greeting:

        async def serve(_, writer):
            writer.close()

        host.serve = serve
    play(story, host)


def test_a_connection_lost_before_the_content_leaves_the_recipients_open():
    def answer(line):
        return None if line.startswith(b"DATA") else Host.polite(line)

    async def story(connection, events):
        await greeted(events)
        connection.send(mail(), OutgoingContent(b"x\n"), 0)
        failure, results = await events.next("ended")
        assert (failure.stage, failure.uncertain, results) == (Stage.SESSION, False, [])

    play(story, Host(answer))


def test_a_connection_lost_after_the_final_dot_is_uncertain():
    def answer(line):
        return None if line == b"." else Host.polite(line)

    async def story(connection, events):
        await greeted(events)
        connection.send(mail(), OutgoingContent(b"x\n"), 0)
        failure, (result,) = await events.next("ended")
        assert failure.uncertain and result.uncertain and result.outcome is Outcome.DEFERRED

    play(story, Host(answer))


def test_421_to_the_first_command_of_a_kept_connection_has_touched_nothing():
    count = 0

    def answer(line):
        nonlocal count
        count += line.startswith(b"MAIL")
        return b"421 idle too long\r\n" if count == 2 else Host.polite(line)

    async def story(connection, events):
        await greeted(events)
        connection.send(mail(), OutgoingContent(b"x\n"), 0)
        await events.next("tried")
        connection.send(mail(), OutgoingContent(b"x\n"), 0)
        failure, results = await events.next("ended")
        assert (failure.code, failure.untouched, results) == (421, True, [])

    play(story, Host(answer))


# -- TLS ----------------------------------------------------------------------------------


def with_starttls(line):
    if line.startswith(b"EHLO"):
        return b"250-there\r\n250 STARTTLS\r\n"
    return b"220 go\r\n" if line.startswith(b"STARTTLS") else Host.polite(line)


@pytest.mark.parametrize("policy, verified", [(OPPORTUNISTIC, False), (VERIFIED, True)])
def test_starttls(policy, verified):
    host = Host(with_starttls, tls=server_tls())

    async def story(connection, events):
        facts = await greeted(events)
        assert facts.verified is verified
        connection.send(mail(), OutgoingContent(b"secret\n"), 0)
        ((result,),) = await events.next("tried")
        assert result.outcome is Outcome.DELIVERED
        assert host.content == b"secret\r\n.\r\n"

    play(story, host, policy)


def test_a_certificate_that_does_not_verify_ends_the_connection():
    async def story(connection, events):
        await events.next("connected")
        failure, _ = await events.next("ended")
        assert failure.stage is Stage.TLS
        assert failure.text.startswith("TLS: certificate of the server: ")

    play(story, Host(with_starttls, tls=server_tls()), VERIFIED, trusted=False)


def test_a_connection_that_is_lost_right_after_the_handshake_is_no_reason_for_clear_text():
    """So ends a server, under TLS 1.3, that wants a certificate of ours."""

    async def run():
        class Silent(Host):
            async def serve(self, reader, writer):
                writer.close()

        server = await asyncio.start_server(Silent().serve, "127.0.0.1", 0, ssl=server_tls())
        hop = NextHop(MailHost(NAME, 0, ["127.0.0.1"]), port=server.sockets[0].getsockname()[1])
        policy = TlsPolicy(True, True, Verify.NOTHING, "test", at_connect=True)
        events, loop = Events(), asyncio.get_running_loop()
        order = Connect(1, 1, hop, Path("127.0.0.1", ""), policy)
        OutgoingConnection(order, "here.test", ClientContext, events, None, loop).open(None)
        async with server:
            await events.next("connected")
            failure, _ = await events.next("ended")
            assert failure.stage is Stage.AUTHENTICATION

    asyncio.run(run())


class Pool:
    """Steps are made when the test says so."""

    def __init__(self):
        self.handshakes = []

    def submit(self, handshake):
        self.handshakes.append((handshake, handshake.take()))

    def run(self):
        handshake, data = self.handshakes.pop()
        handshake.stepped(outcome_of_step(handshake.step, data))


class Signs(ClientContext):
    def __init__(self):
        super().__init__()
        self.signs = True


class FullPool:
    def submit(self, handshake):
        handshake.fail("too many handshakes")


class SilentPool:
    def submit(self, handshake):
        pass


@pytest.mark.parametrize("pool, reason", [(FullPool(), "too many handshakes"), (SilentPool(), "handshake timed out")])
def test_a_handshake_that_this_host_could_not_make_is_no_reason_for_clear_text(monkeypatch, pool, reason):
    """Clients fill the same pool: they must not decide what leaves in the clear."""
    monkeypatch.setattr("smtpd.dispatcher.outbound.connection.HANDSHAKE_TIMEOUT", 0.1)

    async def run():
        server = await asyncio.start_server(Host().serve, "127.0.0.1", 0, ssl=server_tls())
        hop = NextHop(MailHost(NAME, 0, ["127.0.0.1"]), port=server.sockets[0].getsockname()[1])
        policy = TlsPolicy(True, False, Verify.NOTHING, "test", at_connect=True)
        events, loop = Events(), asyncio.get_running_loop()
        order = Connect(1, 1, hop, Path("127.0.0.1", ""), policy)
        OutgoingConnection(order, "here.test", Signs, events, pool, loop).open(None)
        async with server:
            await events.next("connected")
            failure, _ = await events.next("ended")
            assert (failure.stage, failure.text) == (Stage.AUTHENTICATION, f"TLS: {reason}")

    asyncio.run(run())


def test_a_server_that_wants_a_certificate_and_says_so_is_no_reason_for_clear_text():
    """Under TLS 1.3: by an alert, after the handshake."""

    async def run():
        context = server_tls()
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=pem(authority()[0]).decode())

        def refuse(listener):
            with pytest.raises(ssl.SSLError):  # asyncio's own server closes without the alert
                context.wrap_socket(listener.accept()[0], server_side=True)

        listener = socket.create_server(("127.0.0.1", 0))
        server = asyncio.get_running_loop().run_in_executor(None, refuse, listener)
        hop = NextHop(MailHost(NAME, 0, ["127.0.0.1"]), port=listener.getsockname()[1])
        policy = TlsPolicy(True, False, Verify.NOTHING, "test", at_connect=True)
        events, loop = Events(), asyncio.get_running_loop()
        order = Connect(1, 1, hop, Path("127.0.0.1", ""), policy)
        OutgoingConnection(order, "here.test", ClientContext, events, None, loop).open(None)
        with listener:
            await events.next("connected")
            failure, _ = await events.next("ended")
            await server
        assert failure.stage is Stage.AUTHENTICATION and "certificate required" in failure.text

    asyncio.run(run())


def test_a_handshake_that_may_sign_waits_in_the_pool():
    async def run():
        host, pool = Host(), Pool()
        server = await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=server_tls())
        hop = NextHop(MailHost(NAME, 0, ["127.0.0.1"]), port=server.sockets[0].getsockname()[1])
        policy = TlsPolicy(True, True, Verify.NOTHING, "test", at_connect=True)
        events, loop = Events(), asyncio.get_running_loop()
        order = Connect(1, 1, hop, Path("127.0.0.1", ""), policy)
        connection = OutgoingConnection(order, "here.test", Signs, events, pool, loop)
        connection.open(None)
        async with server:
            await events.next("connected")
            ready = loop.create_task(events.next("ready"))
            while not ready.done():
                if pool.handshakes:
                    pool.run()
                await asyncio.sleep(0)
            connection.quit()
            await events.next("ended")

    asyncio.run(run())


def test_a_host_without_starttls_ends_the_connection_where_it_is_required():
    async def story(connection, events):
        await events.next("connected")
        failure, _ = await events.next("ended")
        assert failure.stage is Stage.TLS

    play(story, Host(), VERIFIED)


def test_a_host_without_starttls_is_spoken_to_in_the_clear_where_it_is_not():
    async def story(connection, events):
        assert await greeted(events) is None

    play(story, Host(), OPPORTUNISTIC)


def test_a_host_that_does_not_speak_tls_behind_its_starttls():
    def answer(line):
        return b"220 go\r\n" if line.startswith(b"STARTTLS") else with_starttls(line)

    async def serve(reader, writer):
        writer.write(b"220 there\r\n")
        while line := await reader.readline():
            writer.write(answer(line))
            if line.startswith(b"STARTTLS"):
                await reader.read(100)
                writer.write(b"500 what\r\n")
                break
        await asyncio.sleep(0)
        writer.close()

    async def story(connection, events):
        await events.next("connected")
        failure, _ = await events.next("ended")
        assert failure.stage is Stage.TLS

    host = Host(answer)
    host.serve = serve
    play(story, host, OPPORTUNISTIC)


def test_a_host_that_offers_starttls_and_closes_when_it_is_said():
    """As firewalls do: TLS has failed, and not the host, so where it is not required clear text is next."""

    def answer(line):
        return None if line.startswith(b"STARTTLS") else with_starttls(line)

    async def story(connection, events):
        await events.next("connected")
        failure, _ = await events.next("ended")
        assert failure.stage is Stage.TLS

    play(story, Host(answer), OPPORTUNISTIC)


def test_tls_at_connect():
    async def run():
        host, tls = Host(), server_tls()
        server = await asyncio.start_server(host.serve, "127.0.0.1", 0, ssl=tls)
        hop = NextHop(MailHost(NAME, 0, ["127.0.0.1"]), port=server.sockets[0].getsockname()[1])
        policy = TlsPolicy(True, True, Verify.ROOTS, "test", (NAME,), server_name=NAME, at_connect=True)
        events = Events()
        context = ClientContext(Authorities.read(pem(authority()[0])))
        order = Connect(1, 1, hop, Path("127.0.0.1", ""), policy)
        connection = OutgoingConnection(order, "here.test", lambda: context, events, None, asyncio.get_running_loop())
        connection.open(None)
        async with server:
            assert (await greeted(events)).verified
            connection.quit()
            await events.next("ended")

    asyncio.run(run())
