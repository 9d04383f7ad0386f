"""Listeners: the sockets that the parent has bound, and whether connections are accepted from them.

None is accepted while an administrator has paused SMTP, or while descriptors are scarce.  A pause closes nothing in the
kernel: connections wait in the backlog, which is large (with a short one twenty clients wait for their second SYN).
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
RELIEF_PERCENT = 10  # of the sessions, that have to end before connections are accepted again


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
        # A listener without a socket has no address yet: AddListener brings both.
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
        """Connections are accepted."""
        return self._open and not self._paused and self._resume_at is None

    def open(self) -> None:
        self._open = True
        self._apply()

    def add(self, imsg: AddListener, descriptor: int) -> None:
        bound = (replace(self._slices[imsg.number], address=imsg.address), socket.socket(fileno=descriptor))
        self._bound.append(bound)
        if self.welcoming:
            self._listen(*bound)

    def pause(self, paused: bool) -> bool:
        """Stop accepting connections, or go on.  False when nothing changed."""
        if paused == self._paused:
            return False
        self._paused = paused
        self._apply()
        return True

    def pause_until_sessions_end(self) -> None:
        """Descriptors are scarce: accept again when some sessions have ended."""
        if self._resume_at is None:
            sessions = len(self._connections)
            self._resume_at = sessions - max(1, sessions * RELIEF_PERCENT // 100)
            log.warn(f"smtp: descriptors are scarce with {sessions} sessions: no new clients for now")
            self._apply()

    def session_ended(self) -> None:
        """Accept again, when enough sessions have ended."""
        if self._resume_at is not None and len(self._connections) <= self._resume_at:
            self._resume_at = None
            log.info("smtp: taking new clients again")
            self._apply()

    def close(self) -> None:
        """Close the sockets: the kernel refuses connections."""
        self._open = False
        self._apply()
        for _, sock in self._bound:
            sock.close()

    def _apply(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self.welcoming:
            for bound in self._bound:
                self._listen(*bound)

    def _listen(self, listener: ListenerSlice, sock: socket.socket) -> None:
        # uvloop closes the socket with its server; this one is needed again after a pause
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
