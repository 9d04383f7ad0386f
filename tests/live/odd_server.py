"""A server that does one odd thing, once, where it is told to; before and afterwards it is as good as any.

    OddServers(OddServer("127.0.1.7", 2525, Stage.RCPT, "disconnect"), ...)    all in one thread

What it was given stands in `mails`.  A server that stalls goes on when all are told to: `release`.
"""

import asyncio
import contextlib
import itertools
import socket
import struct
import threading
from dataclasses import dataclass
from enum import StrEnum

FLOOD = 8 * 1024 * 1024  # bytes of an answer without an end
LONG_LINE = 4096  # bytes
MANY_LINES = 1000
PAUSE = 0.001  # seconds between two bytes of an answer in pieces
READ_MAX = 4096  # bytes that are read ahead of what is looked at: a client notices that content is not taken


class Stage(StrEnum):
    """Where it does it: in the place of the answer to a command."""

    BANNER = "banner"
    EHLO = "ehlo"
    STARTTLS = "starttls"
    HANDSHAKE = "handshake"  # the answer to STARTTLS was good
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    CONTENT = "content"  # when a part of it has come
    DOT = "dot"
    BDAT = "bdat"  # a chunk that is not the last one
    LAST = "last"  # the last chunk
    RSET = "rset"  # the recipient of the first mail is refused, to hear it
    QUIT = "quit"


@dataclass(frozen=True)
class Mail:
    connection: int
    subject: str
    recipients: tuple[str, ...]
    encrypted: bool


class Gone(Exception):
    """The connection is over."""


class OddServer:
    """`act` is a name of ACTS; none is good from the start."""

    def __init__(self, address, port, stage=None, act=""):
        self.address, self.port, self.stage = address, port, stage
        self.act = ACTS[act] if act else None
        self.connections = itertools.count(1)
        self.mails = []
        self.context = None  # of TLS
        self.released = asyncio.Event()
        self.waiting = self.act is not None  # it has not done it yet

    @property
    def extensions(self):
        yield b"PIPELINING"
        if self.stage in (Stage.STARTTLS, Stage.HANDSHAKE):
            yield b"STARTTLS"
        if self.stage in (Stage.BDAT, Stage.LAST):
            yield b"CHUNKING"

    async def serve(self, reader, writer):
        session = Session(self, next(self.connections), reader, writer)
        try:
            with contextlib.suppress(Gone, ConnectionError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await session.run()
        finally:
            writer.close()


class Session:
    def __init__(self, server, number, reader, writer):
        self.server, self.number, self.reader, self.writer = server, number, reader, writer
        self.encrypted = False
        self.has_sender, self.recipients, self.content = False, [], b""
        self.commands = {
            b"EHLO": self.ehlo, b"HELO": self.helo, b"STARTTLS": self.starttls, b"MAIL": self.mail,
            b"RCPT": self.rcpt, b"DATA": self.data, b"BDAT": self.bdat, b"RSET": self.rset, b"QUIT": self.quit,
        }  # fmt: skip

    async def run(self):
        await self.answer(Stage.BANNER, b"220 odd.test ESMTP\r\n")
        while line := await self.reader.readline():
            await self.commands.get(line[:4].upper() if line[:8] != b"STARTTLS" else b"STARTTLS", self.unknown)(line)

    async def answer(self, stage, good):
        """Whether that was no refusal."""
        server = self.server
        if server.stage is stage and server.waiting:
            server.waiting = False
            await server.act(self, good)
            return server.act not in (soft, hard)
        await self.say(good)
        return True

    async def say(self, data):
        self.writer.write(data)
        await self.writer.drain()

    async def unknown(self, _line):
        await self.say(b"500 5.5.1 unknown command\r\n")

    async def ehlo(self, _line):
        lines = [b"odd.test", *self.server.extensions]
        await self.answer(Stage.EHLO, b"".join(b"250-%s\r\n" % line for line in lines) + b"250 HELP\r\n")

    async def helo(self, _line):
        await self.say(b"250 odd.test\r\n")

    async def starttls(self, _line):
        if not await self.answer(Stage.STARTTLS, b"220 go on\r\n"):
            return
        if self.server.stage is Stage.HANDSHAKE and self.server.waiting:
            await self.reader.readexactly(1)  # of the client's part
            await self.answer(Stage.HANDSHAKE, b"")
        await self.writer.start_tls(self.server.context)
        self.encrypted = True

    async def mail(self, _line):
        self.has_sender, self.recipients, self.content = False, [], b""
        self.has_sender = await self.answer(Stage.MAIL, b"250 2.1.0 ok\r\n")

    async def rcpt(self, line):
        server = self.server
        if not self.has_sender:
            await self.say(b"503 5.5.1 no sender\r\n")
        elif server.stage is Stage.RSET and server.waiting:
            await self.say(b"550 5.1.1 no such user\r\n")
        elif await self.answer(Stage.RCPT, b"250 2.1.5 ok\r\n"):
            self.recipients.append(line[9:].partition(b">")[0].decode())

    async def data(self, _line):
        if not self.recipients:
            await self.say(b"503 5.5.1 no recipients\r\n")
        elif await self.answer(Stage.DATA, b"354 go on\r\n"):
            await self.read_content()

    async def read_content(self):
        lines = []
        if self.server.stage is Stage.CONTENT and self.server.waiting:
            lines.append(await self.reader.readline())
            await self.answer(Stage.CONTENT, b"")
        while (line := await self.reader.readline()) != b".\r\n":
            if not line:
                raise Gone
            lines.append(line)
        await self.take(b"".join(lines), Stage.DOT)

    async def bdat(self, line):
        words = line.split()
        self.content += await self.reader.readexactly(int(words[1]))
        if words[-1].upper() == b"LAST":
            await self.take(self.content, Stage.LAST)
        else:
            await self.answer(Stage.BDAT, b"250 2.0.0 chunk\r\n")

    async def take(self, content, stage):
        """Answer to a mail.  It is kept unless it is refused: also when the answer does not get through."""
        subject = content.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode()
        mail = Mail(self.number, subject, tuple(self.recipients), self.encrypted)
        server = self.server
        self.has_sender, self.recipients, self.content = False, [], b""
        if not (server.stage is stage and server.waiting and server.act in (soft, hard, shutdown)):
            server.mails.append(mail)
        await self.answer(stage, b"250 2.0.0 kept\r\n")

    async def rset(self, _line):
        self.has_sender, self.recipients, self.content = False, [], b""
        await self.answer(Stage.RSET, b"250 2.0.0 ok\r\n")

    async def quit(self, _line):
        await self.answer(Stage.QUIT, b"221 2.0.0 bye\r\n")
        raise Gone


# -- what it does ---------------------------------------------------------------------------------------------


async def disconnect(_session, _good):
    raise Gone


async def reset(session, _good):
    sock = session.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    raise Gone


async def half(session, good):
    await session.say(good[:-1])
    raise Gone


async def stall(session, _good):
    await session.server.released.wait()
    raise Gone


async def pieces(session, good):
    """Without a pause after the last one: what the client then sends may be for TLS already."""
    for byte in good:
        await asyncio.sleep(PAUSE)
        await session.say(bytes([byte]))


async def slow_lines(session, good):
    """As a server that looks around before it lets a client speak."""
    await session.say(good[:3] + b"-wait\r\n")
    await asyncio.sleep(0.1)
    await session.say(good)


async def long(session, good):
    await session.say(good[:4] + b"x" * LONG_LINE + b"\r\n")


async def lines(session, good):
    await session.say((good[:3] + b"-more\r\n") * MANY_LINES + good)


async def endless_line(session, good):
    await session.say(good[:4])
    await flood(session, b"x" * 65536)


async def endless_lines(session, good):
    await flood(session, (good[:3] + b"-more\r\n") * 8000)


async def flood(session, piece):
    for _ in range(FLOOD // len(piece)):
        await session.say(piece)
    raise Gone


async def twice(session, good):
    await session.say(good * 2)


async def wrong(session, good):
    """A reply that no client can expect here."""
    await session.say(b"250 2.0.0 ok\r\n" if good.startswith(b"354") else b"354 go on\r\n")


async def intermediate(session, _good):
    await session.say(b"151 wait\r\n")


async def nul(session, good):
    await session.say(good[:4] + b"a\0b\r\n")


async def bare_cr(session, good):
    await session.say(good[:4] + b"a\rb\r\n")


async def bare_lf(session, good):
    await session.say(good.replace(b"\r\n", b"\n"))


async def babble(session, _good):
    await session.say(b"\x80\xff how are you\r\n")


async def two_codes(session, good):
    await session.say(good[:3] + b"-a\r\n" + (b"251 b\r\n" if good[:3] != b"251" else b"250 b\r\n"))


async def shutdown(session, _good):
    await session.say(b"421 4.3.2 shutting down\r\n")
    raise Gone


async def soft(session, _good):
    await session.say(b"450 4.2.0 not now\r\n")


async def hard(session, _good):
    await session.say(b"550 5.7.1 never\r\n")


ACTS = {
    act.__name__: act
    for act in (
        disconnect, reset, half, stall, pieces, slow_lines, long, lines, endless_line, endless_lines, twice, wrong,
        intermediate, nul, bare_cr, bare_lf, babble, two_codes, shutdown, soft, hard,
    )
}  # fmt: skip


class OddServers:
    """All of them, in one thread.  `context`: a TLS context for those that offer STARTTLS."""

    def __init__(self, servers, context):
        self.servers, self._context = list(servers), context
        self._listening = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self):
        self._loop.set_exception_handler(lambda _loop, _context: None)  # of connections that are reset
        self._thread.start()
        first, self.servers = self.servers, []
        self.add(first)
        return self

    def add(self, servers):
        """Some more."""
        for server in servers:
            server.context = self._context
            self.servers.append(server)
            sock = socket.create_server((server.address, server.port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READ_MAX)
            listening = asyncio.start_server(server.serve, sock=sock, limit=READ_MAX)
            self._listening.append(asyncio.run_coroutine_threadsafe(listening, self._loop).result())

    def release(self):
        """Those that stall close their connections."""
        for server in self.servers:
            self._loop.call_soon_threadsafe(server.released.set)

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        for listening in self._listening:
            listening.close()
        self._loop.run_until_complete(cancel_all())
        self._loop.close()


async def cancel_all():
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
