"""Our end of the socket to one agent, and the errands that go through it: sends never wait, reads are bounded.

    errand --begin--> frame --send--> outbox --sendmsg, as far as the socket takes it--> agent
                                               answered(result) | gone(reason) <--recv--

Does not know what an errand is about, nor which errand an answer belongs to.
"""

import asyncio
import math
import os
import secrets
import socket
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Callable

from smtpd import errand as frames
from smtpd.errand import Answer, FrameError, InProgress
from smtpd.ipc.channel import FIRST_PAUSE, LONGEST_PAUSE, REFUSALS

PACKETS_PER_TURN = 64  # packets taken from one agent in one turn of the loop
ANSWER_MAX = 8192  # bytes of an answer: more than any has

Ready = Callable[[bytes | None, int | None], None]


class Errand(ABC):
    """Something that one agent is to do."""

    number: int  # envelope id, or a number of our own
    deadline: float  # seconds that the agent has for it; a slow one from its last word that it is at work with it
    priority = 0  # higher goes first
    alone = False  # no other errand of its agent may be under way beside it
    waits_until = math.inf  # when there is no sense any more in beginning it, by the clock of the pool
    over = False  # it has had its end, and is not to be begun, answered or failed any more

    @abstractmethod
    def begin(self, log_id: int, lock: int, ready: Ready) -> None:
        """The agent that the log calls `log_id` has room, and `lock` on its mailbox if it needs one: call
        `ready(frame, descriptor)`, or `ready(None, None)` when there is nothing to send."""

    @abstractmethod
    def answered(self, answer: Answer) -> None:
        """Raises FrameError when this is not an answer to it."""

    @abstractmethod
    def failed(self, reason: str, *, sent: bool = False, permanent: bool = False) -> None:
        """There is no answer.  `sent`: the agent had it, and may have done it."""


class BegunErrand:
    """An errand on its way to the agent, or with it."""

    __slots__ = ("errand", "until", "sent", "handed", "most")

    def __init__(self, errand: Errand, until: float):
        self.errand, self.until, self.sent = errand, until, False
        self.handed: float | None = None  # when it was ready to be sent
        self.most: float | None = None  # when it is late whatever the agent says; None until that is at work with it


class AgentSocket:
    """Our end of the socket to one agent process."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        number: int,
        answered: Callable[[Answer | InProgress], None],
        gone: Callable[[str], None],
    ):
        sock.setblocking(False)
        self.number = number
        self.log_id = secrets.randbits(64)
        self._loop, self._sock, self._answered, self._gone = loop, sock, answered, gone
        self._outbox: deque[tuple[BegunErrand, bytes, int | None]] = deque()
        self._pause = 0.0  # seconds that the kernel, which refused the last errand, is given
        self._again: asyncio.TimerHandle | None = None
        self._closed = False
        loop.add_reader(sock.fileno(), self._readable)

    def send(self, begun: BegunErrand, frame: bytes, descriptor: int | None) -> None:
        """Never waits.  `descriptor` is taken over."""
        self._outbox.append((begun, frame, descriptor))
        if len(self._outbox) == 1:
            self._flush()

    def _flush(self) -> None:
        while self._outbox and not self._closed:
            begun, frame, descriptor = self._outbox[0]
            rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [descriptor]))]
            try:
                self._sock.sendmsg([frame], rights)
            except BlockingIOError:
                self._loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError as error:
                if error.errno in REFUSALS:
                    self._wait_for_kernel()
                    return
                self._readable()  # what it answered before it ended
                self._end(f"nothing can be sent to it: {error.strerror}")
                return
            self._pause = 0.0
            begun.sent = True
            self._outbox.popleft()
            if descriptor is not None:
                os.close(descriptor)
        if not self._closed:
            self._loop.remove_writer(self._sock.fileno())

    def _wait_for_kernel(self) -> None:
        """Too many descriptors of ours are under way, or there is no memory: not the fault of this agent."""
        self._loop.remove_writer(self._sock.fileno())
        self._pause = min(2 * self._pause, LONGEST_PAUSE) or FIRST_PAUSE
        self._again = self._loop.call_later(self._pause, self._flush)

    def _readable(self) -> None:
        """A descriptor that comes along is dropped by the kernel: there is no room for one."""
        for _ in range(PACKETS_PER_TURN):
            if self._closed:
                return
            try:
                packet = self._sock.recv(ANSWER_MAX)
            except BlockingIOError:
                return
            except ConnectionResetError:
                continue  # it ended with mails unread; what it answered before still comes behind this
            except OSError:
                packet = b""
            if not packet:
                self._end("it has ended")
                return
            try:
                answer = frames.decode(packet)
                if not isinstance(answer, Answer | InProgress):
                    raise FrameError("a request")
                self._answered(answer)
            except FrameError as error:
                self._end(f"it broke the protocol: {error}")

    def _end(self, reason: str) -> None:
        if not self._closed:
            self._gone(reason)

    def close(self) -> None:
        self._closed = True
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        for _, _, descriptor in self._outbox:
            if descriptor is not None:
                os.close(descriptor)
        self._outbox.clear()
        self._sock.close()
