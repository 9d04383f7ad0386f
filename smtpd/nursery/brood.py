"""The nursery's children: asked for, heard of, dead.

    LookUpUser --fork--> a child asks NSS  --line--> UserLookedUp          at most LOOK_UPS_MAX, LINE_DEADLINE each
    ForkAgent  --fork--> a child becomes … --line--> AgentForked           at most AGENTS_MAX, PER_USER_MAX of one user
                                                     AgentNotForked
    SIGCHLD    ---------------------------- waitpid -> AgentEnded

Nothing here waits for a child.  One that does not say its line in time (a directory server or a home that hangs) is
killed and answered "later".
"""

import os
import signal
import socket
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from smtpd.imsg import (
    AgentEnded,
    AgentForked,
    AgentNotForked,
    ForkAgent,
    KillAgent,
    LookUpUser,
    TakeProgram,
    UserLookedUp,
)
from smtpd.ipc.channel import Channel
from smtpd.ipc.errand import PACKET_MAX
from smtpd.ipc.log import log
from smtpd.ipc.plain import Loop, Timer
from smtpd.nursery.cradle import Errand, Prepare, be_agent, fork, look_up
from smtpd.sandbox import Ids

LOOK_UPS_MAX = 32
AGENTS_MAX = 320  # a little more than the parent asks for
PER_USER_MAX = 10
LINE_DEADLINE = 5.0  # seconds
LINE_MAX = 4096  # bytes
LEAVING = 3.0  # seconds that agents have to end by themselves
VERDICTS = {"user", "unknown", "root", "daemon", "later"}
SILENT = "the process ended without a word"
LATE = "no answer in time"


@dataclass(eq=False)
class Young:
    """A child that has not said its line yet."""

    pid: int
    pipe: int
    timer: Timer
    heard: Callable[[int, str], None]  # its pid and its line; the line is empty when there was none


class Brood:
    def __init__(self, loop: Loop, parent: Channel, prepare: Prepare, us: Ids | None):
        self._loop = loop
        self._parent = parent
        self._prepare = prepare
        self._us = us
        self._programs: dict[str, bytes] = {}
        self._young: dict[int, Young] = {}
        self._look_ups: set[int] = set()
        self._users: dict[int, str] = {}  # of every agent that is not reaped yet
        self._per_user: Counter[str] = Counter()
        self._announced: set[int] = set()
        self._said_what_is_missing = False
        self._leaving = False

    def take_program(self, imsg: TakeProgram) -> None:
        self._programs[imsg.kind] = imsg.program

    # -- users ---------------------------------------------------------------------

    def look_up_user(self, imsg: LookUpUser) -> None:
        if len(self._look_ups) >= LOOK_UPS_MAX:
            self._parent.send(UserLookedUp(imsg.request, "later"))
            return
        pid = self._bear(partial(look_up, imsg.name, self._us), partial(self._looked_up, imsg))
        if pid is None:
            self._parent.send(UserLookedUp(imsg.request, "later"))
        else:
            self._look_ups.add(pid)

    def _looked_up(self, imsg: LookUpUser, pid: int, line: str) -> None:
        self._parent.send(UserLookedUp(imsg.request, line if line in VERDICTS else "later"))

    # -- agents ----------------------------------------------------------------------

    def fork_agent(self, imsg: ForkAgent) -> None:
        if len(self._users) >= AGENTS_MAX or self._per_user[imsg.user] >= PER_USER_MAX or self._leaving:
            self._parent.send(AgentNotForked(imsg.request, "later", "too many agents"))
            return
        ours, theirs = _packets()
        errand = Errand(imsg.user, imsg.kind, imsg.path, imsg.junk, self._programs.get(imsg.kind))
        with theirs:
            child = partial(be_agent, errand, self._prepare)
            pid = self._bear(child, partial(self._agent_heard, imsg, ours), theirs.fileno())
        if pid is None:
            ours.close()
            self._parent.send(AgentNotForked(imsg.request, "later", "no further process can be made"))
            return
        self._users[pid] = imsg.user
        self._per_user[imsg.user] += 1

    def _agent_heard(self, imsg: ForkAgent, sock: socket.socket, pid: int, line: str) -> None:
        verdict, _, rest = line.partition(" ")
        if verdict != "ok":
            sock.close()
            reason = rest or (SILENT if not line else "")
            self._parent.send(AgentNotForked(imsg.request, verdict if verdict in VERDICTS else "later", reason))
            return
        if rest and not self._said_what_is_missing:
            self._said_what_is_missing = True
            log.warn(f"sandbox of agents: missing: {rest}")
        self._announced.add(pid)
        self._parent.send(AgentForked(imsg.request, pid), sock.detach())

    def kill_agent(self, imsg: KillAgent) -> None:
        """A pid is ours until it has been waited for; one that we do not know has ended in the meantime."""
        if imsg.pid in self._users:
            os.kill(imsg.pid, signal.SIGKILL)

    # -- any child ----------------------------------------------------------------------

    def _bear(self, child: Callable[..., None], heard: Callable[[int, str], None], *kept: int) -> int | None:
        """The pid of a new child; None when there can be none now."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            pid = fork(child, *kept, writing)
        except OSError as error:
            os.close(reading)
            log.warn(f"fork: {error.strerror}")
            return None
        finally:
            os.close(writing)
        young = Young(pid, reading, self._loop.after(LINE_DEADLINE, partial(self._too_late, pid)), heard)
        self._young[pid] = young
        self._loop.watch(reading, partial(self._hear, young))
        return pid

    def _hear(self, young: Young) -> None:
        """A line is one write into a pipe, so it comes whole or not at all."""
        try:
            data = os.read(young.pipe, LINE_MAX)
        except BlockingIOError:
            data = b""
        self._grown(young, data.decode(errors="replace").strip())

    def _too_late(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self._grown(self._young[pid], f"later {LATE}")

    def _grown(self, young: Young, line: str) -> None:
        del self._young[young.pid]
        young.timer.cancel()
        self._loop.forget(young.pipe)
        os.close(young.pipe)
        young.heard(young.pid, line)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._ended(pid, status)
        if self._leaving and not self._users:
            self._loop.ended = True

    def _ended(self, pid: int, status: int) -> None:
        if pid in self._young:
            self._hear(self._young[pid])  # its last words may still be in the pipe
        self._look_ups.discard(pid)
        user = self._users.pop(pid, None)
        if user is not None:
            self._per_user -= Counter([user])
        if pid in self._announced:
            self._announced.discard(pid)
            self._parent.send(AgentEnded(pid, status))

    # -- the end -----------------------------------------------------------------------------

    def leave(self) -> None:
        """Queue is gone, so the agents end by themselves; who does not, dies with us."""
        self._leaving = True
        self._loop.after(LEAVING, self._end)
        self.reap()

    def _end(self) -> None:
        self._loop.ended = True


def _packets() -> tuple[socket.socket, socket.socket]:
    """A socketpair that keeps frames apart, with room for a few of the largest."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 * PACKET_MAX)
    return ends
