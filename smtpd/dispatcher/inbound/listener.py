"""Listeners: the sockets that the parent bound, and whether we take clients from them.

Not while an administrator has paused them, nor while descriptors are scarce.  A pause closes nothing in the kernel:
connections wait in the backlog, which is large (a short one makes twenty clients wait for their second SYN).
"""

import asyncio
import socket
from functools import partial

from msgspec.structs import replace

from smtpd.dispatcher.inbound.connection import Connection
from smtpd.dispatcher.inbound.connections import Connections
from smtpd.dispatcher.inbound.resources import Resources
from smtpd.imsg import AddListener
from smtpd.ipc.log import log
from smtpd.slice import ListenerSlice

BACKLOG = 4096
RELIEF_PERCENT = 10  # of a hundred sessions so many have to end before clients are taken again


class Listeners:
    def __init__(
        self,
        resources: Resources,
        connections: Connections,
        listeners: tuple[ListenerSlice, ...],
        sockets: dict[int, socket.socket],
    ):
        self._resources, self._connections = resources, connections
        self._slices = {listener.number: listener for listener in listeners}
        # One without a socket has no address yet: AddListener brings both.
        self._bound = [(self._slices[number], sock) for number, sock in sockets.items()]
        self._servers: list[asyncio.AbstractServer] = []
        self._paused = False
        self._open = False
        self._resume_at: int | None = None  # descriptors are scarce until there are only so many sessions
        self._opening: set[asyncio.Task] = set()

    @property
    def listening(self) -> bool:
        return bool(self._servers)

    @property
    def welcoming(self) -> bool:
        """New clients are taken."""
        return self._open and not self._paused and self._resume_at is None

    def open(self) -> None:
        self._open = True
        self._settle()

    def add(self, imsg: AddListener, descriptor: int) -> None:
        bound = (replace(self._slices[imsg.number], address=imsg.address), socket.socket(fileno=descriptor))
        self._bound.append(bound)
        if self.welcoming:
            self._listen(*bound)

    def pause(self, paused: bool) -> bool:
        """Take no new client for now, or take them again.  False when it was so already."""
        if paused == self._paused:
            return False
        self._paused = paused
        self._settle()
        return True

    def rest(self) -> None:
        """Descriptors are scarce: let some sessions end first."""
        if self._resume_at is None:
            sessions = len(self._connections)
            self._resume_at = sessions - max(1, sessions * RELIEF_PERCENT // 100)
            log.warn(f"smtp: descriptors are scarce with {sessions} sessions: no new clients for now")
            self._settle()

    def recover(self) -> None:
        """A session has ended."""
        if self._resume_at is not None and len(self._connections) <= self._resume_at:
            self._resume_at = None
            log.info("smtp: taking new clients again")
            self._settle()

    def close(self) -> None:
        """For good: the kernel refuses new clients."""
        self._open = False
        self._settle()
        for _, sock in self._bound:
            sock.close()

    def _settle(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self.welcoming:
            for bound in self._bound:
                self._listen(*bound)

    def _listen(self, listener: ListenerSlice, sock: socket.socket) -> None:
        # uvloop takes a socket over and closes it with its server; ours has to outlive a pause
        task = self._resources.loop.create_task(self._serve(listener, sock.dup()))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    async def _serve(self, listener: ListenerSlice, sock: socket.socket) -> None:
        connection = partial(Connection, self._resources, self._connections, listener)
        server = await self._resources.loop.create_server(connection, sock=sock, backlog=BACKLOG)
        if self.welcoming:
            self._servers.append(server)
        else:
            server.close()
