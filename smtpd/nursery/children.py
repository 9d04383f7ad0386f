"""Table of forked children: requested, started, ended.

    LookUpUser  --------> one of a few children --------> UserLookedUp        user_lookup.py
    ForkAgent   --fork--> a child becomes … --line--> AgentForked             at most AGENTS_MAX
                                                      AgentNotForked
    ForkTableProgram --fork--> a child executes  --------> TableProgramForked
                                                      TableProgramNotForked
    SubmitOffline --fork-> a child hands in a mail --line--> OfflineSubmitted   offline.py
    ForkPassword --fork-> a child executes, asks PAM                          killed after PASSWORD_TIMEOUT
    SIGCHLD     ---------------------------- waitpid -> AgentEnded, TableProgramEnded

Nothing here waits for a child.  One that has not started after START_TIMEOUT (a directory server or a home hangs) is
killed: an agent is answered "later", and a table program with the reason.
"""

import os
import re
import signal
import socket
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import partial

from smtpd.envelope import Text
from smtpd.errand import MAILBOX_KINDS, OFFLINE, PACKET_MAX, PROMISES, AgentSpec
from smtpd.imsg import (
    AgentEnded,
    AgentForked,
    AgentMailboxSocket,
    AgentNotForked,
    ForkAgent,
    ForkTableProgram,
    KillAgent,
    LookUpUser,
    TableProgramEnded,
    TableProgramForked,
    TableProgramNotForked,
    TakeSeccompFilter,
    UserLookedUp,
)
from smtpd.ipc.channel import Channel
from smtpd.ipc.log import log
from smtpd.ipc.selector_loop import SelectorLoop, Timer
from smtpd.ipc.text_limit import fit_text
from smtpd.nursery.account import VERDICTS
from smtpd.nursery.child_main import (
    AgentSetup,
    Prepare,
    PrepareOffline,
    fork,
    run_agent,
    run_password,
    run_table_program,
)
from smtpd.nursery.offline import OfflineMail
from smtpd.nursery.user_lookup import UserLookups
from smtpd.sandbox import Ids

AGENTS_MAX = 448  # processes; the limit of the parent (parent/agent.py) is a little lower
START_TIMEOUT = 5.0  # seconds from the fork until an agent reports "ok", or another program is executed
REPORT_READ_MAX = 8192  # bytes of one read: more than all lines of a report have
PASSWORD_TIMEOUT = 15.0  # seconds for one password; a directory server that PAM asks may hang
AGENTS_EXIT_TIMEOUT = 3.0  # seconds from Stop until the nursery ends, and with it the agents that are left
COMMANDS_EXIT_TIMEOUT = 2.0  # seconds from SIGTERM to SIGKILL of an agent that runs commands: it ends these first
PACKET_BUFFER = 8 * PACKET_MAX  # bytes, SO_SNDBUF of the socket of an agent
# Bytes, SO_SNDBUF of a mailbox socket: a few packets, each with a descriptor.  The kernel limits the descriptors that
# are sent and not yet received, for all processes of root together.
MAILBOX_BUFFER = 4096
IDS = re.compile(r"ids ([0-9]{1,10}) ([0-9]{1,10})")
NO_REPORT = "the process ended without a word"
TOO_LATE = "no answer in time"


@dataclass(eq=False)
class StartingChild:
    """A child that has not said its last line yet."""

    pid: int
    pipe: int
    timer: Timer
    finished: Callable[["StartingChild", str], None]  # its last line; empty when there was none
    ids: tuple[int, int] | None = None  # those that it was about to have, told while it was still root


@dataclass(frozen=True, eq=False)
class Agent:
    pid: int
    has_commands: bool


class Children:
    """`us`: the user that NSS is asked as; `reserved_uids`: of our users, which no agent of another user may have."""

    def __init__(
        self,
        loop: SelectorLoop,
        parent: Channel,
        prepare: Prepare,
        offline: PrepareOffline,
        us: Ids | None,
        reserved_uids: Collection[int] = (),
    ):
        self._loop = loop
        self._parent = parent
        self._prepare = prepare
        self._reserved_uids = reserved_uids
        self._lookups = UserLookups(loop, us, reserved_uids, time.monotonic)
        self.offline = OfflineMail(parent, offline, self._fork_child, reserved_uids)
        self._filters: dict[str, bytes] = {}
        self._starting: dict[int, StartingChild] = {}
        self._agents: dict[int, Agent] = {}  # every one that is not reaped yet
        self._programs: set[int] = set()
        self._passwords: dict[int, Timer] = {}
        self._announced: set[int] = set()  # pids of agents and programs that the parent was told of; so is their end
        self._said_what_is_missing = False
        self._stopping = False

    def take_seccomp_filter(self, imsg: TakeSeccompFilter) -> None:
        if imsg.kind == OFFLINE:
            self.offline.filter = imsg.filter
        else:
            self._filters[imsg.kind] = imsg.filter

    # -- users ---------------------------------------------------------------------

    def look_up_user(self, imsg: LookUpUser) -> None:
        self._lookups.look_up(imsg.name, lambda verdict: self._parent.send(UserLookedUp(imsg.request, verdict)))

    # -- agents ----------------------------------------------------------------------

    def fork_agent(self, imsg: ForkAgent) -> None:
        if len(self._agents) >= AGENTS_MAX or self._stopping:
            self._parent.send(AgentNotForked(imsg.request, "later", "too many agents"))
            return
        files = tuple(imsg.files)
        spec = AgentSpec(
            imsg.kind,
            imsg.target,
            imsg.wrapper,
            imsg.junk,
            imsg.rcpt_to,
            imsg.delimiter,
            files,
            imsg.shared,
            os.geteuid(),
        )
        setup = AgentSetup(imsg.user, imsg.account, spec, self._filters.get(imsg.kind), self._reserved_uids)
        try:
            ours, theirs = _packets((PACKET_BUFFER, MAILBOX_BUFFER) if imsg.kind in MAILBOX_KINDS else (PACKET_BUFFER,))
        except OSError as error:
            log.warn(f"no socket for an agent: {error.strerror}")
            self._parent.send(AgentNotForked(imsg.request, "later", f"no socket can be made: {error.strerror}"))
            return
        pid = self._fork_child(
            partial(run_agent, setup, self._prepare),
            partial(self._agent_started, imsg, ours),
            *(end.fileno() for end in theirs),
        )
        _close(theirs)
        if pid is None:
            _close(ours)
            self._parent.send(AgentNotForked(imsg.request, "later", "no further process can be made"))
            return
        self._agents[pid] = Agent(pid, has_commands=PROMISES[imsg.kind] is None)

    def _agent_started(self, imsg: ForkAgent, sockets: list[socket.socket], starting: StartingChild, line: str) -> None:
        verdict, _, rest = line.partition(" ")
        if verdict != "ok" or starting.ids is None:
            _close(sockets)
            reason = rest or (NO_REPORT if not line else "")
            known = verdict if verdict in VERDICTS else "later"
            self._parent.send(AgentNotForked(imsg.request, known, fit_text(Text, reason)))
            return
        if rest and not self._said_what_is_missing:
            self._said_what_is_missing = True
            log.warn(f"sandbox of agents: missing: {rest}")
        self._announced.add(starting.pid)
        sock, *mailbox_sockets = sockets
        for mailbox_socket in mailbox_sockets:
            self._parent.send(AgentMailboxSocket(starting.pid), mailbox_socket.detach())
        self._parent.send(AgentForked(imsg.request, starting.pid, *starting.ids), sock.detach())

    def kill_agent(self, imsg: KillAgent) -> None:
        """A pid is ours until it has been waited for; one that we do not know has ended in the meantime."""
        agent = self._agents.get(imsg.pid)
        if agent is None:
            return
        if agent.has_commands:
            self._end_commands(agent)
        else:
            os.kill(agent.pid, signal.SIGKILL)

    def _end_commands(self, agent: Agent) -> None:
        """They are its children, and only it knows them: it is asked first, and may hang."""
        os.kill(agent.pid, signal.SIGTERM)
        self._loop.call_later(COMMANDS_EXIT_TIMEOUT, partial(self._kill, agent))

    def _kill(self, agent: Agent) -> None:
        if self._agents.get(agent.pid) is agent:
            os.kill(agent.pid, signal.SIGKILL)

    # -- programs ---------------------------------------------------------------------

    def fork_program(self, imsg: ForkTableProgram, stderr: int) -> None:
        """`stderr`: the descriptor that becomes its standard error; it is closed here."""
        try:
            ours, theirs = socket.socketpair()
        except OSError as error:
            os.close(stderr)
            self._parent.send(TableProgramNotForked(imsg.request, f"no socket can be made: {error.strerror}"))
            return
        with theirs:
            child = partial(run_table_program, imsg.user, imsg.arguments, self._reserved_uids)
            finished = partial(self._program_started, imsg, ours)
            pid = None if self._stopping else self._fork_child(child, finished, theirs.fileno(), stderr)
        os.close(stderr)
        if pid is None:
            ours.close()
            self._parent.send(TableProgramNotForked(imsg.request, "no further process can be made"))
        else:
            self._programs.add(pid)

    def _program_started(self, imsg: ForkTableProgram, sock: socket.socket, starting: StartingChild, line: str) -> None:
        if line:  # a reason: a program that is executed closes the pipe without a line
            sock.close()
            verdict, _, reason = line.partition(" ")
            trouble = fit_text(Text, reason or f"user {imsg.user}: {verdict}")
            self._parent.send(TableProgramNotForked(imsg.request, trouble))
        else:
            self._announced.add(starting.pid)
            self._parent.send(TableProgramForked(imsg.request, starting.pid), sock.detach())

    # -- passwords --------------------------------------------------------------------

    def fork_password(self, channel: int) -> None:
        """`channel`: its socket to the parent, closed here.  It writes to the same log as this process."""
        pid = None if self._stopping else self._fork_child(run_password, self._password_started, channel, 2)
        os.close(channel)
        if pid is not None:
            self._passwords[pid] = self._loop.call_later(PASSWORD_TIMEOUT, partial(os.kill, pid, signal.SIGKILL))

    def _password_started(self, _starting: StartingChild, line: str) -> None:
        if line:
            log.warn(f"password: {line.partition(' ')[2]}")

    # -- any child ----------------------------------------------------------------------

    def _fork_child(
        self,
        child: Callable[..., None],
        finished: Callable[[StartingChild, str], None],
        *kept: int,
        timeout: float = START_TIMEOUT,
    ) -> int | None:
        """The pid of a new child; None when there can be none now.  It is killed if it has not said its last line
        within `timeout` seconds."""
        try:
            reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            log.warn(f"pipe: {error.strerror}")
            return None
        try:
            pid = fork(child, *kept, writing)
        except OSError as error:
            os.close(reading)
            log.warn(f"fork: {error.strerror}")
            return None
        finally:
            os.close(writing)
        timer = self._loop.call_later(timeout, partial(self._too_late, pid))
        starting = StartingChild(pid, reading, timer, finished)
        self._starting[pid] = starting
        self._loop.add_reader(reading, partial(self._hear, starting))
        return pid

    def _hear(self, starting: StartingChild) -> None:
        """A line is one write into a pipe, so it comes whole or not at all.  The ids come first or never."""
        try:
            data = os.read(starting.pipe, REPORT_READ_MAX)
        except BlockingIOError:
            data = b""
        first, _, rest = data.decode(errors="replace").partition("\n")
        if starting.ids is None and (ids := _ids_in(first)) is not None:
            starting.ids, first = ids, rest.strip()
            if not first:
                return
        self._startup_finished(starting, first.strip())

    def _too_late(self, pid: int) -> None:
        os.kill(pid, signal.SIGKILL)
        self._startup_finished(self._starting[pid], f"later {TOO_LATE}")

    def _startup_finished(self, starting: StartingChild, line: str) -> None:
        del self._starting[starting.pid]
        starting.timer.cancel()
        self._loop.remove_reader(starting.pipe)
        os.close(starting.pipe)
        starting.finished(starting, line)

    def reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            self._ended(pid, status)
        if self._stopping and not self._agents:
            self._loop.stop()

    def _ended(self, pid: int, status: int) -> None:
        while pid in self._starting:
            self._hear(self._starting[pid])  # its last words may still be in the pipe
        self._lookups.ended(pid)
        self._agents.pop(pid, None)
        ended = TableProgramEnded if pid in self._programs else AgentEnded
        self._programs.discard(pid)
        if pid in self._passwords:
            self._passwords.pop(pid).cancel()
        if pid in self._announced:
            self._announced.discard(pid)
            self._parent.send(ended(pid, status))

    # -- the end -----------------------------------------------------------------------------

    def stop(self) -> None:
        """Wait for the agents up to AGENTS_EXIT_TIMEOUT.  Queue and lookup have ended before, so agents and table
        programs end by themselves, and a child that does not is killed when this process ends.  Commands that still run
        are ended; their results are lost."""
        self._stopping = True
        self._lookups.stop()
        for agent in self._agents.values():
            if agent.has_commands:
                self._end_commands(agent)
        self._loop.call_later(AGENTS_EXIT_TIMEOUT, self._end)
        self.reap()

    def _end(self) -> None:
        self._loop.stop()


def _ids_in(line: str) -> tuple[int, int] | None:
    found = IDS.fullmatch(line)
    return (int(found[1]), int(found[2])) if found else None


def _packets(rooms: Iterable[int]) -> tuple[list[socket.socket], list[socket.socket]]:
    """Both ends of SOCK_SEQPACKET pairs, which keep the bounds of each frame; one pair with each of these buffers.
    Raises OSError, and then none is left open."""
    ours, theirs = list[socket.socket](), list[socket.socket]()
    try:
        for room in rooms:
            for ends, end in zip((ours, theirs), socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET), strict=True):
                ends.append(end)
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
    except BaseException:
        _close([*ours, *theirs])
        raise
    return ours, theirs


def _close(sockets: list[socket.socket]) -> None:
    for one in sockets:
        one.close()
