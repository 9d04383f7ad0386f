"""The hands of an agent: each takes the errands that wait, does them together, and answers each with one packet.

    queue ==packets==> [ hand | hand | … ] ==packets==> queue

All hands wait on the same socket, which gives a packet to one of them: nothing is handed from thread to thread.  The
first hand is the main thread; another one begins when a hand took as much as it may and more may be waiting.  So a
single mail costs no thread, and many are synced side by side.  Where one errand may take long (SPARE), another hand
begins in any case, so that the next errand does not wait for this one.

Where a hand takes only what belongs to one message (BY_MESSAGE), they take one after the other, as each looks at the
next packet before it takes it: what is left is for another hand, and does not wait until this one is done.
"""

import os
import select
import socket
import struct
import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Protocol

from smtpd.envelope import message_of
from smtpd.errand import HEADER, PACKET_MAX, Answer, Deliver, FrameError, InProgress, Request, decode, encode, number_of

IDLE_TIMEOUT = 60  # seconds without an errand; queue parts with its agents earlier than that
EX_SOFTWARE, EX_PROTOCOL = 70, 76  # exit status after a defect of ours, and after what was no errand

_ROOM_FOR_DESCRIPTORS = socket.CMSG_SPACE(4 * 4)

TakenRequest = tuple[Request, int]  # with the descriptor of the content, -1 when it came in the frame


class Executor(Protocol):
    """How one hand does errands; each hand has its own."""

    def do(self, batch: list[TakenRequest]) -> Iterable[Answer]: ...


class AgentKind(Protocol):
    """What a kind of agent does."""

    REQUESTS: tuple[type[Request], ...]  # the only ones that queue may send it
    WORKERS_MAX: int
    BATCH: int  # errands that a hand takes at once
    BATCH_BYTES: int  # and about how much content
    GATHER_TIME: int  # milliseconds that it waits for one more
    SAME_MESSAGE: bool  # and those of one message only
    SPARE_WORKER: bool  # one hand more than are at work, as what comes next must not wait for them
    visible_paths: list[tuple[str, str]]  # that it must be able to see, with letters for unveil
    draining: bool  # nothing more can be done: answer what has come, and leave

    def work(self, queue: socket.socket, mailbox_socket: socket.socket | None) -> Executor:
        """For one hand.  What hangs up when queue parts with the agent, and what locked mailboxes come by."""


class Workers:
    """All hands of one agent.  An errand of another trade, or no errand at all, ends the process."""

    def __init__(self, sock: socket.socket, mailbox_socket: socket.socket | None, kind: AgentKind):
        self._socket = sock
        self._mailbox_socket = mailbox_socket
        self._kind = kind
        self._others: list[threading.Thread] = []
        self._at_work = 0  # hands
        self._lock = threading.Lock()
        self._turn: AbstractContextManager[object] = threading.Lock() if kind.SAME_MESSAGE else nullcontext()

    def run(self) -> None:
        """Until queue closes the socket, or nothing came for a while."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", IDLE_TIMEOUT, 0))
        self._serve()
        while others := self._living():  # one of them may have begun another one meanwhile
            others[0].join()

    def _serve(self) -> None:
        try:
            work = self._kind.work(self._socket, self._mailbox_socket)
            while batch := self._take():
                try:
                    for answer in work.do(batch):
                        self._socket.send(encode(answer), socket.MSG_NOSIGNAL)
                finally:
                    self._count(-1)
                if self._kind.draining:
                    self._socket.shutdown(socket.SHUT_RD)
        except ConnectionError:
            return  # nobody waits for answers any more
        except FrameError:
            os._exit(EX_PROTOCOL)
        except BaseException:  # in a thread it would go unnoticed, with errands that nobody answers
            os._exit(EX_SOFTWARE)

    def _count(self, change: int) -> None:
        with self._lock:
            self._at_work += change

    def _living(self) -> list[threading.Thread]:
        with self._lock:
            self._others = [thread for thread in self._others if thread.is_alive()]
            return self._others

    def _begin_another(self) -> None:
        self._living()
        with self._lock:
            if len(self._others) + 1 < self._kind.WORKERS_MAX:
                thread = threading.Thread(target=self._serve)
                with suppress(RuntimeError):  # the user's limit of processes: then with fewer hands
                    thread.start()
                    self._others.append(thread)

    def _take(self) -> list[TakenRequest]:
        """What waits, after waiting for the first.  Empty at the end, or when nothing came for a while."""
        with self._turn:
            batch, more = self._taken()
        if batch:
            self._count(1)
        if more or (batch and self._kind.SPARE_WORKER):
            self._begin_another()
        return batch

    def _taken(self) -> tuple[list[TakenRequest], bool]:
        """What was taken, and whether more may be waiting."""
        batch: list[TakenRequest] = []
        size = 0
        while len(batch) < self._kind.BATCH and size < self._kind.BATCH_BYTES:
            flags = socket.MSG_CMSG_CLOEXEC
            if batch:
                flags |= socket.MSG_DONTWAIT
                self._gather()
                if self._kind.SAME_MESSAGE and (other := self._is_other(batch[0][0])) is not False:
                    return batch, bool(other)
            try:
                packet, ancillary, told, _ = self._socket.recvmsg(PACKET_MAX, _ROOM_FOR_DESCRIPTORS, flags)
            except BlockingIOError:
                if self._at_work and not batch:  # queue keeps this agent, and may have more for it
                    continue
                return batch, False
            if not packet:
                return batch, False
            batch.append(self._errand(packet, ancillary, told))
            size += getattr(batch[-1][0], "size", 0)
        return batch, True

    def _is_other(self, errand: Request) -> bool | None:
        """Whether the next packet is of another message; None when there is none.  No other hand takes it meanwhile."""
        try:
            header = self._socket.recv(HEADER.size, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        return len(header) < HEADER.size or message_of(HEADER.unpack(header)[-1]) != message_of(number_of(errand))

    def _gather(self) -> None:
        """Packets come one by one, and the first has woken us."""
        if self._kind.GATHER_TIME:
            waiting = select.poll()
            waiting.register(self._socket, select.POLLIN)
            waiting.poll(self._kind.GATHER_TIME)

    def _errand(self, packet: bytes, ancillary: list[tuple[int, int, bytes]], told: int) -> TakenRequest:
        descriptors = [number for _, _, data in ancillary for number in struct.unpack(f"{len(data) // 4}i", data)]
        if told & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise FrameError("longer than a frame may be")
        errand = decode(packet)
        if not isinstance(errand, self._kind.REQUESTS) or not isinstance(errand, Request):
            raise FrameError(f"unexpected {type(errand).__name__}")
        if len(descriptors) != (1 if isinstance(errand, Deliver) and errand.by_descriptor else 0):
            raise FrameError(f"{len(descriptors)} descriptors")
        return errand, descriptors[0] if descriptors else -1


def say_at_work(queue: socket.socket, errand: Request) -> None:
    """A hand is at work with it: from now on it has its time.  Raises ConnectionError."""
    queue.send(encode(InProgress(number_of(errand))), socket.MSG_NOSIGNAL)
