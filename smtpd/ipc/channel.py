"""A socket between two processes, one imsg after the other, some with a descriptor.

    send(imsg) … send(imsg) --flush--> one sendmsg          one recvmsg --receive--> [(imsg, descriptor), …]

Everything sent in one turn of the loop leaves together.  A descriptor rides on the first byte of its frame: the batch
is cut before it, and after a partial write it is not sent again.  A received one waits in a FIFO for the next frame
that is flagged, as one recvmsg may bring several frames and the descriptor of a later one.

Anything that our own code would not have sent raises Violation: a wrong arrow, type, length or shape, a descriptor too
many or too few.  Between processes of the daemon that is fatal; a control client is dropped for it.

A channel never blocks and is never left unread.  What bounds its growth is the asker's window (request_window.py).

The kernel may refuse to take anything though the socket has room: too many descriptors of our user are under way, which
others may not have read yet, or there is no memory.  Then no poll says when to try again: `pause` does.
"""

import array
import errno
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from smtpd.ipc import frame
from smtpd.ipc.declaration import Declaration, Table

BUFFER = 256 * 1024  # of the socket, and what one receive takes
WAITING_DESCRIPTORS = 16
BATCH = 128 * 1024  # bytes given to one sendmsg

FIRST_PAUSE, LONGEST_PAUSE = 0.01, 0.5  # seconds between two attempts where the kernel refuses what there is room for
REFUSALS = frozenset((errno.ETOOMANYREFS, errno.ENOBUFS, errno.ENOMEM))  # by the kernel, for now

# As numbers: asked of the enum each time, they are a good part of what a receive costs.
_CLOSE_ON_EXEC, _CUT_OFF = int(socket.MSG_CMSG_CLOEXEC), int(socket.MSG_CTRUNC)

_encoder = msgspec.msgpack.Encoder()
_CONTROL_SPACE = socket.CMSG_SPACE(WAITING_DESCRIPTORS * array.array("i").itemsize)


def _right(descriptor: int) -> tuple[int, int, array.array]:
    return socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor])


class Violation(Exception):
    """The peer sent what it may not, or what is nothing at all."""


class VersionMismatch(Violation):
    """smtpctl and smtpd were not made together."""


class ChannelClosed(Exception):
    """The peer is gone: end of file, or an error of the socket."""


def unexpected(peer: str, imsg: Any) -> NoReturn:
    """What a from_<peer> says to an imsg that its match does not know."""
    raise Violation(f"unexpected {type(imsg).__name__} from {peer}")


def owned(descriptor: int | None) -> int:
    """The descriptor of an imsg that is declared with one, now the caller's.  A channel receives no such imsg without
    it."""
    assert descriptor is not None
    return descriptor


class Channel:
    """One end of the socket `sock` between `me` and `peer`.  `number` tells several peers of one role apart."""

    def __init__(self, sock: socket.socket, table: Table, me: str, peer: str, number: int = 0, *, peer_id: int = 0):
        sock.setblocking(False)
        self.sock = sock
        self.me, self.peer, self.number = me, peer, number
        self.peer_id = peer_id
        self.closed = False
        self._outgoing = {d.cls: d for d in table.between(me, peer).values()}
        self._incoming: dict[int, tuple[Declaration, Any]] = {
            number: (d, msgspec.msgpack.Decoder(d.cls)) for number, d in table.between(peer, me).items()
        }
        self._answers = {d.cls: d.answers for d, _ in self._incoming.values()}
        # A peer that may send none is given no room for any: they are not even made ours.
        self._rights_space = _CONTROL_SPACE if any(d.descriptor for d, _ in self._incoming.values()) else 0
        self._pid = os.getpid()
        self._out: deque[tuple[bytes | bytearray | memoryview, int | None]] = deque()
        self.bytes_waiting = 0
        self.descriptors_waiting = 0
        self.pause = 0.0  # seconds until the next flush makes sense; 0 when that is as soon as there is room
        self.wake: Callable[[Channel], None] | None = None  # a loop's, which flushes at the end of its turn
        self._descriptors: deque[int] = deque()
        self._buffer = bytearray(BUFFER)
        self._have = 0

    def fileno(self) -> int:
        return self.sock.fileno()

    def question_of(self, answer: type) -> type | None:
        """What an imsg of the class `answer` answers, when it comes along here."""
        return self._answers[answer]

    # -- out -------------------------------------------------------------------

    def send(self, imsg: Any, descriptor: int | None = None) -> None:
        """Queue `imsg`; raises Violation against an arrow, or what the encoder raises.  `descriptor` is taken over, and
        closed when it has left or cannot leave."""
        try:
            buffer = self._encoded(imsg, descriptor)
        except BaseException:
            if descriptor is not None:
                os.close(descriptor)
            raise
        self._out.append((buffer, descriptor))
        self.bytes_waiting += len(buffer)
        self.descriptors_waiting += descriptor is not None
        if self.wake is not None:
            self.wake(self)

    def _encoded(self, imsg: Any, descriptor: int | None) -> bytearray:
        declaration = self._outgoing.get(type(imsg))
        if declaration is None:
            raise Violation(f"{self.me} may not send {type(imsg).__name__} to {self.peer}")
        if (descriptor is not None) != declaration.descriptor:
            raise Violation(f"{type(imsg).__name__} with a descriptor too many or too few")
        buffer = bytearray(frame.SIZE)
        _encoder.encode_into(imsg, buffer, frame.SIZE)
        if len(buffer) - frame.SIZE > declaration.limit:
            raise Violation(f"{type(imsg).__name__} of {len(buffer)} bytes is over its limit")
        flags = 0 if descriptor is None else frame.DESCRIPTOR
        frame.HEADER.pack_into(buffer, 0, declaration.number, flags, len(buffer), self.peer_id, self._pid)
        return buffer

    def send_version(self) -> None:
        """Queue a bare header: a peer that speaks another version reads that much, and knows."""
        self._out.append((frame.HEADER.pack(0, 0, frame.SIZE, self.peer_id, self._pid), None))
        self.bytes_waiting += frame.SIZE

    def flush(self) -> bool:
        """Hand what is queued to the socket.  True when all of it left; otherwise `pause` says when to go on.  Raises
        ChannelClosed."""
        while self._out:
            batch, descriptor, size = self._batch()
            rights = [] if descriptor is None else [_right(descriptor)]
            try:
                sent = self.sock.sendmsg(batch, rights)
            except BlockingIOError:
                self.pause = 0.0
                return False
            except OSError as error:
                if error.errno in REFUSALS:
                    self.pause = min(2 * self.pause, LONGEST_PAUSE) or FIRST_PAUSE
                    return False
                raise ChannelClosed(str(error)) from error
            self.pause = 0.0
            self._sent(sent)
            if sent < size:
                return False
        return True

    def flush_within(self, seconds: float | None) -> bool:
        """For those without a loop: wait until all of it left, or for so many seconds (None: for ever); then False.
        Raises ChannelClosed."""
        deadline = None if seconds is None else time.monotonic() + seconds
        poll = select.poll()
        poll.register(self.sock, select.POLLOUT)
        while not self.flush():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                return False
            if self.pause:
                time.sleep(self.pause if left is None else min(self.pause, left))
            else:
                poll.poll(None if left is None else 1000 * left)
        return True

    def _batch(self) -> tuple[list[bytes | bytearray | memoryview], int | None, int]:
        """The frames of the next sendmsg: up to, but not with, the next one that brings a descriptor."""
        batch: list[bytes | bytearray | memoryview] = []
        size = 0
        for data, descriptor in self._out:
            if batch and (descriptor is not None or size + len(data) > BATCH or len(batch) >= 256):
                break
            batch.append(data)
            size += len(data)
        return batch, self._out[0][1], size

    def _sent(self, count: int) -> None:
        self.bytes_waiting -= count
        while count:
            data, descriptor = self._out.popleft()
            if descriptor is not None:
                self.descriptors_waiting -= 1
                os.close(descriptor)
            if count < len(data):
                self._out.appendleft((memoryview(data)[count:], None))
                return
            count -= len(data)

    # -- in --------------------------------------------------------------------

    def receive(self) -> list[tuple[Any, int | None]]:
        """What one recvmsg brings: imsgs and their descriptors (the caller owns these).  Raises Violation,
        ChannelClosed."""
        with memoryview(self._buffer) as view:
            try:
                count, rights, flags, _ = self.sock.recvmsg_into(
                    [view[self._have :]], self._rights_space, _CLOSE_ON_EXEC
                )
            except BlockingIOError:
                return []
            except OSError as error:
                raise ChannelClosed(str(error)) from error
            self._take_descriptors(rights, flags)
            if count == 0:
                raise ChannelClosed("end of file")
            self._have += count
            received, used, wanted = self._frames(view)
        self._keep(used, wanted)
        return received

    def _take_descriptors(self, rights: list[tuple[int, int, bytes]], flags: int) -> None:
        for level, kind, data in rights:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                numbers = array.array("i")
                numbers.frombytes(data[: len(data) - len(data) % numbers.itemsize])
                self._descriptors.extend(numbers)
        if flags & _CUT_OFF or len(self._descriptors) > WAITING_DESCRIPTORS:
            raise Violation(f"{self.peer} sent more descriptors than may wait")

    def _frames(self, view: memoryview) -> tuple[list[tuple[Any, int | None]], int, int]:
        """What is complete, how many bytes that was, and how many the frame behind it needs."""
        received: list[tuple[Any, int | None]] = []
        at, end, wanted = 0, self._have, 0
        while end - at >= frame.SIZE:
            number, flags, length, peer_id, _ = frame.HEADER.unpack_from(view, at)
            declaration, decoder = self._expected(number, flags, length, peer_id)
            if end - at < length:
                wanted = length
                break
            try:
                imsg = decoder.decode(view[at + frame.SIZE : at + length])
            except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
                raise Violation(f"{self.peer} sent a malformed {declaration.cls.__name__}: {error}") from None
            received.append((imsg, self._descriptor_of(declaration)))
            at += length
        if at == end and self._descriptors:
            raise Violation(f"{self.peer} sent a descriptor that belongs to no imsg")
        return received, at, wanted

    def _expected(self, number: int, flags: int, length: int, peer_id: int) -> tuple[Declaration, Any]:
        if peer_id != self.peer_id:
            raise VersionMismatch(f"{self.peer} speaks another version of the protocol")
        try:
            declaration, decoder = self._incoming[number]
        except KeyError:
            raise Violation(f"{self.peer} may not send imsg {number} to {self.me}") from None
        if not frame.SIZE <= length <= frame.SIZE + declaration.limit:
            raise Violation(f"{self.peer} sent a {declaration.cls.__name__} of {length} bytes")
        if flags != (frame.DESCRIPTOR if declaration.descriptor else 0):
            raise Violation(f"{self.peer} sent a {declaration.cls.__name__} with flags {flags:#x}")
        return declaration, decoder

    def _descriptor_of(self, declaration: Declaration) -> int | None:
        if not declaration.descriptor:
            return None
        if not self._descriptors:
            raise Violation(f"{self.peer} sent a {declaration.cls.__name__} without its descriptor")
        return self._descriptors.popleft()

    def _keep(self, used: int, wanted: int) -> None:
        """Move the beginning of an unfinished frame to the front, into a larger buffer if it needs one."""
        rest = self._have - used
        if wanted > len(self._buffer):
            larger = bytearray(wanted)
            larger[:rest] = self._buffer[used : self._have]
            self._buffer = larger
        elif used and rest:
            self._buffer[:rest] = self._buffer[used : self._have]
        self._have = rest

    def close(self) -> None:
        """Close the socket and every descriptor that was still to leave or to be claimed."""
        self.closed = True
        for descriptor in [*self._descriptors, *(d for _, d in self._out if d is not None)]:
            os.close(descriptor)
        self._descriptors.clear()
        self._out.clear()
        self.sock.close()
