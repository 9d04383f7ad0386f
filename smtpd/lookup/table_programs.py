"""The sockets of table programs, on the event loop.

    parent --TakeTableProgram--> a socket --> ProgramTable, which has the protocol
                                  end of file, protocol error --> unavailable until the parent sends another one

A slow program delays only its own questions.  Unwritten data is bounded by the table's number of open questions.
"""

import asyncio
import socket
from collections.abc import Mapping

from smtpd.imsg import TakeTableProgram
from smtpd.ipc.channel import Violation
from smtpd.ipc.log import log
from smtpd.ipc.os_error import error_text
from smtpd.tables.program import ProgramError, ProgramTable
from smtpd.tables.table import Table

READ_SIZE = 64 * 1024  # bytes read in one turn of the loop
TICK_INTERVAL = 1.0  # seconds


class TablePrograms:
    def __init__(self, loop: asyncio.AbstractEventLoop, tables: Mapping[str, Table]):
        self._loop = loop
        self._tables = {name: table for name, table in tables.items() if isinstance(table, ProgramTable)}
        self._links: dict[str, ProgramConnection] = {}
        if self._tables:
            self._tick()

    def take(self, imsg: TakeTableProgram, descriptor: int) -> None:
        sock = socket.socket(fileno=descriptor)
        table = self._tables.get(imsg.table)
        if table is None:
            sock.close()
            raise Violation(f"a program for table {imsg.table}, which has none")
        if old := self._links.pop(imsg.table, None):
            old.close("its program has been started anew")
        self._links[imsg.table] = ProgramConnection(self._loop, table, sock)

    def _tick(self) -> None:
        for table in self._tables.values():
            table.tick(self._loop.time())
        self._loop.call_later(TICK_INTERVAL, self._tick)


class ProgramConnection:
    """The socket of one program, from its start to its end."""

    def __init__(self, loop: asyncio.AbstractEventLoop, table: ProgramTable, sock: socket.socket):
        self._loop = loop
        self._table = table
        self._sock = sock
        self._unwritten = bytearray()
        self._open = True
        sock.setblocking(False)
        loop.add_reader(sock.fileno(), self._readable)
        table.connect(self._send)

    def close(self, reason: str) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._sock.fileno())
            self._loop.remove_writer(self._sock.fileno())
            self._sock.close()
            self._table.lost(reason)

    def _readable(self) -> None:
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error_text(error))
            return
        if not data:
            self._end("its program has ended")
            return
        try:
            self._table.received(data)
        except ProgramError as broken:
            self._end(f"its program {broken}")

    def _end(self, reason: str) -> None:
        log.warn(f"table {self._table.name}: {reason}")
        self.close(reason)

    def _send(self, data: bytes) -> None:
        """Send, together with other questions of this turn.  Never calls the table back."""
        if self._open and not self._unwritten:
            self._loop.add_writer(self._sock.fileno(), self._writable)
        self._unwritten += data

    def _writable(self) -> None:
        try:
            sent = self._sock.send(self._unwritten)
        except BlockingIOError:
            return
        except OSError:
            sent = len(self._unwritten)  # the reader sees the end, after the last data
        del self._unwritten[:sent]
        if not self._unwritten:
            self._loop.remove_writer(self._sock.fileno())
