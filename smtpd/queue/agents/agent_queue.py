"""A line: what waits for the agent of one key, and what that agent has.

    waiting --begin--> begun --end-->

Decides what may be begun, and who has been silent for too long.  Sends nothing, and knows nothing of what an errand is
about.
"""

from collections import deque

from smtpd.errand import FrameError
from smtpd.queue.agents.agent_socket import AgentSocket, BegunErrand, Errand
from smtpd.queue.agents.mailbox_lock import MailboxLock
from smtpd.queue.agents.routing import AgentLimits
from smtpd.queue.agents.slots import AgentKey, AgentSlots

NOT_BEGUN_TIMEOUT = 3600.0  # seconds that a slow agent may have something, while it is at work with other things


class AgentQueue:
    """`places` is where its agent has to get one."""

    def __init__(self, key: AgentKey, terms: AgentLimits, places: AgentSlots, now: float):
        self.key, self.terms, self.places = key, terms, places
        self.waiting: deque[Errand] = deque()
        self.begun: dict[int, BegunErrand] = {}
        self.agent: AgentSocket | None = None
        self.mailbox: MailboxLock | None = None  # that its agent needs locked
        self.alone = False  # what has been begun last is to stay alone
        self.answers = 0  # of this agent
        self.heard = now  # when it last answered, began something, or had nothing to do
        self.leaving = False  # takes nothing more: others wait for its place
        self.session = False  # is kept for the first command of an agent that is being started

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
    def has_room(self) -> bool:
        """There is an agent, and it may have one more errand."""
        most = self.terms.concurrency_of_many if self.places.has_many else self.terms.under_way
        if self.agent is None or self.leaving or len(self.begun) >= most:
            return False
        return not self.begun or not (self.alone or self.terms.single)

    @property
    def may_begin(self) -> bool:
        """There is an agent, and it may have what waits."""
        most = self.terms.concurrency_of_many if self.places.has_many else self.terms.under_way
        if self.agent is None or self.leaving or not self.waiting or len(self.begun) >= most:
            return False
        return not self.begun or not (self.alone or self.waiting[0].alone)

    @property
    def is_at_work(self) -> bool:
        """Its agent has said so."""
        return any(begun.most is not None for begun in self.begun.values())

    @property
    def is_abandoned(self) -> bool:
        """What waited for a session has been taken out, so there will be no agent."""
        return self.terms.command and self.agent is None and not (self.waiting or self.session)

    def begin(self, now: float) -> BegunErrand:
        if not self.begun:
            self.heard = now
        errand = self.waiting.popleft()
        self.alone = errand.alone
        begun = BegunErrand(errand, now + (NOT_BEGUN_TIMEOUT if self.terms.slow else errand.deadline))
        self.begun[errand.number] = begun
        return begun

    def at_work(self, begun: BegunErrand, now: float) -> None:
        """The agent is at work with it.  Raises Malformed when it must not say so, or not again."""
        if not self.terms.slow or (begun.most is not None and self.terms.most <= self.terms.deadline):
            raise FrameError("at work with what it should have done")
        if begun.most is None:
            begun.most = now + self.terms.most
            self.heard = now
        begun.until = min(now + begun.errand.deadline, begun.most)

    # -- silence --------------------------------------------------------------------------------------------------

    def is_stalled(self, now: float) -> bool:
        """Nothing comes of waiting.  A quick agent that has not begun anything yet will not keep anybody waiting."""
        waits = self.begun or (self.waiting and self.terms.slow)
        return bool(waits) and self.heard + self.terms.patience <= now

    def is_late(self, now: float) -> bool:
        """The agent has had something for too long, or has something and is at work with nothing."""
        if any(begun.until <= now for begun in self.begun.values()):
            return True
        if not self.terms.slow or self.heard + self.terms.patience > now or self.is_at_work:
            return False
        given = [begun.handed for begun in self.begun.values() if begun.handed is not None]
        return bool(given) and min(given) + self.terms.patience <= now

    def take_late(self, now: float) -> list[Errand]:
        """What has waited for too long, taken out of the line."""
        late: list[Errand] = []
        stalled = self.is_stalled(now)
        while self.waiting and (stalled or self.waiting[0].waits_until <= now):
            late.append(self.waiting.popleft())
        return late

    def lose_agent(self) -> list[BegunErrand]:
        """The agent has ended.  What was not sent goes on waiting; the rest is returned, but for what is over."""
        begun, self.begun = [one for one in self.begun.values() if not one.errand.over], {}
        self.waiting.extendleft(one.errand for one in reversed(begun) if not one.sent)
        return [one for one in begun if one.sent]
