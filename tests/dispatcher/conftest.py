"""A dispatcher on a real loop; queue and lookup are the other ends of its channels, played by the test."""

import asyncio
import os
import socket
import struct

import pytest
from msgspec.structs import replace

from smtpd.dispatcher import process
from smtpd.dispatcher.state import Dispatcher
from smtpd.imsg import (
    TABLE,
    Begin,
    BeginScram,
    CertificatesUsed,
    CertificateTaken,
    CheckCredentials,
    CheckSender,
    ClassifyClient,
    ClientClassified,
    ClientResolved,
    ContextsMade,
    CredentialsChecked,
    ExpandRecipient,
    FinishScram,
    ForgetMessage,
    KeepTls,
    MakeContexts,
    MessageIdsReserved,
    MessageRefused,
    MessageStored,
    OpenSpoolFile,
    ReadStsPolicies,
    ReadTlsHosts,
    RecipientExpanded,
    RecipientRefused,
    ReserveMessageIds,
    ResolveClient,
    ScramBegun,
    ScramFinished,
    SenderChecked,
    SpoolFileOpened,
    SpoolFileRefused,
    StoreMessage,
    StsPoliciesRead,
    TakeCertificate,
    TlsHostsRead,
    TlsKept,
    UseCertificates,
)
from smtpd.ipc.channel import Channel
from smtpd.ipc.channel_set import connect
from smtpd.ipc.loop import prepare
from smtpd.slice import SOCKET, DispatcherSlice, Limits, ListenerSlice
from tests.dispatcher.tls_peers import Crypto, TlsClient, certificate


class PeerProcesses:
    """What queue and lookup would say.  `hold` keeps answers back until `release`."""

    def __init__(self, folder):
        self.folder = folder
        self.stored, self.forgotten, self.asked, self.spool = {}, [], [], {}
        self.hold = set()
        self.held = []
        self.next_id = 1
        self.tls_hosts, self.sts_policies = [], []  # that are kept
        self.refuse_store = self.refuse_spool = False

    def from_dispatcher(self, state, channel, imsg, descriptor):
        self.asked.append(imsg)
        if type(imsg) in self.hold:
            self.held.append((channel, imsg))
        else:
            self.reply(channel, imsg)

    def release(self):
        held, self.held = self.held, []
        self.hold = set()
        for channel, imsg in held:
            self.reply(channel, imsg)

    def reply(self, channel, imsg):
        match imsg:
            case ResolveClient():
                channel.send(ClientResolved(imsg.request, "client.test", True))
            case ClassifyClient():
                channel.send(ClientClassified(imsg.request, "name.test", True))
            case CheckCredentials():
                channel.send(CredentialsChecked(imsg.request, "yes" if imsg.password == "secret" else "no"))
            case BeginScram():
                channel.send(ScramBegun(imsg.request, "later", b"", 0))
            case FinishScram():
                channel.send(ScramFinished(imsg.request, "no", b""))
            case CheckSender():
                channel.send(SenderChecked(imsg.request, "yes" if imsg.sender.startswith(imsg.user) else "no"))
            case ExpandRecipient() if imsg.recipient.startswith("nobody@"):
                channel.send(RecipientRefused(imsg.request, 550, "5.1.1", "no such user"))
            case ExpandRecipient():
                channel.send(RecipientExpanded(imsg.request, 1))
            case ReserveMessageIds():
                channel.send(MessageIdsReserved(imsg.request, list(range(self.next_id, self.next_id + 300))))
                self.next_id += 300
            case OpenSpoolFile() if self.refuse_spool:
                channel.send(SpoolFileRefused(imsg.request, 452, "4.3.1", "no room"))
            case OpenSpoolFile():
                path = self.folder / f"{imsg.message:08x}"
                self.spool[imsg.message] = path
                channel.send(SpoolFileOpened(imsg.request), os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            case StoreMessage() if self.refuse_store:
                channel.send(MessageRefused(imsg.request, 451, "4.3.0", "store trouble"))
            case StoreMessage():
                path = self.spool.get(imsg.message)
                self.stored[imsg.message] = path.read_bytes() if path else imsg.content
                assert len(self.stored[imsg.message]) == imsg.size
                channel.send(MessageStored(imsg.request))
            case ReadTlsHosts():
                channel.send(TlsHostsRead(imsg.request, self.tls_hosts, 0))
            case ReadStsPolicies():
                channel.send(StsPoliciesRead(imsg.request, self.sts_policies, 0))
            case KeepTls():
                channel.send(TlsKept(imsg.request, True))
            case ForgetMessage():
                self.forgotten.append(imsg)


class Harness:
    def __init__(self, folder, *, listener=None, socket_listener=None, relays=(), **limits):
        self.loop = prepare()
        self.folder = folder
        sockets = {peer: socket.socketpair() for peer in ("lookup", "queue", "control", "parent")}
        self.peers = PeerProcesses(folder)
        sock = socket.socket()
        sock.bind(("127.0.0.1", 0))
        self.port = sock.getsockname()[1]
        here = ListenerSlice(1, "127.0.0.1", self.port, "mx.test", "", **(listener or {}))
        elsewhere = ListenerSlice(2, "", self.port, "late.test", "", interface="eth7")
        local = replace(SOCKET, hostname="mx.test", **(socket_listener or {}))
        configuration = DispatcherSlice(
            (here, elsewhere), "mx.test", 2_000_000, Limits(**limits), socket=local, relays=relays
        )
        channels = {peer: Channel(ours, TABLE, "dispatcher", peer) for peer, (ours, _) in sockets.items()}
        theirs = {peer: Channel(other, TABLE, peer, "dispatcher") for peer, (_, other) in sockets.items()}
        self.control, self.parent = theirs["control"], theirs["parent"]
        self.crypto = Crypto() if here.tls else None
        signing = self.crypto.sockets if self.crypto else []
        self.dispatcher = Dispatcher(
            self.loop, configuration, {1: sock}, channels["lookup"], channels["queue"], signing
        )
        handlers = {
            "parent": process.from_parent,
            "lookup": process.from_lookup,
            "queue": process.from_queue,
            "control": process.from_control,
        }
        self.heard, self.handed, self.told, self.clients = [], [], [], []
        self.boards = [
            connect(self.loop, list(channels.values()), handlers, self.dispatcher),
            connect(self.loop, list(theirs.values()), {"dispatcher": self._from_dispatcher}, None),
        ]
        self.channels = [list(channels.values()), list(theirs.values())]
        if self.crypto:
            self.certify(certificate(self.crypto.key))
            self.use_certificates()
        self.parent.send(Begin())
        self.run(self.until(lambda: self.dispatcher.listeners.listening))

    def certify(self, pem):
        """What the dispatcher says of a certificate."""
        path = self.folder / "certificate.pem"
        path.write_bytes(pem)
        self.parent.send(TakeCertificate("mx.test"), os.open(path, os.O_RDONLY))
        before = len(self.told)
        self.run(self.until(lambda: len(self.told) > before))
        assert isinstance(self.told[-1], CertificateTaken)
        return self.told[-1]

    def use_certificates(self):
        self.parent.send(MakeContexts())
        self.parent.send(UseCertificates())
        self.run(self.until(lambda: self.told and isinstance(self.told[-1], CertificatesUsed)))
        assert self.told[-2] == ContextsMade("", "")

    @property
    def statistics(self):
        return self.dispatcher.resources.statistics

    @property
    def connections(self):
        return list(self.dispatcher.connections.by_id.values())

    def _from_dispatcher(self, state, channel, imsg, descriptor):
        if channel.me == "control":
            self.heard.append(imsg)
            if descriptor is not None:
                self.handed.append(descriptor)
        elif channel.me == "parent":
            self.told.append(imsg)
        else:
            self.peers.from_dispatcher(state, channel, imsg, descriptor)

    def run(self, scenario):
        return self.loop.run_until_complete(asyncio.wait_for(scenario, 20))

    async def client(self, address="127.0.0.1"):
        self.clients.append(Client(*await asyncio.open_connection(address, self.port)))
        return self.clients[-1]

    async def tls_client(self):
        """After the handshake of a listener with TLS at once."""
        return await (await self.client()).shake()

    async def until(self, condition):
        while not condition():
            await asyncio.sleep(0)

    def close(self):
        for client in self.clients:
            client.writer.transport.abort()
        self.dispatcher.listeners.close()
        self.dispatcher.connections.shutdown()
        self.run(self.until(lambda: not self.dispatcher.connections.by_id))
        if self.crypto:
            self.crypto.go.set()
        self.dispatcher.resources.close()
        for board, channels in zip(self.boards, self.channels, strict=True):
            for channel in channels:
                board.remove(channel)
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()
        if self.crypto:
            self.crypto.close()


class Client:
    """`write` and `reply` speak TLS after `shake`; `writer` and `reader` are the bytes below."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer
        self.tls = None

    async def shake(self):
        self.tls = await TlsClient(self.reader, self.writer).shake()
        return self

    def write(self, data):
        (self.tls or self.writer).write(data)

    def vanish(self):
        """Be gone, and not only say that no more is sent: a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def reply(self):
        """One reply, joined; empty at the end of the connection."""
        lines = []
        while line := await (self.tls or self.reader).readline():
            lines.append(line.decode().rstrip("\r\n"))
            if line[3:4] != b"-":
                break
        return "\n".join(lines)

    async def say(self, line, expect):
        self.write(line.encode() + b"\r\n")
        reply = await self.reply()
        assert reply.startswith(expect), f"{line}: {reply}"
        return reply

    async def greet(self):
        assert (await self.reply()).startswith("220 ")
        await self.say("EHLO client.test", "250")

    async def envelope(self, recipient="bob@here.test"):
        await self.say("MAIL FROM:<amy@there.test>", "250 2.0.0")
        await self.say(f"RCPT TO:<{recipient}>", "250 2.1.5")

    async def mail(self, content=b"Subject: x\r\n\r\nhello\r\n"):
        await self.envelope()
        await self.say("DATA", "354")
        self.write(content + b".\r\n")
        return await self.reply()


@pytest.fixture
def harness(tmp_path):
    made = Harness(tmp_path)
    yield made
    made.close()


@pytest.fixture
def make_harness(tmp_path):
    harnesses = []

    def make(**more):
        harnesses.append(Harness(tmp_path, **more))
        return harnesses[-1]

    yield make
    for made in harnesses:
        made.close()
