"""User lookups: a few children ask the name service, one name after another.

    look_up --> queue -> a child that is free, or a new one --verdict--> answer
               (bounded)        |
                                +-- silent for LOOKUP_TIMEOUT: killed, its name and no other one is "later"
                                +-- nothing to do for IDLE, or in service for LIFETIME: parted with

A name may hang, as the directory server that is asked for it, so nothing here waits for one.  To fork for each name
would cost more than the name, and a client that guesses names at RCPT causes many.  A child answers with one word out
of five, and no agent is made because of it.
"""

import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from smtpd.ipc.log import log
from smtpd.ipc.selector_loop import SelectorLoop, Timer
from smtpd.nursery.account import VERDICTS
from smtpd.nursery.child_main import fork, run_user_lookup
from smtpd.sandbox import Ids

CHILDREN_MAX = 4
WAITING_MAX = 32  # names that wait for a child
LOOKUP_TIMEOUT = 5.0  # seconds for a name
IDLE_TIMEOUT = 10.0  # seconds without a name
LIFETIME = 300.0  # seconds: what a module of the name service leaks or forgets ends with its child
_VERDICT_MAX = 64  # bytes

Answer = Callable[[str], None]


@dataclass(eq=False)
class LookupChild:
    pid: int
    sock: socket.socket
    until: float  # when its service ends
    answer: Answer | None = None  # of the name that it has
    timer: Timer | None = None  # until it is late, or has been idle for long enough


class UserLookups:
    """`us`: the user that they become, None: our own; `reserved_uids`: of our users; `now`: seconds."""

    def __init__(self, loop: SelectorLoop, us: Ids | None, reserved_uids: Collection[int], now: Callable[[], float]):
        self._loop, self._us, self._reserved_uids, self._now = loop, us, reserved_uids, now
        self._waiting: deque[tuple[str, Answer]] = deque()
        self._children: dict[int, LookupChild] = {}  # by pid
        self._free: list[LookupChild] = []  # the last one is used first, so that the others reach IDLE_TIMEOUT

    def look_up(self, name: str, answer: Answer) -> None:
        if len(self._waiting) >= WAITING_MAX:
            answer("later")
            return
        self._waiting.append((name, answer))
        self._proceed()

    def _proceed(self) -> None:
        while self._waiting and (child := self._maybe_child()) is not None:
            self._ask(child, *self._waiting.popleft())
        if not self._children:  # no child will ever take them
            while self._waiting:
                self._waiting.popleft()[1]("later")

    def _maybe_child(self) -> LookupChild | None:
        if self._free:
            return self._free.pop()
        return self._maybe_new() if len(self._children) < CHILDREN_MAX else None

    def _maybe_new(self) -> LookupChild | None:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            log.warn(f"no socket for a process that asks the name service: {error.strerror}")
            return None
        with theirs:
            try:
                pid = fork(partial(run_user_lookup, self._us, self._reserved_uids), theirs.fileno())
            except OSError as error:
                ours.close()
                log.warn(f"fork: {error.strerror}")
                return None
        ours.setblocking(False)
        child = self._children[pid] = LookupChild(pid, ours, self._now() + LIFETIME)
        self._loop.add_reader(ours.fileno(), partial(self._hear, child))
        return child

    def _ask(self, child: LookupChild, name: str, answer: Answer) -> None:
        self._expect(child, LOOKUP_TIMEOUT, self._kill_child)
        child.answer = answer
        try:
            child.sock.send(name.encode())
        except OSError:
            self._kill_child(child)

    def _expect(self, child: LookupChild, seconds: float, action: Callable[[LookupChild], None]) -> None:
        if child.timer is not None:
            child.timer.cancel()
        child.timer = self._loop.call_later(seconds, partial(action, child))

    def _hear(self, child: LookupChild) -> None:
        """A verdict, or its end.  One that sends a verdict unasked is killed."""
        try:
            verdict = child.sock.recv(_VERDICT_MAX).decode(errors="replace")
        except BlockingIOError:
            return
        except OSError:
            verdict = ""
        if child.answer is None or verdict not in VERDICTS:
            self._kill_child(child)
            return
        answer, child.answer = child.answer, None
        answer(verdict)
        if child.until <= self._now():
            self._forget(child)
        else:
            self._expect(child, IDLE_TIMEOUT, self._forget)
            self._free.append(child)
        self._proceed()

    def _kill_child(self, child: LookupChild) -> None:
        """It may hang, or have been taken over.  Not reaped yet, so the pid cannot have been reused."""
        os.kill(child.pid, signal.SIGKILL)
        self._forget(child)
        self._proceed()

    def ended(self, pid: int) -> None:
        """A child has, and its pid is not its own any more."""
        child = self._children.get(pid)
        if child is not None:
            self._forget(child)
            self._proceed()

    def _forget(self, child: LookupChild) -> None:
        """It ends when its socket closes."""
        del self._children[child.pid]
        if child in self._free:
            self._free.remove(child)
        if child.timer is not None:
            child.timer.cancel()
        self._loop.remove_reader(child.sock.fileno())
        child.sock.close()
        answer, child.answer = child.answer, None
        if answer is not None:
            answer("later")

    def stop(self) -> None:
        for child in [*self._children.values()]:
            self._forget(child)
