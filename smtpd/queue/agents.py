"""The users' agents: processes that take mail, or read a .forward, as their user.

    errand --give--> line of (user, action) --a place is free--> StartAgent --> agent: up to UNDER_WAY errands at a time
                                                                                  |
    errand.answered, .failed <----------------------------------------------------+  idle, late, dead, talking nonsense

A line is what waits for one agent, with that agent.  Agents are somebody else's processes: they may die, stop, stay
silent or flood us, and nothing of that may cost anybody but their user.  So sends never wait, reads are bounded, every
errand has a deadline, and an agent that breaks the rules is dropped with what it had.  What an agent took and did not
answer is perhaps done.

Who has a place is decided in places.py.  Knows nothing of what an errand is about.
"""

import asyncio
import os
import secrets
import socket
from array import array
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Protocol

from smtpd.imsg import AgentRefused, AgentStarted, EndAgent, StartAgent
from smtpd.ipc import errand as frames
from smtpd.ipc.errand import ForwardText, Malformed, Result
from smtpd.ipc.log import log
from smtpd.ipc.question import Questions
from smtpd.queue.places import Key, Places

UNDER_WAY = 32  # errands that one agent has at a time
READS = 64  # packets taken from one agent in one turn of the loop
ANSWER_MAX = 8192  # bytes of an answer, and some more
STALLED = 10.0  # seconds without a word from an agent after which nothing more waits for it
PENALTY = 5.0  # seconds without a new agent for a line whose agent did nothing but end

Ready = Callable[[bytes | None, int | None], None]


class Errand(Protocol):
    """Something that one agent is to do."""

    number: int  # envelope id, or a number of our own
    deadline: float  # seconds that the agent has for it
    alone: bool  # nothing else of its line is to be under way beside it
    waits_until: float  # when there is no sense any more in beginning it, by the clock of Agents

    def begin(self, agent: int, ready: Ready) -> None:
        """An agent has room: call `ready(frame, descriptor)`, or `ready(None, None)` when there is nothing to send."""

    def answered(self, answer: Result | ForwardText) -> None:
        """Raises Malformed when this is not an answer to it."""

    def failed(self, reason: str, *, sent: bool = False, permanent: bool = False) -> None:
        """There is no answer.  `sent`: the agent had it, and may have done it."""


class _Begun:
    """An errand on its way to the agent, or with it."""

    __slots__ = ("errand", "until", "sent")

    def __init__(self, errand: Errand, until: float):
        self.errand, self.until, self.sent = errand, until, False


class Agent:
    """Our end of the socket to one agent process."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        number: int,
        answered: Callable[[Result | ForwardText], None],
        gone: Callable[[str], None],
    ):
        sock.setblocking(False)
        self.number = number
        self.session = secrets.randbits(64)  # names it in the log
        self._loop, self._sock, self._answered, self._gone = loop, sock, answered, gone
        self._outbox: deque[tuple[_Begun, bytes, int | None]] = deque()
        self._closed = False
        loop.add_reader(sock.fileno(), self._readable)

    def send(self, begun: _Begun, frame: bytes, descriptor: int | None) -> None:
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
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._sock.fileno(), self._flush)
                return
            except OSError as error:
                self._readable()  # what it answered before it ended
                self._end(f"nothing can be sent to it: {error.strerror}")
                return
            begun.sent = True
            self._outbox.popleft()
            if descriptor is not None:
                os.close(descriptor)
        if not self._closed:
            self._loop.remove_writer(self._sock.fileno())

    def _readable(self) -> None:
        """A descriptor that comes along is dropped by the kernel: there is no room for one."""
        for _ in range(READS):
            if self._closed:
                return
            try:
                packet = self._sock.recv(ANSWER_MAX)
            except (BlockingIOError, InterruptedError):
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
                if not isinstance(answer, Result | ForwardText):
                    raise Malformed("a request")
                self._answered(answer)
            except Malformed as error:
                self._end(f"it sent nonsense: {error}")

    def _end(self, reason: str) -> None:
        if not self._closed:
            self._gone(reason)

    def close(self) -> None:
        self._closed = True
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())
        for _, _, descriptor in self._outbox:
            if descriptor is not None:
                os.close(descriptor)
        self._outbox.clear()
        self._sock.close()


class Line:
    """What waits for the agent of one key, and what that agent has."""

    def __init__(self, key: Key):
        self.key = key
        self.waiting: deque[Errand] = deque()
        self.begun: dict[int, _Begun] = {}
        self.agent: Agent | None = None
        self.alone = False  # what has been begun last is to stay alone
        self.answers = 0  # of this agent
        self.heard = 0.0  # when it last answered, or had nothing to answer
        self.leaving = False  # takes nothing more: others wait for its place


class Agents:
    """All lines.  `to_parent` starts agents; `tick` is to be called every second; `clock` counts seconds."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, to_parent: Questions, places: Places, clock: Callable[[], float]
    ):
        self._loop, self._to_parent, self._places, self._clock = loop, to_parent, places, clock
        self.lines: dict[Key, Line] = {}
        self._penalties: dict[Key, tuple[float, str]] = {}
        self._stopping = False

    def give(self, key: Key, errand: Errand) -> None:
        until, reason = self._penalties.get(key, (0.0, ""))
        if self._stopping:
            return
        if until > self._clock():
            errand.failed(reason)
            return
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = Line(key)
            line.waiting.append(errand)
            self._places.want(key)
            self._start()
        elif self._is_stalled(line):
            errand.failed("the agent does not answer")
        else:
            line.waiting.append(errand)
            self._feed(line)

    # -- an agent's life ------------------------------------------------------------------------------------------

    def _start(self) -> None:
        """Give free places to those who want one, and ask others to leave where there is none."""
        while (key := self._places.grant(self._clock())) is not None:
            self._to_parent.ask(partial(_start_agent, key), partial(self._started, key))
        for key in self._places.leavers(self._clock()):
            line = self.lines[key]
            line.leaving = True
            if not line.begun:
                self._leave(line)

    def _started(self, key: Key, imsg: AgentStarted | AgentRefused, descriptor: int | None = None) -> None:
        line = self.lines[key]
        if isinstance(imsg, AgentRefused):
            self._drop(line, imsg.reason, permanent=imsg.permanent)
            return
        line.agent = Agent(
            self._loop,
            socket.socket(fileno=descriptor),
            imsg.agent,
            partial(self._answered, line),
            partial(self._gone, line),
        )
        line.answers, line.leaving = 0, False
        self._places.started(key, self._clock())
        self._feed(line)
        self._rest(line)

    def _feed(self, line: Line) -> None:
        """Let the agent have as much as it may have."""
        while line.waiting and len(line.begun) < UNDER_WAY and line.agent is not None and not line.leaving:
            now = self._clock()
            if not line.begun:
                line.heard = now
                self._places.busy(line.key, now)
            elif line.alone or line.waiting[0].alone:
                break
            errand = line.waiting.popleft()
            line.alone = errand.alone
            begun = line.begun[errand.number] = _Begun(errand, now + errand.deadline)
            errand.begin(line.agent.session, partial(self._ready, line, begun))

    def _ready(self, line: Line, begun: _Begun, frame: bytes | None, descriptor: int | None) -> None:
        number = begun.errand.number
        if line.begun.get(number) is not begun or line.agent is None:  # the agent went while this was fetched
            if descriptor is not None:
                os.close(descriptor)
        elif frame is None:
            self._finished(line, number)
        else:
            line.agent.send(begun, frame, descriptor)

    def _answered(self, line: Line, answer: Result | ForwardText) -> None:
        number = answer.envelope if isinstance(answer, Result) else answer.request
        begun = line.begun.get(number)
        if begun is None or not begun.sent:
            raise Malformed("an answer that nobody asked for")
        begun.errand.answered(answer)
        line.answers += 1
        line.heard = self._clock()
        self._finished(line, number)

    def _finished(self, line: Line, number: int) -> None:
        del line.begun[number]
        self._feed(line)
        self._rest(line)

    def _rest(self, line: Line) -> None:
        """Nothing to do?  Somebody may wait for just this."""
        if line.agent is None or line.begun:
            return
        if line.leaving:
            self._leave(line)
        else:
            self._places.idle(line.key, self._clock())
            self._start()

    def _leave(self, line: Line) -> None:
        """An agent with nothing under way ends in peace.  What still waits in its line goes behind the others."""
        self._close(line)
        if line.waiting:
            self._places.want(line.key)
        else:
            del self.lines[line.key]
        self._start()

    def _gone(self, line: Line, reason: str) -> None:
        """The agent is dead, late or talks nonsense.  What it had fails; what waited goes on with a new one only if
        this one was good for something."""
        if line.begun:
            log.info(f"agent of {line.key.user} dropped: {reason}")
        begun, line.begun = [*line.begun.values()], {}
        self._close(line)
        line.waiting.extendleft(one.errand for one in reversed(begun) if not one.sent)
        sent = [one.errand for one in begun if one.sent]
        for errand in sent:
            errand.failed(f"the agent was lost: {reason}", sent=True)
        if not line.answers and (begun or line.waiting):
            self._penalties[line.key] = self._clock() + PENALTY, f"the agent was lost: {reason}"
            self._drop(line, f"the agent was lost: {reason}")
        elif line.waiting:
            self._places.want(line.key)
            self._start()
        else:
            self._drop(line, reason)

    def _close(self, line: Line) -> None:
        assert line.agent is not None
        line.agent.close()
        # It may be stopped, or hang in the kernel: its place with the parent is to be free again.
        self._to_parent.channel.send(EndAgent(line.agent.number))
        line.agent = None
        self._places.leave(line.key)

    def _drop(self, line: Line, reason: str, *, permanent: bool = False) -> None:
        """A line without an agent ends with all that waits in it."""
        del self.lines[line.key]
        self._places.leave(line.key)
        while line.waiting:
            line.waiting.popleft().failed(reason, permanent=permanent)
        self._start()

    # -- time -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        now = self._clock()
        for line in [*self.lines.values()]:
            if any(begun.until <= now for begun in line.begun.values()):
                self._gone(line, "it did not answer in time")
            while line.waiting and (self._is_stalled(line) or line.waiting[0].waits_until <= now):
                line.waiting.popleft().failed("the agent does not answer")
        self._penalties = {key: value for key, value in self._penalties.items() if value[0] > now}
        while tired := self._places.tired(now):
            self._leave(self.lines[tired[0]])
        while silent := self._places.silent(now):
            self._gone(self.lines[silent[0]], "it did not answer while others waited")
        self._start()

    def _is_stalled(self, line: Line) -> bool:
        return bool(line.begun) and line.heard + STALLED <= self._clock()

    # -- the end, and numbers ---------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Nothing new is begun.  What is under way may be answered."""
        self._stopping = True
        for line in self.lines.values():
            line.waiting.clear()

    def under_way(self) -> int:
        return sum(len(line.begun) for line in self.lines.values())

    def waiting(self) -> int:
        return sum(len(line.waiting) for line in self.lines.values())


def _start_agent(key: Key, request: int) -> StartAgent:
    return StartAgent(request, key.user, key.action)
