"""The errands of one agent: those that wait for it, and those that it has.

    waiting --begin--> begun --answered, failed, lost-->

Holds the state of the agent (agent_state.py).  Decides what may be begun and what is late; sends nothing, and does not
know what an errand is about.
"""

from collections import deque

from smtpd.errand import FrameError
from smtpd.queue.agents.agent_socket import AgentSocket, BegunErrand, Errand
from smtpd.queue.agents.agent_state import BEGINNING, RESERVING, TRANSITIONS, AgentEvent, AgentState
from smtpd.queue.agents.mailbox_lock import MailboxLock
from smtpd.queue.agents.routing import AgentLimits
from smtpd.queue.agents.slots import AgentKey, AgentSlots

NOT_BEGUN_TIMEOUT = 3600.0  # seconds that a slow agent may have an errand while it is at work with others


class AgentQueue:
    """`slots` are those that its agent takes one of; `now` is in seconds."""

    def __init__(self, key: AgentKey, limits: AgentLimits, slots: AgentSlots, now: float):
        self.key, self.limits, self.slots = key, limits, slots
        self.state = AgentState.ABSENT
        self.waiting: deque[Errand] = deque()
        self.begun: dict[int, BegunErrand] = {}
        self.agent: AgentSocket | None = None  # in the states of RUNNING
        self.lock: MailboxLock | None = None  # of an agent that needs its mailbox locked
        self.has_answered = False  # this agent, anything
        self.heard = now  # when it last answered, got its first errand, or had nothing to do
        self.blocked_until, self.blocked_reason = 0.0, ""  # in state BLOCKED

    def enter(self, event: AgentEvent) -> AgentState:
        """Make the transition that follows from `event`.  Returns the state before it."""
        before = self.state
        assert event in TRANSITIONS[before], f"agent of {self.key.user}: {event.name} while {before.name}"
        self.state = TRANSITIONS[before][event]
        return before

    def join(self, errand: Errand, now: float) -> None:
        """Before those of a lower priority.  None of them waits for ever: they are never more than their lane is wide,
        and in the end they are all that the lane holds."""
        if not (self.waiting or self.begun):
            self.heard = now
        at = len(self.waiting)
        while at and self.waiting[at - 1].priority < errand.priority:
            at -= 1
        self.waiting.insert(at, errand)

    @property
    def _is_full(self) -> bool:
        limits = self.limits
        return len(self.begun) >= (limits.concurrency_when_many if self.slots.has_many else limits.concurrency)

    @property
    def _has_one_alone(self) -> bool:
        """The errand that is under way must stay the only one."""
        return any(begun.errand.alone for begun in self.begun.values())

    @property
    def has_room(self) -> bool:
        """The agent may have one more errand, whichever."""
        if self.state not in BEGINNING or self._is_full:
            return False
        return not self.begun or not (self.limits.single or self._has_one_alone)

    @property
    def may_begin(self) -> bool:
        """The agent may have the errand that waits."""
        if self.state not in BEGINNING or not self.waiting or self._is_full:
            return False
        return not self.begun or not (self.waiting[0].alone or self._has_one_alone)

    @property
    def reserves_command(self) -> bool:
        """A command slot is taken, for the first command of an agent that is not there yet."""
        return self.limits.command and self.state in RESERVING

    @property
    def has_one_at_work(self) -> bool:
        """Its agent has said so."""
        return any(begun.most is not None for begun in self.begun.values())

    def begin(self, now: float) -> BegunErrand:
        if not self.begun:
            self.heard = now
        errand = self.waiting.popleft()
        begun = BegunErrand(errand, now + (NOT_BEGUN_TIMEOUT if self.limits.slow else errand.deadline))
        self.begun[errand.number] = begun
        return begun

    def in_progress(self, begun: BegunErrand, now: float) -> None:
        """The agent is at work with it.  Raises FrameError when it must not say so, or not again."""
        limits = self.limits
        if not limits.slow or (begun.most is not None and limits.most <= limits.deadline):
            raise FrameError("at work with what it should have done")
        if begun.most is None:
            begun.most = now + limits.most
            self.heard = now
        begun.until = min(now + begun.errand.deadline, begun.most)

    # -- silence --------------------------------------------------------------------------------------------------

    def is_stalled(self, now: float) -> bool:
        """Waiting has no sense.  A quick agent that has nothing yet will begin soon."""
        waits = self.begun or (self.waiting and self.limits.slow)
        return bool(waits) and self.heard + self.limits.patience <= now

    def is_late(self, now: float) -> bool:
        """The agent has had an errand for too long, or has some and is at work with none."""
        if any(begun.until <= now for begun in self.begun.values()):
            return True
        if not self.limits.slow or self.heard + self.limits.patience > now or self.has_one_at_work:
            return False
        given = [begun.handed for begun in self.begun.values() if begun.handed is not None]
        return bool(given) and min(given) + self.limits.patience <= now

    def take_late(self, now: float) -> list[Errand]:
        """The errands that have waited for too long, taken out of the queue."""
        late: list[Errand] = []
        stalled = self.is_stalled(now)
        while self.waiting and (stalled or self.waiting[0].waits_until <= now):
            late.append(self.waiting.popleft())
        return late

    def take_waiting(self) -> list[Errand]:
        """All that wait, taken out of the queue."""
        waiting, self.waiting = [*self.waiting], deque()
        return waiting

    def lose_agent(self) -> list[BegunErrand]:
        """The agent has ended.  Errands that were not sent wait again; the others are returned, but for those that are
        over."""
        begun, self.begun = [one for one in self.begun.values() if not one.errand.over], {}
        self.waiting.extendleft(one.errand for one in reversed(begun) if not one.sent)
        return [one for one in begun if one.sent]
