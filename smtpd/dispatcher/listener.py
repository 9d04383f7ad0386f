"""Listeners and who may come in: the sockets that the parent bound, and the counts of sessions.

A pause closes nothing in the kernel: connections wait in the backlog, which is large (a short one makes twenty clients
wait for their second SYN).
"""

import asyncio
import ipaddress
import itertools
import random
import socket
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING

from smtpd.config.slice import ListenerSlice
from smtpd.dispatcher.connection import Connection
from smtpd.ipc.log import log

if TYPE_CHECKING:
    from smtpd.dispatcher.state import Dispatcher

BACKLOG = 4096
SWEEP = 5  # seconds between two looks at the time of every session


class Listeners:
    def __init__(
        self, dispatcher: "Dispatcher", listeners: tuple[ListenerSlice, ...], sockets: dict[int, socket.socket]
    ):
        self.dispatcher = dispatcher
        self.sessions: dict[int, Connection] = {}
        self._bound = [(listener, sockets[listener.number]) for listener in listeners]
        self._servers: list[asyncio.AbstractServer] = []
        self._by_address: Counter[str] = Counter()
        # A session id says nothing but which line of the log belongs to which session.
        self._ids = itertools.count(random.SystemRandom().getrandbits(63))
        self._swept = 0.0
        self._paused = False
        self._open = False
        self._closing: set[asyncio.Task] = set()

    def open(self) -> None:
        self._open = True
        if not self._paused:
            self._listen()

    def pause(self, paused: bool) -> bool:
        """Take no new client for now, or take them again.  False when it was so already."""
        if paused == self._paused:
            return False
        self._paused = paused
        if paused:
            self._ignore()
        elif self._open:
            self._listen()
        return True

    def close(self) -> None:
        """For good: the kernel refuses new clients, the sessions are told."""
        self._open = False
        self._ignore()
        for _, sock in self._bound:
            sock.close()
        for connection in list(self.sessions.values()):
            connection.shutdown()

    def _listen(self) -> None:
        for listener, sock in self._bound:
            # uvloop takes a socket over and closes it with its server; ours has to outlive a pause
            self._keep(self._serve(listener, sock.dup()))

    async def _serve(self, listener: ListenerSlice, sock: socket.socket) -> None:
        connection = partial(Connection, self.dispatcher, self, listener)
        server = await self.dispatcher.loop.create_server(connection, sock=sock, backlog=BACKLOG)
        if self._paused or not self._open:
            server.close()
        else:
            self._servers.append(server)

    def _ignore(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()

    def _keep(self, work) -> None:
        task = self.dispatcher.loop.create_task(work)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    # -- sessions ------------------------------------------------------------------

    def new_id(self) -> int:
        return next(self._ids) & (2**64 - 1)

    def admit(self, connection: Connection) -> str | None:
        """Count a session in.  A reason when there are too many of them."""
        limits, address = self.dispatcher.limits, connection.address
        if len(self.sessions) >= limits.max_sessions:
            return "too many sessions"
        if self._by_address[address] >= limits.max_sessions_per_address and not _is_loopback(address):
            return "too many sessions from your address"
        self.sessions[connection.id] = connection
        self._by_address[address] += 1
        self.dispatcher.statistics["smtp.session"] += 1
        self.dispatcher.statistics[connection.statistic] += 1
        return None

    def leave(self, connection: Connection) -> None:
        if self.sessions.pop(connection.id, None) is None:
            return
        self._by_address[connection.address] -= 1
        if not self._by_address[connection.address]:
            del self._by_address[connection.address]
        self.dispatcher.statistics["smtp.session"] -= 1
        self.dispatcher.statistics[connection.statistic] -= 1
        self.dispatcher.left()

    def sweep(self, now: float) -> None:
        """Let every session notice the time, now and then: their limits are minutes."""
        if now - self._swept < SWEEP:
            return
        self._swept = now
        for connection in list(self.sessions.values()):
            connection.tick(now)

    def __len__(self) -> int:
        return len(self.sessions)


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        log.warn(f"an address that is none: {address}")
        return False
