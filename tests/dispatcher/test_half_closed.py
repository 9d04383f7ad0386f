"""Half-closed connections: a client that ends its side by FIN or close_notify, and reads on, is answered to the end."""

import asyncio
import socket
import ssl

import pytest

from smtpd.dispatcher.inbound import connection as connection_module
from smtpd.imsg import (
    CheckCredentials,
    ExpandRecipient,
    MessageIdsReserved,
    OpenSpoolFile,
    ResolveClient,
    StoreMessage,
)
from smtpd.slice import Auth, Proxy, Tls, TlsSlice
from smtpd.tls.signing import SIGNING_SOCKETS
from tests.dispatcher.test_local_session import program
from tests.dispatcher.tls_peers import TlsClient, careless_context

SMTPS = {"tls": TlsSlice(Tls.AT_ONCE, ("mx.test",))}
STARTTLS = {"tls": TlsSlice(Tls.OFFERED, ("mx.test",))}
SUBMISSION = {**SMTPS, "auth": Auth.REQUIRED}
MAIL = b"MAIL FROM:<amy@there.test>\r\nRCPT TO:<bob@here.test>\r\n"
CONTENT = b"Subject: x\r\n\r\nhello\r\n"


class Transport:
    """How a client connects, and how it says that it sends no more."""

    def __init__(self, name, listener=None, version=None, *, close_notify=False, fin=False, local=False):
        self.name, self.listener, self.version = name, listener, version
        self.close_notify, self.fin, self.local = close_notify, fin, local

    async def connect(self, harness):
        if self.local:
            return await program(harness)
        client = await harness.client()
        if self.version:
            context = careless_context()
            context.minimum_version = context.maximum_version = self.version
            client.tls = await TlsClient(client.reader, client.writer, context).shake()
        return client

    def end_input(self, client):
        if self.close_notify:
            client.writer.write(client.tls.close_notify())
        if self.fin:
            client.writer.write_eof()


TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
TRANSPORTS = [
    Transport("tcp", fin=True),
    Transport("local", fin=True, local=True),
    *(
        Transport(f"{version.name} {'and '.join(words)}", SMTPS, version, **dict.fromkeys(words, True))
        for version in (TLS12, TLS13)
        for words in (["close_notify"], ["close_notify", "fin"], ["fin"])
    ),
]


SOME_TRANSPORTS = [TRANSPORTS[0], TRANSPORTS[1], TRANSPORTS[2], TRANSPORTS[-2]]


@pytest.fixture(params=TRANSPORTS, ids=lambda transport: transport.name)
def transport(request):
    return request.param


@pytest.fixture
def harness(make_harness, transport):
    return make_harness(listener=transport.listener)


async def greeted(harness, transport):
    client = await transport.connect(harness)
    await client.greet()
    return client


async def in_data(harness, transport):
    client = await greeted(harness, transport)
    await client.envelope()
    await client.say("DATA", "354")
    return client


async def expect_end(harness, client, replies):
    """These replies, and then the end of the connection."""
    assert await rest(client) == replies
    await gone(harness, client)


async def rest(client):
    """All replies up to the end of the connection."""
    replies = []
    while reply := await client.reply():
        replies.append(reply[:3])
    return replies


async def gone(harness, client):
    """The connection is over as soon as the client has closed, and not after a timeout."""
    client.writer.close()
    await harness.until(lambda: not harness.connections)
    assert harness.statistics["smtp.session"] == 0


def test_a_mail_is_answered_after_the_end_of_input(harness, transport):
    async def scenario():
        client = await in_data(harness, transport)
        harness.peers.hold = {StoreMessage}
        client.write(CONTENT + b".\r\n")
        transport.end_input(client)
        await harness.until(lambda: harness.peers.held)
        await asyncio.sleep(0.01)
        assert harness.statistics["smtp.session"] == 1  # it still counts
        harness.peers.release()
        await expect_end(harness, client, ["250"])

    harness.run(scenario())
    assert len(harness.peers.stored) == 1 and not harness.peers.forgotten


def test_a_session_in_one_piece_is_answered_to_its_end(harness, transport):
    """Also where each of its questions has to wait; it need not even say QUIT."""
    group = MAIL + b"BDAT %d LAST\r\n" % len(CONTENT) + CONTENT

    async def scenario():
        client = await transport.connect(harness)
        harness.peers.hold = {ExpandRecipient, StoreMessage}
        client.write(b"EHLO client.test\r\n" + group + group)
        transport.end_input(client)
        for _ in range(2):
            await harness.until(lambda: harness.peers.held)
            harness.peers.release()
            harness.peers.hold = {ExpandRecipient, StoreMessage}
            await harness.until(lambda: harness.peers.held)
            harness.peers.release()
            harness.peers.hold = {ExpandRecipient, StoreMessage}
        await expect_end(harness, client, ["220", *["250"] * 7])

    harness.run(scenario())
    assert len(harness.peers.stored) == 2


@pytest.mark.parametrize("transport", SOME_TRANSPORTS, ids=lambda transport: transport.name, indirect=True)
@pytest.mark.parametrize(
    "piece", [b"", b"NOOP\r\n", b"NOOP\r\nQUI", b"EHLO client.test\r\nMAIL FROM:<amy@there.test>\r\n"]
)
def test_what_is_complete_is_answered_and_the_rest_is_not(harness, transport, piece):
    async def scenario():
        client = await greeted(harness, transport)
        if piece:
            client.write(piece)
        transport.end_input(client)
        await expect_end(harness, client, ["250"] * piece.count(b"\r\n"))

    harness.run(scenario())
    assert not harness.peers.stored


@pytest.mark.parametrize("transport", SOME_TRANSPORTS, ids=lambda transport: transport.name, indirect=True)
@pytest.mark.parametrize(
    "begin, content",
    [
        (b"DATA\r\n", CONTENT),
        (b"DATA\r\n", CONTENT + b"."),
        (b"DATA\r\n", CONTENT + b".\r"),
        (b"DATA\r\n", b"S: x\r\n\r\n" + b"y" * 70 + b"\r\n" * 20_000),  # in a spool file
        (b"BDAT 1000 LAST\r\n", CONTENT),
        (b"BDAT %d\r\n" % len(CONTENT), CONTENT),
    ],
    ids=lambda piece: str(len(piece)),
)
def test_the_end_of_input_is_not_the_end_of_a_mail(harness, transport, begin, content):
    async def scenario():
        client = await greeted(harness, transport)
        await client.envelope()
        client.write(begin)
        if begin.startswith(b"DATA"):
            assert (await client.reply()).startswith("354")
        client.write(content)
        transport.end_input(client)
        assert [reply for reply in await rest(client) if reply != "250"] == []
        await gone(harness, client)

    harness.run(scenario())
    assert not harness.peers.stored
    assert [(f.message, f.envelopes) for f in harness.peers.forgotten] == [(1, 1)]
    assert harness.dispatcher.resources.memory.used == 0


def test_a_large_mail_whose_writing_lags_behind(harness, transport):
    async def scenario():
        client = await in_data(harness, transport)
        harness.peers.hold = {OpenSpoolFile}
        client.write(b"x: y\r\n\r\n" + b"line\r\n" * 10_000 + b".\r\n")
        transport.end_input(client)
        await harness.until(lambda: harness.peers.held)
        await asyncio.sleep(0.01)
        harness.peers.release()
        await expect_end(harness, client, ["250"])

    harness.run(scenario())
    assert harness.peers.stored[1].endswith(b"\nline\n")


def test_before_there_is_a_banner(harness, transport):
    """While the client's name is looked for; a client that sent nothing hears the banner all the same."""

    async def scenario():
        harness.peers.hold = {ResolveClient}
        client = await transport.connect(harness)
        client.write(b"EHLO client.test\r\nNOOP\r\n")
        transport.end_input(client)
        silent = await transport.connect(harness)
        transport.end_input(silent)
        await asyncio.sleep(0.01)
        harness.peers.release()
        assert await rest(client) == ["220", "250", "250"]
        assert await rest(silent) == ["220"]
        client.writer.close()
        await gone(harness, silent)

    harness.run(scenario())


def test_while_there_is_no_message_id(harness, transport):
    async def scenario():
        client = await greeted(harness, transport)
        message_ids = harness.dispatcher.resources.message_ids
        ids = list(message_ids._ids)
        message_ids._ids.clear()
        message_ids._asked = True
        client.write(MAIL)
        transport.end_input(client)
        await harness.until(lambda: message_ids._waiting)
        message_ids._reserved(MessageIdsReserved(0, ids))
        await expect_end(harness, client, ["250", "250"])

    harness.run(scenario())


@pytest.mark.parametrize(
    "transport",
    [transport for transport in TRANSPORTS if transport.version],
    ids=lambda transport: transport.name,
    indirect=True,
)
def test_while_a_password_is_checked(make_harness, transport):
    harness = make_harness(listener=SUBMISSION)

    async def scenario():
        client = await greeted(harness, transport)
        harness.peers.hold = {CheckCredentials}
        client.write(b"AUTH PLAIN AGFteQBzZWNyZXQ=\r\n" + MAIL)
        transport.end_input(client)
        await harness.until(lambda: harness.peers.held)
        harness.peers.release()
        await expect_end(harness, client, ["235", "250", "250"])

    harness.run(scenario())


@pytest.mark.parametrize(
    "transport",
    [transport for transport in TRANSPORTS if transport.version],
    ids=lambda transport: transport.name,
    indirect=True,
)
def test_in_the_middle_of_auth(make_harness, transport):
    harness = make_harness(listener=SUBMISSION)

    async def scenario():
        client = await greeted(harness, transport)
        client.write(b"AUTH PLAIN\r\n")
        transport.end_input(client)
        await expect_end(harness, client, ["334"])

    harness.run(scenario())


def test_while_a_reply_is_kept_back(make_harness, transport):
    harness = make_harness(listener=transport.listener, tarpit_after=0, tarpit=0.05)

    async def scenario():
        client = await greeted(harness, transport)
        client.write(b"NONSENSE\r\nNONSENSE\r\nNOOP\r\n")
        transport.end_input(client)
        await expect_end(harness, client, ["500", "500", "250"])

    harness.run(scenario())


@pytest.mark.parametrize("transport", TRANSPORTS[:1], ids=lambda transport: transport.name, indirect=True)
@pytest.mark.parametrize("early, replies", [(b"", ["220"]), (b"EHLO client.test\r\n", ["554"])])
def test_where_the_banner_is_kept_back(make_harness, transport, early, replies):
    harness = make_harness(greet_delay=0.05)

    async def scenario():
        client = await transport.connect(harness)
        client.write(early)
        transport.end_input(client)
        await expect_end(harness, client, replies)

    harness.run(scenario())


def test_a_stop_while_a_mail_of_such_a_client_is_stored(harness, transport):
    async def scenario():
        client = await in_data(harness, transport)
        harness.peers.hold = {StoreMessage}
        client.write(CONTENT + b".\r\n")
        transport.end_input(client)
        await harness.until(lambda: harness.peers.held)
        harness.dispatcher.connections.shutdown()
        harness.peers.release()
        await expect_end(harness, client, ["250", "421"])

    harness.run(scenario())


PIECES = [b"EHLO c.test\r\n", b"MAIL FROM:<a@b.test>\r\n", b"RCPT TO:<bob@here.test>\r\n"]
PIECES += [b"BDAT 4\r\nx: y", b"BDAT 2 LAST\r\n\r\n", b"NOOP\r\n"]


def test_wherever_a_session_is_cut(make_harness):
    """What is complete is answered, a mail is stored if it is whole."""
    harness = make_harness(connection_rate=0)
    whole = b"".join(PIECES)
    ends = [len(b"".join(PIECES[: number + 1])) for number in range(len(PIECES))]

    async def scenario():
        for cut in range(len(whole) + 1):
            stored = len(harness.peers.stored)
            client = await harness.client()
            client.write(whole[:cut])
            client.writer.write_eof()
            answers = (await client.reader.read()).decode().split("\r\n")[:-1]
            complete = sum(end <= cut for end in ends)
            assert len([line for line in answers if line[3] == " "]) == 1 + complete, whole[:cut]
            client.writer.close()
            await harness.until(lambda: not harness.connections)
            assert len(harness.peers.stored) - stored == (complete >= 5)

    harness.run(scenario())


# -- before there is anything to answer --------------------------------------------------


def test_a_proxy_that_goes_before_its_header_is_complete(make_harness, capfd):
    harness = make_harness(listener={"proxy": Proxy.V1})

    async def scenario():
        client = await harness.client()
        client.write(b"PROXY TCP4 192.0.2.7")
        client.writer.write_eof()
        assert await client.reader.read() == b""
        await gone(harness, client)

    harness.run(scenario())
    assert capfd.readouterr().err == ""  # a health check is not logged


def test_a_proxy_whose_client_sends_no_more(make_harness):
    harness = make_harness(listener={"proxy": Proxy.V1})

    async def scenario():
        client = await harness.client()
        client.write(b"PROXY TCP4 192.0.2.7 192.0.2.8 1 25\r\nEHLO client.test\r\n")
        client.writer.write_eof()
        await expect_end(harness, client, ["220", "250"])

    harness.run(scenario())


@pytest.mark.parametrize("hello", [b"", b"\x16", b"\x16\x03\x01\x02\x00half a hello"])
@pytest.mark.parametrize("listener", [SMTPS, STARTTLS], ids=["smtps", "starttls"])
def test_a_handshake_that_can_never_end_ends_at_once(make_harness, capfd, listener, hello):
    harness = make_harness(listener=listener)

    async def scenario():
        client = await harness.client()
        if listener is STARTTLS:
            await client.greet()
            await client.say("STARTTLS", "220")
        client.writer.write(hello)
        client.writer.write_eof()
        await client.reader.read()
        await gone(harness, client)

    harness.run(scenario())
    assert 'tls-failed reason="the client left"' in capfd.readouterr().err


def test_a_client_that_leaves_while_its_handshake_waits_for_a_signature(make_harness):
    """It hears our part of it, and there is no answer to be waited for."""
    harness = make_harness(listener=SMTPS)

    async def scenario():
        harness.crypto.go.clear()
        client = await harness.client()
        client.writer.write(TlsClient(None, None).hello())
        await harness.until(lambda: harness.crypto.waiting)
        client.writer.write_eof()
        await asyncio.sleep(0.01)
        assert harness.connections
        harness.crypto.go.set()
        assert await client.reader.read()
        await gone(harness, client)

    harness.run(scenario())
    assert harness.statistics["smtp.tls.failed"] == 1


@pytest.mark.parametrize("version", [TLS12, TLS13])
def test_all_of_a_session_in_one_piece_with_the_end_of_the_handshake(make_harness, version):
    """What `openssl s_client` makes of a pipe."""
    harness = make_harness(listener=SMTPS)

    async def scenario():
        client = await harness.client()
        tls = await shake_all_but_the_last(client, version)
        client.writer.write(tls.out.read() + tls.sealed(b"EHLO client.test\r\nNOOP\r\n") + tls.close_notify())
        client.writer.write_eof()
        await expect_end(harness, client, ["220", "250", "250"])

    harness.run(scenario())


async def shake_all_but_the_last(client, version):
    """The last flight is not sent (TLS 1.3), or has been answered (TLS 1.2)."""
    context = careless_context()
    context.minimum_version = context.maximum_version = version
    tls = client.tls = TlsClient(client.reader, client.writer, context)
    client.writer.write(tls.hello())
    while True:
        await tls._receive()
        try:
            tls.ssl.do_handshake()
        except ssl.SSLWantReadError:
            client.writer.write(tls.out.read())
        else:
            return tls


@pytest.mark.parametrize("listener", [SMTPS, STARTTLS], ids=["smtps", "starttls"])
def test_a_session_whose_handshake_ends_after_its_input(make_harness, listener):
    """What came right behind the handshake is not read when the end of the input is known."""
    harness = make_harness(listener=listener)
    commands = b"EHLO client.test\r\n" + b"NOOP\r\n" * 100  # more than FINISHED_MAX: the last step needs a thread

    async def scenario():
        client = await harness.client()
        if listener is STARTTLS:
            await client.greet()
            await client.say("STARTTLS", "220")
        (connection,) = harness.connections
        tls = await shake_all_but_the_last(client, TLS13)
        names = harness.dispatcher.resources.names._names
        names._keep("127.0.0.1", "client.test", 60.0)
        harness.crypto.go.clear()
        waiting = harness.crypto.waiting
        peers = [await harness.client() for _ in range(SIGNING_SOCKETS)]
        for other in peers:
            if listener is STARTTLS:
                await other.greet()
                await other.say("STARTTLS", "220")
            other.writer.write(TlsClient(None, None).hello())
        await harness.until(lambda: harness.crypto.waiting == waiting + SIGNING_SOCKETS)
        client.writer.write(tls.out.read() + tls.sealed(commands))
        client.writer.write_eof()
        await harness.until(lambda: connection.stream.eof)
        harness.crypto.go.set()
        assert await rest(client) == ["220"] * (listener is SMTPS) + ["250"] * 101
        for other in peers:
            other.writer.transport.abort()
        await harness.until(lambda: not harness.connections)

    harness.run(scenario())


# -- what such a client can cost --------------------------------------------------------


HELP = 5000  # lines, whose answers are more than the sockets take


async def deaf(harness, transport):
    """A client that has asked for a megabyte, has said that it sends no more, and does not read."""
    client = await greeted(harness, transport)
    (connection,) = harness.connections
    connection.stream.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16384)
    client.writer.transport.pause_reading()
    client.write(b"HELP\r\n" * HELP)
    transport.end_input(client)
    await harness.until(lambda: connection._finished or not connection.stream.client_reads)
    assert connection.stream.transport.get_write_buffer_size()
    return client


async def count_answers(client):
    """Up to the end of the connection."""
    found = b""
    if client.tls:
        while line := await client.tls.readline():
            found += line + client.tls._lines
            client.tls._lines = b""
    else:
        found = await client.reader.read()
    return found.count(b"214 ")


@pytest.mark.parametrize(
    "transport", [TRANSPORTS[0], TRANSPORTS[-2]], ids=lambda transport: transport.name, indirect=True
)
def test_a_client_that_does_not_read_is_cut_by_the_usual_timeout(make_harness, transport, monkeypatch):
    monkeypatch.setattr(connection_module, "CLOSE_TIMEOUT", 0.02)
    harness = make_harness(listener=transport.listener, timeout=0.2, max_errors=HELP)

    async def scenario():
        begun = harness.loop.time()
        client = await deaf(harness, transport)
        while harness.connections:
            harness.dispatcher.connections._swept = 0.0
            harness.dispatcher.connections.sweep(harness.loop.time())
            await asyncio.sleep(0.01)
        assert harness.loop.time() - begun > 0.2
        client.writer.transport.abort()

    harness.run(scenario())
    assert harness.statistics["smtp.session"] == 0


@pytest.mark.parametrize(
    "transport", [TRANSPORTS[0], TRANSPORTS[-2]], ids=lambda transport: transport.name, indirect=True
)
def test_a_client_that_reads_late_hears_all_of_it(make_harness, transport, monkeypatch):
    """Later than one that has said something wrong is waited for: its mails may have been stored."""
    monkeypatch.setattr(connection_module, "CLOSE_TIMEOUT", 0.02)
    harness = make_harness(listener=transport.listener, max_errors=HELP)

    async def scenario():
        client = await deaf(harness, transport)
        await asyncio.sleep(0.1)
        client.writer.transport.resume_reading()
        assert await count_answers(client) == HELP
        await gone(harness, client)

    harness.run(scenario())


@pytest.mark.parametrize(
    "transport", [TRANSPORTS[0], TRANSPORTS[-2]], ids=lambda transport: transport.name, indirect=True
)
def test_a_stop_does_not_wait_long_for_a_client_that_does_not_read(make_harness, transport, monkeypatch):
    harness = make_harness(listener=transport.listener, max_errors=HELP)

    async def scenario():
        client = await deaf(harness, transport)
        monkeypatch.setattr(connection_module, "CLOSE_TIMEOUT", 0.02)
        harness.dispatcher.connections.shutdown()
        await harness.until(lambda: not harness.connections)
        client.writer.transport.abort()

    harness.run(scenario())
