"""Listeners: the sockets that the parent bound, and whether we take clients from them.

A pause closes nothing in the kernel: connections wait in the backlog, which is large (a short one makes twenty clients
wait for their second SYN).
"""

import asyncio
import socket
from functools import partial

from smtpd.config.slice import ListenerSlice
from smtpd.dispatcher.connection import Connection
from smtpd.dispatcher.crowd import Crowd
from smtpd.dispatcher.office import Office

BACKLOG = 4096


class Listeners:
    def __init__(
        self, office: Office, crowd: Crowd, listeners: tuple[ListenerSlice, ...], sockets: dict[int, socket.socket]
    ):
        self._office, self._crowd = office, crowd
        self._bound = [(listener, sockets[listener.number]) for listener in listeners]
        self._servers: list[asyncio.AbstractServer] = []
        self._paused = False
        self._open = False
        self._opening: set[asyncio.Task] = set()

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
        """For good: the kernel refuses new clients."""
        self._open = False
        self._ignore()
        for _, sock in self._bound:
            sock.close()

    @property
    def listening(self) -> bool:
        return bool(self._servers)

    def _listen(self) -> None:
        for listener, sock in self._bound:
            # uvloop takes a socket over and closes it with its server; ours has to outlive a pause
            task = self._office.loop.create_task(self._serve(listener, sock.dup()))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _serve(self, listener: ListenerSlice, sock: socket.socket) -> None:
        connection = partial(Connection, self._office, self._crowd, listener)
        server = await self._office.loop.create_server(connection, sock=sock, backlog=BACKLOG)
        if self._paused or not self._open:
            server.close()
        else:
            self._servers.append(server)

    def _ignore(self) -> None:
        for server in self._servers:
            server.close()
        self._servers.clear()
