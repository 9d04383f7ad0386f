"""SMTP sessions for programs of this host, which ask for one through control: `listen on socket`.

    sendmail --OpenSession--> control --the same, uid--> here: a pair of sockets, one end is a connection of ours
             <--SessionOpened, the other end-- control <--

The client is identified by its uid, which the kernel tells, and not by an address.  It has no rates, no greeting delay,
no reverse DNS, and needs neither TLS nor a password.  The limits of a session apply, and a user may have as many
sessions as an address may, so that one user cannot take the sessions of all.
"""

import asyncio
import socket
from typing import cast

from smtpd.dispatcher.inbound.connection import Connection
from smtpd.dispatcher.inbound.connections import Connections
from smtpd.dispatcher.inbound.preamble import PreambleResult
from smtpd.dispatcher.inbound.resources import Resources
from smtpd.dispatcher.inbound.stream import ClientStream
from smtpd.ipc.log import log
from smtpd.slice import ListenerSlice
from smtpd.smtp.question import MessageIdQuestion
from smtpd.smtp.session import Client


class SessionUnavailable(Exception):
    """No session for this user, or not now; the argument says why."""


class LocalSessions:
    def __init__(self, resources: Resources, connections: Connections, listener: ListenerSlice):
        self._resources, self._connections, self._listener = resources, connections, listener
        self._opening: set[asyncio.Task] = set()

    def open(self, uid: int) -> socket.socket:
        """The client's end, of which there is no other copy.  Raises SessionUnavailable."""
        connection = LocalConnection(self._resources, self._connections, self._listener, uid)
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            raise SessionUnavailable(error.strerror) from None
        refusal = self._connections.add_local(connection, max(ours.fileno(), theirs.fileno()))
        if refusal is not None:
            ours.close()
            theirs.close()
            log.line(f'{connection.id:016x} smtp refused address=local uid={uid} reason="{refusal.value}"')
            raise SessionUnavailable(refusal.value)
        task = self._resources.loop.create_task(self._connect(connection, ours))
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)
        return theirs

    async def _connect(self, connection: "LocalConnection", sock: socket.socket) -> None:
        try:
            await self._resources.loop.connect_accepted_socket(lambda: connection, sock)
        except OSError as error:
            log.warn(f"{connection.id:016x} smtp: {error.strerror}")
            sock.close()
            self._connections.remove(connection)


class LocalConnection(Connection):
    """Registered as soon as it is made, a moment before it has its transport."""

    def __init__(self, resources: Resources, connections: Connections, listener: ListenerSlice, uid: int):
        super().__init__(resources, connections, listener)
        self.address = f"uid {uid}"
        self.statistic = "smtp.session.local"
        self._client = Client("local", 0, listener.hostname, local=True, uid=uid)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.stream = ClientStream(cast(asyncio.Transport, transport))
        if self._finished:
            self.stream.transport.abort()
        else:
            result = PreambleResult(self._client, facts=None, name="", may_xclient=False, early=b"", spoke_early=False)
            self.begin(result)

    def shutdown(self) -> None:
        if self.session is None:
            self._finished = True
        else:
            super().shutdown()

    def _begin_message(self, question: MessageIdQuestion) -> None:
        self._message.begin()
