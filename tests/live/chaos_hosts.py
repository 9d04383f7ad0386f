"""Fifty hosts that take mail for a domain each: healthy ones, slow ones, some that refuse, some that die and come back.

All in one thread; each has an address of its own.  What a host has taken is written down when its last line is there,
so a mail whose answer got lost counts.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections import defaultdict
from enum import StrEnum
from typing import NamedTuple

SLOW = 1.0  # seconds until a slow host answers
LIFE, DEATH = 4.0, 3.0  # seconds that a dying host is there, and is not


class Kind(StrEnum):
    HEALTHY = "healthy"
    SLOW = "slow"
    REFUSES = "refuses"
    DIES = "dies"


LATER, NEVER = REPLIES = "451 4.7.1 not now", "550 5.7.1 never"  # of those that refuse


class Copy(NamedTuple):
    when: float
    host: "Host"


class Host:
    def __init__(self, number, kind, port):
        self.number, self.kind, self.port = number, kind, port
        self.address, self.domain = f"127.0.3.{number + 1}", f"{kind}{number}.test"
        self.refusal = REPLIES[number % 2]
        self.deaths = []  # when
        self.writers = set()
        self.listening = None

    async def listen(self):
        sock = socket.create_server((self.address, self.port), backlog=128)
        self.listening = await asyncio.start_server(self.serve, sock=sock)

    async def live_and_die(self):
        while self.kind is Kind.DIES:
            await asyncio.sleep(LIFE)
            if self.kind is Kind.DIES:
                self.deaths.append(time.time())
                self.listening.close()
                for writer in self.writers:
                    writer.transport.abort()
                await asyncio.sleep(DEATH)
                await self.listen()

    async def serve(self, reader, writer):
        self.writers.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await self.talk(reader, writer)
        finally:
            self.writers.discard(writer)
            writer.close()

    async def talk(self, reader, writer):
        writer.write(b"220 chaos.test ESMTP\r\n")
        while line := await reader.readline():
            verb = line[:4].upper()
            if verb == b"EHLO":
                writer.write(b"250-chaos.test\r\n250 8BITMIME\r\n")
            elif verb == b"RCPT" and self.kind is Kind.REFUSES:
                writer.write(f"{self.refusal}\r\n".encode())
            elif verb == b"DATA":
                writer.write(b"354 go on\r\n")
                content = await reader.readuntil(b"\r\n.\r\n")
                self.copies[content.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode()].append(
                    Copy(time.time(), self)
                )
                if self.kind is Kind.SLOW:
                    await asyncio.sleep(SLOW)
                writer.write(b"250 2.0.0 kept\r\n")
            elif verb == b"QUIT":
                return
            else:
                writer.write(b"250 2.0.0 ok\r\n")


class Hosts:
    """`copies`: subject -> its copies, in their order."""

    def __init__(self, kinds, port):
        self.all = [Host(number, kind, port) for number, kind in enumerate(kinds)]
        self.copies = defaultdict(list)
        for host in self.all:
            host.copies = self.copies
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda _loop, _context: None)  # of connections that are cut off
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self):
        self._thread.start()
        for host in self.all:
            self._run(host.listen())
            asyncio.run_coroutine_threadsafe(host.live_and_die(), self._loop)
        return self

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def heal(self):
        """The slow ones are quick, and the dying ones stay."""
        for host in self.all:
            if host.kind is not Kind.REFUSES:
                host.kind = Kind.HEALTHY

    def __exit__(self, *_):
        self._run(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self):
        for host in self.all:
            host.listening.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
