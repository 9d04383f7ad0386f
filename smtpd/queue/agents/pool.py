"""The users' agents: processes that take mail, or read a .forward, as their user.

    errand --give--> line of its key --a place is free--> StartAgent --> agent: some errands at a time
                                                                           |
    errand.answered, .failed <---------------------------------------------+  idle, late, dead, talking nonsense

Agents are somebody else's processes: they may die, stop, stay silent or flood us, and nothing of that may cost anybody
but their user.  So sends never wait, reads are bounded, every errand has a deadline, and an agent that breaks the rules
is dropped with what it had.  What an agent took and did not answer is perhaps done.

Slow agents have places of their own, so that those who wait for nothing but a disk never wait for them.  What waits for
one of them needs no bound here: its lane with the scheduler is narrow.

Who has a place is decided in places.py, what a line may begin in line.py, who is treated how in roster.py.  Knows
nothing of what an errand is about.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from functools import partial

from smtpd import errand as frames
from smtpd.errand import Answer, FrameError, InProgress
from smtpd.imsg import AgentRefused, AgentStarted, EndAgent, StartAgent
from smtpd.ipc.log import log
from smtpd.ipc.request_window import RequestWindow
from smtpd.queue.agents.agent_queue import AgentQueue
from smtpd.queue.agents.agent_socket import AgentSocket, BegunErrand, Errand
from smtpd.queue.agents.command_slots import CommandSlots
from smtpd.queue.agents.mailbox_lock import MailboxLock
from smtpd.queue.agents.routing import LMTP_LIMITS, AgentRouting
from smtpd.queue.agents.slots import AgentKey, AgentSlots

RESTART_DELAY = 5.0  # seconds without a new agent for a line whose agent did nothing but end
SLOW_SLOTS = 64
SLOW_SLOTS_PER_USER = 3  # places of slow agents that one user may have, beside those of quick ones

AGENT_SILENT = "the agent does not answer"
TOO_MANY_SLOW = "too many deliveries that take their time are under way"


class AgentPool:
    """All lines.  `starts` and `locks` ask the parent; `tick` is to be called every second; `clock` counts seconds."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        starts: RequestWindow,
        locks: RequestWindow,
        roster: AgentRouting,
        clock: Callable[[], float],
    ):
        self._loop, self._starts, self._locks, self._roster, self._clock = loop, starts, locks, roster, clock
        self.quick = AgentSlots(shared=roster.shared)
        # What they have comes to an end by itself: each errand has its time.
        self.slow = AgentSlots(SLOW_SLOTS, SLOW_SLOTS_PER_USER, silence=LMTP_LIMITS.most, shared=roster.shared)
        self._sessions = CommandSlots(roster.commands)
        self.lines: dict[AgentKey, AgentQueue] = {}
        self._penalties: dict[AgentKey, tuple[float, str]] = {}
        self._stopping = False

    def give(self, key: AgentKey, errand: Errand) -> None:
        now = self._clock()
        until, reason = self._penalties.get(key, (0.0, ""))
        if self._stopping:
            return
        if until > now:
            errand.failed(reason)
            return
        line = self.lines.get(key)
        if line is None:
            terms = self._roster.terms(key)
            line = self.lines[key] = AgentQueue(key, terms, self.slow if terms.slow else self.quick, now)
            line.join(errand, now)
            self._want(line)
        elif line.is_stalled(now) and not line.has_room:
            errand.failed(_reason(line))
        else:
            line.join(errand, now)
            self._proceed(line)

    # -- an agent's life ------------------------------------------------------------------------------------------

    def _want(self, line: AgentQueue) -> None:
        """An agent for what waits.  One for commands is not made before there is a session for it: it would do nothing
        but keep a place from another one that has."""
        if line.terms.command:
            line.session = line.session or self._sessions.take(line.key)
        if line.session or not line.terms.command:
            line.places.want(line.key)
            self._start(line.places)

    def _start(self, places: AgentSlots) -> None:
        """Give free places to those who want one, and ask others to leave where there is none."""
        while (key := places.grant(self._clock())) is not None:
            self._starts.ask(partial(_start_agent, key), partial(self._started, key))
        for key in places.choose_leaving(self._clock()):
            line = self.lines[key]
            line.leaving = True
            if not line.begun:
                self._leave(line)

    def _started(self, key: AgentKey, imsg: AgentStarted | AgentRefused, descriptor: int | None = None) -> None:
        line = self.lines[key]
        if isinstance(imsg, AgentRefused):
            self._drop(line, imsg.reason, permanent=imsg.permanent)
            return
        answered, gone = partial(self._answered, line), partial(self._gone, line)
        line.agent = AgentSocket(self._loop, socket.socket(fileno=descriptor), imsg.agent, answered, gone)
        if line.terms.mailbox:
            ready, refused = partial(self._proceed, line), partial(self._refuse, line)
            line.mailbox = MailboxLock(imsg.agent, self._locks, self._clock, ready, refused)
        line.answers, line.leaving = 0, False
        line.places.started(key, self._clock())
        self._proceed(line)

    def _proceed(self, line: AgentQueue) -> None:
        """Something has changed for this agent: it gets what it may have, or somebody else gets what it has not."""
        self._feed(line)
        self._rest(line)

    def _feed(self, line: AgentQueue) -> None:
        """Let the agent have as much as it may have."""
        while line.may_begin:
            if not line.begun:
                line.places.busy(line.key, self._clock())
            lock = 0
            if line.mailbox is not None and not (lock := line.mailbox.claim()):
                break
            if line.terms.command and not (line.session or self._sessions.take(line.key)):
                break
            line.session = False
            assert line.agent is not None
            begun = line.begin(self._clock())
            begun.errand.begin(line.agent.session, lock, partial(self._ready, line, begun))

    def _ready(self, line: AgentQueue, begun: BegunErrand, frame: bytes | None, descriptor: int | None) -> None:
        number = begun.errand.number
        if line.begun.get(number) is not begun or line.agent is None:  # the agent went while this was fetched
            if descriptor is not None:
                os.close(descriptor)
        elif frame is None:
            self._finished(line, number)
        else:
            begun.handed = self._clock()
            line.agent.send(begun, frame, descriptor)

    def _answered(self, line: AgentQueue, answer: Answer | InProgress) -> None:
        number = frames.number_of(answer)
        begun = line.begun.get(number)
        if begun is None or not begun.sent:
            raise FrameError("an answer that nobody asked for")
        if isinstance(answer, InProgress):
            line.at_work(begun, self._clock())
            return
        begun.errand.answered(answer)
        line.answers += 1
        line.heard = self._clock()
        self._finished(line, number)

    def _finished(self, line: AgentQueue, number: int) -> None:
        del line.begun[number]
        self._give_back(line, 1)
        self._proceed(line)

    def _rest(self, line: AgentQueue) -> None:
        """Nothing to do?  Somebody may wait for just this."""
        if line.agent is None or line.begun:
            return
        self._give_up_session(line)
        if line.mailbox is not None:
            line.mailbox.unlock()
            self._feed(line)  # asks for the lock anew, where more waits
        if line.leaving:
            self._leave(line)
        elif line.mailbox is None or not line.mailbox.asked:
            line.places.idle(line.key, self._clock())
            self._start(line.places)

    def _refuse(self, line: AgentQueue, reason: str, permanent: bool) -> None:
        """The mailbox cannot be locked: nothing of what waits can be stored now."""
        while line.waiting:
            line.waiting.popleft().failed(reason, permanent=permanent)
        self._rest(line)

    def _leave(self, line: AgentQueue) -> None:
        """An agent with nothing under way ends in peace.  What still waits in its line goes behind the others."""
        self._close(line)
        if line.waiting:
            self._want(line)
        else:
            del self.lines[line.key]
        self._start(line.places)

    def _gone(self, line: AgentQueue, reason: str) -> None:
        """The agent is dead, late or talks nonsense.  What it had fails; what waited goes on with a new one only if
        this one was good for something."""
        had = len(line.begun)
        if had:
            log.info(f"agent of {line.key.user} dropped: {reason}")
        self._close(line)
        for begun in line.lose_agent():
            begun.errand.failed(f"the agent was lost: {reason}", sent=True)
        if not line.answers and (had or line.waiting):
            self._penalties[line.key] = self._clock() + RESTART_DELAY, f"the agent was lost: {reason}"
            self._drop(line, f"the agent was lost: {reason}")
        elif line.waiting:
            self._want(line)
        else:
            self._drop(line, reason)
        self._give_back(line, had)  # now that this line stands as it should: it may be its turn

    def _close(self, line: AgentQueue) -> None:
        assert line.agent is not None
        line.agent.close()
        # It may be stopped, or hang in the kernel: its place with the parent is to be free again.
        self._starts.channel.send(EndAgent(line.agent.number))
        line.agent = None
        if line.mailbox is not None:
            line.mailbox.lose()
            line.mailbox = None
        line.places.leave(line.key)

    def _drop(self, line: AgentQueue, reason: str, *, permanent: bool = False) -> None:
        """A line without an agent ends with all that waits in it."""
        del self.lines[line.key]
        line.places.leave(line.key)
        while line.waiting:
            line.waiting.popleft().failed(reason, permanent=permanent)
        self._give_up_session(line)
        self._start(line.places)

    def _give_up_session(self, line: AgentQueue) -> None:
        """Nothing waits any more of what it was kept for."""
        if line.session:
            line.session = False
            self._give_back(line, 1)

    def _give_back(self, line: AgentQueue, count: int) -> None:
        """Commands have ended: others may begin."""
        if not line.terms.command:
            return
        self._sessions.give_back(count)
        while (key := self._sessions.next()) is not None:
            other = self.lines.get(key)
            if other is not None and other.agent is None and other.waiting:
                self._want(other)
            elif other is not None and other.may_begin:
                self._feed(other)
            else:
                self._sessions.forget(key)

    # -- time -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        now = self._clock()
        for line in [*self.lines.values()]:
            if line.is_late(now):
                self._gone(line, "it did not answer in time")
            reason = _reason(line)
            for errand in line.take_late(now):
                errand.failed(reason)
            if self.lines.get(line.key) is line and line.is_abandoned:
                self._drop(line, reason)
        self._penalties = {key: value for key, value in self._penalties.items() if value[0] > now}
        for places in (self.quick, self.slow):
            self._clear(places, now)

    def _clear(self, places: AgentSlots, now: float) -> None:
        while idle_too_long := places.idle_too_long(now):
            self._leave(self.lines[idle_too_long[0]])
        while silent := places.silent(now):
            self._gone(self.lines[silent[0]], "it did not answer while others waited")
        self._start(places)

    # -- the end, and numbers ---------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Nothing new is begun.  What is under way may be answered."""
        self._stopping = True
        for line in self.lines.values():
            line.waiting.clear()

    def end(self) -> None:
        """What is still under way has had its time."""
        for line in self.lines.values():
            if line.agent is not None:
                self._close(line)
            begun, line.begun = [*line.begun.values()], {}
            for one in begun:
                if not one.errand.over:
                    one.errand.failed("the daemon was stopped", sent=one.sent)

    def under_way(self) -> int:
        return sum(len(line.begun) for line in self.lines.values())

    def waiting(self) -> int:
        return sum(len(line.waiting) for line in self.lines.values())

    @property
    def users(self) -> int:
        return len(self.quick.users | self.slow.users)


def _start_agent(key: AgentKey, request: int) -> StartAgent:
    return StartAgent(request, key.user, key.action, key.duty)


def _reason(line: AgentQueue) -> str:
    return TOO_MANY_SLOW if line.terms.slow and (line.is_at_work or not line.begun) else AGENT_SILENT
