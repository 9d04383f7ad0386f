"""The pool of agents: the users' processes that take mail, or read a .forward, as their user.

    errand --give--> queue of its key --a slot is free--> StartAgent --> agent: some errands at a time
                                                                           |
    errand.answered, .failed <---------------------------------------------+  idle, late, dead, breaking the protocol

Agents are processes of users: they may die, stop, stay silent or flood us, and nothing of that may cost anybody but
their user.  So sends never wait, reads are bounded, every errand has a deadline, and an agent that breaks the rules is
ended with what it had.  An errand that an agent took and did not answer is perhaps done.

Slow agents have slots of their own, so that those who wait for nothing but a disk never wait for them.  The errands
that wait for one of them need no bound here: its lane with the scheduler is narrow.

The life of an agent is the table in agent_state.py; what entering a state means is in `_move`.  Which agent gets a slot
is decided in slots.py, what a queue may begin in agent_queue.py, the limits of each agent in routing.py.  Does not know
what an errand is about.
"""

import asyncio
import os
import socket
from collections.abc import Callable
from functools import partial

from smtpd import errand as frames
from smtpd.errand import Answer, FrameError, InProgress
from smtpd.imsg import AgentRefused, AgentStarted, EndAgent, MailboxLocked, MailboxNotLocked, StartAgent
from smtpd.ipc.log import log
from smtpd.ipc.request_window import RequestWindow
from smtpd.queue.agents.agent_queue import AgentQueue
from smtpd.queue.agents.agent_socket import AgentSocket, BegunErrand, Errand
from smtpd.queue.agents.agent_state import RUNNING, AgentEvent, AgentState
from smtpd.queue.agents.command_slots import CommandSlots
from smtpd.queue.agents.mailbox_lock import MailboxLock
from smtpd.queue.agents.routing import LMTP_LIMITS, AgentRouting
from smtpd.queue.agents.slots import AgentKey, AgentSlots

RESTART_DELAY = 5.0  # seconds without a new agent for a key whose agent ended without one answer
SLOW_SLOTS = 64
SLOW_SLOTS_PER_USER = 3  # of slow agents, beside those of quick ones

AGENT_SILENT = "the agent does not answer"
TOO_MANY_SLOW = "too many deliveries that take their time are under way"


class AgentPool:
    """`starts` and `locks` ask the parent; `tick` is to be called every second; `clock` counts seconds."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        starts: RequestWindow,
        locks: RequestWindow,
        routing: AgentRouting,
        clock: Callable[[], float],
    ):
        self._loop, self._starts, self._locks, self._routing, self._clock = loop, starts, locks, routing, clock
        self.quick = AgentSlots(shared=routing.shared)
        # What they have comes to an end by itself: each errand has its time.
        self.slow = AgentSlots(SLOW_SLOTS, SLOW_SLOTS_PER_USER, leave_timeout=LMTP_LIMITS.most, shared=routing.shared)
        self._commands = CommandSlots(routing.commands)
        self.queues: dict[AgentKey, AgentQueue] = {}  # those that have an errand or an agent
        self._blocked: dict[AgentKey, AgentQueue] = {}
        self._stopping = False

    def give(self, key: AgentKey, errand: Errand) -> None:
        now = self._clock()
        if self._stopping:
            return
        blocked = self._blocked.get(key)
        if blocked is not None:
            if blocked.blocked_until > now:
                errand.failed(blocked.blocked_reason)
                return
            self._unblock(blocked)
        queue = self.queues.get(key)
        if queue is None:
            limits = self._routing.limits(key)
            queue = self.queues[key] = AgentQueue(key, limits, self.slow if limits.slow else self.quick, now)
            queue.join(errand, now)
            self._need_agent(queue)
        elif queue.is_stalled(now) and not queue.has_room:
            errand.failed(_why_late(queue))
        else:
            queue.join(errand, now)
            self._proceed(queue)

    # -- an agent's life ------------------------------------------------------------------------------------------

    def _move(self, queue: AgentQueue, event: AgentEvent) -> None:
        """Change the state of an agent, and do what that means for its socket, its slot and its lock: nowhere else."""
        key, now = queue.key, self._clock()
        before = queue.enter(event)
        if before in RUNNING and queue.state not in RUNNING:
            self._close(queue)
        match queue.state:
            case AgentState.WAITING_FOR_SLOT:
                queue.slots.want(key)
            case AgentState.STARTING:
                self._starts.ask(partial(_start_agent, key), partial(self._started, key))
            case AgentState.LOCKING:
                assert queue.lock is not None
                queue.slots.busy(key, now)
                queue.lock.release()
                queue.lock.request(partial(self._lock_answered, queue, queue.lock))
            case AgentState.BUSY:
                queue.slots.busy(key, now)
            case AgentState.IDLE:
                if queue.lock is not None:
                    queue.lock.release()
                queue.slots.idle(key, now)
            case AgentState.ABSENT | AgentState.BLOCKED:
                queue.slots.leave(key)

    def _close(self, queue: AgentQueue) -> None:
        assert queue.agent is not None
        queue.agent.close()
        # It may be stopped, or hang in the kernel: the parent is to have its place free again.
        self._starts.channel.send(EndAgent(queue.agent.number))
        queue.agent = queue.lock = None  # the parent releases the lock of an agent that ends

    def _need_agent(self, queue: AgentQueue) -> None:
        """For the errands that wait.  An agent for commands is not started before there is a command slot for it: it
        would do nothing but keep an agent slot from another one that has."""
        if queue.limits.command and not self._commands.take(queue.key):
            if queue.state is AgentState.ABSENT:
                self._move(queue, AgentEvent.NEED_COMMAND)
            return
        self._move(queue, AgentEvent.NEED_SLOT)
        self._fill(queue.slots)

    def _fill(self, slots: AgentSlots) -> None:
        """Grant free slots, and have other agents leave where there is none."""
        while (key := slots.grant(self._clock())) is not None:
            self._move(self.queues[key], AgentEvent.SLOT_GRANTED)
        for key in slots.choose_leaving(self._clock()):
            queue = self.queues[key]
            self._move(queue, AgentEvent.SLOT_WANTED)
            if queue.state is AgentState.LEAVING:
                self._rest(queue)
            else:
                self._ended(queue)

    def _started(self, key: AgentKey, imsg: AgentStarted | AgentRefused, descriptor: int | None = None) -> None:
        queue = self.queues[key]
        if isinstance(imsg, AgentRefused):
            self._drop(queue, AgentEvent.REFUSED, imsg.reason, permanent=imsg.permanent)
            return
        answered, gone = partial(self._answered, queue), partial(self._gone, queue)
        queue.agent = AgentSocket(self._loop, socket.socket(fileno=descriptor), imsg.agent, answered, gone)
        if queue.limits.mailbox:
            queue.lock = MailboxLock(imsg.agent, self._locks, self._clock)
        queue.has_answered = False
        self._move(queue, AgentEvent.STARTED)
        if queue.limits.command and queue.may_begin:  # with the command slot that was kept for it
            self._begin(queue)
        elif queue.limits.command:
            self._give_back(queue, 1)
        self._proceed(queue)

    def _proceed(self, queue: AgentQueue) -> None:
        """Something has changed for this agent: it gets what it may have, or is idle."""
        self._feed(queue)
        self._rest(queue)

    def _feed(self, queue: AgentQueue) -> None:
        """Give the agent as many errands as it may have."""
        while queue.may_begin:
            if queue.lock is not None and not queue.lock.is_open:
                if not queue.begun:
                    self._move(queue, AgentEvent.LOCK)
                return
            if queue.limits.command and not self._commands.take(queue.key):
                return
            if queue.state is AgentState.IDLE:
                self._move(queue, AgentEvent.BEGIN)
            self._begin(queue)

    def _begin(self, queue: AgentQueue) -> None:
        assert queue.agent is not None
        begun = queue.begin(self._clock())
        lock = 0 if queue.lock is None else queue.lock.number
        begun.errand.begin(queue.agent.log_id, lock, partial(self._ready, queue, begun))

    def _ready(self, queue: AgentQueue, begun: BegunErrand, frame: bytes | None, descriptor: int | None) -> None:
        number = begun.errand.number
        if queue.begun.get(number) is not begun or queue.agent is None:  # the agent ended while this was fetched
            if descriptor is not None:
                os.close(descriptor)
        elif frame is None:
            self._finished(queue, number)
        else:
            begun.handed = self._clock()
            queue.agent.send(begun, frame, descriptor)

    def _answered(self, queue: AgentQueue, answer: Answer | InProgress) -> None:
        number = frames.number_of(answer)
        begun = queue.begun.get(number)
        if begun is None or not begun.sent:
            raise FrameError("an answer to no question")
        if isinstance(answer, InProgress):
            queue.in_progress(begun, self._clock())
            return
        begun.errand.answered(answer)
        queue.has_answered = True
        queue.heard = self._clock()
        self._finished(queue, number)

    def _finished(self, queue: AgentQueue, number: int) -> None:
        del queue.begun[number]
        self._give_back(queue, 1)
        self._proceed(queue)

    def _rest(self, queue: AgentQueue) -> None:
        """With nothing under way, an agent is idle, or ends if its slot is wanted."""
        if queue.begun or queue.state not in (AgentState.BUSY, AgentState.LEAVING):
            return
        self._move(queue, AgentEvent.FINISHED)
        if queue.state is AgentState.ABSENT:
            self._ended(queue)
        else:
            self._fill(queue.slots)

    def _lock_answered(self, queue: AgentQueue, lock: MailboxLock, imsg: MailboxLocked | MailboxNotLocked) -> None:
        if queue.lock is not lock:  # the agent has ended
            return
        if isinstance(imsg, MailboxLocked):
            lock.taken(imsg.lock)
            self._move(queue, AgentEvent.LOCKED)
            self._proceed(queue)
            return
        for errand in queue.take_waiting():  # none of them can be stored now
            errand.failed(imsg.reason, permanent=imsg.permanent)
        self._move(queue, AgentEvent.NOT_LOCKED)
        self._fill(queue.slots)

    def _gone(self, queue: AgentQueue, reason: str) -> None:
        """The agent is dead, late or breaks the protocol.  What it had fails; what waited goes on with a new one only
        if this one had answered anything."""
        had = len(queue.begun)
        if had:
            log.info(f"agent of {queue.key.user} dropped: {reason}")
        useless = not queue.has_answered and bool(had or queue.waiting)
        self._move(queue, AgentEvent.USELESS if useless else AgentEvent.ENDED)
        reason = f"the agent was lost: {reason}"
        for begun in queue.lose_agent():
            begun.errand.failed(reason, sent=True)
        if self._stopping:
            queue.waiting.clear()  # what was not sent is not begun again
        if useless:
            self._block(queue, reason)
        else:
            self._ended(queue)
        self._give_back(queue, had)  # now that this queue is as it should be: it may be its turn

    def _block(self, queue: AgentQueue, reason: str) -> None:
        queue.blocked_until, queue.blocked_reason = self._clock() + RESTART_DELAY, reason
        self._blocked[queue.key] = self.queues.pop(queue.key)
        for errand in queue.take_waiting():
            errand.failed(reason)
        self._fill(queue.slots)

    def _unblock(self, queue: AgentQueue) -> None:
        self._move(queue, AgentEvent.DELAY_OVER)
        del self._blocked[queue.key]

    def _ended(self, queue: AgentQueue) -> None:
        """There is no agent any more.  What still waits goes behind the errands of others."""
        if queue.waiting:
            self._need_agent(queue)
        else:
            del self.queues[queue.key]
        self._fill(queue.slots)

    def _drop(self, queue: AgentQueue, event: AgentEvent, reason: str, *, permanent: bool = False) -> None:
        """No agent comes, by `event`: all that waits for it fails."""
        reserved = queue.reserves_command
        self._move(queue, event)
        del self.queues[queue.key]
        for errand in queue.take_waiting():
            errand.failed(reason, permanent=permanent)
        if reserved:
            self._give_back(queue, 1)
        self._fill(queue.slots)

    def _give_back(self, queue: AgentQueue, count: int) -> None:
        """Commands have ended: others may begin."""
        if not queue.limits.command:
            return
        self._commands.give_back(count)
        while (key := self._commands.next()) is not None:
            other = self.queues.get(key)
            if other is not None and other.state is AgentState.WAITING_FOR_COMMAND and other.waiting:
                self._need_agent(other)
            elif other is not None and other.may_begin:
                self._feed(other)
            else:
                self._commands.forget(key)

    # -- time -----------------------------------------------------------------------------------------------------

    def tick(self) -> None:
        now = self._clock()
        for queue in [*self.queues.values()]:
            if queue.is_late(now):
                self._gone(queue, "it did not answer in time")
            reason = _why_late(queue)
            for errand in queue.take_late(now):
                errand.failed(reason)
            if queue.state is AgentState.WAITING_FOR_COMMAND and not queue.waiting:
                self._drop(queue, AgentEvent.GIVEN_UP, reason)
        for queue in [*self._blocked.values()]:
            if queue.blocked_until <= now:
                self._unblock(queue)
        for slots in (self.quick, self.slow):
            self._clear(slots, now)

    def _clear(self, slots: AgentSlots, now: float) -> None:
        while unused := slots.idle_too_long(now):
            queue = self.queues[unused[0]]
            self._move(queue, AgentEvent.UNUSED)
            self._ended(queue)
        while late := slots.leaving_too_long(now):
            self._gone(self.queues[late[0]], "it did not answer while others waited")
        self._fill(slots)

    # -- the end, and numbers ---------------------------------------------------------------------------------------

    def stop(self) -> None:
        """No errand is begun any more.  Those under way may be answered."""
        self._stopping = True
        for queue in self.queues.values():
            queue.waiting.clear()

    def end(self) -> None:
        """The errands that are still under way have had their time."""
        for queue in self.queues.values():
            if queue.state in RUNNING:
                self._move(queue, AgentEvent.ENDED)
            begun, queue.begun = [*queue.begun.values()], {}
            for one in begun:
                if not one.errand.over:
                    one.errand.failed("the daemon was stopped", sent=one.sent)

    def under_way(self) -> int:
        return sum(len(queue.begun) for queue in self.queues.values())

    def waiting(self) -> int:
        return sum(len(queue.waiting) for queue in self.queues.values())

    @property
    def users(self) -> int:
        return len(self.quick.users | self.slow.users)


def _start_agent(key: AgentKey, request: int) -> StartAgent:
    return StartAgent(request, key.user, key.action, key.duty)


def _why_late(queue: AgentQueue) -> str:
    return TOO_MANY_SLOW if queue.limits.slow and (queue.has_one_at_work or not queue.begun) else AGENT_SILENT
