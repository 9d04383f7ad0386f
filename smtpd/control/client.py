"""Local tools at the control socket: their uid, how many there may be, and one question at a time.

    accept --> uid from the kernel --> Client: read --> question --> answer --> written --> read …

A client is not read while its question is under way or its answer has not left, so it costs at most what one receive
brings and one answer.  Whatever it sends that is not an imsg for us ends that client and nothing else.

What it begins with may be a query instead of an imsg (ipc/query.py): the client is closed behind the answer.

Root, and the user the daemon runs as, may send any request.  Any other user may ask for one SMTP session, has a few
seconds for the question and its answer, and is then disconnected.
"""

import os
import resource
import socket
import struct
import sys
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from smtpd.imsg import TABLE, Denied
from smtpd.ipc import query
from smtpd.ipc.channel import Channel, ChannelClosed, VersionMismatch, Violation
from smtpd.ipc.event_loop import EventLoop
from smtpd.ipc.log import log

PER_UID = 32
UNPRIVILEGED_MAX = 128  # clients without privileges, all together
DESCRIPTORS_RESERVED = 64  # descriptors that are never a client's
UNPRIVILEGED_TIMEOUT = 5.0  # seconds for the one question of a client without privileges, and its answer
ACCEPTS_PER_TURN = 64  # accepted in one turn of the loop
ACCEPT_PAUSE = 1.0  # seconds without accepting, when descriptors have run out

PROTOCOL_VERSION = TABLE.digest()  # once, and before the sandbox: it imports a module
ROOT_ONLY = "need root privileges"

Asked = Callable[["Client", Any, int | None], None]
Queried = Callable[["Client", str], None]


def uid_of(sock: socket.socket) -> int:
    """The uid of the process that connected, as the kernel says."""
    credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    first, second, _ = struct.unpack("3i", credentials)
    return first if sys.platform.startswith("openbsd") else second  # there uid, gid, pid; on Linux pid, uid, gid


class Clients:
    """All of them.  `privileged_uids`: may ask anything.  `asked(client, imsg, descriptor)` gets the questions, and
    `queried(client, word)` the queries."""

    def __init__(
        self,
        loop: EventLoop,
        listener: socket.socket,
        privileged_uids: frozenset[int],
        asked: Asked,
        queried: Queried,
    ):
        self.loop = loop
        self.privileged_uids = privileged_uids
        self.asked, self.queried = asked, queried
        self.here: set[Client] = set()
        self.accepted = 0
        self._of_uid: Counter[int] = Counter()
        self._listener = listener
        self._most = max(1, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - DESCRIPTORS_RESERVED)

    def begin(self) -> None:
        self._listener.setblocking(False)
        self.loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        """As many as wait, up to a limit: a client that is refused must not keep others in the backlog."""
        try:
            for _ in range(ACCEPTS_PER_TURN):
                sock, _ = self._listener.accept()
                self._admit(sock)
        except (BlockingIOError, ConnectionAbortedError):
            pass
        except OSError as error:
            log.warn(f"control socket: {error.strerror}")
            self.loop.remove_reader(self._listener.fileno())
            self.loop.call_later(ACCEPT_PAUSE, self.loop.add_reader, self._listener.fileno(), self._accept)

    def _admit(self, sock: socket.socket) -> None:
        uid = uid_of(sock)
        if self._is_too_many(uid):
            sock.close()
        else:
            self.accepted += 1
            self._of_uid[uid] += 1
            self.here.add(Client(self, sock, uid))

    def _is_too_many(self, uid: int) -> bool:
        # A privileged client gets in however many others there are.
        unprivileged = len(self.here) - sum(self._of_uid[privileged] for privileged in self.privileged_uids)
        return (
            self._of_uid[uid] >= PER_UID
            or len(self.here) >= self._most
            or (uid not in self.privileged_uids and unprivileged >= min(UNPRIVILEGED_MAX, self._most // 2))
        )

    def gone(self, client: "Client") -> None:
        self.here.discard(client)
        self._of_uid[client.uid] -= 1
        if not self._of_uid[client.uid]:
            del self._of_uid[client.uid]


class Client:
    def __init__(self, clients: Clients, sock: socket.socket, uid: int):
        self.uid = uid
        self.is_privileged = uid in clients.privileged_uids
        self._clients = clients
        self._loop = clients.loop
        self._channel = Channel(sock, TABLE, "control", "smtpctl", peer_id=PROTOCOL_VERSION)
        self._waiting: deque[Any] = deque()
        self._begun = False  # something has come
        self._asking = False  # a question is under way
        self._reading = self._writing = False
        self._deadline = None if self.is_privileged else self._loop.call_later(UNPRIVILEGED_TIMEOUT, self.close)
        self._watch()

    def answer(self, imsg: Any, descriptor: int | None = None) -> None:
        """The answer to the one question.  A client that is gone gets none; the descriptor is taken over either way."""
        self._asking = False
        if self._channel.closed:
            if descriptor is not None:
                os.close(descriptor)
            return
        self._channel.send(imsg, descriptor)
        self._loop.call_soon(self._proceed)  # not at once: a thousand questions in one piece are no recursion

    def answer_query(self, answer: query.Answer) -> None:
        """The answer to its query; the descriptor is taken over."""
        try:
            if not self._channel.closed:
                query.answer(self._channel.sock, answer)
        except OSError:
            pass  # it is gone
        finally:
            if answer.descriptor is not None:
                os.close(answer.descriptor)
        self.close()

    def close(self) -> None:
        if self._channel.closed:
            return
        if self._deadline is not None:
            self._deadline.cancel()
        self._loop.remove_reader(self._channel.fileno())
        self._loop.remove_writer(self._channel.fileno())
        self._channel.close()
        self._waiting.clear()
        self._clients.gone(self)

    def _readable(self) -> None:
        if not self._begun:
            self._begun = True
            if self._maybe_query():
                return
        try:
            self._waiting.extend(imsg for imsg, _ in self._channel.receive())
        except VersionMismatch:
            self._send_and_close(self._channel.send_version)
            return
        except Violation as violation:
            log.debug(f"control client of uid {self.uid}: {violation}")
            self.close()
            return
        except ChannelClosed:
            self.close()
            return
        self._proceed()

    def _maybe_query(self) -> bool:
        """Whether it has begun with a query, which then is all that it may ask."""
        try:
            word = query.maybe_receive(self._channel.sock)
        except query.QueryError as error:
            log.debug(f"control client of uid {self.uid}: {error}")
            self.close()
            return True
        if word is None:
            return False
        self._asking = True
        self._watch()
        if word == query.SESSION or self.is_privileged:
            self._guarded(lambda: self._clients.queried(self, word))
        else:
            self.answer_query(query.Answer(False, ROOT_ONLY))
        return True

    def _proceed(self) -> None:
        """Write what is there; ask the next question when nothing is under way; read when there is none."""
        if self._channel.closed:
            return
        try:
            written = self._channel.flush()
        except ChannelClosed:
            self.close()
            return
        if written and self._waiting and not self._asking:
            self._ask(self._waiting.popleft())
        if not self._channel.closed:
            if self._channel.pause:
                self._loop.call_later(self._channel.pause, self._proceed)
            self._watch()

    def _ask(self, imsg: Any) -> None:
        if not self.is_privileged:
            denied = Denied(getattr(imsg, "request", 0), ROOT_ONLY)
            self._send_and_close(lambda: self._channel.send(denied))
            return
        self._asking = True
        self._guarded(lambda: self._clients.asked(self, imsg, None))

    def _guarded(self, ask: Callable[[], None]) -> None:
        try:
            ask()
        except Exception as error:  # the one around one request
            log.trouble(f"control client of uid {self.uid}", error)
            self.close()

    def _send_and_close(self, say: Callable[[], None]) -> None:
        """A last answer: it fits into the socket's buffer, or is lost."""
        say()
        try:
            self._channel.flush()
        except ChannelClosed:
            pass
        self.close()

    def _watch(self) -> None:
        reading = not self._asking and not self._waiting and not self._channel.bytes_waiting
        writing = self._channel.bytes_waiting > 0 and not self._channel.pause
        descriptor = self._channel.fileno()
        if reading != self._reading:
            self._reading = reading
            (self._loop.add_reader(descriptor, self._readable) if reading else self._loop.remove_reader(descriptor))
        if writing != self._writing:
            self._writing = writing
            (self._loop.add_writer(descriptor, self._proceed) if writing else self._loop.remove_writer(descriptor))
