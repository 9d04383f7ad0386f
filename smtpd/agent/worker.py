"""Worker threads of an agent: each takes a batch of errands, executes it, and answers each errand with one packet.

    queue ==packets==> [ worker | worker | … ] ==packets==> queue

All workers receive from the same socket, and the kernel gives each packet to one of them: nothing is passed from thread
to thread.  The first worker is the main thread; another one is started when a worker has taken a full batch and more
may be waiting.  So a single mail costs no thread, and many are synced side by side.  Where one errand may take long
(SPARE_WORKER), another worker is started in any case, so that the next errand does not wait for this one.

Where a batch may only hold errands for one message (SAME_MESSAGE), the workers receive one after the other, as each
looks at the next packet before it takes it: the rest is left for another worker and does not wait for this batch.
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

IDLE_TIMEOUT = 60  # seconds without an errand; queue closes the sockets of idle agents earlier
EX_SOFTWARE, EX_PROTOCOL = 70, 76  # exit status after an exception, and after a packet that is no errand

_ROOM_FOR_DESCRIPTORS = socket.CMSG_SPACE(4 * 4)

TakenRequest = tuple[Request, int]  # with the descriptor of the content; -1 when the content came in the frame


class Executor(Protocol):
    """Executes the batches of one worker; each worker has its own."""

    def execute(self, batch: list[TakenRequest]) -> Iterable[Answer]: ...


class AgentKind(Protocol):
    """Limits of one kind of agent, and the executor of its errands."""

    REQUESTS: tuple[type[Request], ...]  # the only errands that queue may send
    WORKERS_MAX: int
    BATCH_MAX: int  # errands in a batch
    BATCH_BYTES: int  # content in a batch; the errand that exceeds it is the last one
    GATHER_TIME: int  # milliseconds to wait for another errand of the batch
    SAME_MESSAGE: bool  # all errands of a batch are for one message
    SPARE_WORKER: bool  # keep one worker idle, so that the next errand does not wait for those under way
    visible_paths: list[tuple[str, str]]  # for unveil: path and permissions
    draining: bool  # this process can do nothing more: answer the errands that have come, and end

    def make_executor(self, queue: socket.socket, mailbox_socket: socket.socket | None) -> Executor:
        """The executor of one worker.  `queue` hangs up when queue drops the agent; locked mailboxes are received from
        `mailbox_socket`."""


class Workers:
    """All workers of one agent.  A packet that is no errand, or one for another kind of agent, ends the process."""

    def __init__(self, sock: socket.socket, mailbox_socket: socket.socket | None, kind: AgentKind):
        self._socket = sock
        self._mailbox_socket = mailbox_socket
        self._kind = kind
        self._threads: list[threading.Thread] = []
        self._busy = 0  # workers with a batch
        self._lock = threading.Lock()
        self._take_lock: AbstractContextManager[object] = threading.Lock() if kind.SAME_MESSAGE else nullcontext()

    def run(self) -> None:
        """Serve until queue closes the socket, or no errand comes for IDLE_TIMEOUT."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", IDLE_TIMEOUT, 0))
        self._serve()
        while threads := self._living_threads():  # one of them may have started another one meanwhile
            threads[0].join()

    def _serve(self) -> None:
        try:
            executor = self._kind.make_executor(self._socket, self._mailbox_socket)
            while batch := self._take_batch():
                try:
                    for answer in executor.execute(batch):
                        self._socket.send(encode(answer), socket.MSG_NOSIGNAL)
                finally:
                    self._count_busy(-1)
                if self._kind.draining:
                    self._socket.shutdown(socket.SHUT_RD)
        except ConnectionError:
            return  # queue has closed the socket, and with it dropped all errands
        except FrameError:
            os._exit(EX_PROTOCOL)
        except BaseException:  # a thread would end alone, and its errands would stay unanswered
            os._exit(EX_SOFTWARE)

    def _count_busy(self, change: int) -> None:
        with self._lock:
            self._busy += change

    def _living_threads(self) -> list[threading.Thread]:
        with self._lock:
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            return self._threads

    def _start_another(self) -> None:
        self._living_threads()
        with self._lock:
            if len(self._threads) + 1 < self._kind.WORKERS_MAX:
                thread = threading.Thread(target=self._serve)
                with suppress(RuntimeError):  # the user's limit of processes is reached: go on with fewer workers
                    thread.start()
                    self._threads.append(thread)

    def _take_batch(self) -> list[TakenRequest]:
        """The next batch, after waiting for its first errand.  Empty when queue has closed or IDLE_TIMEOUT is over."""
        with self._take_lock:
            batch, more = self._receive_batch()
        if batch:
            self._count_busy(1)
        if more or (batch and self._kind.SPARE_WORKER):
            self._start_another()
        return batch

    def _receive_batch(self) -> tuple[list[TakenRequest], bool]:
        """The batch, and whether more may be waiting."""
        batch: list[TakenRequest] = []
        size = 0
        while len(batch) < self._kind.BATCH_MAX and size < self._kind.BATCH_BYTES:
            flags = socket.MSG_CMSG_CLOEXEC
            if batch:
                flags |= socket.MSG_DONTWAIT
                self._wait_for_more()
                if self._kind.SAME_MESSAGE and (other := self._is_next_other(batch[0][0])) is not False:
                    return batch, bool(other)
            try:
                packet, ancillary, flags_received, _ = self._socket.recvmsg(PACKET_MAX, _ROOM_FOR_DESCRIPTORS, flags)
            except BlockingIOError:
                if self._busy and not batch:  # not idle: queue waits for an answer and may send more
                    continue
                return batch, False
            if not packet:
                return batch, False
            batch.append(self._decode(packet, ancillary, flags_received))
            size += getattr(batch[-1][0], "size", 0)
        return batch, True

    def _is_next_other(self, errand: Request) -> bool | None:
        """Whether the next packet is for another message; None when there is no packet.  No other worker can take it in
        between: _take_lock is held."""
        try:
            header = self._socket.recv(HEADER.size, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        return len(header) < HEADER.size or message_of(HEADER.unpack(header)[-1]) != message_of(number_of(errand))

    def _wait_for_more(self) -> None:
        """Wait up to GATHER_TIME: queue sends packets one by one, and the first one has woken this worker."""
        if self._kind.GATHER_TIME:
            waiting = select.poll()
            waiting.register(self._socket, select.POLLIN)
            waiting.poll(self._kind.GATHER_TIME)

    def _decode(self, packet: bytes, ancillary: list[tuple[int, int, bytes]], flags_received: int) -> TakenRequest:
        descriptors = [number for _, _, data in ancillary for number in struct.unpack(f"{len(data) // 4}i", data)]
        if flags_received & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise FrameError("longer than a frame may be")
        errand = decode(packet)
        if not isinstance(errand, self._kind.REQUESTS) or not isinstance(errand, Request):
            raise FrameError(f"unexpected {type(errand).__name__}")
        if len(descriptors) != (1 if isinstance(errand, Deliver) and errand.by_descriptor else 0):
            raise FrameError(f"{len(descriptors)} descriptors")
        return errand, descriptors[0] if descriptors else -1


def send_in_progress(queue: socket.socket, errand: Request) -> None:
    """Tell queue that a worker has begun this errand, which starts its timeout.  Raises ConnectionError."""
    queue.send(encode(InProgress(number_of(errand))), socket.MSG_NOSIGNAL)
