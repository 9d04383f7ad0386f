"""Who asks NSS: a few children that answer for one name after another.

    look_up --> line --> a clerk that is free, or a new one --verdict--> answer
               (bounded)        |
                                +-- silent for LOOKUP_TIMEOUT: killed, its name and no other one is "later"
                                +-- nothing to do for IDLE, or in service for LIFETIME: parted with

A name may hang, as the directory server that it is asked from, so nobody here waits for one.  To fork for each name
would cost more than the name, and whoever tries out names at RCPT has many.  What a clerk says is a word out of five,
and nobody is made an agent because of it.
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
WAITING_MAX = 32  # names that wait for a clerk
LOOKUP_TIMEOUT = 5.0  # seconds for a name
IDLE_TIMEOUT = 10.0  # seconds without a name
LIFETIME = 300.0  # seconds: what a module of the name service leaks or forgets ends with its clerk
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
    """`us`: who they are, None: who we are; `ours`: the uids that no user may have; `now` is a clock in seconds."""

    def __init__(self, loop: SelectorLoop, us: Ids | None, ours: Collection[int], now: Callable[[], float]):
        self._loop, self._us, self._ours, self._now = loop, us, ours, now
        self._line: deque[tuple[str, Answer]] = deque()
        self._children: dict[int, LookupChild] = {}  # by pid
        self._free: list[LookupChild] = []  # who has been so for the shortest time last, so that the others may go

    def look_up(self, name: str, answer: Answer) -> None:
        if len(self._line) >= WAITING_MAX:
            answer("later")
            return
        self._line.append((name, answer))
        self._proceed()

    def _proceed(self) -> None:
        while self._line and (clerk := self._maybe_clerk()) is not None:
            self._ask(clerk, *self._line.popleft())
        if not self._children:  # nobody will ever come to them
            while self._line:
                self._line.popleft()[1]("later")

    def _maybe_clerk(self) -> LookupChild | None:
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
                pid = fork(partial(run_user_lookup, self._us, self._ours), theirs.fileno())
            except OSError as error:
                ours.close()
                log.warn(f"fork: {error.strerror}")
                return None
        ours.setblocking(False)
        clerk = self._children[pid] = LookupChild(pid, ours, self._now() + LIFETIME)
        self._loop.watch(ours.fileno(), partial(self._hear, clerk))
        return clerk

    def _ask(self, clerk: LookupChild, name: str, answer: Answer) -> None:
        self._expect(clerk, LOOKUP_TIMEOUT, self._kill_child)
        clerk.answer = answer
        try:
            clerk.sock.send(name.encode())
        except OSError:
            self._kill_child(clerk)

    def _expect(self, clerk: LookupChild, seconds: float, action: Callable[[LookupChild], None]) -> None:
        if clerk.timer is not None:
            clerk.timer.cancel()
        clerk.timer = self._loop.after(seconds, partial(action, clerk))

    def _hear(self, clerk: LookupChild) -> None:
        """A verdict, or its end.  One that nobody asked for is no clerk of ours any more."""
        try:
            verdict = clerk.sock.recv(_VERDICT_MAX).decode(errors="replace")
        except BlockingIOError:
            return
        except OSError:
            verdict = ""
        if clerk.answer is None or verdict not in VERDICTS:
            self._kill_child(clerk)
            return
        answer, clerk.answer = clerk.answer, None
        answer(verdict)
        if clerk.until <= self._now():
            self._forget(clerk)
        else:
            self._expect(clerk, IDLE_TIMEOUT, self._forget)
            self._free.append(clerk)
        self._proceed()

    def _kill_child(self, clerk: LookupChild) -> None:
        """It may hang, or not be ours any more.  Who is here has not been waited for: his pid is nobody else's."""
        os.kill(clerk.pid, signal.SIGKILL)
        self._forget(clerk)
        self._proceed()

    def ended(self, pid: int) -> None:
        """A child has, and its pid is not its own any more."""
        clerk = self._children.get(pid)
        if clerk is not None:
            self._forget(clerk)
            self._proceed()

    def _forget(self, clerk: LookupChild) -> None:
        """It ends when its socket closes."""
        del self._children[clerk.pid]
        if clerk in self._free:
            self._free.remove(clerk)
        if clerk.timer is not None:
            clerk.timer.cancel()
        self._loop.forget(clerk.sock.fileno())
        clerk.sock.close()
        answer, clerk.answer = clerk.answer, None
        if answer is not None:
            answer("later")

    def stop(self) -> None:
        for clerk in [*self._children.values()]:
            self._forget(clerk)
